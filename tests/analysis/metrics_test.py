import itertools

import numpy as np
import oracle
import pytest
from scipy import stats

from spex_jax import Spectrum
from spex_jax.analysis.metrics import Hierarchy, faithfulness, hierarchy, lds, r2_score, terms_for_energy


def test_r2_is_the_definition_along_any_axis(rng):
    truth, prediction = rng.normal(size=(3, 40)), rng.normal(size=(3, 40))
    expected = [oracle.r2(t, p) for t, p in zip(truth, prediction, strict=True)]
    np.testing.assert_allclose(r2_score(truth, prediction), expected)
    np.testing.assert_allclose(r2_score(truth.T, prediction.T, axis=0), expected)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e30, 1e-300])
def test_r2_of_a_constant_is_not_defined(constant):
    assert np.isnan(r2_score(np.full(100, constant), np.zeros(100)))
    score = faithfulness(np.full(100, constant), np.zeros(100))
    assert np.isnan([score.r2, score.low, score.high]).all()
    assert str(score) == "R2 not defined"


def test_a_perfect_prediction_has_a_perfect_interval(rng):
    truth = rng.normal(size=60)
    score = faithfulness(truth, truth.copy())
    assert (score.r2, score.low, score.high) == (1, 1, 1)
    assert np.isnan(faithfulness(truth[:1], truth[:1]).r2)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_interval_contains_r2_is_seeded_and_has_no_unit(scale, rng):
    truth = rng.normal(size=100)
    prediction = truth + 0.4 * rng.normal(size=100)
    score = faithfulness(truth * scale, prediction * scale, seed=1)
    assert score.low < score.r2 < score.high < 1
    assert score == faithfulness(truth * scale, prediction * scale, seed=1)
    assert score.low == pytest.approx(faithfulness(truth, prediction, seed=1).low)


def test_the_interval_covers_the_truth(rng):
    # R2 of the population is 1 - 0.25 / 1 here: 100 intervals cover it 95 times, give or take 4.4.
    covered = 0
    for seed in range(100):
        truth = rng.normal(size=100)
        score = faithfulness(truth, truth + 0.5 * rng.normal(size=100), seed=seed)
        covered += score.low <= 0.75 <= score.high
    assert covered >= 88


def test_lds_is_the_mean_rank_correlation(rng):
    truth = rng.normal(size=(40, 6))
    noisy = truth + rng.normal(size=truth.shape)
    score = lds(truth, noisy)
    expected = [stats.spearmanr(truth[:, t], noisy[:, t]).statistic for t in range(6)]
    np.testing.assert_allclose(score.points, expected)
    assert score.low < score.mean < score.high
    assert lds(truth, np.exp(truth)).mean == pytest.approx(1)
    assert "LDS" in str(score)


def test_lds_of_what_is_constant(rng):
    truth = rng.normal(size=(10, 3))
    assert lds(truth, np.zeros_like(truth)).mean == 0
    truth[:, 1] = 4
    score = lds(truth, truth)
    assert np.isnan(score.points[1])
    assert score.mean == pytest.approx(1)
    assert np.isnan(lds(np.zeros((4, 2)), np.zeros((4, 2))).mean)
    assert np.isnan(lds(truth[:, 0], truth[:, 0]).low)
    with pytest.raises(ValueError, match="same shape"):
        lds(truth, truth[:5])
    with pytest.raises(ValueError, match="must be finite"):
        lds(truth, np.where(np.arange(3) == 1, np.nan, truth))
    assert np.isnan(lds(0.3 + 5e-17 * rng.integers(0, 2, 20), rng.random(20)).mean)


def spectrum_of(terms, n=4):
    support = np.array([[feature in term for feature in range(n)] for term in terms])
    return Spectrum(support, np.array(list(terms.values()), np.float64))


def brute_force_rates(sets, least_degree):
    """The definitions of the paper, by all subsets and all orders; () is there always."""
    large = {frozenset(members) for members in sets} | {frozenset()}
    direct, stairs, strong = [], [], []
    for members in sets:
        if len(members) < least_degree:
            continue
        subsets = [frozenset(part) for size in range(len(members)) for part in itertools.combinations(members, size)]
        direct.append(np.mean([frozenset(members) - {feature} in large for feature in members]))
        orders = itertools.permutations(members)
        stairs.append(any(all(frozenset(o[:length]) in large for length in range(1, len(o))) for o in orders))
        strong.append(all(part in large for part in subsets))
    return [np.mean(direct), np.mean(stairs), np.mean(strong), len(direct)]


@pytest.mark.parametrize("top", [1, 7, 40, 200])
@pytest.mark.parametrize("least_degree", [1, 2, 3])
def test_hierarchy_is_the_definition(top, least_degree, rng):
    support = oracle.all_masks(8)[rng.permutation(256)[:200]]
    support = np.concatenate([support[support.sum(axis=1) < 6], np.eye(8, dtype=bool)])
    support = np.unique(support, axis=0)
    spectrum = Spectrum(support, rng.normal(size=len(support)) / (1 + support.sum(axis=1)))
    order = np.argsort(-np.abs(spectrum.coefficients))
    sets = [tuple(np.flatnonzero(row)) for row in support[order] if row.any()][:top]
    if not any(len(members) >= least_degree for members in sets):
        assert hierarchy(spectrum, top, least_degree=least_degree).terms == 0
        return
    found = hierarchy(spectrum, top, least_degree=least_degree)
    expected = brute_force_rates(sets, least_degree)
    np.testing.assert_allclose([found.direct_subset, found.staircase, found.strong, found.terms], expected)


def test_hierarchy_of_the_example_of_the_paper():
    # DSR of {(), 1, 2, 13} is 7/8 in section 3.2, where () is the fourth term and has all its subsets.
    found = hierarchy(spectrum_of({(): 9, (1,): 3, (2,): 2, (1, 3): 1}), 3)
    assert (1 + 3 * found.direct_subset) / 4 == pytest.approx(7 / 8)
    assert (found.staircase, found.strong) == (1, pytest.approx(2 / 3))


def test_hierarchy_tells_its_rates_apart():
    stairs = {(0,): 8, (0, 1): 7, (0, 1, 2): 6}
    assert hierarchy(spectrum_of(stairs), 3, least_degree=2) == Hierarchy(pytest.approx(5 / 12), 1.0, 0.0, 2)
    assert hierarchy(spectrum_of({(0, 1, 2): 6, (): 100}), 5) == Hierarchy(0.0, 0.0, 0.0, 1)
    assert hierarchy(spectrum_of(stairs | {(): 100}), 1) == Hierarchy(1.0, 1.0, 1.0, 1)
    assert np.isnan(hierarchy(spectrum_of({(): 2.0, (1, 2): 0.0}), 5).staircase)
    for wrong in ({"top": 0}, {"top": 3, "least_degree": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            hierarchy(spectrum_of(stairs), **wrong)


def test_terms_for_energy():
    spectrum = spectrum_of({(): 50, (0,): 1, (1,): 2, (0, 1): 3})
    assert [terms_for_energy(spectrum, share) for share in (0, 0.5, 9 / 14, 0.65, 13 / 14, 0.95, 1)] == [
        *(0, 1, 1, 2),
        *(2, 3, 3),
    ]
    assert terms_for_energy(spectrum_of({(): 50}), 0.9) == 0
    with pytest.raises(ValueError, match="from 0 to 1"):
        terms_for_energy(spectrum, 95)
