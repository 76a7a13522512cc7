"""A table of ablations made ready for the device: distinct rows, values of mean 0 and variance 1, padded to shapes that
are shared.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.spectrum import Spectrum
from spex_jax.core.walsh import signs

__all__ = [
    "FOLDS",
    "Fitted",
    "Table",
    "feature_bucket",
    "limit_outliers",
    "prepare",
    "row_bucket",
    "trust",
]

_ROW_BUCKETS = (64, 128, 256, 512, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192)
_FEATURE_BUCKET = 16
_FAR = 30
_FEWEST_ROWS = 10
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
      order: int [N], the row of the table given that each of these is, where all of them were distinct.
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
    order: np.ndarray

    @property
    def n(self) -> int:
        """The number of features."""
        return self.masks.shape[1]

    def as_given(self, numbers: np.ndarray) -> np.ndarray:
        """Returns numbers [N] of the rows in the order in which these were given."""
        found = np.empty_like(numbers)
        found[self.order] = numbers
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a proxy found, in units of the table.

    Attributes:
      spectrum: its terms.
      held_out: gives float64 [N], its prediction for each row when the row's fold was left out of the fit; nan for rows
        that no fit left out. A function, since not every fit is asked for it.
      covariance_factor: gives float64 [K, R] for bool [K, n]: F with the covariance of these coefficients F F^T. None
        where a proxy has no posterior. A function, so that only the terms that are kept are asked for.
    """

    spectrum: Spectrum
    held_out: Callable[[], np.ndarray]
    covariance_factor: Callable[[np.ndarray], np.ndarray] | None = None


def feature_bucket(n: int) -> int:
    """The number of features to which a table of n is padded."""
    return -(-n // _FEATURE_BUCKET) * _FEATURE_BUCKET


def row_bucket(rows: int) -> int:
    """The number of rows to which a table of so many is padded, so that programs are shared."""
    return next((size for size in _ROW_BUCKETS if size >= rows), -(-rows // 2048) * 2048)


def _scattered(masks: np.ndarray) -> np.ndarray:
    """Returns uint64 [M], numbers of the masks bool [M, n] whose order follows no feature."""
    mixed = masks_lib.hashes(masks_lib.pack(masks))
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # the finalizer of SplitMix64
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


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
        largest = np.abs(spread).max()  # whose square may be no number
        deviation = largest * np.sqrt(np.square(spread / largest).sum() / (len(masks) - len(first)))
        warnings.warn(
            f"{noisy} masks were given several times with different values "
            f"(noise: standard deviation {deviation:.3g}); averaged",
            stacklevel=4,
        )
    return masks[first], mean


def limit_outliers(values: np.ndarray) -> np.ndarray:
    """Values with what is far outside moved to the range of the others, with a warning.

    One value a thousand times the rest would leave nothing else to learn. Far is 30 interquartile ranges from the
    median, and no more than one value and one in a thousand besides: what happens more often is the function.
    """
    scaled = values / (np.abs(values).max() or 1.0)  # differences of numbers near the largest float would overflow
    low, median, high = np.quantile(scaled, [0.25, 0.5, 0.75])
    far = np.abs(scaled - median) > _FAR * (high - low)
    if high == low or not 0 < far.sum() <= 1 + len(values) // 1000:
        return values
    rest = values[~far]
    warnings.warn(
        f"{far.sum()} of {len(values)} values lie more than {_FAR} interquartile ranges from the median "
        f"(the farthest is {values[np.abs(scaled - median).argmax()]:.4g}); the fit takes them as "
        f"{rest.min():.4g} or {rest.max():.4g}, the range of the others",
        stacklevel=4,
    )
    return np.clip(values, rest.min(), rest.max())


def trust(held_out: Callable[[], np.ndarray], values: np.ndarray, n: int) -> float:
    """The share of a fit to believe, 1 where its out-of-fold predictions are better than none by two standard errors
    (more where these are known badly themselves).

    Below that it falls to 0, where they are no better: a table that says nothing must come out constant. So must one of
    fewer than ten rows, unless it is complete.

    Args:
      held_out: gives [N], what was predicted for each row when it was left out; nan where it never was.
      values: [N], of mean 0.
      n: the number of features.
    """
    if len(values) < _FEWEST_ROWS:
        return 1.0 if len(values) == 2**n else 0.0
    predicted = held_out()
    seen = np.isfinite(predicted)
    gain = values[seen] ** 2 - (values - predicted)[seen] ** 2
    error = gain.std() / np.sqrt(max(len(gain), 1))
    return float(np.clip(gain.mean() / (2 * (1 + 10 / len(gain)) * error), 0.0, 1.0)) if error > 0 else 1.0


def prepare(masks: Any, values: Any, seed: int = 0) -> Table | float:
    """Checks, deduplicates, orders, scales and pads a table of ablations.

    The rows are put in an order that their masks alone decide, and no other than at random: the folds, sums and ties of
    a fit are then the same however the rows were given.

    Args:
      masks: bool [M, n].
      values: [M].
      seed: of the folds.

    Returns:
      The table, or the one value of a function that is constant on these masks.

    Raises:
      ValueError: no rows, or what `check_masks` and `check_values` refuse.
    """
    masks_lib.check_not_traced("a fit")
    masks = masks_lib.check_masks(masks)
    if not len(masks):
        raise ValueError("a fit needs at least one ablation, got an empty table")
    values = masks_lib.check_values(values, masks)
    order = np.lexsort((values, _scattered(masks)))
    masks, values = masks[order], values[order]
    masks, values = average_duplicates(masks, values)
    standardised = masks_lib.standardise(limit_outliers(values))
    if isinstance(standardised, float):
        return standardised
    targets, mean, scale = standardised
    rows, n = masks.shape
    width = feature_bucket(n)
    padded = np.zeros((row_bucket(rows), width), np.float32)
    padded[:rows, :n] = signs(masks)
    fold = np.full(len(padded), -1, np.int32)
    fold[:rows] = np.random.default_rng(seed).permutation(rows) % FOLDS
    return Table(
        masks=masks,
        values=targets,
        mean=mean,
        scale=scale,
        signs=jax.device_put(padded),
        targets=jax.device_put(np.pad(targets, (0, len(padded) - rows)).astype(np.float32)),
        count=rows,
        fold=fold,
        used=jax.device_put(np.arange(width) < n),
        order=order,
    )
