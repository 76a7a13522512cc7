"""What the parts of the peeling are there for: weak sets are dropped, and pairs are searched by themselves."""

import numpy as np
import pytest

from spex_jax import Spectrum, spex
from spex_jax.spex import decoder
from spex_jax.spex.peeling import peel


def hidden(n, terms, rng):
    """Singles and pairs with normal coefficients; where a set is drawn twice its coefficients add up."""
    support = np.zeros((terms, n), bool)
    for row in support:
        row[rng.choice(n, rng.integers(1, 3), replace=False)] = True
    distinct, which = np.unique(support, axis=0, return_inverse=True)
    return Spectrum(distinct, np.bincount(which.ravel(), 3 * rng.normal(size=terms)))


def peeled(n, budget, degree, terms, noise, seed):
    """The sets that were there, and those that were found."""
    rng = np.random.default_rng(seed)
    made, truth = spex.design(n, budget, max_degree=degree, seed=seed), hidden(n, terms, rng)
    values = truth(made.masks) + noise * rng.normal(size=len(made.masks))
    given = decoder.peeling(made, (values - values.mean()) / values.std())
    found, _ = decoder.in_order(*peel(*given.arrays, given.every, code=given.code, most_terms=given.most_terms))
    there, names = ({tuple(np.flatnonzero(row)) for row in rows} for rows in (truth.support, np.asarray(found)))
    return there, names - {()}, len(given.every)


def test_sets_that_turn_out_weak_are_dropped():
    """Without that 7 sets that are not there stay in these four runs."""
    wrong = 0
    for seed in range(4):
        there, found, tried = peeled(64, 2200, 3, 80, 6.0, seed)
        assert tried
        assert len(there & found) > 0.75 * len(there)
        wrong += len(found - there)
    assert wrong <= 2


@pytest.mark.slow
def test_pairs_are_searched_where_sets_are_too_many_to_try():
    """Without that search 84% of the sets come out of these four runs, with it 93%."""
    right = total = 0
    for seed in range(4):
        there, found, tried = peeled(100, 2600, 4, 60, 4.0, seed)
        assert not tried
        assert not found - there
        right, total = right + len(there & found), total + len(there)
    assert right > 0.9 * total
