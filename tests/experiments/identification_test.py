import json

import numpy as np
import pytest
from absl.testing import flagsaver
from planting import write_complete_game

import spex_jax

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("identification")


@pytest.fixture
def folder(tmp_path):
    return write_complete_game(tmp_path)


def test_both_parts(program, folder, capsys, monkeypatch):
    out = folder / "result.json"
    given = {"games": str(folder), "contains": "game", "alphas": ["0.05", "5"], "top": 3, "ks": ["1", "3"]}
    given |= {"methods": ["walsh_gp", "kernel_shap", "faith_shapley"], "removal_alpha": 5.0, "reuse": "any"}
    with flagsaver.flagsaver(out=str(out), **given):
        program.main()
    result = json.loads(out.read_text())
    rows = {(row["index"], row["alpha"], row["method"]): row for row in result["values"]}
    assert rows["SV", 5.0, "walsh_gp"]["recall"] == 1
    assert rows["SV", 5.0, "walsh_gp"]["error"] < 0.01
    assert rows["FSII", 5.0, "faith_shapley"]["recall"] > 0.5
    assert rows["FSII", 5.0, "kernel_shap"]["unsuitable"] == "gives no pairs"
    assert rows["SV", 0.05, "walsh_gp"]["unsuitable"] == "needs 3 masks"
    drops = {row["method"]: row["drop"] for row in result["removal"]}
    best = drops.pop("best of all sets")
    for drop in drops.values():
        assert all(found <= most + 1e-9 for found, most in zip(drop, best, strict=True))
    np.testing.assert_allclose(drops["walsh_gp"], best, atol=0.05)
    shares = {line["method"]: line for line in result["share_of_the_best_drop"]}
    assert shares["best of all sets"]["k = 3"] == 1
    assert 0.9 < shares["walsh_gp"]["k = 3"] <= 1
    assert "SV, exact: recall" in capsys.readouterr().out
    assert out.with_suffix(".png").exists()
    assert (folder / "result_removal.png").exists()
    for name in ("measured", "removed"):  # the cells are known
        monkeypatch.setattr(program, name, lambda *_: pytest.fail("asked again"))
    with flagsaver.flagsaver(out=str(out), **given):
        program.main()
    assert json.loads(out.read_text())["values"] == result["values"]


def test_a_reference_of_many_ablations(program, rng):
    """Of a function of first order and pairs the reference is the truth."""
    effects = rng.normal(size=12)

    def values(masks):
        return masks @ effects + 2.0 * masks[:, :2].all(axis=1)

    game = program.games_lib.Game(
        name="live",
        masks=np.zeros((0, 12), bool),
        values=np.zeros(0),
        live=spex_jax.ValueFunction(values, 12),
    )
    shapley = effects + np.where(np.arange(12) < 2, 1.0, 0.0)
    np.testing.assert_allclose(program.truth_of(game, "SV", 1), shapley, atol=0.02)
    pairs = program.truth_of(game, "FSII", 2)
    assert pairs[0] == pytest.approx(2.0, abs=1e-6)
    np.testing.assert_allclose(pairs[1:], 0, atol=1e-6)


def test_recall(program):
    found = np.array([3.0, -2.0, 0.1, 0.0])
    assert program.recall(found, np.array([1.0, 0.0, -9.0, 0.5]), 2) == 0.5
    assert program.recall(found, found, 10) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ["all"]}, "unknown parts all"),
        ({"methods": ["magic"]}, "unknown methods magic"),
        ({"alphas": ["x"]}, "must be numbers"),
    ],
)
def test_wrong_flags(program, changes, message):
    with flagsaver.flagsaver(**changes), pytest.raises(ValueError, match=message):
        program.main()
