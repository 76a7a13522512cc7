"""The ablation engine: every distinct mask is evaluated once, and its value is kept.

masks -> distinct ones -> those that the store does not hold -> batches -> store -> values
"""

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from spex_jax.core import masks as masks_lib
from spex_jax.engine.device import DeviceFunction
from spex_jax.engine.host import HostFunction
from spex_jax.engine.progress import Progress
from spex_jax.engine.value_function import ValueFunction, as_value_function
from spex_jax.fingerprints import fingerprint
from spex_jax.store.store import Store, key_identity

__all__ = ["NONFINITE", "Engine", "Evaluation", "check_nonfinite", "evaluate", "identity_of"]

NONFINITE = ("raise", "keep")


def check_nonfinite(given: str) -> None:
    """Raises ValueError where `given` names no way to treat values that are not finite."""
    if given not in NONFINITE:
        raise ValueError(f"unknown nonfinite {given!r}; expected one of {', '.join(NONFINITE)}")


def identity_of(value_fn: ValueFunction, store_key: str | None = None) -> str:
    """Returns the name of a value function in a store: the user's key, its own identity, or a hash of its contents.

    Raises:
      ValueError: nothing identifies it.
    """
    given = store_key if store_key is not None else value_fn.identity
    if given is not None:
        if not isinstance(given, str) or not given:
            raise ValueError(f"store_key and identity must be strings that are not empty, got {given!r}")
        return key_identity(given, value_fn.n, value_fn.outputs)
    reason = "it is host code, which may do anything"
    if value_fn.on_device:
        try:
            return fingerprint(value_fn.fn, value_fn.n, value_fn.outputs)
        except ValueError as error:
            reason = str(error)
    raise ValueError(
        f"store= needs to know when two value functions are the same, and nothing identifies this one: give "
        'store_key="..." or ValueFunction(identity="..."), a string that you change whenever the model, the input '
        f"or the settings change ({reason})"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Holds the result of one engine run.

    Attributes:
      values: float64 [M, *outputs].
      evaluated: number of distinct masks at which the value function was evaluated.
      stored: number of distinct masks that the store held.
      noise: the largest change of a value when it was computed again in another batch; nan where none was.
    """

    values: np.ndarray
    evaluated: int
    stored: int
    noise: float


class Engine:
    """Evaluates a value function on its devices or threads, with its store. A context manager."""

    def __init__(
        self,
        value_fn: ValueFunction,
        *,
        batch_size: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
        store: str | os.PathLike[str] | None = None,
        store_key: str | None = None,
    ):
        """Checks everything that can be checked before the model is called, and opens the store; see `evaluate`."""
        masks_lib.check_not_traced("evaluate")
        if batch_size is not None:
            masks_lib.check_whole("batch_size", batch_size, 1)
        if store is None and store_key is not None:
            raise ValueError(f"store_key={store_key!r} was given without store=; give the path of a store too")
        if mesh is not None and not value_fn.on_device:
            raise ValueError("mesh= is for value functions on the device; this one is host code: leave mesh out")
        self._outputs, self._on_device = value_fn.outputs, value_fn.on_device
        self._batch_size = None if batch_size is None else int(batch_size)
        self.function = DeviceFunction(value_fn, mesh) if value_fn.on_device else HostFunction(value_fn)
        self.store: Store | None = None
        self._kept = 0  # ablations that the current call has stored
        self._stored = store is not None
        if store is not None:
            identity = identity_of(value_fn, store_key)
            failure: Exception | None = None
            if jax.process_index() == 0:  # it tells the others what is stored
                try:
                    self.store = Store(
                        store,
                        identity=identity,
                        n=value_fn.n,
                        outputs=value_fn.outputs,
                        names=value_fn.names,
                        details=value_fn.details.to_json(),
                    )
                except Exception as error:
                    failure = error
            if jax.process_count() > 1 and _from_first_process(np.array([failure is not None]))[0]:
                raise failure or ValueError("the first process could not open the store; see its error")
            if failure is not None:
                raise failure

    def __enter__(self) -> "Engine":
        """Returns the engine itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Closes the store."""
        if self.store is not None:
            self.store.close()

    def lookup(self, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which of the distinct masks bool [M, n] the store holds, bool [M], and their values."""
        known, values = np.zeros(len(masks), np.bool_), np.zeros((len(masks), *self._outputs))
        if self.store is not None:
            known, values = self.store.lookup(masks)
        if self._stored and jax.process_count() > 1:
            known, values = _from_first_process(known), _from_first_process(values)
        return known, values

    def batch_size(self, count: int) -> int:
        """Returns the masks of one batch when `count` masks are evaluated."""
        return self.function.batch_size(count, self._batch_size)

    def evaluate(
        self, masks: np.ndarray, *, progress: bool = True, size: int | None = None, nonfinite: str = "raise"
    ) -> Evaluation:
        """Evaluates checked masks bool [M, n], in batches of `size` (None: by `batch_size`); see `evaluate`."""
        first, inverse = masks_lib.deduplicate(masks)
        distinct = masks[first]
        known, values = self.lookup(distinct)
        todo = np.flatnonzero(~known)
        if not len(todo):
            return Evaluation(values=values[inverse], evaluated=0, stored=len(distinct), noise=math.nan)
        missing, before = distinct[todo], int(known.sum())
        self._kept, failure = 0, None
        shown = Progress(len(distinct), stored=before, shown=progress and jax.process_index() == 0)
        try:
            with shown, contextlib.closing(self._answers(missing, size or self.batch_size(len(missing)))) as answers:
                for rows, found in answers:
                    try:
                        values[todo[rows]] = self._keep(missing[rows], found, first[todo[rows]], nonfinite)
                    except ValueError as error:  # batches in flight are kept: they are paid for
                        failure = failure or error
                        self.function.stop()
                    shown.update(len(rows))
            if failure is not None:
                raise failure
        except BaseException as error:
            if self.store is not None:
                error.add_note(
                    f"{before + self._kept} of {len(distinct)} ablations are in the store {str(self.store.path)!r}: "
                    "run the same call again to continue there"
                )
            raise
        if not masks_lib.finite_rows(values).all():
            warnings.warn(masks_lib.describe_nonfinite(values, distinct, first), stacklevel=3)
        noise = self.function.noise if isinstance(self.function, DeviceFunction) else math.nan
        return Evaluation(values=values[inverse], evaluated=len(todo), stored=int(known.sum()), noise=noise)

    def _answers(self, masks: np.ndarray, size: int) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
        if self._on_device or jax.process_count() == 1:
            yield from self.function.answers(masks, size)
            return
        # In a run of several processes only the first calls a host function, and sends the values to the others.
        source = self.function.answers(masks, size) if jax.process_index() == 0 else None
        while True:
            rows, values, failure = np.arange(0), np.zeros((0, *self._outputs)), None
            if source is not None:
                try:
                    rows, values = next(source, (rows, values))
                    values = np.asarray(values, np.float64)
                except Exception as error:
                    failure = error
            count, failed = _from_first_process(np.array([len(rows), failure is not None]))
            if failed:
                raise failure or RuntimeError("the value function failed in the first process; see its error")
            if not count:
                return
            if source is None:
                rows, values = np.zeros(count, rows.dtype), np.zeros((count, *self._outputs))
            yield _from_first_process(rows), _from_first_process(values)

    def _keep(self, masks: np.ndarray, answers: np.ndarray, rows: np.ndarray, nonfinite: str) -> np.ndarray:
        """Checks the values, stores the finite ones and returns all of them."""
        values = masks_lib.check_values(answers, masks, self._outputs, finite=False)
        finite = masks_lib.finite_rows(values)
        self._append(masks[finite], values[finite])
        if nonfinite == "raise" and not finite.all():
            found = masks_lib.describe_nonfinite(values, masks, rows) + masks_lib.MUST_BE_FINITE
            raise ValueError(f"{found}, or give nonfinite='keep' to go on without them")
        return values

    def _append(self, masks: np.ndarray, values: np.ndarray) -> None:
        if self.store is not None:
            self.store.append(masks, values)
            self._kept += len(masks)


def _from_first_process(array: np.ndarray) -> np.ndarray:
    """Returns the first process's array in every process, bit for bit: JAX alone would round float64 to float32."""
    shared = multihost_utils.broadcast_one_to_all(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return np.array(shared).view(array.dtype).reshape(array.shape)


def evaluate(
    value_fn: ValueFunction | Callable[[np.ndarray], Any],
    masks: Any,
    *,
    batch_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    store: str | os.PathLike[str] | None = None,
    store_key: str | None = None,
    progress: bool = True,
    nonfinite: str = "raise",
) -> np.ndarray:
    """Evaluates a value function at masks; repeated masks and those in the store are not evaluated again.

    In a run of several processes (`jax.distributed`) each calls this with the same arguments and gets all values; a
    device function runs on the devices of all, a host function in the first, which also keeps the store.

    Args:
      value_fn: a `spex_jax.ValueFunction`, or any callable masks bool [M, n] -> values [M], which is treated as host
        code.
      masks: bool [M, n].
      batch_size: masks in one call; None chooses by the work and memory of the compiled program, and 256 at most on the
        host. On several devices it is rounded up to a multiple of their number.
      mesh: a mesh with an axis "masks", over which the rows of a batch are split; None takes the mesh on which the
        function's arrays already are, or all devices.
      store: path of a store, or of a folder of stores. Masks that it holds are not evaluated; new values are written
        to it before they count.
      store_key: identifies a value function that has no identity of its own, such as a bare callable.
      progress: shows a bar with rate and time left on a terminal or in a notebook, else a line a minute on stderr.
      nonfinite: how to treat values that are NaN or infinite: "raise" stops there, "keep" goes on and returns them
        with a warning; they do not go into the store.

    Returns:
      float64 [M, *outputs].

    Raises:
      ValueError: the masks have the wrong shape or dtype, the values have the wrong shape or are not finite (the mask
        is named), or the store is damaged, in use or of another value function.
      TimeoutError: a host function took longer than its `timeout`.
      OSError: the store can no longer be written.
    """
    masks = masks_lib.check_masks(masks, value_fn.n if isinstance(value_fn, ValueFunction) else None)
    value_fn = as_value_function(value_fn, masks.shape[1], "evaluate", several=True)
    check_nonfinite(nonfinite)
    with Engine(value_fn, batch_size=batch_size, mesh=mesh, store=store, store_key=store_key) as engine:
        return engine.evaluate(masks, progress=progress, nonfinite=nonfinite).values
