"""Least squares on the characters of all sets of units up to an order, by which the faithful indices are fitted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from spex_jax.core import masks as masks_lib

__all__ = [
    "check_rows",
    "check_weights",
    "coefficients_up_to",
    "least_squares",
    "support_up_to",
    "table",
]

_MOST = 20_000  # coefficients, whose normal equations take 3.2 GB
_ELEMENTS = 2**24  # of the design that are in memory at a time, 128 MB
_SINGULAR = 1e-12  # reciprocal condition of normal equations below which they are not trusted
_REFINEMENTS = 2


def coefficients_up_to(n: int, order: int) -> int:
    """Returns the number of coefficients of least squares on all sets of at most `order` of n units, () included.

    Raises:
      ValueError: more than a least squares problem may have.
    """
    found = masks_lib.number_of_sets(n, order)
    if found > _MOST:
        raise ValueError(
            f"{n} units have {found:,} sets of up to {order}; least squares is for up to {_MOST:,} coefficients: use a "
            "lower order, or proxyspex, which needs no coefficient for every set"
        )
    return found


def support_up_to(n: int, order: int) -> np.ndarray:
    """Returns all sets of at most `order` units by size, () first, bool [K, n].

    Raises:
      ValueError: more than a least squares problem may have.
    """
    coefficients_up_to(n, order)
    return masks_lib.sets_up_to(n, order)


def check_rows(masks: np.ndarray, support: np.ndarray) -> None:
    """Raises ValueError where there are fewer masks than coefficients."""
    if len(masks) < len(support):
        raise ValueError(
            f"{len(support)} coefficients, one for each set of up to {support.sum(axis=1).max()} of {masks.shape[1]} "
            f"units, need at least as many ablations, got {len(masks)}: evaluate more masks, or use a lower order"
        )


def check_weights(weights: Any, masks: np.ndarray) -> np.ndarray:
    """Returns the weights of the rows as float64 [M].

    Raises:
      ValueError: another shape, or weights that are negative or not finite.
    """
    array = np.asarray(weights, np.float64)
    if array.shape != (len(masks),) or not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(
            f"weights must be {len(masks)} finite numbers that are not negative, one for each mask, "
            f"got shape {array.shape}"
        )
    return array


def least_squares(
    design: Callable[[np.ndarray], np.ndarray],
    count: int,
    masks: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    *,
    closed: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the z that minimises sum_m weights[m] (target[m] - design(masks)[m] @ z)^2; of several the shortest.

    Solves the normal equations with iterative refinement, in M K^2 operations and 8 K^2 bytes, and makes the design in
    parts. Where the masks do not determine z, or only barely, uses a singular value decomposition of the whole design,
    which is slow for many thousand coefficients.

    Args:
      design: masks bool [m, n] -> float64 [m, K].
      count: K, the number of coefficients.
      masks: bool [M, n].
      target: float64 [M].
      weights: float64 [M].
      closed: float64 [K], a direction to which every row of the design is orthogonal, and so is the answer.

    Returns:
      float64 [K].
    """
    root = np.sqrt(weights)
    at_once = max(1, _ELEMENTS // max(1, count))
    parts = [slice(start, start + at_once) for start in range(0, len(masks), at_once)]
    if len(masks) + (closed is not None) >= count:
        gram = np.zeros((count, count))
        for part in parts:
            rows = design(masks[part]) * root[part, None]
            gram += rows.T @ rows
        if closed is not None:
            gram += np.outer(closed, closed) * (np.trace(gram) / (count * max(1.0, closed @ closed)))
        size = np.abs(gram).sum(axis=0).max(initial=0.0)
        try:
            factor = scipy.linalg.cho_factor(gram.T, lower=True, overwrite_a=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            factor = None
        if factor is not None and scipy.linalg.lapack.dpocon(factor[0], size, uplo="L")[0] > _SINGULAR:
            found = np.zeros(count)
            for _ in range(1 + _REFINEMENTS):
                slope = np.zeros(count)
                for part in parts:
                    rows = design(masks[part])
                    slope += (weights[part] * (target[part] - rows @ found)) @ rows
                found += scipy.linalg.cho_solve(factor, slope, check_finite=False)
            return found
        del gram, factor
    whole = design(masks) * root[:, None]
    return np.asarray(np.linalg.lstsq(whole, target * root, rcond=None)[0])


def table(masks: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns a table of ablations, checked: masks bool [M, n], values float64 [M].

    Raises:
      ValueError: no such table, or a unit that is always kept or always removed.
    """
    masks = masks_lib.check_masks(masks)
    values = masks_lib.check_values(values, masks)
    varies = masks.any(axis=0) & ~masks.all(axis=0)
    if not varies.all():
        raise ValueError(
            f"every unit must be kept by some masks and removed by others; unit {int(np.argmin(varies))} is not: "
            "evaluate more masks"
        )
    return masks, values
