import json

import pytest
from absl.testing import flagsaver

MADE_WITH = {"revision": "abc", "versions": {"jax": "1"}, "device": "cpu"}


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("cells")


@pytest.fixture
def made(program, monkeypatch):
    """A function that opens the cells of a result, as of a revision."""

    def cells(path, revision="abc"):
        monkeypatch.setattr(program, "provenance", lambda: {**MADE_WITH, "revision": revision})
        return program.Cells(path)

    return cells


def never():
    raise AssertionError("this is known")


def test_outcomes_are_kept(made, tmp_path):
    path = tmp_path / "new" / "result.json"
    assert made(path).get({"a": 1, "b": "x"}, lambda: {"r2": 0.5, "bad": float("nan")}) == {"r2": 0.5, "bad": None}
    assert made(path).get({"b": "x", "a": 1}, never) == {"r2": 0.5, "bad": None}
    assert made(path).get({"a": 2, "b": "x"}, lambda: 3) == 3
    (line, other) = (json.loads(line) for line in (path.parent / "result.json.cells.jsonl").read_text().splitlines())
    assert line["made_with"] == MADE_WITH
    assert other["outcome"] == 3


def test_a_torn_line_counts_for_nothing(made, tmp_path):
    path = tmp_path / "result.json"
    made(path).get({"a": 1}, lambda: 1)
    file = tmp_path / "result.json.cells.jsonl"
    file.write_text(file.read_text() + '{"key": "{\\"a\\": 2}", "out')
    again = made(path)
    assert again.get({"a": 1}, never) == 1
    assert again.get({"a": 2}, lambda: 2) == 2
    assert made(path).get({"a": 2}, never) == 2


@pytest.mark.parametrize(
    ("reuse", "before", "after", "known"),
    [
        ("same", "abc", "abc", True),
        ("same", "abc", "def", False),
        ("same", "abc-dirty", "abc-dirty", False),
        ("any", "abc", "def-dirty", True),
        ("none", "abc", "abc", False),
    ],
)
def test_what_is_used_again(made, tmp_path, reuse, before, after, known):
    path = tmp_path / "result.json"
    made(path, before).get({"a": 1}, lambda: "old")
    with flagsaver.flagsaver(reuse=reuse):
        assert made(path, after).get({"a": 1}, lambda: "new") == ("old" if known else "new")


def test_a_result_says_with_what_else_its_cells_were_made(made, tmp_path):
    path = tmp_path / "result.json"
    made(path, "abc").get({"a": 1}, lambda: 1)
    made(path, "abc").save({"x": 1})
    assert json.loads(path.read_text())["x"] == 1
    assert "other_cells_made_with" not in json.loads(path.read_text())
    with flagsaver.flagsaver(reuse="any"):
        later = made(path, "def")
    later.get({"a": 2}, lambda: 2)
    assert later.get({"a": 1}, never) == 1
    later.save({"x": 2})
    assert json.loads(path.read_text())["other_cells_made_with"] == [{**MADE_WITH, "revision": "abc"}]
