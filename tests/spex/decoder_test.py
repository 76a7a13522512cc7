import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import Spectrum, spex
from spex_jax.core.walsh import subset_characters
from spex_jax.spex import decoder
from spex_jax.spex.lattice import bins
from spex_jax.spex.peeling import peel


def planted(n, terms, degree, rng):
    """A sparse spectrum of random sets, no part of which announces another."""
    support = np.zeros((terms, n), bool)
    for row in support:
        row[rng.choice(n, rng.integers(1, degree + 1), replace=False)] = True
    support = np.unique(support, axis=0)
    return Spectrum(support, rng.uniform(0.5, 1.5, len(support)) * rng.choice([-1, 1], len(support)))


def sets(spectrum):
    return {tuple(np.flatnonzero(row)) for row in spectrum.support if row.any()}


def test_bins_hold_the_sum_of_their_sets(rng):
    truth = planted(9, 12, 3, rng)
    made = spex.design(9, 400, max_degree=2)
    found = np.asarray(bins(jnp.asarray(truth(made.masks), jnp.float32), made.rows))
    delays = np.concatenate([np.zeros((1, 9), bool), made.code.parity])
    signs = subset_characters(delays, truth.support)
    for c, matrix in enumerate(made.matrices):
        place = (truth.support.astype(int) @ matrix % 2) @ (1 << np.arange(made.plan.b))
        for j in range(2**made.plan.b):
            expected = signs[:, place == j] @ truth.coefficients[place == j]
            np.testing.assert_allclose(found[c, j], expected, atol=1e-5)


# The decoder takes seconds to compile for each new size of a design: these are the few that all tests share, the first
# with explain_test.py and recovery_test.py, the second with extraction_test.py.
DESIGNS = {
    "n11": {"n": 11, "budget": 504, "max_degree": 5},
    "n64": {"n": 64, "budget": 5568, "max_degree": 4, "leftover": False},
    "n64 with few bins": {"n": 64, "budget": 1400, "max_degree": 4},
}


def design(name, seed=0):
    return spex.design(**DESIGNS[name], seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "terms"), [("n11", 15), ("n64", 30)])
def test_a_sparse_function_is_recovered_to_rounding(name, terms, rng):
    made = design(name)
    n = made.n
    truth = planted(n, terms, made.plan.t, rng)
    found = spex.decode(made, truth(made.masks) + 7.0)
    assert sets(found) == sets(truth)
    asked = rng.integers(0, 2, (200, n)).astype(bool)
    np.testing.assert_allclose(found(asked), truth(asked) + 7.0, atol=1e-6)


@pytest.mark.slow
def test_trying_every_set_finds_what_the_bins_tell(monkeypatch, rng):
    truth, made = planted(11, 15, 5, rng), design("n11")
    values = truth(made.masks)
    found = spex.decode(made, values)
    monkeypatch.setattr(decoder, "tried", lambda n, degree: np.zeros((0, n), bool))
    assert sets(spex.decode(made, values)) == sets(found) == sets(truth)


def test_the_search_ends_when_there_is_no_more_room(rng):
    truth, made = planted(11, 15, 5, rng), design("n11")
    values = truth(made.masks)
    given = decoder.peeling(made, (values - values.mean()) / values.std())
    found, coefficients = decoder.in_order(*peel(*given.arrays, given.every, code=given.code, most_terms=8))
    assert len(found) == 8
    assert {tuple(np.flatnonzero(row)) for row in found[1:]} < sets(truth)
    assert np.abs(coefficients[1:]).min() > 0


@pytest.mark.slow
@pytest.mark.parametrize(("snr", "recall"), [(10, 0.9), (1, 0.7)])
def test_more_terms_than_bins_and_much_noise(snr, recall):
    """The published soft decoder finds .29 and .52 of the terms here."""
    n, terms, seed = 64, 60, 1
    truth = planted(n, terms, 4, np.random.default_rng(seed))
    made = design("n64 with few bins" if snr == 10 else "n64", seed)
    values = truth(made.masks)
    noise = np.sqrt(np.square(truth.coefficients).sum() / snr)
    found = spex.decode(made, values + noise * np.random.default_rng(seed).normal(size=len(values)))
    assert len(sets(found) & sets(truth)) >= recall * terms
    assert len(sets(found) - sets(truth)) <= 3


def test_renamed_features_give_the_same_terms(rng):
    """Of a design whose masks are renamed with the features."""
    truth = planted(64, 25, 3, rng)
    made = design("n64")
    order = rng.permutation(64)
    renamed = Spectrum(truth.support[:, order], truth.coefficients)
    assert sets(spex.decode(made, truth(made.masks))) == sets(truth)
    assert sets(spex.decode(made, renamed(made.masks))) == sets(renamed)


@pytest.mark.slow
def test_a_thousand_features(rng):
    truth = planted(1000, 40, 4, rng)
    made = spex.design(1000, 8700, max_degree=4)
    values = truth(made.masks)
    values += 0.3 * values.std() * rng.normal(size=len(values))
    found = spex.decode(made, values)
    assert len(sets(found) & sets(truth)) >= 0.95 * len(truth)
    assert len(sets(found) - sets(truth)) <= 2


def test_standard_errors_are_those_of_the_noise(rng):
    z = []
    for seed in range(4):
        truth = planted(64, 25, 3, np.random.default_rng(seed))
        made = design("n64", seed)
        found = spex.decode(made, truth(made.masks) + rng.normal(size=len(made.masks)))
        z += list((found.coefficients - truth.coefficients_at(found.support)) / np.sqrt(found.variances))
        np.testing.assert_allclose(np.sqrt(found.variances).mean(), 1 / np.sqrt(len(made.masks)), rtol=0.1)
    assert 0.8 < np.std(z) < 1.2


@pytest.mark.parametrize(("name", "members"), [("n11", (1, 2)), ("n64", (1, 2, 3)), ("n64", (1, 2, 4, 5))])
def test_unanimity_games(name, members):
    """v(x) = 1 where all members are kept: 2^|T| equal coefficients, a third of them of degrees that share bins."""
    made = design(name)
    found = spex.decode(made, made.masks[:, list(members)].all(axis=1).astype(float))
    index = found.interactions("Moebius", max_order=len(members))
    assert index[members] == pytest.approx(1, abs=0.01)
    assert max(abs(value) for key, value in index.items() if key != members) < 0.01


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_shift_and_scale_pass_through(scale, rng):
    truth = planted(11, 10, 2, rng)
    made = design("n11")
    found = spex.decode(made, scale * (truth(made.masks) - 3))
    assert sets(found) == sets(truth)
    asked = rng.integers(0, 2, (100, 11)).astype(bool)
    np.testing.assert_allclose(found(asked) / scale, truth(asked) - 3, atol=1e-6)


def test_without_a_refit_the_coefficients_are_those_of_the_bins(rng):
    truth = planted(11, 10, 2, rng)
    made = design("n11")
    found = spex.decode(made, truth(made.masks), refit=False)
    assert sets(found) == sets(truth)
    assert found.variances is None
    np.testing.assert_allclose(found.coefficients, truth.coefficients_at(found.support), rtol=0, atol=0.15)


@pytest.mark.parametrize("value", [0.0, -2.5, 1e300])
def test_a_constant(value):
    made = spex.design(12, 300, max_degree=2)
    found = spex.decode(made, np.full(len(made.masks), value))
    assert len(found) == 1
    assert found.coefficients[0] == value


def test_noise_has_next_to_no_terms(rng):
    made = design("n64")
    found = spex.decode(made, rng.normal(size=len(made.masks)))
    assert len(sets(found)) <= 5


def test_wrong_values(rng):
    made = spex.design(12, 300, max_degree=2)
    with pytest.raises(ValueError, match=r"values must have shape \(300,\)"):
        spex.decode(made, np.ones(299))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            spex.decode(made, np.where(np.arange(300) == 7, bad, 1.0))
    with pytest.raises(ValueError, match="expected a Design"):
        spex.decode("design", np.ones(300))
