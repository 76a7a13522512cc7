"""Small models whose mechanism is known: their task, their training, their files."""

import jax
import numpy as np
import pytest


@pytest.fixture(scope="module")
def circuits(load_program):
    return load_program("circuits")


def test_sequences_repeat(circuits):
    tokens, periods = (np.asarray(part) for part in circuits.sequences(jax.random.key(0), 20))
    for row, period in zip(tokens, periods, strict=True):
        assert circuits.SHORTEST <= period <= circuits.LONGEST
        assert len(set(row[:period].tolist())) == period
        np.testing.assert_array_equal(row[period:], row[:-period])


def test_heads_that_training_keeps(circuits):
    kept = np.asarray(circuits.kept(jax.random.key(0), circuits.RECIPES["backup"]))
    assert (kept[:, 0] == 1).all()
    assert (kept[:, 1, 0] + kept[:, 1, 1] == 1).all()
    assert 0.3 < kept[:, 1, 0].mean() < 0.7
    shares = np.asarray(circuits.kept(jax.random.key(0), circuits.RECIPES["redundant"])).mean()
    assert 0.6 < shares < 0.8


@pytest.mark.slow
def test_training_learns(circuits):
    recipe = circuits.Recipe(seed=0, dropped=0.0, sparsity=0.0, steps=60, batch=16)
    _, losses = circuits.train(circuits.new_model(0), jax.random.key(0), recipe=recipe)
    assert np.asarray(losses)[-5:].mean() < np.asarray(losses)[:5].mean() - 0.25


def test_a_model_comes_back_from_its_file(circuits, tmp_path, monkeypatch):
    model = circuits.new_model(3)
    circuits.attention_only.save(model, tmp_path / "some.npz")
    monkeypatch.setattr(circuits, "FOLDER", tmp_path)
    jax.tree.map(np.testing.assert_array_equal, circuits.load("some"), model)
    with pytest.raises(ValueError, match="there are some"):
        circuits.load("other")


@pytest.mark.parametrize("name", ["induction", "backup", "redundant"])
def test_the_trained_models_know_what_comes_next(circuits, name):
    tokens, following = circuits.questions(7, 32)
    logits = jax.jit(lambda model, tokens: model(tokens, np.ones(tokens.shape, bool)))(circuits.load(name), tokens)
    assert (np.asarray(logits)[:, -1].argmax(axis=-1) == following).mean() > 0.95
