import json
import math

import numpy as np
import oracle
import pytest
from absl.testing import flagsaver

from spex_jax import Spectrum
from spex_jax.core.spectrum import exact_spectrum

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("spectra")


@pytest.fixture
def folder(tmp_path, rng):
    """A staircase of 11 features of which all values are known."""
    masks = rng.permutation(oracle.all_masks(11))
    support = np.concatenate([np.tril(np.ones((5, 11), bool))[1:], np.eye(11, dtype=bool)])
    values = Spectrum(support, np.concatenate([[4, 3, 2.5, 2], np.linspace(5, 1, 11)]))(masks)
    np.savez(tmp_path / "game.npz", masks=np.packbits(masks, axis=1), n=11, values=values)
    return tmp_path


def test_a_folder(program, folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "result.json"
    given = {"games": str(folder), "contains": "game", "alpha": 4, "proxy": "linear", "tops": ["4", "15", "99"]}
    with flagsaver.flagsaver(**given, draws=5, out=str(out)):
        program.main()
        first = json.loads(out.read_text())
        with flagsaver.flagsaver(reuse="any"):
            monkeypatch.setattr(program, "of_game", None)
            program.main()
    assert json.loads(out.read_text()) == first
    (row,) = first["games"]
    assert row["proxy"]["r2"] > 0.99
    assert row["exact"]["terms"] == 15
    assert row["shared"] == {"4": 1.0, "15": 1.0, "99": 1.0}
    rates = row["exact"]["rates"]["15"]
    assert (rates["SCR"], rates["SCR 2+"], rates["terms 2+"]) == (1, 1, 4)
    assert rates["DSR 2+"] == pytest.approx((1 + 2 / 3 + 2 / 4 + 2 / 5) / 4, abs=0.2)
    assert rates["null"]["SCR 2+"] < 1
    assert row["exact"]["rates"]["99"] is None
    assert sum(row["exact"]["energy_by_degree"]) == pytest.approx(1)
    assert row["exact"]["energy_by_degree"][5] == 0
    assert row["exact"]["terms_for"]["0.99"] <= 15
    (at_4, at_15, at_99) = first["proxy_and_exact"]
    assert (at_4["games"], at_15["games"], at_99["games"]) == (1, 1, 0)
    assert at_15["DSR 2+, exact"] == rates["DSR 2+"]
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    assert "| game | 11 | exact" in capsys.readouterr().out


def test_what_is_not_faithful_is_left_out(program, folder, tmp_path):
    out = tmp_path / "result.json"
    given = {"games": str(folder), "contains": "game", "alpha": 1, "proxy": "trees", "tops": ["4"], "draws": 1}
    with flagsaver.flagsaver(**given, threshold=1.0, out=str(out)):
        program.main()
    rates = json.loads(out.read_text())["rates"]
    assert [(row["spectra"], row["games"]) for row in rates] == [("trees", 0), ("exact", 1)]


def test_random_sets(program, rng):
    for n in (9, 60):
        degrees = np.array([1, 1, 1, 2, 3, 3, 5])
        drawn = program.random_sets(degrees, n, rng)
        np.testing.assert_array_equal(np.sort(drawn.support.sum(axis=1)), degrees)
    every = program.random_sets(np.full(math.comb(9, 2), 2), 9, rng)
    assert len(every) == 36


def test_statistics_of_a_constant_and_of_noise(program, rng):
    constant = program.statistics(Spectrum(np.zeros((1, 4), bool), np.ones(1)))
    assert constant["energy_by_degree"] is None
    assert constant["terms"] == constant["terms_for"]["0.5"] == 0
    noise = exact_spectrum(oracle.all_masks(11), rng.normal(size=2**11))
    rates = program.statistics(noise)["rates"]["200"]
    assert rates["DSR 2+"] == pytest.approx(rates["null"]["DSR 2+"], abs=0.05)  # no hierarchy: that of chance


def test_wrong_flags(program, folder):
    for given, message in (
        ({"proxy": "magic"}, "unknown proxy 'magic'"),
        ({"tops": ["0"]}, "whole numbers above 0"),
        ({"games": str(folder), "contains": "nothing of that name"}, "no game has"),
        ({"games": str(folder / "nowhere")}, r"no NAME\.npz"),
    ):
        with flagsaver.flagsaver(**given), pytest.raises(ValueError, match=message):
            program.main()
