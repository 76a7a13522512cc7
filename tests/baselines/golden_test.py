"""Agreement with shapiq, lime and scikit-learn on the same masks, values and weights; see golden/make_baselines.py."""

import functools
import pathlib

import numpy as np
import pytest

from spex_jax import baselines

N = 10
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "baselines.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def masks_of(packed):
    return np.unpackbits(packed, axis=1, count=N).astype(bool)


def table(golden, name):
    return masks_of(golden[f"{name}/masks"]), golden[f"{name}/values"]


@pytest.mark.parametrize(
    ("name", "method", "index", "order"),
    [
        ("kernel_shap", baselines.kernel_shap, "SV", 1),
        ("kernel_shap", functools.partial(baselines.faith_shapley, order=1), "FSII", 1),
        ("faith_shapley_2", baselines.faith_shapley, "FSII", 2),
        ("faith_shapley_3", functools.partial(baselines.faith_shapley, order=3), "FSII", 3),
        ("banzhaf", functools.partial(baselines.faith_banzhaf, order=1), "FBII", 1),
        ("faith_banzhaf_2", baselines.faith_banzhaf, "FBII", 2),
    ],
)
def test_regressions_are_those_of_shapiq(name, method, index, order, golden):
    masks, values = table(golden, name)
    found = method(masks, values, weights=golden[f"{name}/weights"]).interactions(index, order)
    sets = [tuple(np.flatnonzero(row)) for row in masks_of(golden[f"{name}/support"])]
    # shapiq gives the full and the empty mask a weight of 1e8 in place of a constraint.
    np.testing.assert_allclose([found[members] for members in sets], golden[f"{name}/found"], atol=1e-7)


def test_permutations_are_those_of_shapiq(golden):
    masks, values = table(golden, "permutation_shapley")
    spectrum = baselines.permutation_shapley(masks, values, golden["permutation_shapley/permutations"])
    np.testing.assert_allclose(-2 * spectrum.coefficients[1:], golden["permutation_shapley/found"], atol=1e-12)


def test_lime_is_that_of_its_package(golden):
    masks, values = table(golden, "lime")
    spectrum = baselines.lime(masks, values)
    *effects, intercept = golden["lime/found"]
    np.testing.assert_allclose(-2 * spectrum.coefficients[1:], effects, atol=1e-10)
    np.testing.assert_allclose(spectrum(np.zeros((1, N), bool)), intercept, atol=1e-10)


def test_lasso_is_that_of_scikit_learn(golden):
    masks, values = table(golden, "lasso")
    spectrum = baselines.lasso(masks, values, alpha=0.3)
    np.testing.assert_allclose(spectrum(masks), golden["lasso/predictions"], atol=1e-10)
    assert 0 < (spectrum.coefficients[1:] == 0).sum() < N
