"""Runs independent computations in parallel on the cores of a machine."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

import jax
import threadpoolctl

__all__ = ["blas_threads_for", "cores", "each", "one_blas_thread"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_FEW_ELEMENTS = 2**20


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _OneBlasThread:
    """Limits BLAS and LAPACK to one thread in this process, from the first that enters to the last that leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._controller: threadpoolctl.ThreadpoolController | None = None
        self._limit: threadpoolctl.threadpool_limits | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                # Cached, because finding the libraries takes 5 ms.
                self._controller = self._controller or threadpoolctl.ThreadpoolController()
                self._limit = self._controller.limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._limit is not None:
                self._limit.restore_original_limits()


_ONE_BLAS_THREAD = _OneBlasThread()


def one_blas_thread() -> _OneBlasThread:
    """Returns a context in which BLAS and LAPACK run in one thread.

    Many small factorisations in several threads spin while they wait for each other, for long on a CPU that is shared.
    """
    return _ONE_BLAS_THREAD


def blas_threads_for(elements: int) -> AbstractContextManager[object]:
    """Returns a context in which BLAS runs in one thread where its matrices have too few elements for several.

    On a CPU that is shared, thousands of products of a few hundred microseconds, in two threads that wait for each
    other, have taken ten times as long.
    """
    return _ONE_BLAS_THREAD if elements <= _FEW_ELEMENTS else contextlib.nullcontext()


def each(call: Callable[[Item], Answer], items: Sequence[Item], at_once: int) -> list[Answer]:
    """Returns the results of `call` for all items, in their order, from up to `at_once` threads.

    JAX runs programs that are called from several threads in parallel. BLAS has one thread meanwhile. An error of an
    item is raised here, and no item is started after it.
    """
    at_once = min(at_once, len(items))
    if at_once <= 1:
        return [call(item) for item in items]
    device = jax.config.values["jax_default_device"]  # a setting of this thread, which others do not see

    def inside(item: Item) -> Answer:
        with jax.default_device(device):
            return call(item)

    with one_blas_thread(), ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(inside, item) for item in items]
        try:
            return [future.result() for future in running]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
