import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.core.walsh import signs, subset_characters
from spex_jax.proxyspex.regression import screening

compiled = jax.jit(screening.choose, static_argnames=("degree", "count"))


def rows_of(sets, n):
    return np.array([[i in c for i in range(n)] for c in sets]).reshape(len(sets), n)


@pytest.mark.parametrize(("xp", "choose"), [(np, screening.choose), (jnp, compiled)])
@pytest.mark.parametrize("degree", [1, 4])
def test_chooses_the_largest_of_all_candidates(degree, xp, choose, rng):
    n, rows = 7, 50
    masks = rng.integers(0, 2, (rows, n)).astype(bool)
    residual = rng.normal(size=rows)
    known = [(1,), (0, 3), (2, 5), (0, 2, 3)]
    known = [c for c in known if len(c) <= degree]
    pool = [(1, 4, 6), (0, 2, 3)] if degree >= 3 else []
    sets = np.concatenate([rows_of(known, n), np.zeros((2, n), bool)])
    characters = np.concatenate([subset_characters(masks, rows_of(known, n)), np.zeros((rows, 2))], axis=1)
    chosen, columns, size = choose(
        residual.astype(np.float32),
        signs(masks),
        np.ones(n, bool),
        xp.asarray(sets),
        xp.asarray(characters, xp.float32),
        (xp.asarray(rows_of(pool, n)), xp.asarray(subset_characters(masks, rows_of(pool, n)), xp.float32)),
        degree=degree,
        count=60,
    )
    candidates = {(i,) for i in range(n)}
    candidates |= set(itertools.combinations(range(n), 2)) if degree > 1 else set()
    candidates |= {tuple(sorted({*c, i})) for c in known if 2 <= len(c) < degree for i in range(n) if i not in c}
    candidates = sorted((candidates | set(pool)) - set(known))
    exact = {c: abs(subset_characters(masks, rows_of([c], n))[:, 0] @ residual) for c in candidates}
    got = [
        tuple(np.flatnonzero(row))
        for row, value in zip(np.asarray(chosen), np.asarray(size), strict=True)
        if value >= 0
    ]
    assert set(got) == set(candidates[: len(got)]) if len(candidates) <= 60 else set(got) <= set(candidates)
    values = [exact[c] for c in got]
    np.testing.assert_allclose(np.asarray(size)[: len(got)], values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(columns[:, : len(got)], subset_characters(masks, rows_of(got, n)))


@pytest.mark.parametrize("xp", [np, jnp])
def test_triples_are_those_that_stand_out(xp):
    n, rows = 20, 600
    planted = [(0, 1, 2), (3, 9, 17), (0, 1, 19)]
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 2, (rows, n)).astype(bool)
    residual = subset_characters(masks, rows_of(planted, n)).sum(axis=1) + rng.normal(size=rows)
    padded = np.zeros((640, 32), np.float32)
    padded[:rows, :n] = signs(masks)
    found = screening.triples(xp.asarray(padded), np.pad(residual, (0, 40)), xp.arange(32) < n, rng.permutation(rows))
    assert {tuple(np.flatnonzero(row)) for row in found} == set(planted)


@pytest.mark.parametrize("seed", range(5))
def test_noise_has_no_triples(seed):
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 2, (300, 30)).astype(bool)
    found = screening.triples(jnp.asarray(signs(masks)), rng.normal(size=300), jnp.ones(30, bool), np.arange(300))
    assert len(found) <= 1


def test_blocks_of_features_leave_nothing_out(monkeypatch, rng):
    masks = rng.integers(0, 2, (300, 24)).astype(bool)
    planted = [(0, 1, 2), (5, 11, 23), (8, 9, 10), (17, 20, 22)]
    residual = subset_characters(masks, rows_of(planted, 24)).sum(axis=1)
    monkeypatch.setattr(screening, "_TAIL", 8)
    found = screening.triples(jnp.asarray(signs(masks)), residual, jnp.ones(24, bool), np.arange(300))
    assert {tuple(np.flatnonzero(row)) for row in found} == set(planted)
