import json

import numpy as np
import oracle
import pytest
from absl.testing import flagsaver


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("validation")


def test_planted_and_absent_pairs(program, tmp_path):
    out = tmp_path / "result.json"
    with flagsaver.flagsaver(n=14, masks=400, claims=20, contexts=["128"], out=str(out)):
        program.main()
    silent, noisy = json.loads(out.read_text())["planted"]
    assert (silent["noisy"], noisy["noisy"]) == (False, True)
    assert min(silent["planted"]["claims"], silent["absent"]["claims"]) >= 20
    assert silent["right"] >= 0.95
    assert noisy["right"] >= 0.95
    assert 0 < silent["ablations_of_a_claim"] <= 4 * 128


def test_games(program, tmp_path, rng):
    masks = rng.permutation(oracle.all_masks(10))
    weights = rng.normal(size=10)
    values = masks @ weights + 2.0 * masks[:, :2].all(axis=1) - 1.5 * masks[:, 3:6].all(axis=1)
    np.savez(tmp_path / "game.npz", masks=np.packbits(masks, axis=1), n=10, values=values)
    (tmp_path / "reference.json").write_text("{}")
    out = tmp_path / "result.json"
    options = {"parts": ["games"], "games": str(tmp_path), "only": "game", "indices": ["BII"], "alphas": ["8"]}
    options["proxy"] = "linear"
    with flagsaver.flagsaver(out=str(out), **options):
        program.main()
    rows = json.loads(out.read_text())["games"]
    assert [(row["game"], row["budget"]) for row in rows] == [("game", 265)]
    assert rows[0]["right"] >= 0.9
    assert rows[0]["wrongly_confirmed"] == 0
    with flagsaver.flagsaver(parts=["magic"]), pytest.raises(ValueError, match="unknown parts"):
        program.main()
