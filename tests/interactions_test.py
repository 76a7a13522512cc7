import time

import numpy as np
import oracle
import pytest

from spex_jax import Interactions, Spectrum
from spex_jax.indices import INDICES, gain
from spex_jax.spectrum import exact_spectrum


def spectrum_of(values):
    return exact_spectrum(oracle.all_masks(int(np.log2(len(values)))), values)


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize(("n", "order"), [(1, 1), (3, 2), (5, 1), (6, 3), (8, 2), (10, 3), (5, 5)])
def test_every_index_is_its_definition(index, n, order, rng):
    values = oracle.random_game(n, rng)
    expected = oracle.interactions(values, index, order)
    found = spectrum_of(values).interactions(index, order)
    assert set(found) <= set(expected)
    for members, value in expected.items():
        assert found[members] == pytest.approx(value, abs=1e-8), members


@pytest.mark.parametrize("index", INDICES)
def test_sparse_spectra_give_what_their_values_give(index, rng):
    values, terms = oracle.planted_game(9, 12, rng, 5)
    support = np.array([[i in members for i in range(9)] for members in terms])
    found = Spectrum(support, np.array(list(terms.values()))).interactions(index, 3)
    for members, value in oracle.interactions(values, index, 3).items():
        assert found[members] == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("index", ["SV", "k-SII", "STII", "FSII"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_efficient_indices_sum_to_the_value_of_everything(index, order, rng):
    values = oracle.random_game(7, rng)
    assert sum(spectrum_of(values).interactions(index, order).values()) == pytest.approx(values[-1])


@pytest.mark.parametrize("index", INDICES)
def test_a_null_player_gets_nothing_and_an_additive_game_has_no_interactions(index, rng):
    masks = oracle.all_masks(6)
    additive = masks @ np.array([1.0, -2.0, 0.0, 3.0, 0.5, 4.0]) + 2
    found = spectrum_of(additive).interactions(index, 3)
    assert found[2] == pytest.approx(0, abs=1e-12)
    assert all(abs(value) < 1e-12 for members, value in found.items() if len(members) > 1)
    single = {"Fourier": -0.5}.get(index, 1.0)
    assert found[3] == pytest.approx(3 * single)


def test_a_pure_pair_has_its_moebius_transform():
    masks = oracle.all_masks(5)
    values = masks.sum(axis=1) / 5 + masks[:, [1, 3]].all(axis=1)
    found = spectrum_of(values).interactions("Moebius", 3)
    assert {members: round(value, 12) for members, value in found.items() if abs(value) > 1e-12} == {
        (0,): 0.2, (1,): 0.2, (2,): 0.2, (3,): 0.2, (4,): 0.2, (1, 3): 1.0,
    }  # fmt: skip
    # A peer aggregates k-SII twice, which gives this game 5.0 in place of 2.0.
    assert sum(spectrum_of(values).interactions("k-SII", 2).values()) == pytest.approx(values[-1])


def test_fourier_coefficients_are_scaled_banzhaf_interactions(rng):
    spectrum = spectrum_of(oracle.random_game(6, rng))
    fourier, banzhaf = spectrum.interactions("Fourier", 4), spectrum.interactions("BII", 4)
    for members, value in fourier.items():
        assert value == pytest.approx((-0.5) ** len(members) * banzhaf[members])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_faith_banzhaf_is_the_moebius_transform_of_the_cut_series(order, rng):
    spectrum = spectrum_of(oracle.random_game(7, rng))
    cut = spectrum.take(np.flatnonzero(spectrum.support.sum(axis=1) <= order))
    faith, moebius = spectrum.interactions("FBII", order), cut.interactions("Moebius", order)
    assert all(faith[members] == pytest.approx(value) for members, value in moebius.items())


@pytest.mark.parametrize("index", INDICES)
def test_permuting_the_features_permutes_the_interactions(index, rng):
    support = rng.integers(0, 2, (30, 8)).astype(bool)
    support = np.unique(support, axis=0)
    coefficients, permutation = rng.normal(size=len(support)), rng.permutation(8)
    plain = Spectrum(support, coefficients).interactions(index, 3)
    moved = Spectrum(support[:, np.argsort(permutation)], coefficients).interactions(index, 3)
    for members, value in plain.items():
        assert moved[permutation[list(members)]] == pytest.approx(value, abs=1e-9)


def test_gains_of_high_degrees_are_exact():
    # At degree 40 a floating-point sum of alternating binomials loses every digit.
    assert gain("BII", 40, 2, 2) == 0
    assert gain("SII", 40, 2, 2) == pytest.approx(4 / 39)
    assert sum(gain("SII", r, 1, 1) for r in (2, 4, 40)) == 0


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("factor", [None, 3])
def test_standard_errors_follow_the_covariance(index, factor, rng):
    support = np.unique(rng.integers(0, 2, (25, 6)).astype(bool), axis=0)
    terms = len(support)
    low_rank = None if factor is None else rng.normal(size=(terms, factor))
    own = rng.uniform(0.1, 1, terms)
    variances = own if low_rank is None else own + (low_rank**2).sum(axis=1)
    covariance = np.diag(own) + (0 if low_rank is None else low_rank @ low_rank.T)
    spectrum = Spectrum(support, rng.normal(size=terms), variances, low_rank)
    found = spectrum.interactions(index, 2)
    units = [Spectrum(support, row).interactions(index, 2) for row in np.eye(terms)]
    for members, error in found.std_errors.items():
        weights = np.array([unit[members] for unit in units])
        assert error == pytest.approx(np.sqrt(weights @ covariance @ weights), abs=1e-9)


def test_mapping():
    found = Interactions([(), (0,), (2,), (0, 2)], np.array([9.0, 1.0, -3.0, 2.0]), n=3, index="FSII", max_order=2)
    assert found[(2, 0)] == found[0, 2] == 2.0
    assert found[2] == -3.0
    assert found[(1,)] == 0.0
    assert (1,) not in found
    assert (2, 0) in found
    assert found.get((1,)) is None
    assert found.get((0,)) == 1.0
    assert len(found) == 4
    assert dict(found)[()] == 9.0
    assert found.top(2) == [((2,), -3.0), ((0, 2), 2.0)]
    assert found.top(5, order=1) == [((2,), -3.0), ((0,), 1.0)]
    assert dict(found.order(2)) == {(0, 2): 2.0}
    assert found.std_errors is None
    assert found == Interactions(list(found), np.array(list(found.values())), n=3, index="FSII", max_order=2)
    with pytest.raises(TypeError):
        found[(0,)] = 1.0


@pytest.mark.parametrize("key", [(3,), (-1,), (0, 0), "a", None, (0.5,)])
def test_keys_that_are_no_sets(key):
    found = Interactions([()], np.zeros(1), n=3, index="FSII", max_order=2)
    assert key not in found
    with pytest.raises(KeyError, match="not a set of features"):
        found[key]


def test_table_ranks_and_names(rng):
    found = Spectrum(np.eye(3, dtype=bool), np.array([1.0, -3.0, 2.0])).interactions(names=["a", "b", "c"])
    lines = str(found).splitlines()
    assert "FSII" in lines[0]
    assert [line.split()[1] for line in lines[1:]] == ["b", "c", "a"]
    assert found.names == ("a", "b", "c")
    constant = Spectrum(np.zeros((1, 3), bool), np.ones(1)).interactions()
    assert "no interactions" in str(constant)
    assert constant[()] == 1.0


def test_save_and_load(tmp_path, rng):
    support = np.unique(rng.integers(0, 2, (20, 5)).astype(bool), axis=0)
    spectrum = Spectrum(support, rng.normal(size=len(support)), np.ones(len(support)))
    found = spectrum.interactions("STII", 2, names=["ä", "b", "c", "<d>", "e"])
    found.save(tmp_path / "i.json")
    loaded = Interactions.load(tmp_path / "i.json")
    assert loaded == found
    assert loaded.names == found.names
    assert loaded.std_errors == found.std_errors
    (tmp_path / "bad.json").write_text('{"index": 3}')
    with pytest.raises(ValueError, match=r"not a file of Interactions\.save"):
        Interactions.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": "Shapley"}, "unknown index 'Shapley'; expected one of SV"),
        ({"max_order": 0}, "at least 1, got 0"),
        ({"max_order": 1.5}, "whole number"),
        ({"names": ["a"]}, "3 strings, one for each feature, got 1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Spectrum(np.eye(3, dtype=bool), np.ones(3)).interactions(**options)


def test_many_features_need_no_table(rng):
    support = np.zeros((5000, 2000), bool)
    for row in support:
        row[rng.choice(2000, rng.integers(3, 7), replace=False)] = True
    start = time.perf_counter()
    found = Spectrum(support, rng.normal(size=5000)).interactions("FSII", 3)
    assert len(found) > 10_000
    # Not a benchmark: a table over 2000^3 sets would never end.
    assert time.perf_counter() - start < 60


def test_to_shapiq(rng):
    pytest.importorskip("shapiq", reason="shapiq is in the extra 'peers', which needs Python 3.12")
    found = spectrum_of(oracle.random_game(5, rng)).interactions("FSII", 2)
    converted = found.to_shapiq()
    assert converted.index == "FSII"
    for members, value in found.items():
        assert converted[members] == pytest.approx(value)


def test_labels_are_one_line_of_what_can_be_printed():
    names = ["two\nlines", "\x1b[31mred", "", "long " * 40]
    found = Spectrum(np.eye(4, dtype=bool), np.array([4.0, 3.0, 2.0, 1.0])).interactions("Fourier", names=names)
    assert [found.label((i,)) for i in range(3)] == ["two lines", "\ufffd[31mred", ""]
    assert found.label(()) == "(none)"
    assert found.label((3,), 20) == "long long long lo..."
    assert len(str(found).splitlines()) == 5
