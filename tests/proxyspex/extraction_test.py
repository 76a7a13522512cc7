import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from spex_jax.core.walsh import signs, subset_characters
from spex_jax.proxyspex.extraction import energy_cut, grow, read_answers


@pytest.mark.parametrize("front", [5, 64])
@pytest.mark.parametrize("put", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_the_search_scores_extensions_exactly(put, front, rng):
    n, rows = 6, 64
    masks = oracle.all_masks(n)
    weights = rng.normal(size=rows).astype(np.float32)
    log_w = np.log(rng.uniform(0.2, 0.9, (2, n))).astype(np.float32)
    given = (signs(masks), weights, np.ones(n, bool), log_w, np.zeros(2, np.float32), np.zeros(n, np.float32))
    support, found, prior = map(np.asarray, grow(*map(put, given), max_degree=3, front=front))
    support, found, prior = support.reshape(-1, n), found.ravel(), prior.ravel()
    for degree in range(3):
        real = (prior > 0) & (support.sum(axis=1) == degree + 1)
        sets = support[real]
        assert len(np.unique(sets, axis=0)) == len(sets)
        expected = np.exp(log_w @ sets.T).sum(axis=0)
        np.testing.assert_allclose(prior[real], expected, rtol=1e-5)
        correlation = subset_characters(masks, sets).T @ weights
        np.testing.assert_allclose(found[real], expected * correlation, atol=1e-4)
        if front == 64:
            assert len(sets) == [6, 15, 20][degree]
        else:
            assert len(sets) == front


@pytest.fixture
def few_answers(monkeypatch):
    """Answers enough for sums of few terms without noise, and n = 16 as one of many features."""
    monkeypatch.setattr("spex_jax.proxyspex.extraction._ANSWERS", 2**14)
    monkeypatch.setattr("spex_jax.proxyspex.extraction._MOST_COMPLETE", 15)


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 16])
def test_reading_a_function_that_can_be_asked(n, rng, few_answers):
    support = np.zeros((12, n), bool)
    for row, size in zip(support, [1, 1, 1, 2, 2, 2, 3, 3, 1, 2, 4, 1], strict=True):
        row[:size] = True
        row[:] = rng.permutation(row)
    support = np.unique(support, axis=0)
    # A hierarchy for the search to climb: every part of a large set is there too, if small.
    thinned = [support & (rng.random(n) < keep) for keep in (0.3, 0.5, 0.7)]
    parts = np.unique(np.concatenate([*thinned, support]), axis=0)
    parts = parts[parts.any(axis=1)]
    coefficients = rng.uniform(0.3, 1, len(parts))

    def ask(x):
        return 0.7 + (1 - 2 * ((x[:, :n] < 0).astype(np.float32) @ parts.T.astype(np.float32) % 2)) @ coefficients

    found, values = read_answers(ask, n, 16, np.random.default_rng(0), max_degree=4)
    expected = {tuple(np.flatnonzero(row)): value for row, value in zip(parts, coefficients, strict=True)}
    got = {tuple(np.flatnonzero(row)): value for row, value in zip(found, values, strict=True)}
    assert got[()] == pytest.approx(0.7, abs=0.05)
    reached = [members for members in expected if members in got]
    assert len(reached) >= 0.9 * len(expected)
    for members in reached:
        assert got[members] == pytest.approx(expected[members], abs=0.02)


def test_energy_cut():
    assert energy_cut(np.array([0.1, -3.0, 2.0]), 2).tolist() == [1, 2]
    assert energy_cut(np.array([1e-3, 1.0]), None).tolist() == [1]
    assert energy_cut(np.ones(3), None).tolist() == [0, 1, 2]
    assert energy_cut(np.zeros(0), None).tolist() == []


@pytest.mark.slow
def test_spex_finds_what_no_hierarchy_announces(rng, monkeypatch):
    # A design of the sizes of decode_test.py, whose program this shares.
    monkeypatch.setattr("spex_jax.proxyspex.extraction._ANSWERS", 2**13)
    n = 64
    sets = np.zeros((8, n), bool)
    for row, size in zip(sets, [1, 1, 2, 3, 3, 4, 4, 4], strict=True):
        row[rng.choice(n, size, replace=False)] = True
    coefficients = rng.uniform(0.5, 1, len(sets))

    def ask(x):
        return 0.7 + (1 - 2 * ((x[:, :n] < 0).astype(np.float32) @ sets.T.astype(np.float32) % 2)) @ coefficients

    found = {}
    for extract in ("grow", "spex"):
        support, values = read_answers(ask, n, 64, np.random.default_rng(0), max_degree=4, extract=extract)
        found[extract] = {bytes(row): value for row, value in zip(support, values, strict=True)}
    assert sum(bytes(row) in found["grow"] for row in sets) < len(sets)
    assert set(found["spex"]) == {bytes(row) for row in sets} | {bytes(np.zeros(n, bool))}
    for row, value in zip(sets, coefficients, strict=True):
        assert found["spex"][bytes(row)] == pytest.approx(value, abs=1e-3)
    assert found["spex"][bytes(np.zeros(n, bool))] == pytest.approx(0.7, abs=1e-3)


def test_spex_of_a_constant(few_answers):
    support, values = read_answers(
        lambda x: 0 * x[:, 0] + 3, 30, 32, np.random.default_rng(0), max_degree=4, extract="spex"
    )
    assert not support.any()
    np.testing.assert_allclose(values, [3.0])
