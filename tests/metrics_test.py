import numpy as np
import oracle
import pytest
from scipy import stats

from spex_jax.metrics import faithfulness, lds, r2_score


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
