"""Leave-one-out: the effect of removing each unit alone."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from spex_jax.baselines.additive import additive_spectrum
from spex_jax.baselines.permutations import look_up
from spex_jax.baselines.surrogate import OwnMasks
from spex_jax.core import masks as masks_lib
from spex_jax.core.ablations import Ablations
from spex_jax.core.spectrum import Spectrum
from spex_jax.engine.evaluation import evaluate
from spex_jax.engine.value_function import ValueFunction, as_value_function

__all__ = ["LeaveOneOut", "leave_one_out", "left_out", "one_left_out"]


def one_left_out(n: int) -> np.ndarray:
    """Returns the full mask and every mask that removes one unit, bool [n + 1, n]."""
    return np.concatenate([np.ones((1, n), np.bool_), ~np.eye(n, dtype=np.bool_)])


def left_out(masks: Any, values: Any) -> Spectrum:
    """Computes `leave_one_out` from a table of ablations.

    Args:
      masks: bool [M, n], with the full one and all that remove one unit among them; others are not used. The values
        of equal rows are averaged.
      values: [M].

    Raises:
      ValueError: no table of ablations, or one that lacks a mask.
    """
    masks = masks_lib.check_masks(masks)
    values = masks_lib.check_values(values, masks)
    found = look_up(masks, values, one_left_out(masks.shape[1]), "leave_one_out")
    return additive_spectrum(found[0] - found[1:], float(found[0]))


def leave_one_out(
    value_fn: ValueFunction | Callable[[np.ndarray], Any], n: int | None = None, **options: Any
) -> Spectrum | list[Spectrum]:
    """Returns the effects f(all) - f(all but i), in n + 1 ablations; for a network's parts this is activation patching
    (Vig et al. 2020, https://arxiv.org/abs/2004.12265).

    It misses a part that another stands in for, and counts an effect that needs several parts once for each of them.

    Args:
      value_fn: a `ValueFunction`, or a callable with n given.
      n: the number of units of a callable.
      **options: see `spex_jax.evaluate`.

    Returns:
      One spectrum; where values are several numbers [T], a list with one for each.

    Raises:
      ValueError: see `spex_jax.evaluate`; no n, or a wrong one.
    """
    value_fn = as_value_function(value_fn, n, "leave_one_out", several=True)
    masks = one_left_out(value_fn.n)
    values = evaluate(value_fn, masks, **options)
    if values.ndim == 1:
        return left_out(masks, values)
    return [left_out(masks, column) for column in values.reshape(len(values), -1).T]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveOneOut(OwnMasks):
    """The method "leave_one_out" of `explain`; see `leave_one_out`.

    Its masks are the full one and every one that removes one unit, however large the budget; its fit uses no others.
    The empty mask comes last, for the report.
    """

    name: ClassVar[str] = "leave_one_out"

    def least(self, n: int) -> int:
        """Returns n + 2, or all masks where there are fewer."""
        return min(n + 2, 1 << min(n, 63))

    def draw(self, n: int, count: int, seed: int) -> tuple[np.ndarray, Any]:
        """Returns the full mask, those that remove one unit, and the empty one."""
        del count, seed
        masks = np.concatenate([one_left_out(n), np.zeros((1, n), np.bool_)])
        return masks[masks_lib.deduplicate(masks)[0]], None

    def fit(self, ablations: Ablations, seed: int) -> Spectrum:
        """Returns the effects of single units."""
        del seed
        return left_out(ablations.masks, ablations.values)
