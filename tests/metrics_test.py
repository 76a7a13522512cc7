import numpy as np
import oracle
import pytest

from spex_jax.metrics import faithfulness, r2_score


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
