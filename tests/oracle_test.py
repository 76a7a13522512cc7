"""Quick self checks of the brute-force oracle: axioms, hand computations, and identities between definitions."""

from itertools import combinations
from math import comb

import numpy as np
import oracle
import pytest

TOL = {"rtol": 0, "atol": 1e-9}
EFFICIENT = ("SV", "k-SII", "STII", "FSII")


def same(a, b):
    assert set(a) == set(b)
    keys = list(a)
    np.testing.assert_allclose([a[k] for k in keys], [b[k] for k in keys], **TOL)


def game(n, seed=0):
    return oracle.random_game(n, np.random.default_rng([n, seed]))


def with_null_player(n, player, seed=0):
    """A random game in which `player` changes nothing."""
    values = game(n, seed)
    return values[np.arange(1 << n) & ~(1 << player)]


def test_hand_computed():
    # f(none)=1, f(0)=2, f(1)=4, f(01)=12: marginals of 0 are 1 and 8, of 1 are 3 and 10, Delta_01 = 7
    f = [1, 2, 4, 12]
    assert oracle.all_masks(2).tolist() == [[False, False], [True, False], [False, True], [True, True]]
    same(oracle.walsh(f), {(): 4.75, (0,): -2.25, (1,): -3.25, (0, 1): 1.75})
    same(oracle.moebius(f), {(): 1, (0,): 1, (1,): 3, (0, 1): 7})
    assert oracle.discrete_derivative(f, (0,), (1,)) == 8
    assert oracle.discrete_derivative(f, (), (1,)) == 4
    same(oracle.interactions(f, "SV", 1), {(): 1, (0,): 4.5, (1,): 6.5})
    same(oracle.interactions(f, "BV", 1), {(): 4.75, (0,): 4.5, (1,): 6.5})
    same(oracle.interactions(f, "SII", 2), {(): 1 / 3 + 6 / 6 + 12 / 3, (0,): 4.5, (1,): 6.5, (0, 1): 7})
    same(oracle.interactions(f, "BII", 2), {(): 4.75, (0,): 4.5, (1,): 6.5, (0, 1): 7})
    for index in ("k-SII", "STII", "FSII", "FBII"):
        same(oracle.interactions(f, index, 2), {(): 1, (0,): 1, (1,): 3, (0, 1): 7})
    same(oracle.interactions([3.0, 5.0], "FSII", 1), {(): 3, (0,): 2})


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_efficiency(n):
    f = game(n)
    for index in EFFICIENT:
        for order in range(1, min(n, 4) + 1):
            out = oracle.interactions(f, index, order)
            assert max(map(len, out)) == (1 if index == "SV" else order)
            np.testing.assert_allclose(sum(out.values()), f[-1], **TOL)
            assert out[()] == f[0]


@pytest.mark.parametrize("index", oracle.INDICES)
def test_null_player(index):
    for player in (0, 2, 4):
        f = with_null_player(5, player)
        for order in (1, 2, 3, 5):
            out = oracle.interactions(f, index, order)
            assert max(abs(value) for t, value in out.items() if player in t) < 1e-9


@pytest.mark.parametrize("index", oracle.INDICES)
def test_additive_game(index):
    weights = np.array([0.5, -2.0, 3.0, 1.25, -0.75])
    f = 1.5 + oracle.all_masks(5) @ weights
    for order in (1, 2, 3, 5):
        for t, value in oracle.interactions(f, index, order).items():
            if len(t) == 1:
                expected = weights[t[0]] * (-0.5 if index == "Fourier" else 1.0)
                np.testing.assert_allclose(value, expected, **TOL)
            elif t:
                assert abs(value) < 1e-9


def test_cardinality_plus_unanimity():
    n, T = 6, (1, 2, 4)
    masks = oracle.all_masks(n)
    f = masks.sum(axis=1) / n + masks[:, list(T)].all(axis=1)
    mu = oracle.moebius(f)
    same(mu, {t: (len(t) == 1) / n + (t == T) for t in mu})
    assert abs(oracle.interactions(f, "STII", 3)[T] - 1) < 1e-9
    assert abs(oracle.interactions(f, "SV", 1)[(1,)] - 1 / n - 1 / 3) < 1e-9
    assert abs(oracle.interactions(f, "SII", 2)[(1, 2)] - 1 / 2) < 1e-9
    assert abs(oracle.interactions(f, "BII", 2)[(1, 2)] - 1 / 2) < 1e-9
    assert abs(oracle.interactions(f, "STII", 2)[(1, 2)] - 1 / 3) < 1e-9


@pytest.mark.parametrize("n", [1, 3, 6])
def test_fourier_is_scaled_banzhaf(n):
    f = game(n)
    same(oracle.walsh(f), {s: (-0.5) ** len(s) * v for s, v in oracle.interactions(f, "BII", n).items()})


@pytest.mark.parametrize("n", [1, 3, 5])
def test_faithful_banzhaf_is_truncated_fourier(n):
    f, masks = game(n), oracle.all_masks(n)
    for order in range(n + 1):
        series = np.zeros(1 << n)
        for s, value in oracle.interactions(f, "Fourier", order).items():
            series += value * np.prod(1.0 - 2.0 * masks[:, list(s)], axis=1)
        mu = oracle.moebius(series)
        assert max((abs(v) for t, v in mu.items() if len(t) > order), default=0.0) < 1e-9
        same(oracle.interactions(f, "FBII", order), {t: v for t, v in mu.items() if len(t) <= order})


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_indices_meet_at_the_extreme_orders(n):
    f = game(n)
    shapley, banzhaf, mu = oracle.interactions(f, "SV", 1), oracle.interactions(f, "BV", 1), oracle.moebius(f)
    for index in ("k-SII", "STII", "FSII"):
        same(oracle.interactions(f, index, 1), shapley)
    same(shapley, oracle.interactions(f, "SII", 1) | {(): f[0]})
    same(banzhaf, oracle.interactions(f, "BII", 1))
    same(banzhaf, oracle.interactions(f, "FBII", 1) | {(): f.mean()})
    for index in ("k-SII", "STII", "FSII", "FBII", "Moebius"):
        same(oracle.interactions(f, index, n), mu)
    same(oracle._sv_permutations(f, n), oracle._sv_subsets(f, n))


def test_known_moebius_sums():
    """Closed forms, used nowhere in the oracle: SII (Grabisch 1997), FSII (Tsai et al. 2023), top-order STII."""
    f = game(6)
    mu = oracle.moebius(f)

    def above(t):
        return [s for s in mu if set(s) > set(t)]

    same(
        oracle.interactions(f, "SII", 3),
        {t: v + sum(mu[s] / (len(s) - len(t) + 1) for s in above(t)) for t, v in mu.items() if len(t) <= 3},
    )
    for order in (1, 2, 3, 4, 6):
        faith, taylor = oracle.interactions(f, "FSII", order), oracle.interactions(f, "STII", order)
        for t in faith:
            high = [s for s in above(t) if len(s) > order]
            factor = (-1) ** (order - len(t)) * len(t) / (order + len(t)) * comb(order, len(t))
            tail = sum(comb(len(s) - 1, order) / comb(len(s) + order - 1, order + len(t)) * mu[s] for s in high)
            np.testing.assert_allclose(faith[t], mu[t] + factor * tail, **TOL)
            if len(t) == order:
                np.testing.assert_allclose(taylor[t], sum(mu[s] / comb(len(s), order) for s in high) + mu[t], **TOL)


def test_faithful_shapley_is_a_limit_of_weighted_least_squares():
    """The equality constraints as very heavy weights on the empty and the full coalition."""
    n, order, f = 5, 2, game(5)
    masks = oracle.all_masks(n)
    subsets = [t for k in range(order + 1) for t in combinations(range(n), k)]
    size = masks.sum(axis=1)
    weight = np.array([1e10 if s in (0, n) else (n - 1) / (comb(n, s) * s * (n - s)) for s in size.tolist()])
    design = np.array([[float(all(row[i] for i in t)) for t in subsets] for row in masks])
    root = np.sqrt(weight)
    fit = np.linalg.lstsq(root[:, None] * design, root * f, rcond=None)[0]
    out = oracle.interactions(f, "FSII", order)
    np.testing.assert_allclose([out[t] for t in subsets], fit, rtol=0, atol=1e-6)


def test_round_trips_and_planted():
    rng = np.random.default_rng(3)
    f = oracle.random_game(5, rng)
    np.testing.assert_allclose(oracle.evaluate_moebius(oracle.moebius(f), oracle.all_masks(5)), f, **TOL)
    values, spectrum = oracle.planted_game(6, 9, rng, 3)
    assert len(spectrum) == 9
    assert max(map(len, spectrum)) <= 3
    assert min(map(abs, spectrum.values())) >= 0.5
    same(oracle.walsh(values), {s: spectrum.get(s, 0.0) for s in oracle.walsh(values)})


def test_derivative_recursion():
    f = game(5)
    for t, s in (((0, 3), (1,)), ((1, 2, 4), (0, 3)), ((2,), ())):
        head, rest = t[0], t[1:]
        expected = oracle.discrete_derivative(f, rest, (*s, head)) - oracle.discrete_derivative(f, rest, s)
        np.testing.assert_allclose(oracle.discrete_derivative(f, t, s), expected, **TOL)


def test_r2():
    assert oracle.r2([1, 2, 3], [1, 2, 3]) == 1.0
    assert oracle.r2([1, 2, 3], [2, 2, 2]) == 0.0
    assert oracle.r2([1, 2, 3], [1, 2, 4]) == 0.5
    assert oracle.r2([2, 2], [2, 2]) == 1.0
    assert oracle.r2([2, 2], [2, 3]) == 0.0


def test_refusals():
    for bad in (np.zeros(3), np.zeros((2, 2)), np.zeros(0)):
        with pytest.raises(ValueError, match="vector of length"):
            oracle.walsh(bad)
    for call in (("nope", 1), ("FSII", 3), ("FSII", 0), ("k-SII", 0), ("STII", 0), ("BII", -1)):
        with pytest.raises(ValueError, match=r"unknown index|too small|needs at least"):
            oracle.interactions(np.zeros(4), *call)
    for t, s in (((0,), (0, 1)), ((2,), ()), ((0, 0), ())):
        with pytest.raises(ValueError, match="disjoint"):
            oracle.discrete_derivative(np.zeros(4), t, s)
