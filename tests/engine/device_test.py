import copy
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax
from spex_jax import evaluate
from spex_jax.core import masks as masks_lib
from spex_jax.engine import device, memory
from spex_jax.engine.device import DeviceFunction


def summed(n=8, **options):
    return spex_jax.ValueFunction(lambda masks: masks.sum(axis=1) * 1.0, n, on_device=True, **options)


def heavy(masks):
    """2^27 operations a row."""
    x = jnp.broadcast_to(masks[:, :1, None].astype(jnp.float32), (len(masks), 256, 1024))
    return (x @ jnp.ones((1024, 256))).sum(axis=(1, 2)) / 1024 / 256 / 256


def short_of_memory(most, seen):
    """A function whose device runs out of memory where a batch has more than `most` rows."""

    def answer(masks):
        seen.append(len(masks))
        if len(masks) > most:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.")
        return masks.sum(axis=1).astype(np.float32)

    def fn(masks):
        return jax.pure_callback(answer, jax.ShapeDtypeStruct(masks.shape[:1], jnp.float32), masks)

    return spex_jax.ValueFunction(fn, 12, on_device=True)


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (3, 4), (64, 64), (5000, 64)])
def test_the_batch_of_a_light_function(count, expected):
    assert DeviceFunction(summed()).batch_size(count) == expected


def test_the_batch_of_a_heavy_function_is_smaller(monkeypatch):
    value_fn = spex_jax.ValueFunction(heavy, 8, on_device=True)
    monkeypatch.setattr(device, "_WORK", {"cpu": 2.0**31})
    assert DeviceFunction(value_fn).batch_size(5000) == 16  # 2^31 / 2^27
    monkeypatch.setattr(device, "_WORK", {"cpu": 2.0**20})
    assert DeviceFunction(value_fn).batch_size(5000) == 1
    assert DeviceFunction(value_fn).batch_size(5000, 77) == 77


def test_the_batch_fits_into_the_memory_that_is_free(monkeypatch):
    def wide(masks):
        return jnp.sort(masks[:, :1] * jnp.arange(1000.0), axis=1)[:, -1]

    value_fn = spex_jax.ValueFunction(wide, 8, on_device=True)
    assert DeviceFunction(value_fn).batch_size(5000) == 64
    taken = DeviceFunction(value_fn)._memory(DeviceFunction(value_fn)._trace(64))
    assert taken > 64 * 4000
    for free, expected in ((taken / 0.79, 64), (taken / 0.81, 32), (taken / 2, 16)):  # 0.8 of it may be taken
        monkeypatch.setattr(device, "free_bytes", lambda mesh, free=free: free)
        assert DeviceFunction(value_fn).batch_size(5000) == expected
    monkeypatch.setattr(device, "free_bytes", lambda mesh: taken / 10)
    chosen = DeviceFunction(value_fn)
    size = chosen.batch_size(5000)
    assert size == 4
    assert chosen._memory(chosen._trace(size)) <= 0.8 * taken / 10
    masks = np.random.default_rng(0).integers(0, 2, (100, 8)).astype(bool)
    np.testing.assert_allclose(evaluate(value_fn, masks), 999 * masks[:, 0])


def test_a_batch_is_no_larger_than_what_there_is_to_ask():
    assert DeviceFunction(summed()).batch_size(100, 10**7) == 128
    assert DeviceFunction(summed()).batch_size(100, 7) == 7


def test_a_function_that_was_asked_can_be_pickled_and_copied():
    value_fn = spex_jax.ValueFunction(module_level, 8, on_device=True, identity="f")
    masks = masks_lib.all_masks(8)
    evaluate(value_fn, masks)
    for other in (pickle.loads(pickle.dumps(value_fn)), copy.deepcopy(value_fn)):
        np.testing.assert_array_equal(evaluate(other, masks), masks.sum(axis=1))


def module_level(masks):
    return masks.sum(axis=1) * 1.0


class Pending:
    """A batch that is on its way, and fails when it is fetched, as on an accelerator."""

    def __init__(self, values, most):
        self.values, self.most = values, most

    def __array__(self, dtype=None, copy=None):
        if len(self.values) > self.most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.")
        return np.asarray(self.values)


@pytest.mark.parametrize("count", [16, 64, 70, 200])
def test_batches_in_flight_are_asked_again_after_a_lack_of_memory(count, rng, monkeypatch):
    """The lack shows where the first batch is fetched, and the next ones have been dispatched already."""
    most, sizes = 8, []
    dispatch = DeviceFunction._dispatch

    def dispatched(self, masks, members):
        sizes.append(len(members))
        return Pending(dispatch(self, masks, members), most)

    monkeypatch.setattr(DeviceFunction, "_dispatch", dispatched)
    masks = np.unique(rng.integers(0, 2, (4 * count, 12)).astype(bool), axis=0)[:count]
    function = DeviceFunction(summed(12))
    rows, values = zip(*function.answers(masks, 32), strict=True)
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(count))  # each once, and none left out
    np.testing.assert_array_equal(np.concatenate(values), masks[np.concatenate(rows)].sum(axis=1))
    assert max(sizes) == 32
    assert sizes[-1] == 8


def test_out_of_memory_halves_the_batch_and_is_remembered(rng, caplog):
    seen, masks = [], rng.integers(0, 2, (1000, 12)).astype(bool)
    value_fn = short_of_memory(16, seen)
    np.testing.assert_array_equal(evaluate(value_fn, masks), masks.sum(axis=1))
    assert max(seen) == 64
    assert "out of memory: batches of 16 masks" in caplog.text
    seen.clear()
    np.testing.assert_array_equal(evaluate(value_fn, masks), masks.sum(axis=1))
    assert set(seen) == {16}


def test_out_of_memory_of_a_single_mask_comes_through(rng):
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        evaluate(short_of_memory(0, []), rng.integers(0, 2, (4, 12)).astype(bool))


def test_other_errors_come_through_at_once(rng):
    def fail(masks):
        raise RuntimeError("the model broke")

    def fn(masks):
        return jax.pure_callback(fail, jax.ShapeDtypeStruct(masks.shape[:1], jnp.float32), masks)

    with pytest.raises(jax.errors.JaxRuntimeError, match="the model broke"):
        evaluate(spex_jax.ValueFunction(fn, 12, on_device=True), rng.integers(0, 2, (400, 12)).astype(bool))


@pytest.mark.parametrize(("count", "size"), [(100, 64), (100, 200), (64, 64), (1, 1)])
def test_free_places_of_the_last_batch_measure_the_noise(count, size, rng):
    masks = masks_lib.uniform(12, count, rng)

    def place_matters(m):
        return m.sum(axis=1) + 0.5 * (jnp.arange(len(m)) >= 36)

    for fn, expected in ((lambda m: m.sum(axis=1) * 1.0, 0.0), (place_matters, 0.5)):
        function = DeviceFunction(spex_jax.ValueFunction(fn, 12, on_device=True))
        rows = np.concatenate([rows for rows, _ in function.answers(masks, size)])
        np.testing.assert_array_equal(rows, np.arange(count))
        assert math.isnan(function.noise) if count % size == 0 else function.noise == expected


@pytest.mark.parametrize("mesh", ["x", jax.make_mesh((1,), ("model",))])
def test_a_mesh_needs_an_axis_for_the_masks(mesh):
    with pytest.raises(ValueError, match="masks"):
        evaluate(summed(), np.ones((1, 8), bool), mesh=mesh)
    with pytest.raises(ValueError, match="host code"):
        evaluate(lambda masks: masks.sum(axis=1), np.ones((1, 8), bool), mesh=mesh)


def test_free_memory_is_known_on_linux():
    assert 0 < memory.free_bytes(None) < math.inf
