import numpy as np
import oracle
import pytest
from planting import planted

from spex_jax import proxyspex

PROXIES = ["auto", "walsh_gp", "mlp", "trees", "linear"]


@pytest.mark.parametrize(
    ("proxy", "degree", "least"),
    [("auto", 3, 0.99), ("walsh_gp", 3, 0.99), ("mlp", 3, 0.9), ("trees", 1, 0.95), ("linear", 2, 0.99)],
)
@pytest.mark.parametrize("n", [12, 24])
def test_recovers_a_sparse_function(proxy, degree, least, n, rng):
    """Up to the degree that each proxy finds without a hierarchy to climb."""
    masks, values, held_out, truth = planted(n, 600, rng, degree=degree)
    spectrum = proxyspex.fit(masks, values, proxy=proxy)
    assert oracle.r2(truth, spectrum(held_out)) > least
    assert spectrum.n == n
    assert not spectrum.support[0].any()


@pytest.mark.parametrize("proxy", PROXIES)
def test_identical_values_give_identical_fits(proxy, rng):
    masks, values, _, _ = planted(10, 100, rng)
    first, second = (proxyspex.fit(masks.copy(), values.copy(), proxy=proxy, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.support, second.support)
    np.testing.assert_array_equal(first.coefficients, second.coefficients)


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_shift_and_a_scale_pass_through(proxy, rng):
    masks, values, held_out, _ = planted(10, 120, rng)
    plain = proxyspex.fit(masks, values, proxy=proxy)(held_out)
    moved = proxyspex.fit(masks, -1e6 * values + 3e7, proxy=proxy)(held_out)
    np.testing.assert_allclose((moved - 3e7) / -1e6, plain, atol=0.02 * plain.std())


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("scale", [1e-300, 1e30, 1e300])
def test_extreme_values(proxy, scale, rng):
    masks, values, held_out, truth = planted(8, 60, rng)
    spectrum = proxyspex.fit(masks, values * scale, proxy=proxy)
    assert np.isfinite(spectrum.coefficients).all()
    # 60 rows are few for functions without a hierarchy: trees and linear may find nothing, but must do no harm.
    assert oracle.r2(truth, spectrum(held_out) / scale) > (-0.05 if proxy in ("trees", "linear") else 0)


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("value", [0.0, 0.1, -3e30])
def test_a_constant_function_has_one_term(proxy, value, rng):
    spectrum = proxyspex.fit(rng.integers(0, 2, (50, 9)).astype(bool), np.full(50, value), proxy=proxy)
    assert len(spectrum) == 1
    assert spectrum.coefficients[0] == pytest.approx(value)
    assert not spectrum.interactions().top()


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("case", ["one row", "few rows", "constant column", "one feature", "outlier", "float16"])
def test_poor_tables(proxy, case, rng):
    masks, values, held_out, truth = planted(8, 60, rng)
    if case == "one row":
        masks, values = masks[:1], values[:1]
    if case == "few rows":
        masks, values = masks[:4], values[:4]
    if case == "constant column":
        keep = masks[:, 2]
        masks, values = masks[keep], values[keep]
    if case == "one feature":
        masks, values, held_out = np.array([[True], [False]]), np.array([1.0, 3.0]), np.array([[True]])
    if case == "outlier":
        values[0] += 1e4
    if case == "float16":
        values = values.astype(np.float16)
    spectrum = proxyspex.fit(masks, values, proxy=proxy)
    assert np.isfinite(spectrum(held_out)).all()
    if case == "float16":
        assert oracle.r2(truth, spectrum(held_out)) > (-0.05 if proxy in ("trees", "linear") else 0.2)


def test_duplicates_are_averaged_and_their_noise_reported(rng):
    masks, values, _, _ = planted(9, 80, rng)
    twice, both = np.concatenate([masks, masks]), np.concatenate([values + 1, values - 1])
    with pytest.warns(UserWarning, match="80 masks were given several times with different values") as caught:
        averaged = proxyspex.fit(twice, both)
    assert "deviation 1.41" in str(caught[0].message)
    np.testing.assert_allclose(averaged.coefficients, proxyspex.fit(masks, values).coefficients, rtol=1e-4, atol=1e-5)
    same = proxyspex.fit(twice, np.concatenate([values, values]))
    np.testing.assert_array_equal(same.coefficients, proxyspex.fit(masks, values).coefficients)


@pytest.mark.parametrize("max_terms", [1, 2, 30])
def test_max_terms_counts_the_constant(max_terms, rng):
    masks, values, _, _ = planted(12, 150, rng)
    spectrum = proxyspex.fit(masks, values, max_terms=max_terms)
    assert len(spectrum) == max_terms
    assert spectrum.coefficients[0] == pytest.approx(values.mean(), abs=1)


def test_max_degree_bounds_the_terms(rng):
    masks, values, _, _ = planted(12, 150, rng)
    assert proxyspex.fit(masks, values, max_degree=2).support.sum(axis=1).max() == 2
    assert proxyspex.fit(masks, values, max_degree=2, proxy="mlp").support.sum(axis=1).max() == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proxy": "forest"}, "unknown proxy 'forest'; expected one of auto, walsh_gp, mlp, trees, linear"),
        ({"max_degree": 0}, "max_degree must be a whole number of at least 1"),
        ({"max_terms": 0}, "max_terms must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295"),
        ({"seed": 2**63}, "seed must be a whole number"),
    ],
)
def test_wrong_options(options, message, rng):
    masks, values, _, _ = planted(8, 40, rng)
    with pytest.raises(ValueError, match=message):
        proxyspex.fit(masks, values, **options)


@pytest.mark.parametrize(
    ("masks", "values", "message"),
    [
        (np.ones((3, 4), bool), np.ones(2), r"values must have shape \(3,\)"),
        (np.ones((3, 4)), np.ones(3), "masks must be bool"),
        (np.ones((3, 4), bool), np.array([1, np.nan, 1]), "not finite"),
        (np.ones((0, 4), bool), np.ones(0), "at least one ablation"),
    ],
)
def test_wrong_tables(masks, values, message):
    with pytest.raises(ValueError, match=message):
        proxyspex.fit(masks, values)
