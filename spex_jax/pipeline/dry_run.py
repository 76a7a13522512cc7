"""Estimates the time and the storage of a run of `explain`, from a dry run of two batches."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import numpy as np

from spex_jax.core.indices import Index
from spex_jax.engine.device import DeviceFunction
from spex_jax.engine.evaluation import Engine
from spex_jax.engine.value_function import ValueFunction, as_value_function
from spex_jax.methods import METHODS, Method
from spex_jax.pipeline.method_options import MethodOptions
from spex_jax.pipeline.plan import make_plan

__all__ = ["Estimate", "estimate"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Holds the estimated cost of a run.

    Attributes:
      masks: number of ablations of the run.
      stored: how many of them the store holds.
      batch_size: number of masks in one call.
      devices: number of devices that the masks are split over; 0 for host code.
      compile_seconds: time before the first call, plus the excess of the first call over the second.
      batch_seconds: time of one call, once compiled.
      seconds: time for the remaining ablations; the fit comes on top.
      store_bytes: size of the store at the end.
    """

    masks: int
    stored: int
    batch_size: int
    devices: int
    compile_seconds: float
    batch_seconds: float
    seconds: float
    store_bytes: int

    def __str__(self) -> str:
        """Returns the estimate as one line."""
        if self.stored == self.masks:
            return f"all {self.masks:,} ablations are stored: nothing to evaluate"
        place = f"{self.devices} device{'s' if self.devices > 1 else ''}" if self.devices else "host code"
        return (
            f"{self.masks:,} ablations, {self.stored:,} of them stored; batches of {self.batch_size} on {place}, "
            f"{self.batch_seconds:.3g} s each: about {self.seconds:.3g} s for the model, after "
            f"{self.compile_seconds:.3g} s of compilation; {self.store_bytes:,} bytes in a store"
        )


def estimate(  # noqa: PLR0913
    value_fn: ValueFunction | Callable[[np.ndarray], Any],
    n: int | None = None,
    *,
    budget: int | None = None,
    method: str | Method = "proxyspex",
    store: str | os.PathLike[str] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    store_key: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    names: Sequence[str] | None = None,
    index: str | Index = "FSII",
    max_order: int = 2,
    progress: bool = True,
    check_invariance: bool = False,
    nonfinite: str = "raise",
    **options: Unpack[MethodOptions],
) -> Estimate:
    """Estimates the cost of `explain` with the same arguments, from a dry run of two batches, or one of host code.

    A store keeps the ablations of the dry run, which are then not evaluated again. The arguments progress and
    check_invariance have no effect here. A value may be several numbers, as for `explain_many`.

    Raises:
      ValueError: as for `explain`.
    """
    del progress, check_invariance
    value_fn = as_value_function(value_fn, n, "estimate", several=True)
    plan = make_plan(
        value_fn,
        budget=budget,
        method=METHODS.record(method, options),
        index=index,
        max_order=max_order,
        seed=seed,
        names=names,
    )
    masks = plan.masks
    count = plan.budget if plan.adaptive else len(masks)
    engine = Engine(value_fn, batch_size=batch_size, mesh=mesh, store=store, store_key=store_key)
    with engine:
        todo = masks[~engine.lookup(masks)[0]]
        size, calls, devices = 0, [0.0], engine.function.devices if isinstance(engine.function, DeviceFunction) else 0
        start = time.perf_counter()
        if len(todo):
            size = engine.batch_size(len(todo))
            calls = []
        compiling = time.perf_counter() - start
        for first in range(0, min(len(todo), 2 * size if devices else size), size or 1):
            start = time.perf_counter()
            engine.evaluate(todo[first : first + size], progress=False, size=size, nonfinite=nonfinite)
            calls.append(time.perf_counter() - start)
    one = calls[-1]
    return Estimate(
        masks=count,
        stored=len(masks) - len(todo),
        batch_size=size,
        devices=devices,
        compile_seconds=compiling + calls[0] - one,
        batch_seconds=one,
        seconds=one * -(-(count - len(masks) + len(todo)) // (size * value_fn.host.workers)) if size else 0.0,
        store_bytes=count * (-(-masks.shape[1] // 8) + 8 * math.prod(value_fn.outputs)),
    )
