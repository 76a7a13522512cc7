import gc

import jax.numpy as jnp
import numpy as np

from spex_jax.memo import ArrayMemo


def test_computed_once_for_each_array_and_argument():
    calls = []

    def scaled(array, factor):
        calls.append(factor)
        return float(array.sum()) * factor

    memo, ones, twos = ArrayMemo(scaled), jnp.ones(3), jnp.full(3, 2.0)
    assert [memo(ones, 1), memo(twos, 1), memo(ones, 1), memo(ones, 5)] == [3, 6, 3, 15]
    assert calls == [1, 1, 5]
    assert len(memo) == 2


def test_forgotten_with_the_array():
    memo = ArrayMemo(lambda array: array.shape)
    ones = jnp.ones(3)
    assert memo(ones) == (3,)
    del ones
    gc.collect()
    assert len(memo) == 0


def test_what_can_change_in_place_is_not_remembered():
    memo, numbers = ArrayMemo(lambda array: float(array.sum())), np.ones(3)
    assert memo(numbers) == 3
    numbers[0] = 5
    assert memo(numbers) == 7
