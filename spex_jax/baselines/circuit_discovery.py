"""Greedy search for a circuit: removes parts one after another, as long as the value gets little worse."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.engine.evaluation import Engine
from spex_jax.engine.value_function import ValueFunction, as_value_function

__all__ = ["Circuits", "acdc"]

_LOW_IS_GOOD = ("loss", "kl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Circuits:
    """The circuit at each threshold.

    Attributes:
      thresholds: float64 [T].
      masks: bool [T, n], True for units of the circuit.
      values: float64 [T], of the circuits.
      asked: the number of ablations that were evaluated.
    """

    thresholds: np.ndarray
    masks: np.ndarray
    values: np.ndarray
    asked: int


def acdc(
    value_fn: ValueFunction,
    thresholds: float | Sequence[float],
    *,
    order: Sequence[int] | None = None,
    low_is_good: bool | None = None,
    progress: bool = False,
    **options: Any,
) -> Circuits:
    """Finds circuits by automatic circuit discovery (Conmy et al. 2023, https://arxiv.org/abs/2304.14997, algorithm 1,
    with nodes in place of edges): from the last unit to the first, each is removed for good unless that makes the value
    worse by the threshold or more. All thresholds go through the units together.

    Args:
      value_fn: a `ValueFunction`; the paper uses the value "kl".
      thresholds: how much worse the value may get in one step; one or several. At 0 and below a unit is removed only
        where that makes the value better.
      order: all units in the order in which they are tried; None goes from the last to the first.
      low_is_good: whether low values are good; None means that they are for the values "loss" and "kl" of a lens.
      progress, **options: see `spex_jax.evaluate`.

    Raises:
      ValueError: no `ValueFunction` of one value, thresholds that are not numbers, an order that is no permutation; see
        `spex_jax.evaluate`.
    """
    if not isinstance(value_fn, ValueFunction):
        raise ValueError("acdc needs a ValueFunction, which knows its units: acdc(ValueFunction(callable, n), ...)")
    n = as_value_function(value_fn, None, "acdc").n
    limits = np.atleast_1d(np.asarray(thresholds))
    if limits.dtype.kind not in "fiu" or limits.ndim != 1 or not len(limits) or not np.isfinite(limits).all():
        raise ValueError(f"thresholds must be finite numbers, got {thresholds!r}")
    limits = limits.astype(np.float64)
    units = list(range(n - 1, -1, -1)) if order is None else list(order)
    if sorted(units) != list(range(n)):
        raise ValueError(f"order must hold each of the units 0 to {n - 1} once, got {order!r}")
    if low_is_good is None:
        low_is_good = value_fn.details.value in _LOW_IS_GOOD
    sign = 1.0 if low_is_good else -1.0
    masks = np.ones((len(limits), n), np.bool_)
    with Engine(value_fn, **options) as engine:
        first = engine.evaluate(masks[:1], progress=progress)
        values, evaluated = np.repeat(first.values, len(limits)), first.evaluated
        size = engine.batch_size(len(limits))  # one program, however many of the thresholds still agree
        for unit in units:
            without = masks.copy()
            without[:, unit] = False
            trial = engine.evaluate(without, progress=progress, size=size)
            evaluated += trial.evaluated
            removed = sign * (trial.values - values) < limits
            masks[removed], values = without[removed], np.where(removed, trial.values, values)
    return Circuits(thresholds=limits, masks=masks, values=values, asked=evaluated)
