"""Surrogates of tables of ablations: exact on all masks, and what is said where masks are few or wrong."""

import functools
import itertools

import numpy as np
import oracle
import pytest

from spex_jax import Spectrum, baselines
from spex_jax.baselines.permutations import draw_permutations
from spex_jax.core.masks import all_masks, uniform
from spex_jax.core.sampling import draw

REGRESSIONS = (
    baselines.banzhaf,
    functools.partial(baselines.banzhaf, estimator="reuse"),
    baselines.faith_banzhaf,
    baselines.kernel_shap,
    baselines.faith_shapley,
    functools.partial(baselines.faith_shapley, order=3),
    baselines.lime,
    baselines.lasso,
    baselines.left_out,
)
NAMES = (
    "banzhaf",
    "banzhaf_reuse",
    "faith_banzhaf",
    "kernel_shap",
    "faith_shapley",
    "faith_shapley_3",
    "lime",
    "lasso",
    "left_out",
)


def game(n, rng):
    """All masks in a random order, and random values by their code."""
    masks, values = all_masks(n)[rng.permutation(2**n)], oracle.random_game(n, rng)
    return masks, values[masks @ (1 << np.arange(n))], values


def compare(found, index, order, expected):
    interactions = found.interactions(index, order)
    np.testing.assert_allclose([interactions[members] for members in expected], list(expected.values()), atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_first_order_of_all_masks_is_exact(n, rng):
    masks, asked, values = game(n, rng)
    shapley, banzhaf = oracle.interactions(values, "SV", 1), oracle.interactions(values, "BV", 1)
    compare(baselines.kernel_shap(masks, asked), "SV", 1, shapley)
    compare(baselines.banzhaf(masks, asked), "BV", 1, banzhaf)
    compare(baselines.banzhaf(masks, asked, estimator="reuse"), "BV", 1, banzhaf)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_faithful_interactions_of_all_masks_are_exact(n, order, rng):
    masks, asked, values = game(n, rng)
    cut = min(order, n)
    found = baselines.faith_banzhaf(masks, asked, order=order)
    compare(found, "FBII", cut, oracle.interactions(values, "FBII", cut))
    assert found.support.sum(axis=1).max() == cut
    found = baselines.faith_shapley(masks, asked, order=order)
    compare(found, "FSII", cut, oracle.interactions(values, "FSII", cut))
    np.testing.assert_allclose(found(all_masks(n)[[0, -1]]), values[[0, -1]], atol=1e-12)


def test_shapley_of_all_permutations_is_exact(rng):
    masks, asked, values = game(6, rng)
    orders = list(itertools.permutations(range(6)))
    compare(baselines.permutation_shapley(masks, asked, orders), "SV", 1, oracle.interactions(values, "SV", 1))
    one = baselines.permutation_shapley(masks, asked, [[2, 0, 1, 4, 5, 3]])
    assert -2 * one.coefficients[3] == pytest.approx(values[4] - values[0])
    assert -2 * one.coefficients[1] == pytest.approx(values[5] - values[4])


def test_rows_that_are_equal_count_as_often(rng):
    masks, asked, _ = game(5, rng)
    times = rng.integers(1, 4, len(masks))
    twice, values = np.repeat(masks, times, axis=0), np.repeat(asked, times)
    for method in (baselines.faith_banzhaf, baselines.faith_shapley):
        found, expected = method(twice, values, weights=np.ones(len(twice))), method(masks, asked, weights=times)
        np.testing.assert_allclose(found.coefficients, expected.coefficients, atol=1e-12)


@pytest.mark.parametrize("method", REGRESSIONS, ids=NAMES)
def test_units_may_change_places(method, rng):
    n = 8
    masks = np.concatenate([draw("size", n, 120, 0), ~np.eye(n, dtype=bool)])
    values, order = rng.normal(size=len(masks)), rng.permutation(n)
    tested, rows = all_masks(n), rng.permutation(len(masks))
    turned = method(masks[rows][:, order], values[rows])
    # Coordinate descent goes through the units in turn, to a tolerance.
    np.testing.assert_allclose(
        turned(tested[:, order]), method(masks, values)(tested), atol=0.01 if method is baselines.lasso else 1e-9
    )


@pytest.mark.parametrize("method", REGRESSIONS, ids=NAMES)
@pytest.mark.parametrize("constant", [0.1, -1e9, 0.0])
def test_a_constant_has_no_effects(method, constant, rng):
    masks = np.concatenate([uniform(7, 110, rng), ~np.eye(7, dtype=bool), np.ones((1, 7), bool)])
    found = method(masks, np.full(len(masks), constant))
    assert not found.coefficients[1:].any()
    assert found.coefficients[0] == pytest.approx(constant)


def planted(n, rng):
    """A spectrum of singles and some pairs."""
    pairs = np.zeros((6, n), bool)
    pairs[np.arange(6), np.arange(6)] = pairs[np.arange(6), np.arange(6) + 1] = True
    return Spectrum(np.concatenate([np.zeros((1, n), bool), np.eye(n, dtype=bool), pairs]), rng.normal(size=n + 7))


@pytest.mark.parametrize("given_ends", [True, False])
@pytest.mark.parametrize("method", [baselines.faith_banzhaf, baselines.faith_shapley])
def test_a_function_of_second_order_is_found_from_some_masks(method, given_ends, rng):
    truth = planted(16, rng)
    masks = draw("size", 16, 600, 0)[0 if given_ends else 2 :]
    found = method(masks, truth(masks) + 1e6)
    tested = uniform(16, 200, rng)
    np.testing.assert_allclose(found(tested), truth(tested) + 1e6, atol=1e-8)


@pytest.mark.parametrize("method", [baselines.faith_banzhaf, baselines.faith_shapley])
def test_what_masks_leave_open_is_small_and_fits(method, rng):
    masks = np.repeat(uniform(10, 40, rng, given=draw("size", 10, 2, 0)), 2, axis=0)
    values = masks.sum(axis=1) + np.repeat(rng.normal(size=40), 2)
    found = method(masks, values)
    np.testing.assert_allclose(found(masks), values, atol=1e-9)
    assert (found.coefficients[1:] ** 2).sum() < 1.2 * values.var()  # not many times that of what it fits


def test_weights_and_lime_follow_their_formulas(rng):
    masks = uniform(9, 150, rng)
    values, weights = rng.normal(size=150), rng.random(150)
    design = np.column_stack([np.ones(150), masks])
    root = np.sqrt(weights)
    expected = design @ np.linalg.lstsq(design * root[:, None], values * root, rcond=None)[0]
    np.testing.assert_allclose(baselines.faith_banzhaf(masks, values, order=1, weights=weights)(masks), expected)
    kernel = np.exp(-((100 * (1 - np.sqrt(masks.mean(axis=1)))) ** 2) / (2 * 40**2))
    penalty = 3 * np.diag(np.arange(10) > 0)  # not of the intercept
    expected = design @ np.linalg.solve((design.T * kernel) @ design + penalty, (design.T * kernel) @ values)
    np.testing.assert_allclose(baselines.lime(masks, values, kernel_width=40, alpha=3)(masks), expected, rtol=1e-9)


def test_lime_of_fewer_masks_than_units_is_the_same_ridge(rng):
    masks, values = uniform(40, 30, rng), rng.normal(size=30)
    few, enough = baselines.lime(masks, values), baselines.lime(np.repeat(masks, 2, 0), np.repeat(values, 2), alpha=2)
    np.testing.assert_allclose(few.coefficients, enough.coefficients, atol=1e-12)


def test_a_large_penalty_leaves_nothing(rng):
    masks, values = uniform(9, 100, rng), rng.normal(size=100)
    found = baselines.lasso(masks, values, alpha=100.0)
    assert not found.coefficients[1:].any()
    assert found.coefficients[0] == pytest.approx(values.mean())


@pytest.mark.parametrize(("n", "count"), [(1, 2), (2, 4), (7, 100), (7, 128), (30, 31), (30, 500)])
def test_permutations_fit_the_budget(n, count):
    masks, orders = draw_permutations(n, count, 3)
    assert len(masks) <= count
    assert 1 <= len(orders) <= count
    assert len(np.unique(masks, axis=0)) == len(masks)
    np.testing.assert_array_equal(orders[1::2], orders[: len(orders) // 2 * 2 : 2, ::-1])
    more, further = draw_permutations(n, count + 100, 3)
    np.testing.assert_array_equal(more[: len(masks)], masks)
    np.testing.assert_array_equal(further[: len(orders)], orders)
    values = masks @ np.arange(n) + 1.0
    np.testing.assert_allclose(
        -2 * baselines.permutation_shapley(masks, values, orders).coefficients[1:], np.arange(n), atol=1e-12
    )


def test_values_of_equal_rows_are_averaged(rng):
    masks = np.concatenate([np.ones((2, 3), bool), ~np.eye(3, dtype=bool)])
    found = baselines.left_out(masks, [1.0, 3.0, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(-2 * found.coefficients[1:], [2, 1, 0])


ALL, VALUES = all_masks(4), np.arange(16.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: baselines.banzhaf(ALL, VALUES, estimator="magic"), "unknown estimator 'magic'; expected one of"),
        (lambda: baselines.faith_banzhaf(ALL[:10], VALUES[:10]), r"11 coefficients, .* of 4 units, .* got 10"),
        (lambda: baselines.faith_shapley(ALL[:10], VALUES[:10]), "got 10: evaluate more masks, or use a lower order"),
        (lambda: baselines.banzhaf(ALL[5:9], VALUES[5:9]), "5 coefficients"),
        (lambda: baselines.faith_banzhaf(ALL, VALUES, order=0), "order must be a whole number of at least 1"),
        (lambda: baselines.faith_shapley(ALL, VALUES, order=1.5), "order must be a whole number of at least 1"),
        (lambda: baselines.faith_shapley(ALL, VALUES, weights=np.ones(3)), "weights must be 16 finite numbers"),
        (lambda: baselines.kernel_shap(ALL, VALUES, weights=-np.ones(16)), "not negative"),
        (lambda: baselines.kernel_shap(ALL[:8], VALUES[:8]), "unit 3 is not"),
        (lambda: baselines.lime(ALL, VALUES, alpha=0), "alpha must be a positive finite number, got 0"),
        (lambda: baselines.lime(ALL, VALUES, kernel_width="a"), "kernel_width must be a positive finite number"),
        (lambda: baselines.lime(ALL[:2], VALUES[:2], kernel_width=0.1), "too far from the full one"),
        (lambda: baselines.lime(ALL[:0], []), "at least one ablation"),
        (lambda: baselines.lasso(ALL[:0], []), "at least one ablation"),
        (lambda: baselines.lasso(ALL, VALUES, alpha=np.nan), "alpha must be a positive finite number"),
        (lambda: baselines.left_out(ALL[:14], VALUES[:14]), r"needs 2 masks .* removes 0 of 4 units \(none\)"),
        (lambda: baselines.permutation_shapley(ALL[1:], VALUES[1:], [[0, 1, 2, 3]]), r"removes 4 of 4 units \(0, 1"),
        (lambda: baselines.permutation_shapley(ALL, VALUES, [[0, 1, 2, 2]]), "permutations must be int"),
        (lambda: baselines.permutation_shapley(ALL, VALUES, [[0, 1, 2]]), "permutations must be int"),
        (lambda: baselines.permutation_shapley(ALL, VALUES, []), "permutations must be int"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("method", [*REGRESSIONS, functools.partial(baselines.permutation_shapley, permutations=[[0]])])
def test_tables_are_checked(method):
    with pytest.raises(ValueError, match="values must have shape"):
        method(ALL, VALUES[:3])
    with pytest.raises(ValueError, match="not finite"):
        method(ALL, np.where(ALL[:, 0], np.nan, 0))


def test_too_many_coefficients_are_refused():
    masks = np.zeros((2, 1000), bool)
    masks[0] = True
    with pytest.raises(ValueError, match="1000 units have 500,501 sets of up to 2; least squares is for up to 20,000"):
        baselines.faith_banzhaf(masks, [0.0, 1.0])


def test_scikit_learn_is_named_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"lasso needs scikit-learn: pip install 'spex-jax\[data\]'"):
        baselines.lasso(ALL, VALUES)
