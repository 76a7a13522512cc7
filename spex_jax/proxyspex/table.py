"""A table of ablations made ready for the device: distinct rows, values of mean 0 and variance 1, padded to shapes that
are shared.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import masks as masks_lib
from spex_jax.spectrum import Spectrum
from spex_jax.walsh import signs

__all__ = ["FOLDS", "Fitted", "Table", "prepare"]

_ROW_BUCKETS = (64, 128, 256, 512, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192)
_FEATURE_BUCKET = 16
FOLDS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Distinct ablations in the form that every proxy takes.

    Attributes:
      masks: bool [N, n], distinct.
      values: float64 [N], mean 0, variance 1.
      mean, scale: the values given are mean + scale * values.
      signs: float32 [N', n'], padded with zeros; on the device.
      targets: float32 [N'], values padded with zeros; on the device.
      count: N.
      fold: int32 [N'], the fold of each row, 0 to FOLDS - 1 in equal parts at random; -1 on padding.
      used: bool [n'], True for the n real features; on the device.
    """

    masks: np.ndarray
    values: np.ndarray
    mean: float
    scale: float
    signs: jax.Array
    targets: jax.Array
    count: int
    fold: np.ndarray
    used: jax.Array

    @property
    def n(self) -> int:
        """The number of features."""
        return self.masks.shape[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a proxy found, in units of the table.

    Attributes:
      spectrum: its terms.
      held_out: gives float64 [N], its prediction for each row when the row's fold was left out of the fit. A function,
        since only a stack asks for it.
    """

    spectrum: Spectrum
    held_out: Callable[[], np.ndarray]


def _bucket(rows: int) -> int:
    return next((size for size in _ROW_BUCKETS if size >= rows), -(-rows // 2048) * 2048)


def average_duplicates(masks: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct masks and the mean of the values that each was given; different values are reported as a warning."""
    first, inverse = masks_lib.deduplicate(masks)
    if len(first) == len(masks):
        return masks, values
    # Means by shifts from the first value: the mean of equal values is then that value to the last bit.
    shift = values - values[first][inverse]
    mean = values[first] + np.bincount(inverse, shift) / np.bincount(inverse)
    spread = values - mean[inverse]
    noisy = len(np.unique(inverse[spread != 0]))
    if noisy:
        deviation = np.sqrt((spread**2).sum() / (len(masks) - len(first)))
        warnings.warn(
            f"{noisy} masks were given several times with different values "
            f"(noise: standard deviation {deviation:.3g}); averaged",
            stacklevel=4,
        )
    return masks[first], mean


def prepare(masks: Any, values: Any, seed: int = 0) -> Table | float:
    """Checks, deduplicates, scales and pads a table of ablations.

    Args:
      masks: bool [M, n].
      values: [M].
      seed: of the folds.

    Returns:
      The table, or the one value of a function that is constant on these masks.

    Raises:
      ValueError: no rows, or what `check_masks` and `check_values` refuse.
    """
    masks = masks_lib.check_masks(masks)
    if not len(masks):
        raise ValueError("a fit needs at least one ablation, got an empty table")
    values = masks_lib.check_values(values, masks)
    masks, values = average_duplicates(masks, values)
    # Dividing by the largest value first keeps 1e-300 and 1e+300 away from under- and overflow in the variance.
    largest = float(np.abs(values).max())
    scaled = values / largest if largest > 0 else values
    mean = float(scaled.mean())
    deviation = float(scaled.std())
    if deviation <= 4e-15:  # rounding of a constant
        return float(values.mean()) if largest < 1e300 else mean * largest
    rows, n = masks.shape
    width = -(-n // _FEATURE_BUCKET) * _FEATURE_BUCKET
    targets = (scaled - mean) / deviation
    padded = np.zeros((_bucket(rows), width), np.float32)
    padded[:rows, :n] = signs(masks)
    fold = np.full(len(padded), -1, np.int32)
    fold[:rows] = np.random.default_rng(seed).permutation(rows) % FOLDS
    return Table(
        masks=masks,
        values=targets,
        mean=mean * largest,
        scale=deviation * largest,
        signs=jnp.asarray(padded),
        targets=jnp.asarray(np.pad(targets, (0, len(padded) - rows)), jnp.float32),
        count=rows,
        fold=fold,
        used=jnp.arange(width) < n,
    )
