"""Measures whether a value depends on the other masks of its batch, which no ablation explains."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.engine.evaluation import evaluate
from spex_jax.engine.value_function import ValueFunction, as_value_function

__all__ = ["BatchInvariance", "check_batch_invariance"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchInvariance:
    """Compares how much values change with their batch to the effects of removing single features.

    Attributes:
      alone: largest change of a value when its mask is evaluated alone, not in a batch.
      order: largest change when the batch is evaluated in another order.
      again: largest change when the same batch is evaluated a second time.
      effects: float64 [E], |f(all) - f(all but one)|, sorted: effects of single features.
      spread: standard deviation of the values over all evaluated masks.
      masks: number of masks, each evaluated three times in a batch and once alone.
    """

    alone: float
    order: float
    again: float
    effects: np.ndarray
    spread: float
    masks: int

    @property
    def noise(self) -> float:
        """The largest of the three changes."""
        return max(self.alone, self.order, self.again)

    def __str__(self) -> str:
        """Returns two lines: the noise, and the effects to compare it with."""
        hidden = float((self.effects < 10 * self.noise).mean())
        return (
            f"the values of {self.masks} masks change by at most {self.alone:.3g} when evaluated alone, "
            f"{self.order:.3g} in another order, {self.again:.3g} when evaluated again\n"
            f"effects of single features: median {np.median(self.effects):.3g}, smallest {self.effects[0]:.3g}; "
            f"standard deviation of the values {self.spread:.3g}; the noise exceeds a tenth of {100 * hidden:.0f}% of "
            "these effects"
        )


def check_batch_invariance(
    value_fn: ValueFunction | Callable[[np.ndarray], Any],
    n: int | None = None,
    *,
    masks: int = 32,
    batch_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    seed: int = 0,
    nonfinite: str = "raise",
) -> BatchInvariance:
    """Evaluates the same masks alone, together, together again and in another order.

    Large models choose their kernels by the batch size, and some round differently for each; routed experts and batch
    statistics make a value depend on its neighbours directly.

    Args:
      value_fn: a `spex_jax.ValueFunction`, or any callable masks bool [M, n] -> values [M]. Where a value is several
        numbers, all count.
      n: number of features; needed for a bare callable.
      masks: number of masks: the full mask, single removals and uniform masks; all 2^n where there are fewer.
      batch_size, mesh: see `spex_jax.evaluate`.
      seed: seed of the masks and the order.
      nonfinite: see `spex_jax.evaluate`; with "keep", values that are not finite are ignored.

    Raises:
      ValueError: n is missing, or the values have the wrong shape.
    """
    value_fn = as_value_function(value_fn, n, "check_batch_invariance", several=True)
    n = value_fn.n
    masks_lib.check_whole("masks", masks, 4)
    rng = np.random.default_rng(seed)
    count = min(masks, 2**n) if n < 63 else masks
    removed = rng.permutation(n)[: max(1, (count - 1) // 2)]
    given = np.ones((1 + len(removed), n), np.bool_)
    given[np.arange(1, len(given)), removed] = False
    drawn = masks_lib.uniform(n, max(count, len(given)), rng, given=given)

    def values(rows: np.ndarray, size: int | None) -> np.ndarray:
        return evaluate(value_fn, drawn[rows], batch_size=size, mesh=mesh, progress=False, nonfinite=nonfinite)

    def change(other: np.ndarray) -> float:
        return float(np.nan_to_num(np.abs(other - together)).max())

    everything, order = np.arange(len(drawn)), rng.permutation(len(drawn))
    size = len(drawn) if batch_size is None else batch_size
    together = values(everything, size)
    effects = np.abs(together[1 : len(given)] - together[0])
    return BatchInvariance(
        alone=change(values(everything, 1)),
        order=change(values(order, size)[np.argsort(order)]),
        again=change(values(everything, size)),
        effects=np.sort(effects[np.isfinite(effects)]),
        spread=float(np.std(together[np.isfinite(together)])),
        masks=len(drawn),
    )
