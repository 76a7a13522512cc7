import numpy as np
import oracle
import pytest
from host_only import nothing_on_a_device
from planting import planted

from spex_jax import proxyspex
from spex_jax.core.walsh import subset_characters
from spex_jax.proxyspex.preprocessing import prepare
from spex_jax.proxyspex.regression import linear


@pytest.mark.slow
@pytest.mark.parametrize("solver", linear.SOLVERS)
def test_finds_pairs_whose_singles_do_not_matter(solver, rng):
    support = np.zeros((12, 32), bool)
    for row in support:
        row[rng.choice(32, 2, replace=False)] = True
    masks = rng.integers(0, 2, (500, 32)).astype(bool)
    values = subset_characters(masks, support) @ rng.uniform(1, 2, 12) + 0.3 * rng.normal(size=500)
    found = proxyspex.fit(masks, values, proxy="linear", solver=solver)
    assert set(map(bytes, support)) <= set(map(bytes, found.support))
    assert len(found) <= 20


def test_several_at_once_for_many_features(rng):
    masks, values, held_out, truth = planted(140, 900, rng, terms=20, degree=2, noise=0.3)
    found = proxyspex.fit(masks, values, proxy="linear", max_degree=2)
    assert oracle.r2(truth, found(held_out)) > 0.9


@pytest.mark.parametrize("solver", linear.SOLVERS)
def test_noise_has_no_terms(solver, rng):
    masks = rng.integers(0, 2, (300, 30)).astype(bool)
    table = prepare(masks, rng.normal(size=300))
    fitted = linear.fit(table, max_degree=5, seed=0, solver=solver)
    assert len(fitted.spectrum) <= 3
    assert fitted.held_out().shape == (300,)


def test_finds_triples_that_no_part_announces(rng):
    support = np.zeros((5, 30), bool)
    for row in support:
        row[rng.choice(30, 3, replace=False)] = True
    masks = rng.integers(0, 2, (300, 30)).astype(bool)
    values = subset_characters(masks, support) @ rng.uniform(1, 2, 5) + 0.3 * rng.normal(size=300)
    found = proxyspex.fit(masks, values, proxy="linear")
    assert set(map(bytes, support)) <= set(map(bytes, found.support))
    assert len(found) <= 12


def test_the_host_needs_no_device(rng):
    masks, values, *_ = planted(12, 150, rng, terms=10, degree=3, noise=0.3)
    table = prepare(masks, values)
    with nothing_on_a_device():
        linear.fit(table, max_degree=4, seed=0)
