import json

import numpy as np
import oracle
import pytest
from absl.testing import flagsaver

from spex_jax.core.walsh import subset_characters


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("recovery")


def test_a_diagram(program, tmp_path):
    out = tmp_path / "result.json"
    with flagsaver.flagsaver(n=["11"], degrees=["5"], terms=["4", "12"], bs=["3"], snrs=["10"], seeds=1, out=str(out)):
        program.main()
    rows = json.loads(out.read_text())["diagram"]
    assert [(row["terms"], row["samples"]) for row in rows] == [(4, 504), (12, 504)]
    assert rows[0]["spex_jax"]["f1"] == 1.0
    assert rows[0]["spex_jax"]["f1"] >= rows[1]["spex_jax"]["f1"] > 0.3
    assert (tmp_path / "result_n11_degree5.png").read_bytes().startswith(b"\x89PNG")


def test_games(program, tmp_path, rng, capsys):
    masks = rng.permutation(oracle.all_masks(11))
    support = np.tril(np.ones((4, 11), bool))
    values = subset_characters(masks, support) @ np.array([1.0, 2.0, 0.7, 0.3])
    np.savez(tmp_path / "game.npz", masks=np.packbits(masks, axis=1), n=11, values=values)
    (tmp_path / "reference.json").write_text("{}")
    out = tmp_path / "result.json"
    with flagsaver.flagsaver(parts=["games"], games=str(tmp_path), budgets=["561"], out=str(out)):
        program.main()
    (row,) = json.loads(out.read_text())["games"]
    assert row["spex"]["asked"] == 561
    assert row["spex"]["r2"] > 0.99
    assert "game" in capsys.readouterr().out


def test_wrong_flags(program):
    with flagsaver.flagsaver(parts=["games"]), pytest.raises(ValueError, match="needs --games"):
        program.main()
    with flagsaver.flagsaver(parts=["magic"]), pytest.raises(ValueError, match="unknown part magic"):
        program.main()
