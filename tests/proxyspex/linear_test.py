import itertools

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from planting import planted

from spex_jax import proxyspex
from spex_jax.proxyspex import linear
from spex_jax.proxyspex.table import prepare
from spex_jax.walsh import signs, subset_characters


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


@pytest.mark.parametrize("max_degree", [1, 2, 3])
def test_the_pursuit_is_the_textbook_one(max_degree, rng):
    masks, values, _, _ = planted(8, 90, rng, terms=10)
    values = values - values.mean()
    expected, residual = greedy_by_hand(masks, values, 6, max_degree)
    everything = jnp.ones((1, 90))
    sets, errors, predictions, steps = linear.pursue(
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


def test_finds_pairs_whose_singles_do_not_matter(rng):
    support = np.zeros((12, 40), bool)
    for row in support:
        row[rng.choice(40, 2, replace=False)] = True
    masks = rng.integers(0, 2, (600, 40)).astype(bool)
    values = subset_characters(masks, support) @ rng.uniform(1, 2, 12) + 0.3 * rng.normal(size=600)
    found = proxyspex.fit(masks, values, proxy="linear")
    assert set(map(bytes, support)) <= set(map(bytes, found.support))
    assert len(found) <= 20


def test_several_at_once_for_many_features(rng):
    masks, values, held_out, truth = planted(140, 900, rng, terms=20, degree=2, noise=0.3)
    found = proxyspex.fit(masks, values, proxy="linear")
    assert oracle.r2(truth, found(held_out)) > 0.9


def test_noise_has_no_terms(rng):
    masks = rng.integers(0, 2, (150, 30)).astype(bool)
    table = prepare(masks, rng.normal(size=150))
    fitted = linear.fit(table, max_degree=3, seed=0)
    assert len(fitted.spectrum) <= 3
    assert fitted.held_out().shape == (150,)
