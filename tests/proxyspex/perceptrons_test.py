import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planting import planted

from spex_jax.proxyspex import perceptrons
from spex_jax.proxyspex.preprocessing import prepare
from spex_jax.utils import array_api


@pytest.mark.slow
def test_initial_parameters_are_those_of_flax(rng):
    features = 64
    drawn = [perceptrons.initial_params(rng, features) for _ in range(20)]
    module = perceptrons.Perceptron()
    keys = jax.random.split(jax.random.key(0), 20)
    expected = jax.vmap(lambda key: module.init(key, jnp.zeros((1, features))))(keys)
    found = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        levels = np.linspace(0, 1, 21)
        deviation = max(float(theirs.std()), 1e-9)
        np.testing.assert_allclose(
            np.quantile(ours, levels), np.quantile(theirs, levels), atol=0.03 * deviation * (theirs.std() > 0)
        )
    assert not np.array_equal(*(each["params"]["Dense_0"]["kernel"] for each in drawn[:2]))


@pytest.mark.slow
def test_networks_trained_together_and_in_parts(rng, monkeypatch):
    """What a CPU trains in four calls an accelerator trains in two; a network depends on neither."""
    monkeypatch.setattr(perceptrons, "_STEPS", 20)
    table = prepare(*planted(8, 60, rng, noise=0.3)[:2])
    shapes, train = [], perceptrons.train

    def watched(params, signs, targets, batches, decay):
        shapes.append(batches.shape)
        return train(params, signs, targets, batches, decay)

    monkeypatch.setattr(perceptrons, "train", watched)
    found = perceptrons.train_ensemble(table, seed=3)
    assert shapes == [(5, 10, 2, 64)] * 4
    monkeypatch.setattr(array_api, "host_is_best", lambda: False)
    again = perceptrons.train_ensemble(table, seed=3)
    assert shapes[4:] == [(15, 10, 2, 64), (5, 10, 2, 64)]
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_is_adamw_by_hand(rng, monkeypatch):
    """One network, whose last layers alone move at the first step: those before them get no gradient yet."""
    rows, features, rate, decay = 30, 16, perceptrons._RATE, 2.0
    signs, targets = rng.choice([-1.0, 1.0], (rows, features)), rng.normal(size=rows)
    params = perceptrons.initial_params(rng, features)
    batches = rng.integers(0, rows, (1, 1, 1, 64))
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    found = perceptrons.train(
        stacked, signs.astype(np.float32), targets.astype(np.float32), batches, np.array([decay], np.float32)
    )
    chosen = batches[0, 0, 0]
    gradient = -2 * (targets[chosen, None] * signs[chosen]).mean(axis=0)
    # The first step of Adam is the sign of the gradient; weight decay is decoupled.
    expected = -rate * gradient / (np.abs(gradient) + 1e-8)
    linear = found.params["params"]["Dense_3"]["kernel"][0, 0, :, 0]
    np.testing.assert_allclose(linear, expected, rtol=1e-4)
    before, after = (tree["params"]["Dense_1"]["kernel"] for tree in (params, found.params))
    np.testing.assert_allclose(after[0, 0], before * (1 - rate * decay), rtol=1e-5)
    shown = perceptrons.answers(jax.tree.map(lambda leaf: leaf[0], found.params), signs.astype(np.float32))
    np.testing.assert_allclose(found.answers[0, 0], shown, atol=1e-6)
