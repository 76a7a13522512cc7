import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.utils.array_cache import ArrayMemo


@pytest.fixture
def accelerator(monkeypatch):
    """Treats the arrays of a CPU as those of an accelerator, which cannot be views of NumPy's."""
    monkeypatch.setattr("spex_jax.utils.array_cache._cannot_change", lambda array: isinstance(array, jax.Array))


@pytest.mark.usefixtures("accelerator")
def test_computed_once_for_each_array_and_argument():
    calls = []

    def scaled(array, factor):
        calls.append(factor)
        return float(array.sum()) * factor

    memo, ones, twos = ArrayMemo(scaled), jnp.ones(3), jnp.full(3, 2.0)
    assert [memo(ones, 1), memo(twos, 1), memo(ones, 1), memo(ones, 5)] == [3, 6, 3, 15]
    assert calls == [1, 1, 5]
    assert len(memo) == 2


@pytest.mark.usefixtures("accelerator")
def test_forgotten_with_the_array():
    memo = ArrayMemo(lambda array: array.shape)
    ones = jnp.ones(3)
    assert memo(ones) == (3,)
    del ones
    gc.collect()
    assert len(memo) == 0


@pytest.mark.usefixtures("accelerator")
def test_what_can_change_in_place_is_not_remembered():
    memo, numbers = ArrayMemo(lambda array: float(array.sum())), np.ones(3)
    assert memo(numbers) == 3
    numbers[0] = 5
    assert memo(numbers) == 7


def test_a_view_of_memory_that_numpy_can_change_is_not_remembered():
    raw = np.zeros(4096 + 64, np.uint8)
    start = -raw.ctypes.data % 64  # aligned, so that `jax.device_put` copies nothing
    numbers = raw[start : start + 4096].view(np.float32)
    array, memo = jax.device_put(numbers), ArrayMemo(lambda array: float(array.sum()))
    assert memo(array) == 0
    numbers[0] = 5
    assert memo(array) == float(array.sum())
    assert len(memo) == 0
