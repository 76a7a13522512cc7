"""Evaluates host functions: any Python callable, in batches, with threads, a time limit and retries."""

import concurrent.futures
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from spex_jax.engine.hints import as_values, failed_as_one_mask, naming_ended_iterators
from spex_jax.engine.value_function import ValueFunction

__all__ = ["HostFunction"]

_BATCH = 256
_LONGEST_PAUSE = 60.0  # seconds between two attempts

_Answer = tuple[list[tuple[np.ndarray, np.ndarray]], Exception | None]  # numbers with values, and an error


def _in_thread(call: Callable[[], _Answer]) -> concurrent.futures.Future[_Answer]:
    """Runs a call in a thread that, unlike those of the executors, does not keep the interpreter from ending."""
    future: concurrent.futures.Future[_Answer] = concurrent.futures.Future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, daemon=True).start()
    return future


class _NoAnswer(TimeoutError):
    """The time limit of this package was reached, not one of the function's own."""


class HostFunction:
    """Evaluates a host value function."""

    def __init__(self, value_fn: ValueFunction):
        """Wraps a value function that is host code."""
        self._fn, self._outputs, self._options = value_fn.fn, value_fn.outputs, value_fn.host
        self._takes_several = False  # whether it has evaluated a batch of another size than n

    def batch_size(self, count: int, given: int | None = None) -> int:
        """Returns the masks of one call: `given`, or 256, or fewer so that each worker has four calls."""
        workers = self._options.workers
        share = count if workers == 1 else -(-count // (4 * workers))
        return given or max(1, min(_BATCH, share))

    def _call(self, batch: np.ndarray) -> Any:
        with naming_ended_iterators():
            found = self._fn(batch)
            # Waits here, so that an error of an asynchronous JAX computation is one of this call.
            return np.asarray(found) if isinstance(found, jax.Array) and not isinstance(found, Tracer) else found

    def _attempt(self, batch: np.ndarray) -> Any:
        timeout = self._options.timeout
        if timeout is None:
            return self._call(batch)
        future = _in_thread(lambda: self._call(batch))
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError as error:
            if future.done():  # at the last moment, or with a TimeoutError of its own
                return future.result()
            raise _NoAnswer(
                f"the value function returned nothing for {len(batch)} masks within timeout = {timeout} s; "
                "allow more time, or evaluate fewer masks at once with batch_size"
            ) from error

    def _attempts(self, batch: np.ndarray) -> Any:
        retries = self._options.retries
        for attempt in range(retries + 1):
            try:
                return self._attempt(batch.copy())
            except Exception as error:
                if attempt == retries:
                    raise
                pause = min(self._options.backoff * 2.0**attempt, _LONGEST_PAUSE)
                logging.getLogger("spex_jax").warning(
                    "attempt %d of %d failed (%s: %s); the next in %.3g s",
                    *(attempt + 1, retries + 1, type(error).__name__, error, pause),
                )
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _evaluate(self, masks: np.ndarray, rows: slice) -> _Answer:
        """Returns numbers and values of some rows, and an error or None.

        A batch that fails is evaluated in halves, down to the first mask that fails, which the error names.
        """
        count, n = rows.stop - rows.start, masks.shape[1]
        if count == n > 1 and not self._takes_several:  # a function of one mask could return n numbers for n masks
            return self._evaluate_both(masks, rows, n - 1)
        try:
            found = self._attempts(masks[rows])
        except Exception as error:
            if isinstance(error, _NoAnswer):
                return [], error
            if count == 1:
                if failure := failed_as_one_mask(error, self._fn, n, self._outputs, on_device=False):
                    failure.__cause__ = error
                    return [], failure
                removed = np.flatnonzero(~masks[rows.start])
                shown = ", ".join(map(str, removed[:20])) + (", ..." if len(removed) > 20 else "")
                error.add_note(
                    f"the value function failed at a mask that removes {len(removed)} of {masks.shape[1]} features "
                    f"({shown or 'none'})"
                )
                return [], error
        else:
            try:
                values = as_values(found, self._fn, masks[rows], self._outputs)
            except ValueError as error:
                return [], error
            self._takes_several = True
            return [(np.arange(rows.start, rows.stop), values)], None
        return self._evaluate_both(masks, rows, count // 2)

    def _evaluate_both(self, masks: np.ndarray, rows: slice, count: int) -> _Answer:
        """Evaluates the first `count` rows, and then the others."""
        middle = rows.start + count
        found, failure = self._evaluate(masks, slice(rows.start, middle))
        if failure is not None:
            return found, failure
        rest, failure = self._evaluate(masks, slice(middle, rows.stop))
        return found + rest, failure

    def stop(self) -> None:
        """Starts no further calls; `answers` ends with those that are running."""
        self._stopped = True

    def answers(self, masks: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields numbers of masks and their values as they arrive, out of order where there are several workers.

        An error is raised after the running calls of other workers have ended.

        Args:
          masks: bool [M, n], distinct.
          size: masks of one call.
        """
        self._stopped = False
        todo = [slice(start, min(start + size, len(masks))) for start in range(0, len(masks), size)][::-1]
        if self._options.workers == 1:
            while todo and not self._stopped:
                found, failure = self._evaluate(masks, todo.pop())
                yield from found
                if failure is not None:
                    raise failure
            return
        running: set[concurrent.futures.Future[_Answer]] = set()
        first_failure: Exception | None = None
        while True:
            while first_failure is None and not self._stopped and len(running) < self._options.workers and todo:
                running.add(_in_thread(functools.partial(self._evaluate, masks, todo.pop())))
            if not running:
                break
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                found, failure = future.result()
                yield from found
                first_failure = first_failure or failure
        if first_failure is not None:
            raise first_failure
