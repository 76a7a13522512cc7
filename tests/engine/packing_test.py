"""Rows that hold several masks."""

import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax
from spex_jax import DeviceOptions, evaluate
from spex_jax.core import masks as masks_lib
from spex_jax.engine.device import DeviceFunction
from spex_jax.engine.packing import Packing

N = 14
KEPT = np.arange(N) % 4
REMOVED = (np.arange(N) % 5 == 0).astype(int)


def packing(capacity=40, slots=6, fixed=2):
    return Packing(capacity, slots, fixed, KEPT, REMOVED)


def packed_function(seen=None, **options):
    """Weighted sums, and what each row holds is looked at."""
    weights = jnp.asarray(np.linspace(-1, 2, N), jnp.float32)

    def fn(masks, used):
        if seen is not None:
            seen.append(masks.shape)
        return jnp.where(used, masks[..., :N] @ weights, jnp.nan)

    return spex_jax.ValueFunction(fn, N, on_device=True, device=DeviceOptions(packing=packing(**options), width=16))


def expected(masks):
    return masks @ np.linspace(-1, 2, N)


@pytest.mark.parametrize("count", [1, 7, 500])
@pytest.mark.parametrize(("capacity", "slots"), [(26, 2), (40, 6), (200, 4), (26, 1)])
def test_every_mask_has_one_place_and_rows_do_not_overflow(count, capacity, slots, rng):
    masks = rng.integers(0, 2, (count, N)).astype(bool)
    pack = packing(capacity, slots)
    rows = pack.rows(masks)
    assert sorted(rows[rows >= 0]) == list(range(count))
    assert rows.shape[1] == slots
    lengths = np.where(rows >= 0, pack.lengths(masks)[rows], 0).sum(axis=1)
    assert lengths.max() <= capacity
    fewest = max(pack.lengths(masks).sum() / capacity, count / slots)
    assert len(rows) <= np.ceil(1.25 * fewest) + 1
    alone = pack.rows(masks, most=1)
    assert len(alone) == count


def test_lengths_count_what_is_kept_and_what_stands_for_the_removed():
    masks = np.array([[True] * N, [False] * N])
    assert packing().lengths(masks).tolist() == [2 + KEPT.sum(), 2 + REMOVED.sum()]


def test_each_mask_goes_into_the_fullest_row_with_room():
    """Any other order of the rows would take a third."""
    pack = Packing(10, 3, 0, np.array([6, 5, 4, 3, 2]), np.zeros(5, int))
    assert pack.rows(np.eye(5, dtype=bool)).tolist() == [[0, 2, -1], [1, 3, 4]]


@pytest.mark.parametrize("batch_size", [None, 1, 5, 64, 1000])
@pytest.mark.parametrize("count", [1, 3, 600])
def test_values_come_back_in_their_places(count, batch_size, rng):
    masks = masks_lib.uniform(N, count, rng)
    np.testing.assert_allclose(evaluate(packed_function(), masks, batch_size=batch_size), expected(masks), atol=1e-5)
    np.testing.assert_allclose(packed_function()(masks), expected(masks), atol=1e-5)


def test_one_mask_at_a_time_is_alone_in_its_row(rng):
    def fn(masks, used):
        return masks[..., 0] + 10.0 * used.sum(axis=-1, keepdims=True)

    value_fn = spex_jax.ValueFunction(fn, N, on_device=True, device=DeviceOptions(packing=packing()))
    masks = masks_lib.uniform(N, 50, rng)
    np.testing.assert_array_equal(evaluate(value_fn, masks, batch_size=1), masks[:, 0] + 10.0)
    assert evaluate(value_fn, masks).max() > 11


def test_all_batches_have_one_shape(rng):
    seen = []
    evaluate(packed_function(seen), masks_lib.uniform(N, 600, rng))
    assert len(set(seen)) == len(seen) <= 2  # traced for the size of the batch, and not again


def test_a_row_that_is_asked_twice_measures_the_noise(rng):
    function = DeviceFunction(packed_function())
    masks = masks_lib.uniform(N, 90, rng)
    list(function.answers(masks, function.batch_size(90)))
    assert function.noise == 0


def test_a_store_keeps_packed_values(rng, tmp_path):
    masks = masks_lib.uniform(N, 300, rng)
    for count in (200, 300):
        found = evaluate(packed_function(), masks[:count], store=tmp_path / "s", store_key="f")
        np.testing.assert_allclose(found, expected(masks[:count]), atol=1e-5)


def test_a_packed_function_of_the_wrong_shape():
    value_fn = spex_jax.ValueFunction(
        lambda masks, used: masks[:, 0, 0] * 1.0, N, on_device=True, device=DeviceOptions(packing=packing())
    )
    with pytest.raises(ValueError, match=r"returned shape \(1,\) for masks \(1, 6, 14\); expected shape \(1, 6\)"):
        evaluate(value_fn, np.ones((1, N), bool))
