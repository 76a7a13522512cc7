"""Baselines as methods of `explain`."""

import math

import numpy as np
import pytest

from spex_jax import explain
from spex_jax.core.ablations import Ablations
from spex_jax.core.sampling import SAMPLINGS
from spex_jax.methods import METHODS
from spex_jax.pipeline.budget_split import least_budget

SURROGATES = [name for name in METHODS if name not in ("proxyspex", "spex")]


def additive(masks):
    return np.asarray(masks, float) @ np.linspace(-1, 2, np.shape(masks)[1])


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("n", [1, 3, 6, 14])
def test_the_fewest_masks_do(name, n):
    method = METHODS[name]()
    method.check(0)
    least = method.least(n)
    assert least <= 2**n
    masks, made = method.draw(n, least, 0)
    assert len(masks) <= least
    assert len(np.unique(masks, axis=0)) == len(masks)
    assert masks.all(axis=1).any()
    found = method.fit(Ablations.to_fit(masks, additive(masks), made), 0)
    assert found.n == n
    again = method.fit(Ablations.to_fit(masks, additive(masks), method.draw(n, least, 0)[1]), 0)
    np.testing.assert_array_equal(found.coefficients, again.coefficients)
    if name not in ("lime", "lasso"):  # which shrink
        seen = masks[: n + 1] if name == "leave_one_out" else masks
        np.testing.assert_allclose(found(seen), additive(seen), atol=1e-7)


@pytest.mark.parametrize("sampling", [None, *SAMPLINGS])
@pytest.mark.parametrize(("name", "order"), [("kernel_shap", 1), ("faith_shapley", 2), ("faith_shapley", 3)])
def test_the_fewest_masks_determine_all_coefficients(name, order, sampling):
    """Those of a random function of the order, but for few draws where masks of one size say the same."""
    n = 9
    options = {"sampling": sampling} | ({"order": order} if name == "faith_shapley" else {})
    method = METHODS[name](**options)
    masks, made = method.draw(n, 2 * method.least(n), 0)
    rng = np.random.default_rng(0)
    terms, weights = [rng.permutation(n)[:order] for _ in range(20)], rng.normal(size=20)

    def function(asked):
        return sum(weight * asked[:, term].all(axis=1) for weight, term in zip(weights, terms, strict=True))

    found = method.fit(Ablations.to_fit(masks, function(masks), made), 0)
    tested = rng.random((100, n)) < 0.5
    np.testing.assert_allclose(found(tested), function(tested), atol=1e-8)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("faith_banzhaf", {}, 1 + 20 + 190),
        ("faith_banzhaf", {"order": 3}, 1 + 20 + 190 + 1140),
        ("banzhaf", {}, 21),
        ("kernel_shap", {}, 40),
        ("kernel_shap", {"sampling": "uniform"}, 21),
        ("faith_shapley", {}, 2 * 191),
        ("faith_shapley", {"order": 3}, 2 * 1160),
        ("faith_shapley", {"order": 3, "sampling": "pairs"}, 1 + 20 + 190 + 1140),
        ("leave_one_out", {}, 22),
        ("permutation_shapley", {}, 21),
        ("lime", {}, 12),
        ("lasso", {}, 12),
    ],
)
def test_the_fewest_masks_are_those_that_determine_the_coefficients(name, options, expected):
    assert METHODS[name](**options).least(20) == expected


@pytest.mark.parametrize("name", SURROGATES)
def test_a_larger_budget_asks_again_for_all_of_a_smaller_one(name):
    few, _ = METHODS[name]().draw(25, 800, 1)
    more, _ = METHODS[name]().draw(25, 1100, 1)
    np.testing.assert_array_equal(more[: len(few)], few)


@pytest.mark.parametrize("name", SURROGATES)
def test_explains(name):
    options = {"alpha": 1e-3} if name in ("lime", "lasso") else {}
    n = 10
    found = explain(additive, n, method=name, budget=250, **options)
    assert not found.exact
    assert found.faithfulness.r2 > 0.99
    assert found.settings["method"] == name
    assert found.interactions("SV", 1).top(1)[0][0] == (n - 1,)
    with pytest.raises(ValueError, match=f"the smallest possible budget is {least_budget(16, METHODS[name]())}"):
        explain(additive, 16, method=name, budget=least_budget(16, METHODS[name]()) - 1)
    if name == "permutation_shapley":
        assert found.settings["permutations"] >= 200 // (n - 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kernel_shap", {"sampling": "magic"}, "unknown sampling 'magic'; expected one of uniform"),
        ("faith_banzhaf", {"order": 0}, "order must be a whole number"),
        ("faith_shapley", {"order": "2"}, "order must be a whole number"),
        ("banzhaf", {"estimator": "magic"}, "unknown estimator 'magic'"),
        ("lime", {"kernel_width": -1}, "kernel_width must be a positive"),
        ("lasso", {"alpha": math.inf}, "alpha must be a positive"),
        ("leave_one_out", {"seed": -1}, "seed must be a whole number"),
        ("permutation_shapley", {"seed": 0.5}, "seed must be a whole number"),
    ],
)
def test_refuses_before_anything_is_asked(name, options, message):
    with pytest.raises(ValueError, match=message):
        explain(lambda masks: 1 / 0, 12, method=name, **options)


def test_large_problems_are_refused_before_anything_is_asked():
    with pytest.raises(ValueError, match=r"500,501 sets of up to 2; .* proxyspex"):
        explain(lambda masks: 1 / 0, 1000, method="faith_banzhaf")


def test_lasso_says_that_it_needs_scikit_learn(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'spex-jax\[data\]'"):
        explain(lambda masks: 1 / 0, 12, method="lasso")
