import json

import pytest
from absl.testing import flagsaver


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("leaderboard")


def row(game, method, r2, *, alpha=2.0, n=14, seconds=1.0, **more):
    outcome = {"r2": r2, "seconds": seconds, "terms": 10}
    return {"game": game, "n": n, "alpha": alpha, "budget": 106, "method": method, **outcome, **more}


def write(path, rows):
    result = {"revision": "abc", "versions": {"jax": "1"}, "device": "cpu: cpu", "rows": rows}
    path.write_text(json.dumps(result))
    return str(path)


@pytest.fixture
def results(tmp_path):
    own = [
        row("a", "auto", 0.9, seconds=2.0),
        row("a", "lasso", 0.5),
        row("a", "kernel_shap", -7.0),
        row("a", "ProxySPEX (recorded)", 0.95),
        row("b", "auto", 0.6, n=40),
        row("b", "lasso", 0.6, n=40),
        {**row("b", "kernel_shap", None, n=40), "unsuitable": "a table"},
    ]
    peers = [
        row("a", "lasso", 0.5),
        row("a", "auto", 0.9, alpha=4.0, seconds=0.5),
        row("a", "ProxySPEX (published)", 0.8, alpha=4.0, seconds=8.0),
        row("a", "SPEX soft (published)", None, alpha=4.0, failure="ValueError: no"),
        row("b", "ProxySPEX (published)", 0.7, n=40),
    ]
    return [write(tmp_path / "own.json", own), write(tmp_path / "peers.json", peers)]


def test_ranks(program):
    cells = [row("a", "x", 0.9), row("a", "y", 0.9), row("a", "z", None, failure="no"), row("a", "w", -3.0)]
    assert program.ranks(cells) == {("a", 2.0): {"x": 1.5, "y": 1.5, "w": 3.0, "z": 4.0}}


def test_board(program, results):
    rows, made_with = program.read(results)
    assert [made["revision"] for made in made_with] == ["abc", "abc"]
    assert sum(found["method"] == "lasso" for found in rows) == 2  # what both hold counts once
    lines = program.board([found for found in rows if found["method"] in ("auto", "lasso", "ProxySPEX (published)")])
    assert [(line["alpha"], line["method"], line["rank"]) for line in lines] == [
        (2.0, "auto", 1.25),
        (2.0, "lasso", 1.75),
        (4.0, "auto", 1.0),
        (4.0, "ProxySPEX (published)", 2.0),
    ]
    assert lines[0]["mean_r2"] == pytest.approx(0.75)
    assert (lines[0]["games"], lines[0]["seconds"], lines[0]["failures"]) == (2, 1.5, 0)


def test_methods_of_some_games(program):
    rows = [row("a", "x", 0.9), row("b", "x", 0.9), row("a", "y", 0.9)]
    assert program.incomplete(rows) == ["y (1 of 2 games)"]
    assert {line["method"] for line in program.board(rows)} == {"x"}


def test_games_that_are_left_out(program):
    rows = [row("one_a", "x", 0.9), row("one_b", "x", 0.9), row("two", "y", 0.9)]
    assert program.kept(rows, []) == (rows, [])
    assert program.kept(rows, ["one", "e_b"]) == (rows[2:], ["one_a", "one_b"])
    with pytest.raises(ValueError, match="--without=three is in no name of a game; there are one_a, one_b, two"):
        program.kept(rows, ["three"])


def test_against_peers(program, results):
    rows, _ = program.read(results)
    two, four = program.against_peers(rows)
    assert (two["games"], two["above all peers"]) == (2, 0)
    assert (two["on"], two["to"]) == ("b", "ProxySPEX (published)")
    assert two["smallest gap"] == pytest.approx(-0.1)
    assert (four["above all peers"], four["on"]) == (1, "a")


def test_times_are_compared_within_a_result(program, results):
    rows, _ = program.read(results)
    (line,) = program.overhead(rows)
    assert (line["ours"], line["peer"], line["cells"]) == ("auto", "ProxySPEX (published)", 1)
    assert line["times slower (geometric mean)"] == pytest.approx(16)
    spex = [
        {**row("a", "spex", 0.5, seconds=0.5), "cpu_seconds": 9.0, "result": 0},
        {**row("a", "SPEX soft (published)", 0.5, seconds=4.0), "cpu_seconds": 9.0, "result": 0},
        {**row("a", "ProxySPEX (published)", 0.5, seconds=9.0), "cpu_seconds": 4.0, "result": 0},
    ]
    (line,) = program.overhead(spex)
    assert (line["ours"], line["peer"], line["least"]) == ("spex", "SPEX soft (published)", 8)


def test_times_of_the_cpu_where_the_masks_are_given(program):
    given = [
        {**row("a", "auto", 0.5, seconds=9.0), "cpu_seconds": 0.5, "result": 0},
        {**row("a", "ProxySPEX (published)", 0.5, seconds=9.0), "cpu_seconds": 4.0, "result": 0},
    ]
    (line,) = program.overhead(given)
    assert line["least"] == 8


def test_a_leaderboard(program, results, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("# T\n\n<!-- leaderboard -->\nold\n<!-- end of leaderboard -->\n\nrest\n")
    board = tmp_path / "new" / "board.json"
    board.parent.mkdir()
    with flagsaver.flagsaver(results=results, board=str(board), page=str(readme)):
        program.main()
    result = json.loads(board.read_text())
    assert result["games"] == 2
    assert result["games_that_can_be_asked"] == 1
    # The mean is not of one bad cell; the median is as it is.
    (line,) = [line for line in result["any_masks"] if line["method"] == "kernel_shap"]
    assert (line["mean_r2"], line["median_r2"]) == (-1.0, -7.0)
    text = readme.read_text()
    assert text.startswith("# T\n\n<!-- leaderboard -->\n")
    assert text.endswith("<!-- end of leaderboard -->\n\nrest\n")
    assert "old" not in text
    assert "| **auto** " in text
    assert "revision abc" in text
    assert "left out: ProxySPEX (published)" not in text
    assert board.with_suffix(".md").read_text() in text
    assert board.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_wrong_flags(program, results, tmp_path):
    with pytest.raises(ValueError, match="cannot read"):
        program.read([str(tmp_path / "none.json")])
    with pytest.raises(ValueError, match="again"):
        program.read([results[1], results[1]])
    (tmp_path / "plain.md").write_text("x")
    with pytest.raises(ValueError, match="has no lines <!-- leaderboard -->"):
        program.tables.write_between(str(tmp_path / "plain.md"), program.MARKS, "y")
