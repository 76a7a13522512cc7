import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from planting import planted

from spex_jax.core.walsh import signs, subset_characters
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


@pytest.mark.parametrize("max_degree", [1, 3])
def test_the_pursuit_is_the_textbook_one(max_degree, rng):
    masks, values, _, _ = planted(8, 90, rng, terms=10)
    values = values - values.mean()
    expected, residual = greedy_by_hand(masks, values, 6, max_degree)
    everything = jnp.ones((1, 90))
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
    np.testing.assert_allclose(values - predictions[0], residual, atol=1e-3)
