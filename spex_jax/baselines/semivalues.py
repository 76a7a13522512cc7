"""Data Banzhaf and Data Shapley from a table of ablations that was asked for something else."""

from typing import Any

import numpy as np

from spex_jax import masks as masks_lib
from spex_jax.baselines.additive import additive_spectrum
from spex_jax.spectrum import Spectrum

__all__ = ["banzhaf", "shapley"]


def _table(masks: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    masks = masks_lib.check_masks(masks)
    values = masks_lib.check_values(values, masks)
    varies = masks.any(axis=0) & ~masks.all(axis=0)
    if not varies.all():
        raise ValueError(
            f"every unit must be kept by some masks and removed by others; unit {int(np.argmin(varies))} is not: "
            "ask more masks"
        )
    return masks, values


def banzhaf(masks: Any, values: Any) -> Spectrum:
    """Data Banzhaf by maximum sample reuse: of each unit the mean value with it less the mean without (Wang and Jia
    2023, https://arxiv.org/abs/2205.15466, section 4).

    Args:
      masks: bool [M, n], uniform; one that stands in several rows counts as often.
      values: [M].

    Raises:
      ValueError: no table of ablations, or a unit that is always kept or always removed.
    """
    masks, values = _table(masks, values)
    kept = masks.astype(np.float64)
    effects = values @ kept / kept.sum(axis=0) - values @ (1 - kept) / (1 - kept).sum(axis=0)
    return additive_spectrum(effects, float(values.mean() + effects.sum() / 2))


def shapley(masks: Any, values: Any) -> Spectrum:
    """Data Shapley (Ghorbani and Zou 2019, https://arxiv.org/abs/1904.02868) by the regression of KernelSHAP (Lundberg
    and Lee 2017, https://arxiv.org/abs/1705.07874, theorem 2), with masks weighted by the kernel over how often their
    size was drawn.

    Of uniform masks hardly any are small or large, where the kernel has its weight: with many units it is consistent
    and noisy. It sums to f(all) - f(none) where both were asked; what fewer masks than units leave open is shared
    equally.

    Args:
      masks: bool [M, n], of each size uniform; one that stands in several rows counts as often.
      values: [M].

    Raises:
      ValueError: no table of ablations, or a unit that is always kept or always removed.
    """
    masks, values = _table(masks, values)
    n = masks.shape[1]
    size = masks.sum(axis=1)
    inner = (size > 0) & (size < n)
    drawn = np.bincount(size, minlength=n + 1)
    # The kernel of all sets of a size, (n - 1) / (s (n - s)), shared by those that were drawn.
    weight = (n - 1) / np.maximum(size * (n - size), 1) / drawn[size]
    ends = [values[size == end].mean() if drawn[end] else np.nan for end in (0, n)]
    x, y, root = masks[inner].astype(np.float64), values[inner], np.sqrt(weight[inner])
    if np.isnan(ends).any():  # without the ends, an intercept and no constraint
        design = np.column_stack([np.ones(len(x)), x])
        found = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
        return additive_spectrum(found[1:], float(found.sum()))
    total = ends[1] - ends[0]
    # Equal shares of f(all) - f(none), and what deviates from them and sums to 0: of too few masks the least deviation.
    share = total / n
    design, target = x - x.mean(axis=1, keepdims=True), y - ends[0] - x.sum(axis=1) * share
    return additive_spectrum(
        share + np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0], float(ends[1])
    )
