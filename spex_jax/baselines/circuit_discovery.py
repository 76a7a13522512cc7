"""Greedy search for a circuit: parts go one after another, as long as little is lost."""

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
    """What was kept at each threshold.

    Attributes:
      thresholds: float64 [T].
      masks: bool [T, n], True for units of the circuit.
      values: float64 [T].
      asked: ablations in all.
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
    """Automatic circuit discovery over units (Conmy et al. 2023, https://arxiv.org/abs/2304.14997, algorithm 1, with
    nodes in place of edges): from the last unit to the first, each is removed for good unless the value gets worse by
    the threshold or more. All thresholds go through the units together.

    Args:
      value_fn: a `ValueFunction`; the paper's is value "kl".
      thresholds: how much worse the value may get in one step; one or several. At 0 and below a unit goes only where
        the value gets better by it.
      order: numbers of all units, first to be tried first; None is from the last to the first.
      low_is_good: whether low values are good; None: where the lens says that the value is "loss" or "kl".
      progress, **options: of `spex_jax.evaluate`.

    Raises:
      ValueError: no `ValueFunction` of one value, thresholds that are no numbers, an order that is no permutation; see
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
        values, asked = np.repeat(first.values, len(limits)), first.evaluated
        size = engine.batch_size(len(limits))  # one program, however many of the thresholds still agree
        for unit in units:
            without = masks.copy()
            without[:, unit] = False
            answers = engine.evaluate(without, progress=progress, size=size)
            asked += answers.evaluated
            removed = sign * (answers.values - values) < limits
            masks[removed], values = without[removed], np.where(removed, answers.values, values)
    return Circuits(thresholds=limits, masks=masks, values=values, asked=asked)
