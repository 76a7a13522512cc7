import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from host_only import nothing_on_a_device
from planting import planted

from spex_jax.core.walsh import signs, subset_characters
from spex_jax.proxyspex import trees
from spex_jax.proxyspex.preprocessing import FOLDS, prepare


def forest_values(forest, masks, depth):
    """Values of a forest by walking down its trees, one mask at a time."""
    found = np.zeros(len(masks))
    for row, mask in enumerate(masks):
        for features, leaves in zip(np.asarray(forest.features), np.asarray(forest.leaves), strict=True):
            place = 0
            for level in range(depth):
                feature = features[2**level - 1 + place]
                place = 2 * place + int(feature >= 0 and mask[feature])
            found[row] += leaves[place]
    return found


@pytest.mark.parametrize("depth", [1, 3])
def test_the_spectrum_of_trees_is_exact(depth, rng):
    n, count = 7, 6
    # No feature twice on a path: a second split on it has an empty side, which boosting never takes.
    level = np.repeat(np.arange(depth), 2 ** np.arange(depth))
    features = rng.integers(-1, n // depth, (count, 2**depth - 1))
    features = np.where(features < 0, -1, features * depth + level)
    forest = trees.Forest(features=jnp.asarray(features), leaves=jnp.asarray(rng.normal(size=(count, 2**depth))))
    support, coefficients = trees.forest_terms(forest, n, depth)
    masks = oracle.all_masks(n)
    expected = forest_values(forest, masks, depth)
    np.testing.assert_allclose(subset_characters(masks, support) @ coefficients, expected, atol=1e-6)
    assert len(np.unique(support, axis=0)) == len(support)


@pytest.mark.parametrize("xp", [np, jnp])
def test_a_tree_takes_the_best_split(xp, rng):
    """The first split and the leaves of a tree of depth 1 against every split by hand."""
    masks = oracle.all_masks(6)
    values = 3.0 * masks[:, 4] - 1.0 * masks[:, 1] + 0.1 * rng.normal(size=64)
    values -= values.mean()
    everything = xp.ones((1, 64), xp.float32)
    forest, errors, _, grown = trees.boost(
        signs(masks),
        values.astype(np.float32),
        everything,
        everything,
        xp.ones(1, xp.float32),
        depth=1,
        most_trees=1,
    )
    assert int(grown) == 1
    assert int(forest.features[0, 0, 0]) == 4
    sides = [values[~masks[:, 4]], values[masks[:, 4]]]
    leaves = [side.sum() / (len(side) + 1) for side in sides]
    np.testing.assert_allclose(forest.leaves[0, 0], leaves, rtol=1e-5)
    left = np.where(masks[:, 4], values - leaves[1], values - leaves[0])
    assert float(errors[0, 0]) == pytest.approx(np.mean(left**2), rel=1e-5)


def by_folds(rows, xp):
    out = rows.fold == xp.arange(FOLDS)[:, None]
    seen = (rows.fold >= 0) & ~out
    weights = seen.astype(xp.float32), out.astype(xp.float32), xp.full(FOLDS, 0.1, xp.float32)
    return jax.tree.map(np.asarray, trees.boost(rows.signs, rows.targets, *weights, depth=3, most_trees=100))


def test_the_host_grows_the_forests_of_a_device(rng):
    """The host has neither padding nor float64; a device has the first."""
    table = prepare(*planted(10, 200, rng, noise=1.0)[:2])
    host, device = by_folds(table.on_host, np), by_folds(table.on_device, jnp)
    assert {leaf.dtype for leaf in jax.tree.leaves(host)} <= {np.dtype(np.int32), np.dtype(np.float32)}
    assert host.trees == device.trees
    np.testing.assert_array_equal(host.forest.features, device.forest.features)
    np.testing.assert_allclose(host.forest.leaves, device.forest.leaves, atol=1e-4)
    np.testing.assert_allclose(host.errors, device.errors, rtol=1e-4)
    np.testing.assert_allclose(host.predictions, device.predictions[:, :200], atol=1e-4)


def test_the_fit_of_all_rows_runs_along(rng):
    """It grows the trees that it grows alone, however many the folds need, and its errors stop nothing."""
    table = prepare(*planted(10, 200, rng, noise=3.0)[:2])
    rows = table.on_host
    out = rows.fold == np.arange(FOLDS)[:, None]
    weights = np.concatenate([~out, np.ones((1, 200))]).astype(np.float32)
    held_out = np.concatenate([out, np.zeros((1, 200))]).astype(np.float32)
    rates = np.full(FOLDS + 1, 0.1, np.float32)
    beside = trees.boost(rows.signs, rows.targets, weights, held_out, rates, depth=3)
    folds = trees.boost(rows.signs, rows.targets, weights[:-1], held_out[:-1], rates[:-1], depth=3)
    grown = int(beside.trees)
    assert 60 < grown == folds.trees < 1000
    everything = weights[-1:]
    alone = trees.boost(rows.signs, rows.targets, everything, everything, rates[:1], depth=3, most_trees=grown)
    np.testing.assert_array_equal(beside.forest.features[-1, :grown], alone.forest.features[0])
    np.testing.assert_allclose(beside.forest.leaves[-1, :grown], alone.forest.leaves[0], atol=1e-6)
    np.testing.assert_allclose(beside.errors[:-1], folds.errors, rtol=1e-5)


def test_the_host_needs_no_device(rng):
    table = prepare(*planted(10, 100, rng, noise=1.0)[:2])
    with nothing_on_a_device():
        trees.fit(table, max_degree=3, seed=0)
