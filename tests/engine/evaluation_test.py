import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax
from spex_jax import evaluate


def weighted(masks):
    return masks @ np.arange(masks.shape[1], dtype=float)


def on_device(n, **options):
    weights = jnp.arange(n, dtype=jnp.float32)
    return spex_jax.ValueFunction(
        lambda masks: masks[:, :n].astype(jnp.float32) @ weights, n, on_device=True, **options
    )


@pytest.mark.parametrize("batch_size", [None, 1, 3, 64, 1000])
@pytest.mark.parametrize("width", [None, 16])
def test_values_are_those_of_the_function_whatever_the_batch(batch_size, width, rng):
    masks = rng.integers(0, 2, (100, 9)).astype(bool)
    found = evaluate(on_device(9, device=spex_jax.DeviceOptions(width=width)), masks, batch_size=batch_size)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, weighted(masks), atol=1e-5)
    np.testing.assert_allclose(evaluate(weighted, masks, batch_size=batch_size), weighted(masks))


def test_a_mask_is_asked_once_and_never_padded(rng):
    masks = rng.integers(0, 2, (200, 4)).astype(bool)
    asked = []

    def remember(batch):
        assert batch.dtype == bool
        asked.extend(map(tuple, batch.tolist()))
        return batch.sum(axis=1)

    np.testing.assert_array_equal(evaluate(remember, masks, batch_size=7), masks.sum(axis=1))
    assert len(asked) == len(set(asked)) == len(np.unique(masks, axis=0))


def test_one_static_shape_compiles_once(rng):
    shapes = []

    def fn(masks):
        shapes.append(masks.shape)
        return masks.sum(axis=1)

    value_fn = spex_jax.ValueFunction(fn, 12, on_device=True)
    masks = rng.integers(0, 2, (1000, 12)).astype(bool)
    evaluate(value_fn, masks)
    evaluate(value_fn, masks[:700])
    assert shapes == [(64, 12)]


def test_programs_of_pytrees_are_shared(rng):
    traces = []

    def fn(weights, masks):
        traces.append(masks.shape)
        return masks @ weights

    masks = rng.integers(0, 2, (40, 5)).astype(bool)
    for scale in (1.0, 2.0):
        partial = jax.tree_util.Partial(fn, jnp.full(5, scale))
        found = evaluate(spex_jax.ValueFunction(partial, 5, on_device=True), masks)
        np.testing.assert_allclose(found, scale * masks.sum(axis=1))
    assert len(traces) == 1


def test_vector_values(rng):
    masks = rng.integers(0, 2, (30, 6)).astype(bool)
    host = spex_jax.ValueFunction(lambda m: np.stack([m.sum(1), -m.sum(1)], axis=1), 6, outputs=(2,))
    device = spex_jax.ValueFunction(lambda m: jnp.stack([m.sum(1), -m.sum(1)], axis=1), 6, outputs=(2,), on_device=True)
    for value_fn in (host, device):
        found = evaluate(value_fn, masks, batch_size=8)
        assert found.shape == (30, 2)
        np.testing.assert_array_equal(found[:, 0], masks.sum(axis=1))
    assert evaluate(host, masks[:0]).shape == (0, 2)


@pytest.mark.parametrize("place", ["host", "device"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_name_their_mask(place, bad, rng):
    masks = np.ones((300, 5), bool)
    masks[:, :] = rng.integers(0, 2, (300, 5))
    masks[17] = [True, False, True, False, True]
    row = int(np.flatnonzero((masks == masks[17]).all(axis=1))[0])

    def fn(m):
        xp = np if place == "host" else jnp
        hit = (m == xp.asarray(masks[17])).all(axis=1)
        return xp.where(hit, bad, 1.0)

    value_fn = spex_jax.ValueFunction(fn, 5, on_device=place == "device")
    with pytest.raises(ValueError, match=rf"at mask {row}, which removes 2 of 5 features \(1, 3\)"):
        evaluate(value_fn, masks, batch_size=16)


@pytest.mark.parametrize("place", ["host", "device"])
@pytest.mark.parametrize("fn", [lambda m: m.sum(), lambda m: m * 1.0, lambda m: m[:2].sum(axis=1)])
def test_values_of_the_wrong_shape(place, fn, rng):
    value_fn = spex_jax.ValueFunction(fn, 5, on_device=place == "device")
    with pytest.raises(ValueError, match="expected"):
        evaluate(value_fn, rng.integers(0, 2, (10, 5)).astype(bool))


@pytest.mark.parametrize("masks", [np.ones((2, 4), bool), np.ones((2, 3)), np.ones(3, bool), [["a"] * 3]])
def test_wrong_masks(masks):
    with pytest.raises(ValueError, match="masks must"):
        evaluate(on_device(3), masks)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 2.5}, {"mesh": "x"}, {"store_key": "x"}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        evaluate(on_device(3), np.ones((1, 3), bool), **options)


def test_an_error_of_the_function_comes_through():
    def fail(masks):
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        evaluate(fail, np.ones((1, 3), bool))
    with pytest.raises(ValueError, match="must be callable"):
        evaluate(3, np.ones((1, 3), bool))
