"""What a value says about the interactions of an index."""

import dataclasses

import jax
import numpy as np
import oracle
import pytest
from proxyspex.walsh_gp_windows_test import random_scales

from spex_jax import ProxySPEX, ValueFunction, explain
from spex_jax.core.indices import INDICES
from spex_jax.core.spectrum import Spectrum, exact_spectrum
from spex_jax.core.walsh import signs
from spex_jax.proxyspex import walsh_gp
from spex_jax.proxyspex.walsh_gp.acquisition import greedy_information, most_informative
from spex_jax.proxyspex.walsh_gp.index_gain import covariances, targets_of
from spex_jax.proxyspex.walsh_gp.prior import PriorSets

N = 6


@pytest.fixture
def scales(rng):
    return random_scales(rng, N)


def with_sets(scales, rng):
    support = oracle.all_masks(N)[[3, 5, 14, 63, 32]].astype(np.float32)
    sets = PriorSets(support, rng.dirichlet(np.ones(5)).astype(np.float32))
    return dataclasses.replace(scales, sets=sets, log_sets=np.float32(0.5))


def of_index(scales, masks, index, order):
    """The covariances by the definition: the index of the function k(., x') for every x'."""
    every, used = oracle.all_masks(N), np.ones(N, bool)
    k = walsh_gp.kernel(scales, signs(every), signs(masks), used)
    sets = [(i,) for i in range(N)] + [(i, j) for i in range(N) for j in range(i + 1, N)] * (
        INDICES[index].order(order) > 1
    )
    found = [exact_spectrum(every, column.astype(float)).interactions(index, order) for column in k.T]
    return sets, np.array([[one[key] for one in found] for key in sets])


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("order", [1, 2])
def test_the_covariance_is_that_of_the_index(index, order, scales, rng):
    scales = with_sets(scales, rng)
    masks = oracle.all_masks(N)[rng.permutation(2**N)[:7]]
    sets, expected = of_index(scales, masks, index, order)
    targets = targets_of(index, N, order, scales)
    members = [tuple(sorted({int(i), int(j)})) for i, j in zip(targets.first, targets.second, strict=True)]
    assert sorted(members) == sorted(sets)
    found = covariances(scales, targets, signs(masks), np.ones(N, bool))
    np.testing.assert_allclose(found, expected[[sets.index(key) for key in members]], atol=2e-4)


@pytest.mark.parametrize("device", [False, True])
def test_the_gain_is_the_variance_that_a_value_removes(device, scales, rng):
    scales = with_sets(scales, rng)
    order = rng.permutation(2**N)
    evaluated, pool = oracle.all_masks(N)[order[:9]], oracle.all_masks(N)[order[9:40]]
    used, targets = np.ones(N, bool), targets_of("SII", N, 2, scales)
    given = [scales, signs(evaluated), np.ones(9, bool), signs(pool), np.ones(31, bool), used, targets]
    if device:
        given = jax.tree.map(jax.numpy.asarray, given)
    rows, gains = jax.device_get(greedy_information(*given, count=3))

    # The variance of the index given the values at some masks, from its covariances with all 2^n values.
    every = oracle.all_masks(N)
    k = walsh_gp.kernel(scales, signs(every), signs(every), used).astype(float)
    transform = np.linalg.solve(k + 1e-9 * np.eye(2**N), covariances(scales, targets, signs(every), used).T).T

    def variance(masks):
        cross = k[:, masks @ (1 << np.arange(N))]
        own = cross[masks @ (1 << np.arange(N))] + float(scales.noise) * np.eye(len(masks))
        return np.trace(transform @ (k - cross @ np.linalg.solve(own, cross.T)) @ transform.T)

    seen = evaluated
    for row, gain in zip(rows, gains, strict=True):
        before = variance(seen)
        left = [before - variance(np.concatenate([seen, mask[None]])) for mask in pool]
        assert left[row] == pytest.approx(max(left), rel=1e-2)
        assert gain == pytest.approx(left[row], rel=2e-2)
        seen = np.concatenate([seen, pool[row][None]])


def test_many_features_have_the_strongest_pairs(rng):
    n = 60
    log_scale = np.log(rng.uniform(0.001, 0.002, (2, n))).astype(np.float32)
    log_scale[:, [3, 40, 41]] = 0.0
    scales = walsh_gp.Scales(log_scale, np.zeros(2, np.float32), np.zeros(n, np.float32), 0.0, -3.0)
    targets = targets_of("FSII", n, 2, scales)
    assert len(targets.first) == n + 400
    assert {(3, 40), (3, 41), (40, 41)} == set(
        zip(targets.first[n:].tolist()[:3], targets.second[n:].tolist()[:3], strict=True)
    )
    assert np.isfinite(targets.weight).all()


def test_masks_that_tell_about_shapley_values(rng):
    """They leave less error of Shapley values than as many uniform ones, on functions of many interactions."""
    errors = []
    for seed in range(4):
        other = np.random.default_rng(seed)
        n = 12
        support = np.unique(other.random((60, n)) < 0.2, axis=0)
        function = Spectrum(support, other.normal(size=len(support)))
        truth = function.interactions("SV", 1)
        row = []
        for acquisition in ("index", "uniform"):
            found = explain(
                function,
                n,
                budget=160,
                index="SV",
                max_order=1,
                sampling="adaptive",
                acquisition=acquisition,
                proxy="walsh_gp",
                progress=False,
            ).interactions("SV", 1)
            row.append(sum((found[(i,)] - truth[(i,)]) ** 2 for i in range(n)))
        errors.append(row)
    assert np.log(errors).mean(axis=0)[0] < np.log(errors).mean(axis=0)[1]


def test_explain_takes_the_acquisition(rng):
    function = Spectrum(np.eye(8, dtype=bool), rng.normal(size=8))
    found = explain(ValueFunction(function, 8), budget=120, sampling="adaptive", acquisition="index", progress=False)
    assert len(found.masks) <= 120
    assert len(np.unique(found.masks, axis=0)) == len(found.masks)
    with pytest.raises(ValueError, match="expected one of information, interactions, index, uniform"):
        ProxySPEX(sampling="adaptive", acquisition="shapley").check(0)
    masks, values = oracle.all_masks(6)[:40], rng.normal(size=40)
    chosen = most_informative(masks, values, oracle.all_masks(6)[40:], 5, index=("SV", 1))
    assert len(np.unique(chosen, axis=0)) == 5
