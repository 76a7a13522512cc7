import numpy as np
import oracle
import pytest
from planting import planted

from spex_jax import PackedMasks, proxyspex
from spex_jax.core import masks
from spex_jax.core.walsh import subset_characters
from spex_jax.proxyspex.out_of_core import block_products, streaming


def fit(table, values, **options):
    packed = PackedMasks(np.packbits(table, axis=1), table.shape[1])
    return proxyspex.fit(packed, values, proxy="linear", **options)


def sets(spectrum, least=0):
    return {tuple(map(int, np.flatnonzero(row))) for row in spectrum.support if row.sum() >= least}


def support(n, members):
    found = np.zeros((len(members), n), bool)
    for row, chosen in zip(found, members, strict=True):
        row[list(chosen)] = True
    return found


@pytest.mark.parametrize("solver", ["greedy", "lasso"])
def test_the_same_terms_as_the_table_in_memory(solver, rng):
    table, values, held_out, truth = planted(60, 600, rng, terms=12, noise=0.3, degree=2)
    found = fit(table, values, solver=solver, max_degree=2)
    dense = proxyspex.fit(table, values, proxy="linear", max_degree=2)
    assert sets(found) == sets(dense)
    np.testing.assert_allclose(found.coefficients_at(dense.support), dense.coefficients, atol=0.1)
    assert oracle.r2(truth, found(held_out)) > 0.98


def test_rows_of_one_mask_are_held_out_together(rng):
    table, values, held_out, truth = planted(13, 40, rng, terms=4, degree=2)
    repeated, noisy = np.repeat(table, 10, axis=0), np.repeat(values, 10) + 0.1 * rng.normal(size=400)
    found = fit(repeated, noisy, max_degree=2)
    assert oracle.r2(truth, found(held_out)) > 0.95


def test_pairs_without_singles_and_many_small_singles(rng):
    n, rows = 400, 3000
    members = [tuple(rng.choice(n, 2, replace=False)) for _ in range(15)]
    table = rng.integers(0, 2, (rows + 500, n)).astype(bool)
    truth = subset_characters(table, support(n, members)) @ rng.uniform(0.7, 1.3, 15)
    truth += (1 - 2 * table) @ rng.normal(scale=0.1, size=n)
    found = fit(table[:rows], truth[:rows] + 2 * rng.normal(size=rows), max_degree=2)
    assert sets(found, 2) == {tuple(sorted(map(int, pair))) for pair in members}
    sizes = found.coefficients_at(support(n, members))
    assert 0.9 < np.mean(sizes) < 1.1  # 1 on average: not shrunken
    assert oracle.r2(truth[rows:], found(table[rows:])) > 0.85


def test_masks_that_keep_another_share(rng):
    n, rows = 60, 1500
    table = rng.random((rows + 500, n)) < 0.3
    kept = table.astype(float)
    truth = 4 * kept[:, 1] * kept[:, 2] + 4 * kept[:, 3] * kept[:, 40] + kept[:, :20] @ rng.normal(size=20)
    found = fit(table[:rows], truth[:rows] + 0.5 * rng.normal(size=rows), max_degree=2)
    assert sets(found, 2) == {(1, 2), (3, 40)}
    # 4 a b is 1 times the character of both, for kept is 0.5 - 0.5 * sign.
    np.testing.assert_allclose(found.coefficients_at(support(n, [(1, 2), (3, 40)])), 1, atol=0.1)
    assert oracle.r2(truth[rows:], found(table[rows:])) > 0.97


@pytest.mark.parametrize("solver", ["greedy", "lasso"])
def test_higher_degrees_grow_and_triples_need_no_part(solver, rng):
    members = [(1, 2), (1, 2, 9), (1, 2, 9, 50), (11, 12, 13)]
    table = rng.integers(0, 2, (1500, 60)).astype(bool)
    values = subset_characters(table, support(60, members)).sum(axis=1) + 0.5 * rng.normal(size=1500)
    assert sets(fit(table, values, solver=solver), 1) == set(members)
    assert sets(fit(table, values, solver=solver, max_degree=2), 2) == {(1, 2)}
    assert sets(fit(table, values, solver=solver, max_degree=3), 2) == {*members} - {(1, 2, 9, 50)}


def test_only_singles(rng):
    table = rng.integers(0, 2, (600, 60)).astype(bool)
    truth = (1 - 2 * table) @ np.linspace(0, 1, 60)
    found = fit(table, truth + subset_characters(table, support(60, [(1, 2)]))[:, 0], max_degree=1)
    assert not sets(found, 2)
    assert oracle.r2(truth, found(table)) > 0.98


@pytest.mark.slow
def test_block_sizes_change_rounding_only(rng, monkeypatch):
    table, values, held_out, _ = planted(60, 600, rng, terms=12, noise=1.0)
    one = fit(table, values)
    monkeypatch.setattr(block_products, "BLOCK_BYTES", 4 * 64 * 128)
    monkeypatch.setattr(block_products, "_TILE", 24)
    monkeypatch.setattr(streaming, "_ELEMENTS", 300)
    several = fit(table, values)
    assert sets(one, 2) == sets(several, 2)
    np.testing.assert_allclose(one(held_out), several(held_out), atol=2e-2)


def test_only_the_strongest_candidates_are_remembered(rng, monkeypatch):
    monkeypatch.setattr(streaming, "_LISTED", 8)
    monkeypatch.setattr(streaming, "_POOL", 6)
    monkeypatch.setattr(block_products, "_TILE", 24)
    table, values, *_ = planted(60, 600, rng, terms=12, noise=0.3)
    assert len(sets(fit(table, values), 2)) <= 6
    strongest = streaming._Strongest()
    scores = rng.uniform(3, 9, 100)
    for start in range(0, 100, 7):
        over = np.flatnonzero(scores[start : start + 7] > strongest.least) + start
        strongest.add(scores[over], np.stack([over, over], axis=1))
    assert [first for first, _ in strongest.cut()] == list(np.argsort(-scores)[:8])


def test_new_candidates_take_the_places_of_old_ones_that_were_not_kept(rng, monkeypatch):
    table = rng.integers(0, 2, (600, 60)).astype(bool)
    pairs = [(0, 1), (2, 3), (4, 5)]
    values = sum((-1.0) ** table[:, pair].sum(axis=1) for pair in pairs) + 0.1 * rng.normal(size=600)
    rounds = iter([{(i, i + 1): 1.0 for i in range(20, 32, 2)}])  # six that explain nothing, which fill the pool
    monkeypatch.setattr(streaming, "_POOL", 6)
    monkeypatch.setattr(streaming, "_admit", lambda *_: next(rounds, dict.fromkeys(pairs, 1.0)))
    assert sets(fit(table, values), 2) >= set(pairs)


def test_the_number_of_terms(rng):
    table, values, *_ = planted(60, 600, rng, terms=12, noise=0.3)
    found, few = fit(table, values), fit(table, values, max_terms=5)
    assert len(few) == 5
    assert not few.support[0].any()
    np.testing.assert_array_equal(found.coefficients[:5], few.coefficients)


def test_noise_and_constants(rng):
    table = rng.integers(0, 2, (600, 60)).astype(bool)
    noise = fit(table, rng.normal(size=600))
    assert len(noise) <= 5
    assert np.abs(noise.coefficients).max() < 0.1
    constant = fit(table, np.full(600, 3.0))
    assert len(constant) == 1
    assert constant.coefficients[0] == 3.0
    exact = fit(table, 1e-200 * subset_characters(table, support(60, [(3, 4), (5,)])).sum(axis=1))  # nothing is left
    assert sets(exact, 1) == {(3, 4), (5,)}
    np.testing.assert_allclose(exact.coefficients[1:], 1e-200, rtol=1e-4)


def test_features_that_never_change_and_few_rows(rng):
    table = rng.integers(0, 2, (600, 60)).astype(bool)
    table[:, 7], table[:, 8] = True, False
    found = fit(table, subset_characters(table, support(60, [(1, 2), (3,)])).sum(axis=1) + 0.1 * rng.normal(size=600))
    assert sets(found, 1) == {(1, 2), (3,)}
    for rows in (1, 9):
        assert len(fit(table[:rows], rng.normal(size=rows), max_degree=1)) == 1
    complete = masks.all_masks(1)
    assert sets(proxyspex.fit(PackedMasks(complete), [1.0, 2.0], proxy="linear")) <= {(), (0,)}


def test_what_is_refused(rng):
    table = PackedMasks(rng.integers(0, 2, (20, 9)).astype(bool))
    for proxy in ("auto", "trees"):
        with pytest.raises(
            ValueError, match=f"need proxy='linear', got proxy='{proxy}'; use that proxy, or give a smaller table"
        ):
            proxyspex.fit(table, np.zeros(20), proxy=proxy)
    with pytest.raises(ValueError, match="values must have shape"):
        proxyspex.fit(table, np.zeros(19), proxy="linear")
    with pytest.raises(ValueError, match="1 of 20 values are not finite; the first is nan in row 3; leave"):
        proxyspex.fit(table, np.where(np.arange(20) == 3, np.nan, 0.0), proxy="linear")
    with pytest.raises(ValueError, match="at least one ablation"):
        proxyspex.fit(PackedMasks(np.zeros((0, 9), bool)), np.zeros(0), proxy="linear")
    with pytest.raises(ValueError, match="unknown solver"):
        proxyspex.fit(table, np.zeros(20), proxy="linear", solver="simplex")
