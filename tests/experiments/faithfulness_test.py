import json

import numpy as np
import oracle
import pytest
from absl.testing import flagsaver

from spex_jax.spectrum import Spectrum, exact_spectrum
from spex_jax.walsh import subset_characters


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("faithfulness")


@pytest.fixture
def folder(tmp_path, rng):
    """A complete game of 11 features and what somebody published about it."""
    masks = rng.permutation(oracle.all_masks(11))
    support = np.tril(np.ones((4, 11), bool))
    values = subset_characters(masks, support) @ np.array([1.0, 2.0, 0.7, 0.3])
    np.savez(tmp_path / "game.npz", masks=np.packbits(masks, axis=1), n=11, values=values)
    (tmp_path / "reference.json").write_text(json.dumps({"game|1": {"proxyspex_r2": 0.5, "lightgbm_r2": 0.6}}))
    return tmp_path


def test_a_folder_of_games(program, folder, tmp_path, capsys):
    out = tmp_path / "result.json"
    with flagsaver.flagsaver(games=str(folder), proxies=["auto", "trees"], alphas=["1"], out=str(out)):
        program.main()
    result = json.loads(out.read_text())
    assert [row["alpha"] for row in result["rows"]] == [1]
    assert [row["budget"] for row in result["rows"]] == [38]
    own = result["rows"][0]["proxies"]["auto"]
    assert own["r2"] > 0.9
    assert 0 <= own["coverage"] <= 1
    auto = result["summary"]["auto"]
    assert (auto["above_published"], auto["compared"]) == (1, 1)
    assert auto["unexplained_ratio"] == pytest.approx(max(1 - own["r2"], 0.01) / 0.5)
    assert auto["mean_loss_to_the_best_other"] < 0.01
    assert "alpha 1" in capsys.readouterr().out


def test_coverage(program, rng):
    truth = exact_spectrum(oracle.all_masks(3), rng.normal(size=8))
    half_right = Spectrum(truth.support, truth.coefficients + np.arange(8) % 2, variances=np.full(8, 0.1))
    assert program.coverage(half_right, truth) == 0.5
    assert program.coverage(Spectrum(truth.support, truth.coefficients), truth) is None


def test_games_of_the_shipped_model(program):
    (game,) = program.games_lib.of_the_shipped_model("negation", alpha=1)
    assert len(game.masks) == len(game.values) == game.budget(1) + 1000
    assert game.budget(2) is None
    assert not game.complete


def test_a_folder_without_games(program, tmp_path):
    with pytest.raises(ValueError, match=r"no NAME\.npz"), flagsaver.flagsaver(games=str(tmp_path)):
        program.main()
