import contextlib

import numpy as np
import oracle
import pytest
from planting import planted

from spex_jax import proxyspex
from spex_jax.proxyspex.preprocessing import limit_outliers


@pytest.fixture(autouse=True)
def fewer_steps(request, monkeypatch):
    """What does not ask how good the network is need not wait for it."""
    if "recovers" not in request.node.name:
        monkeypatch.setattr("spex_jax.proxyspex.perceptrons._STEPS", 200)


PROXIES = ["auto", "walsh_gp", "mlp", "trees", "linear"]


@pytest.mark.parametrize(
    ("proxy", "n", "degree", "least"),
    [
        ("auto", 24, 3, 0.99),
        ("walsh_gp", 24, 3, 0.99),
        ("mlp", 12, 3, 0.9),
        ("trees", 24, 1, 0.95),
        ("linear", 24, 2, 0.99),
    ],
)
def test_recovers_a_sparse_function(proxy, n, degree, least, rng):
    """Up to the degree that each proxy finds without a hierarchy to climb."""
    masks, values, held_out, truth = planted(n, 500, rng, degree=degree)
    spectrum = proxyspex.fit(masks, values, proxy=proxy)
    assert oracle.r2(truth, spectrum(held_out)) > least
    assert spectrum.n == n
    assert not spectrum.support[0].any()


@pytest.mark.parametrize("proxy", ["auto", "mlp"])  # walsh_gp, trees and linear are parts of auto
def test_identical_values_give_identical_fits(proxy, rng):
    masks, values, _, _ = planted(8, 60, rng)
    first, second = (proxyspex.fit(masks.copy(), values.copy(), proxy=proxy, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.support, second.support)
    np.testing.assert_array_equal(first.coefficients, second.coefficients)


@pytest.mark.parametrize("proxy", ["auto", "mlp"])
def test_a_shift_and_a_scale_pass_through(proxy, rng):
    masks, values, held_out, _ = planted(8, 60, rng)
    plain = proxyspex.fit(masks, values, proxy=proxy)(held_out)
    moved = proxyspex.fit(masks, -1e6 * values + 3e7, proxy=proxy)(held_out)
    np.testing.assert_allclose((moved - 3e7) / -1e6, plain, atol=0.02 * plain.std())


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("rounded", [False, True])  # to values that stand many times, and ties
def test_the_order_of_the_rows_changes_nothing(proxy, rounded, rng):
    masks, values, _, _ = planted(8, 60, rng, noise=0.3)
    masks, values = np.concatenate([masks, masks[:2]]), np.concatenate([values, values[:2]])
    values = np.round(values, 1) if rounded else values
    order = rng.permutation(len(masks))
    plain, permuted = proxyspex.fit(masks, values, proxy=proxy), proxyspex.fit(masks[order], values[order], proxy=proxy)
    np.testing.assert_array_equal(plain.support, permuted.support)
    np.testing.assert_array_equal(plain.coefficients, permuted.coefficients)


def test_cross_fitted_predictions_keep_the_order_of_the_rows(rng):
    masks, values, _, _ = planted(8, 180, rng, noise=0.0)
    order = rng.permutation(len(masks))
    _, plain = proxyspex.cross_fit(masks, values, proxy="walsh_gp")
    _, permuted = proxyspex.cross_fit(masks[order], values[order], proxy="walsh_gp")
    np.testing.assert_array_equal(plain[order], permuted)
    assert oracle.r2(values, plain) > 0.5


@pytest.mark.parametrize("factor", [1e308, np.longdouble("1e400")])
def test_values_whose_sums_would_overflow_are_refused(factor, rng):
    masks, values, _, _ = planted(8, 60, rng)
    with pytest.raises(ValueError, match=r"scale them down first|are not finite"):
        proxyspex.fit(masks, (values / np.abs(values).max()).astype(type(factor)) * factor)


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("case", ["spread", "steps", "equal masks", "rounding", "denormal"])
def test_tables_of_extreme_spread(proxy, case, rng):
    """None of them ends in a warning or an error that speaks of the inside."""
    masks, values, held_out, _ = planted(8, 60, rng)
    tables = {
        "spread": (masks, np.concatenate([[1e300, -1e300], values[2:]])),
        "steps": (masks, 10.0 ** np.linspace(-300, 300, 60)),
        "equal masks": (np.repeat(masks[:1], 60, axis=0), 1e300 * values),
        "rounding": (masks, 1e16 + values),
        "denormal": (masks, 1e-310 * values),
    }
    averaged = pytest.warns(UserWarning, match="averaged") if case == "equal masks" else contextlib.nullcontext()
    with averaged:
        spectrum = proxyspex.fit(*tables[case], proxy=proxy)
    assert np.isfinite(spectrum(held_out)).all()
    assert np.isfinite(list(spectrum.interactions("FSII", 2).values())).all()


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("scale", [1e-300, 1e30, 1e300])
def test_extreme_values(proxy, scale, rng):
    masks, values, held_out, truth = planted(8, 60, rng)
    spectrum = proxyspex.fit(masks, values * scale, proxy=proxy)
    assert np.isfinite(spectrum.coefficients).all()
    assert oracle.r2(truth, spectrum(held_out) / scale) > -0.05


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("value", [0.0, 0.1, -3e30])
def test_a_constant_function_has_one_term(proxy, value, rng):
    spectrum = proxyspex.fit(rng.integers(0, 2, (50, 9)).astype(bool), np.full(50, value), proxy=proxy)
    assert len(spectrum) == 1
    assert spectrum.coefficients[0] == pytest.approx(value)
    assert not spectrum.interactions().top()


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("case", ["one row", "equal rows", "one feature"])
def test_tables_with_next_to_nothing_in_them(proxy, case, rng):
    masks, values, held_out, _ = planted(8, 60, rng)
    if case == "one row":
        masks, values = masks[:1], values[:1]
    if case == "equal rows":
        masks, values = np.repeat(masks[:1], 30, axis=0), np.full(30, 2.5)
    if case == "one feature":
        masks, values, held_out = np.array([[True], [False]]), np.array([1.0, 3.0]), np.array([[True]])
    assert np.isfinite(proxyspex.fit(masks, values, proxy=proxy)(held_out)).all()


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize(
    "case", ["fewer than ten", "fewer rows than features", "constant column", "float16", "outlier"]
)
def test_poor_tables_do_no_harm(proxy, case, rng):
    """Never much worse than the mean of the values that were given."""
    n, rows = {"fewer than ten": (8, 7), "fewer rows than features": (16, 12)}.get(case, (8, 60))
    masks, values, held_out, truth = planted(n, rows, rng, noise=0.3)
    mean = values.mean()
    if case == "constant column":
        masks, values, held_out, truth = masks[masks[:, 2]], values[masks[:, 2]], held_out, truth
        held_out, truth = held_out[held_out[:, 2]], truth[held_out[:, 2]]
        mean = values.mean()
    if case == "float16":
        values = values.astype(np.float16)
    if case == "outlier":
        values[3] += 1e4
        with pytest.warns(UserWarning, match="1 of 60 values lie more than 30 interquartile ranges"):
            spectrum = proxyspex.fit(masks, values, proxy=proxy)
    else:
        spectrum = proxyspex.fit(masks, values, proxy=proxy)
    error, around = np.sum((truth - spectrum(held_out)) ** 2), np.sum((truth - mean) ** 2)
    assert 1 - error / around > -0.05


@pytest.mark.parametrize("proxy", PROXIES)
def test_noise_comes_out_nearly_constant(proxy, rng):
    masks = np.unique(rng.integers(0, 2, (60, 12)).astype(bool), axis=0)
    spectrum = proxyspex.fit(masks, rng.normal(size=len(masks)), proxy=proxy)
    assert np.square(spectrum.coefficients[1:]).sum() < 0.2


def test_an_outlier_near_the_largest_number(rng):
    values = rng.uniform(-1, 1, 300) * 1e300
    values[7] = -1.7e308
    with pytest.warns(UserWarning, match="the farthest is -1.7e\\+308"):
        limited = limit_outliers(values)
    assert np.abs(limited).max() < 1e301


def test_what_happens_often_is_no_outlier(rng):
    masks = rng.permutation(oracle.all_masks(10))[:400]
    values = 1000.0 * masks[:, :6].all(axis=1) + rng.normal(size=400)  # one row in 64
    assert (values > 900).sum() > 2
    np.testing.assert_array_equal(limit_outliers(values), values)  # and no warning


def test_duplicates_are_averaged_and_their_noise_reported(rng):
    masks, values, _, _ = planted(9, 60, rng)
    twice, both = np.concatenate([masks, masks]), np.concatenate([values + 1, values - 1])
    with pytest.warns(UserWarning, match="60 masks were given several times with different values") as caught:
        averaged = proxyspex.fit(twice, both)
    assert "deviation 1.41" in str(caught[0].message)
    np.testing.assert_allclose(averaged.coefficients, proxyspex.fit(masks, values).coefficients, rtol=1e-4, atol=1e-5)
    same = proxyspex.fit(twice, np.concatenate([values, values]))
    np.testing.assert_array_equal(same.coefficients, proxyspex.fit(masks, values).coefficients)


@pytest.mark.parametrize("max_terms", [1, 2, 30])
def test_max_terms_counts_the_constant(max_terms, rng):
    masks, values, _, _ = planted(12, 60, rng)
    spectrum = proxyspex.fit(masks, values, max_terms=max_terms)
    assert len(spectrum) == max_terms
    assert spectrum.coefficients[0] == pytest.approx(values.mean(), abs=1)


def test_max_degree_bounds_the_terms(rng):
    masks, values, _, _ = planted(24, 300, rng)
    assert proxyspex.fit(masks, values, max_degree=2).support.sum(axis=1).max() == 2
    assert proxyspex.fit(masks, values, max_degree=2, proxy="trees").support.sum(axis=1).max() == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proxy": "forest"}, "unknown proxy 'forest'; expected one of auto, walsh_gp, mlp, trees, linear"),
        ({"max_degree": 0}, "max_degree must be a whole number of at least 1"),
        ({"max_terms": 0}, "max_terms must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295"),
        ({"seed": 2**63}, "seed must be a whole number"),
        ({"solver": "lasso"}, "solver= belongs to proxy='linear', got it with proxy='auto'"),
        ({"proxy": "trees", "extract": "spex"}, "extract= belongs to proxy='mlp', got it with proxy='trees'"),
        ({"proxy": "mlp", "extract": "read"}, "unknown extract 'read'; expected one of grow, spex"),
        ({"proxy": "linear", "solver": "omp"}, "unknown solver 'omp'; expected one of greedy, lasso"),
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
