import json

import numpy as np
import oracle
import pytest
from absl.testing import flagsaver
from models.directories import write_model

from spex_jax.core.spectrum import Spectrum, exact_spectrum
from spex_jax.core.walsh import subset_characters

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("faithfulness")


@pytest.fixture
def folder(tmp_path):
    """A complete game of 11 features, a table of 12, and what somebody published about the first."""
    rng = np.random.default_rng(1)  # of which 38 rows tell all terms whatever the folds
    for n, name, rows in ((11, "complete", 2**11), (12, "table", 1100)):
        masks = rng.permutation(oracle.all_masks(n))[:rows]
        support = np.tril(np.ones((4, n), bool))
        values = subset_characters(masks, support) @ np.array([1.0, 2.0, 0.7, 0.3])
        np.savez(tmp_path / f"{name}.npz", masks=np.packbits(masks, axis=1), n=n, values=values)
    reference = {"proxyspex_r2": 0.5, "proxyspex_s": 3.0, "lightgbm_r2": None}
    (tmp_path / "reference.json").write_text(json.dumps({"complete|1": reference}))
    return tmp_path


def test_games(program, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program.games_lib, "of_the_shipped_model", lambda *_: [])
    out = tmp_path / "new" / "result.json"
    methods = ["linear", "lasso", "kernel_shap", "faith_banzhaf"]
    given = {"games": str(folder), "methods": methods, "alphas": ["1", "2"], "out": str(out), "reuse": "any"}
    with flagsaver.flagsaver(**given):
        program.main()
    rows = {(row["game"], row["alpha"], row["method"]): row for row in json.loads(out.read_text())["rows"]}
    assert rows["complete", 1, "ProxySPEX (recorded)"] == {
        "game": "complete",
        "n": 11,
        "alpha": 1.0,
        "budget": 38,
        "method": "ProxySPEX (recorded)",
        "r2": 0.5,
        "terms": None,
        "seconds": 3.0,
    }
    assert rows["complete", 1, "linear"]["r2"] > 0.9
    assert rows["complete", 2, "kernel_shap"]["r2"] < rows["complete", 2, "linear"]["r2"]
    assert "choose" in rows["table", 1, "kernel_shap"]["unsuitable"]
    assert rows["complete", 1, "faith_banzhaf"]["unsuitable"] == "needs 67 masks"
    assert rows["complete", 2, "lasso"]["terms"] == 12
    assert "alpha 2" in capsys.readouterr().out
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    with flagsaver.flagsaver(**given):  # the cells are known
        monkeypatch.setattr(program, "measure", None)
        program.main()
    assert {(row["game"], row["alpha"], row["method"]): row for row in json.loads(out.read_text())["rows"]} == rows


def test_a_failure_counts(program, folder, monkeypatch, capsys):
    (game, _) = program.games_lib.load(str(folder))

    def fail(*_):
        raise RuntimeError("no")

    broken = program.Contender(name="broken", run=fail, same_masks=True)
    row = program.measure(game, 38, broken, None)
    assert row == {"r2": None, "failure": "RuntimeError: no"}
    (line,) = program.means([{"method": "broken", "alpha": 1, **row}, {"method": "broken", "alpha": 1, "r2": 0.5}])
    assert (line["cells"], line["failures"], line["r2"]) == (2, 1, 0.5)


def test_what_was_asked_is_no_test(program, folder):
    """A method that asks the whole game has nothing left to be tested on; one that asks half has the other half."""
    (game, _) = program.games_lib.load(str(folder))
    seen = []

    def run(game, budget, seed):
        def predict(masks):
            seen.append(masks)
            return np.zeros(len(masks))

        return (
            program.CONTENDERS["lasso"]
            .run(game, 38, 0)
            .__class__(predict=predict, terms=1, seconds=0.0, compile=0.0, masks=game.masks[1000:])
        )

    program.measure(game, 38, program.Contender(name="own masks", run=run, same_masks=False), None)
    np.testing.assert_array_equal(seen[0], game.masks[38:1000])


def test_coverage(program, rng):
    truth = exact_spectrum(oracle.all_masks(3), rng.normal(size=8))
    half_right = Spectrum(truth.support, truth.coefficients + np.arange(8) % 2, variances=np.full(8, 0.1))
    assert program.coverage(half_right, truth) == 0.5
    assert program.coverage(Spectrum(truth.support, truth.coefficients), truth) is None


@pytest.mark.slow
def test_games_of_the_shipped_model(program):
    (game,) = program.games_lib.of_the_shipped_model("negation", alpha=1)
    assert len(game.masks) == len(game.values) == game.budget(1) + 1000
    assert game.budget(2) is None
    assert not game.complete
    np.testing.assert_allclose(game.value_fn()(game.masks[:3]), game.values[:3], atol=1e-5)


def test_reviews(program, tmp_path, capsys):
    texts = ["this is a very good little film .", "bad bad plot , good cast and fun !"] * 8
    long = " ".join(["word"] * 3000)
    (tmp_path / "reviews.csv").write_text("review,source\n" + "".join(f'"{text}",x\n' for text in [*texts[:15], long]))
    out = tmp_path / "result.json"
    given = {"dataset": "sentiment", "data": str(tmp_path / "reviews.csv"), "each": 1, "methods": ["lasso"]}
    with flagsaver.flagsaver(**given, alphas=["4"], out=str(out), published=None):
        program.main()
    result = json.loads(out.read_text())
    assert len(result["rows"]) == 8
    assert {row["group"] for row in result["rows"]} == set(program.games_lib.GROUPS)
    with flagsaver.flagsaver(**{**given, "each": 2}, alphas=["4"], out=str(out)):
        program.main()
    assert "1024" in json.loads(out.read_text())["left_out"][0]
    with flagsaver.flagsaver(**given, group=["16-31"], alphas=["4"], out=str(out)):
        program.main()
    assert [row["game"] for row in json.loads(out.read_text())["rows"]] == ["review 3"]


@pytest.mark.parametrize("dataset", ["hotpotqa", "drop"])
def test_questions(program, dataset, tmp_path, capsys):
    model = write_model(tmp_path / "model", "llama3", chat_template=None)
    question = {"question": "which x ?", "answer": "p q"}
    facts = {"supporting_facts": {"title": ["T", "V"], "sent_id": [1, 0]}}
    context = {"title": ["T", "V"], "sentences": [["a b c .", " d e .", "f ."], ["j k .", "l ."]]}
    rows = [
        {**question, **facts, "context": context, "passage": "a b c d e f"},
        {**question, **facts, "context": {"title": ["T"], "sentences": [["a " * 200]]}, "passage": "b " * 200},
    ]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    out = tmp_path / "result.json"
    given = {"dataset": dataset, "model": str(model), "data": str(tmp_path / "data.json"), "each": 2, "alphas": ["1"]}
    with flagsaver.flagsaver(**given, methods=["lasso"], store=str(tmp_path / "store"), out=str(out)):
        program.main()
    result = json.loads(out.read_text())
    (row,) = result["rows"]
    assert (row["game"], row["group"], row["n"]) == ("question 1", "8-15", 5 if dataset == "hotpotqa" else 6)
    assert "question 2" in result["left_out"][0]
    assert list((tmp_path / "store").iterdir())


def test_published_tables(program, data_folder):
    rows = program.published.faithfulness(str(data_folder / "spex_reference" / "published_results.npz"), "sentiment")
    # The means of Kang et al. 2025 for their decoder with soft decisions.
    soft = {(row["group"], row["b"]): row["r2"] for row in rows if row["method"] == "SPEX soft"}
    assert [round(soft["8-15", b], 3) for b in (4, 6, 8)] == [0.970, 0.992, 0.997]
    assert round(soft["32-63", 8], 2) == 0.93
    assert {"LIME", "Faith-Banzhaf of order 2", "FSII of order 2"} <= {row["method"] for row in rows}
    path = str(data_folder / "spex_reference" / "published_results.npz")
    drop = {(row["group"], row["method"], row["b"]): row["r2"] for row in program.published.faithfulness(path, "drop")}
    assert drop["128-255", "SPEX soft", 8] == pytest.approx(0.66953697)
    assert drop["128-255", "LIME", 8] == pytest.approx(0.4318808)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games": "FOLDER"}, r"no NAME\.npz"),
        ({"methods": ["magic"]}, "unknown methods magic; expected some of auto"),
        ({"alphas": ["x"]}, "must be numbers"),
        ({"alphas": ["0"]}, "above 0"),
        ({"dataset": "hotpotqa"}, "give --model"),
        ({"dataset": "sentiment", "data": "/no/such/file"}, "cannot read --data"),
    ],
)
def test_wrong_flags(program, tmp_path, changes, message):
    changes = {name: str(tmp_path) if value == "FOLDER" else value for name, value in changes.items()}
    with pytest.raises(ValueError, match=message), flagsaver.flagsaver(**{"out": str(tmp_path / "r.json"), **changes}):
        program.main()


def test_packages_that_are_not_there(program, monkeypatch):
    monkeypatch.setattr(program, "missing", lambda chosen: ["spectralexplain"])
    with pytest.raises(ValueError, match="spectralexplain are not installed"), flagsaver.flagsaver(peers=True):
        program.contenders()
