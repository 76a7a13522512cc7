import numpy as np
import pytest
from scipy import stats

from spex_jax.proxyspex.regression import gram_selection


def test_discoveries_are_those_of_benjamini_and_hochberg(rng):
    scores = np.abs(np.concatenate([rng.normal(size=500), rng.normal(5, 1, size=20)]))
    rejected = stats.false_discovery_control(2 * stats.norm.sf(scores)) <= 0.05
    np.testing.assert_array_equal(scores >= gram_selection.discoveries(scores, len(scores)), rejected)
    strongest = np.sort(scores)[-100:]  # the others need not be given
    assert gram_selection.discoveries(strongest, len(scores)) == gram_selection.discoveries(scores, len(scores))
    assert gram_selection.discoveries(np.zeros(0), 10) == np.inf
    assert gram_selection.discoveries(np.array([1.0]), 1000) == np.inf


def test_minimise_is_the_closed_form_where_the_gram_matrix_is_not_diagonal(rng):
    design = rng.normal(size=(80, 12)) @ (np.eye(12) + 0.3)
    gram, target = design.T @ design / 80, design.T @ rng.normal(size=(80, 2)) / 80
    first = np.full((12, 2), 0.05)
    second = np.full((12, 2), 0.2)
    first[:, 1] = 0.0
    first[3] = np.inf
    found = gram_selection.minimise(
        lambda c: (gram @ c - target, np.zeros(0)),
        np.ones((12, 2)),
        first,
        second,
        curvature=0.1,  # far too small: the steps find out
        steps=500,
        done=lambda new, old, _: bool(np.abs(new - old).max() < 1e-12),
    )
    rest = np.arange(12) != 3
    ridge = np.linalg.solve(gram[np.ix_(rest, rest)] + 0.2 * np.eye(11), target[rest, 1])
    np.testing.assert_allclose(found[rest, 1], ridge, atol=1e-8)
    assert (found[3] == 0).all()
    slope = (target - gram @ found - 0.2 * found)[rest, 0]
    active = found[rest, 0] != 0
    np.testing.assert_allclose(slope[active], 0.05 * np.sign(found[rest, 0][active]), atol=1e-8)
    assert (np.abs(slope[~active]) <= 0.05 + 1e-8).all()


@pytest.mark.parametrize("solver", ["greedy", "lasso"])
def test_selects_what_helps_on_the_rows_held_out(solver, rng):
    columns = rng.choice([-1.0, 1.0], (1000, 30))
    columns[:, 7] = columns[:, 6]  # two names of one thing
    values = columns[:, :4].sum(axis=1) + 0.6 * columns[:, 6] + rng.normal(size=1000)
    values[:800] += 0.5 * columns[:800, 20]  # what the rows held out contradict
    values[800:] -= 0.5 * columns[800:, 20]
    parts = [slice(0, 800), slice(800, None)]
    grams = np.stack([columns[p].T @ columns[p] for p in parts])
    targets = np.stack([columns[p].T @ values[p] for p in parts])
    sizes = np.array([np.square(values[p]).sum() for p in parts])
    kept, everywhere = gram_selection.select(grams, targets, sizes, np.array([800, 200]), np.full(30, 3.5), solver)
    for found in (kept, everywhere):
        assert found[:4].all()
        assert found[[6, 7]].any()
        assert found.sum() <= 7
    nothing = gram_selection.select(
        np.zeros((2, 0, 0)), np.zeros((2, 0)), sizes, np.array([800, 200]), np.zeros(0), solver
    )
    assert [len(found) for found in nothing] == [0, 0]


def test_candidates_that_the_rows_held_out_reject(rng):
    columns = rng.choice([-1.0, 1.0], (500, 5))
    values = columns[:, 0] + 0.1 * rng.normal(size=500)
    values[400:] *= -1
    parts = [slice(0, 400), slice(400, None)]
    grams = np.stack([columns[p].T @ columns[p] for p in parts])
    targets = np.stack([columns[p].T @ values[p] for p in parts])
    sizes = np.array([np.square(values[p]).sum() for p in parts])
    found = gram_selection.select(grams, targets, sizes, np.array([400, 100]), np.full(5, 3.0), "greedy")
    assert not np.any(found)
