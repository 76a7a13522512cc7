import collections
import threading
import time

import numpy as np
import pytest

import spex_jax
from spex_jax import evaluate
from spex_jax.core import masks as masks_lib
from spex_jax.engine.evaluation import identity_of
from spex_jax.store import Store, read


def value_function(fn, **options):
    return spex_jax.ValueFunction(fn, 8, **options)


@pytest.fixture
def masks():
    return masks_lib.all_masks(8)


@pytest.mark.parametrize("workers", [1, 3, 20])
@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_values_do_not_depend_on_the_workers(workers, timeout, batch_size, masks):
    asked = []

    def fn(batch):
        asked.extend(map(tuple, batch))
        return batch @ np.arange(8.0)

    found = evaluate(value_function(fn, workers=workers, timeout=timeout), masks, batch_size=batch_size)
    np.testing.assert_array_equal(found, masks @ np.arange(8.0))
    assert len(asked) == len(set(asked)) == 256


def test_workers_run_at_once(masks):
    together = threading.Barrier(4, timeout=30)

    def fn(batch):
        together.wait()  # passes only when four calls are in it
        return batch.sum(axis=1)

    np.testing.assert_array_equal(evaluate(value_function(fn, workers=4), masks, batch_size=32), masks.sum(axis=1))


@pytest.mark.parametrize("workers", [1, 2])
def test_calls_that_fail_are_tried_again(workers, masks, caplog):
    calls = collections.Counter()

    def fn(batch):
        calls[batch.tobytes()] += 1
        if calls[batch.tobytes()] < 3:
            raise ConnectionError("the line was cut")
        return batch.sum(axis=1)

    value_fn = value_function(fn, retries=2, backoff=0.001, workers=workers)
    np.testing.assert_array_equal(evaluate(value_fn, masks, batch_size=64), masks.sum(axis=1))
    assert set(calls.values()) == {3}
    assert "attempt 1 of 3 failed (ConnectionError: the line was cut); the next in 0.001 s" in caplog.text
    assert "attempt 2 of 3 failed (ConnectionError: the line was cut); the next in 0.002 s" in caplog.text


@pytest.mark.parametrize("workers", [1, 2])
def test_a_function_that_changes_its_masks_changes_its_own(workers, masks, tmp_path):
    tried = set()

    def fn(batch):
        name, values = batch.tobytes(), batch @ np.arange(8.0)
        batch[:] = ~batch
        if name not in tried:
            tried.add(name)
            raise ConnectionError("the line was cut")
        return values

    value_fn = value_function(fn, retries=1, backoff=0.001, workers=workers, identity="f")
    for _ in range(2):  # the second time from the store
        found = evaluate(value_fn, masks, batch_size=64, store=tmp_path / "store")
        np.testing.assert_array_equal(found, masks @ np.arange(8.0))
    assert len(tried) == 4


@pytest.mark.parametrize("workers", [1, 3])
def test_a_mask_that_fails_is_named_and_costs_only_itself(workers, masks, tmp_path):
    bad = np.array([True, False, True, True, False, True, True, True])
    calls = []

    def fn(batch):
        calls.append(len(batch))
        if (batch == bad).all(axis=1).any():
            raise KeyError("no such thing")
        return batch.sum(axis=1)

    path = tmp_path / "store"
    with pytest.raises(KeyError, match="no such thing") as raised:
        evaluate(value_function(fn, identity="f", workers=workers), masks, batch_size=64, store=path)
    notes = "\n".join(raised.value.__notes__)
    assert "failed at a mask that removes 2 of 8 features (1, 4)" in notes
    assert "are in the store" in notes
    with Store(path, identity=identity_of(value_function(fn, identity="f")), n=8) as kept:
        known, values = kept.lookup(masks)
        assert not kept.lookup(bad[None])[0].any()
    assert 0 < known.sum() < 256
    np.testing.assert_array_equal(values[known], masks[known].sum(axis=1))


def test_a_batch_that_is_too_large_is_asked_in_halves(masks):
    sizes = []

    def fn(batch):
        sizes.append(len(batch))
        if len(batch) > 40:
            raise MemoryError
        return batch.sum(axis=1)

    np.testing.assert_array_equal(evaluate(value_function(fn), masks), masks.sum(axis=1))
    assert sizes == [256, 128, 64, 32, 32, 64, 32, 32, 128, 64, 32, 32, 64, 32, 32]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_call_that_hangs_is_given_up(workers, masks):
    release = threading.Event()

    def fn(batch):
        if batch[0].sum() == 0:
            release.wait(30)
        return batch.sum(axis=1)

    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"returned nothing for 64 masks within timeout = 0\.2 s"):
        evaluate(value_function(fn, timeout=0.2, workers=workers), masks, batch_size=64)
    assert time.monotonic() - start < 10
    release.set()


def test_a_timeout_of_the_function_itself_is_its_own(masks):
    def fn(batch):
        raise TimeoutError("the server is slow")

    with pytest.raises(TimeoutError, match="the server is slow"):
        evaluate(value_function(fn, timeout=60), masks)


def test_a_timeout_at_one_mask_is_found_like_any_error(masks):
    def fn(batch):
        if (~batch).all(axis=1).any():
            raise TimeoutError("read timed out")
        return batch.sum(axis=1)

    with pytest.raises(TimeoutError, match="read timed out") as raised:
        evaluate(value_function(fn), masks[::-1], batch_size=64)
    assert "removes 8 of 8 features" in raised.value.__notes__[0]


@pytest.mark.parametrize("workers", [1, 4])
def test_values_that_come_beside_a_nan_are_kept(workers, masks, tmp_path):
    asked = []

    def fn(batch):
        asked.append(len(batch))
        time.sleep(0.05 if batch.any(axis=1).all() else 0)  # so that the others are still on their way
        return np.where(batch.sum(axis=1) == 0, np.nan, batch.sum(axis=1))

    path = tmp_path / "store"
    with pytest.raises(ValueError, match="1 of 16 values are not finite") as raised:
        evaluate(value_function(fn, workers=workers, identity="f"), masks, batch_size=16, store=path)
    kept = len(read(path).values)
    assert kept == sum(asked) - 1
    assert f"{kept} of 256 ablations are in the store" in raised.value.__notes__[0]


def test_what_other_workers_were_asked_is_kept(masks, tmp_path):
    first_failed = threading.Event()

    def fn(batch):
        if batch.sum() == 0:
            first_failed.set()
            raise RuntimeError("no mask at all")
        first_failed.wait(30)
        time.sleep(0.2)  # so that the failure is seen before the answers, which must not hide it
        return batch.sum(axis=1)

    with pytest.raises(RuntimeError, match="no mask at all"):
        evaluate(value_function(fn, workers=5, identity="f"), masks, batch_size=1, store=tmp_path / "store")
    assert len(read(tmp_path / "store").values) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be"),
        ({"retries": -1}, "retries must be"),
        ({"timeout": 0}, "timeout must be above 0 s"),
        ({"backoff": -1}, "backoff at least 0 s"),
        ({"identity": ""}, "identity must be"),
        ({"outputs": 3}, "outputs must be a shape"),
        ({"outputs": (-1,)}, "each size of outputs"),
        ({"on_device": True, "timeout": 3.0}, "for host code"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        value_function(lambda masks: masks.sum(axis=1), **options)
