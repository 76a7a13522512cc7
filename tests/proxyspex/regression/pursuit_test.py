import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planting import planted

from spex_jax.core.walsh import signs, subset_characters
from spex_jax.proxyspex.preprocessing import FOLDS, prepare
from spex_jax.proxyspex.regression import pursuit


def greedy_by_hand(masks, values, terms, max_degree):
    """Orthogonal matching pursuit over singles, pairs and extensions of what was chosen, by least squares."""
    n, chosen, residual = masks.shape[1], [], values
    for _ in range(terms):
        pool = [{i} for i in range(n)] + [set(pair) for pair in itertools.combinations(range(n), 2)]
        pool += [c | {i} for c in chosen if 2 <= len(c) < max_degree for i in range(n) if i not in c]
        pool = [c for c in pool if c not in chosen and len(c) <= max_degree]
        sets = np.array([[i in c for i in range(n)] for c in pool])
        chosen.append(pool[int(np.abs(subset_characters(masks, sets).T @ residual).argmax())])
        x = subset_characters(masks, np.array([[i in c for i in range(n)] for c in chosen])).astype(float)
        residual = values - x @ np.linalg.lstsq(x, values, rcond=None)[0]
    return chosen, residual


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize("max_degree", [1, 3])
def test_the_pursuit_is_the_textbook_one(max_degree, xp, rng):
    masks, values, _, _ = planted(8, 90, rng, terms=10)
    values = values - values.mean()
    expected, residual = greedy_by_hand(masks, values, 6, max_degree)
    everything = xp.ones((1, 90), xp.float32)
    sets, errors, predictions, steps = pursuit.pursue(
        signs(masks),
        values.astype(np.float32),
        everything,
        everything,
        np.ones(8, bool),
        max_degree=max_degree,
        most_terms=6,
    )
    assert int(steps) == 6
    assert [set(np.flatnonzero(row).tolist()) for row in np.asarray(sets[0])] == expected
    assert float(errors[0, -1]) == pytest.approx(np.mean(residual**2), rel=1e-3)
    assert predictions.dtype == np.float32
    np.testing.assert_allclose(values - predictions[0], residual, atol=1e-3)


def by_folds(rows, xp, pool, at_once):
    out = rows.fold == xp.arange(FOLDS)[:, None]
    seen = (rows.fold >= 0) & ~out
    sets = np.zeros((len(pool), rows.signs.shape[1]), bool)
    sets[np.arange(len(pool))[:, None], pool] = True
    candidates = xp.asarray(sets), xp.asarray(np.asarray(rows.signs)[:, pool].prod(axis=2))
    weights = seen.astype(xp.float32), out.astype(xp.float32)
    solve = pursuit.pursue(
        rows.signs, rows.targets, *weights, rows.used, pool=candidates, max_degree=3, most_terms=24, at_once=at_once
    )
    return jax.tree.map(np.asarray, solve)


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_host_chooses_the_sets_of_a_device(at_once, rng):
    table = prepare(*planted(10, 200, rng, terms=12, noise=0.3)[:2])
    pool = np.array([[0, 1, 2], [3, 5, 7]])
    host = by_folds(table.on_host, np, pool, at_once)
    device = by_folds(table.on_device, jnp, pool, at_once)
    assert host.steps == device.steps
    np.testing.assert_array_equal(host.sets, device.sets[:, :, :10])
    np.testing.assert_allclose(host.errors, device.errors, rtol=1e-4)
    np.testing.assert_allclose(host.predictions, device.predictions[:, :200], atol=1e-4)
