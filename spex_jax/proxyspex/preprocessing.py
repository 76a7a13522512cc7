"""Prepares a table of ablations: distinct rows, values of mean 0 and variance 1, and shared shapes."""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.coordinates import check_coordinates
from spex_jax.core.spectrum import Spectrum
from spex_jax.core.walsh import signs
from spex_jax.utils import array_api
from spex_jax.utils.array_api import Array

__all__ = [
    "FOLDS",
    "Fitted",
    "Rows",
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


class Rows(NamedTuple):
    """The rows of a table where the mathematics of a fit runs: NumPy arrays of N rows and n features on the host, or
    JAX arrays padded to few shapes on a device.

    Attributes:
      signs: float32 [N', n'], -1 where a feature is kept, 1 where it is removed, 0 on padding.
      targets: float32 [N'], the values, 0 on padding.
      fold: int32 [N'], the fold of each row, 0 to FOLDS - 1 in equal parts at random; -1 on padding.
      used: bool [n'], True for the n real features.
    """

    signs: Array
    targets: Array
    fold: Array
    used: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Distinct ablations in the form that every proxy takes.

    Attributes:
      masks: bool [N, n], distinct.
      values: float64 [N], mean 0, variance 1.
      mean, scale: the given values are mean + scale * values.
      fold: int32 [N], as `Rows.fold`.
      order: int [N], the index of each row in the given table, if all its rows were distinct.
      coordinates: float64 [n, d], where the features are; None where that is not known.
    """

    masks: np.ndarray
    values: np.ndarray
    mean: float
    scale: float
    fold: np.ndarray
    order: np.ndarray
    coordinates: np.ndarray | None = None

    @property
    def count(self) -> int:
        """The number of rows, N."""
        return len(self.masks)

    @functools.cached_property
    def on_host(self) -> Rows:
        """The rows without padding, as NumPy arrays."""
        return Rows(signs(self.masks), self.values.astype(np.float32), self.fold, np.ones(self.n, np.bool_))

    @functools.cached_property
    def on_device(self) -> Rows:
        """The rows padded to their buckets, as JAX arrays."""
        rows, n = row_bucket(self.count), feature_bucket(self.n)
        padded = np.zeros((rows, n), np.float32)
        padded[: self.count, : self.n] = signs(self.masks)
        targets, fold = np.zeros(rows, np.float32), np.full(rows, -1, np.int32)
        targets[: self.count], fold[: self.count] = self.values, self.fold
        found: Rows = jax.device_put(Rows(padded, targets, fold, np.arange(n) < self.n))
        return found

    @property
    def rows(self) -> Rows:
        """The rows where portable functions run fastest (see `array_api`): on the host, or on an accelerator."""
        return self.on_host if array_api.host_is_best() else self.on_device

    @property
    def n(self) -> int:
        """The number of features."""
        return int(self.masks.shape[1])

    def as_given(self, numbers: np.ndarray) -> np.ndarray:
        """Returns one number for each row, [N], in the order in which the rows were given."""
        found = np.empty_like(numbers)
        found[self.order] = numbers
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """The fit of a proxy, in units of the table.

    Attributes:
      spectrum: the terms.
      held_out: returns float64 [N], the prediction for each row by a fit without the row's fold; nan for rows that no
        fit left out. A function, since not every caller needs it.
      covariance_factor: returns float64 [K, R] for bool [K, n]: F, where F F^T is the covariance of these coefficients.
        None where a proxy has no posterior. A function, so that it is computed only for the terms that are kept.
    """

    spectrum: Spectrum
    held_out: Callable[[], np.ndarray]
    covariance_factor: Callable[[np.ndarray], np.ndarray] | None = None


def feature_bucket(n: int) -> int:
    """Returns the number of features to which a table of n features is padded."""
    return -(-n // _FEATURE_BUCKET) * _FEATURE_BUCKET


def row_bucket(rows: int) -> int:
    """Returns the number of rows to which a table of `rows` rows is padded, so that tables share programs."""
    return next((size for size in _ROW_BUCKETS if size >= rows), -(-rows // 2048) * 2048)


def _scattered(masks: np.ndarray) -> np.ndarray:
    """Returns a hash of each mask bool [M, n], uint64 [M], whose order follows no feature."""
    mixed = masks_lib.hashes(masks_lib.pack(masks))
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # the finalizer of SplitMix64
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def average_duplicates(masks: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct masks and the mean value of each; warns where the values of a mask differ."""
    first, inverse = masks_lib.deduplicate(masks)
    if len(first) == len(masks):
        return masks, values
    # Averages differences from the first value, so that the mean of equal values is that value to the last bit.
    shift = values - values[first][inverse]
    mean = values[first] + np.bincount(inverse, shift) / np.bincount(inverse)
    spread = values - mean[inverse]
    noisy = len(np.unique(inverse[spread != 0]))
    if noisy:
        largest = np.abs(spread).max()  # its square may overflow or underflow
        deviation = largest * np.sqrt(np.square(spread / largest).sum() / (len(masks) - len(first)))
        warnings.warn(
            f"{noisy} masks were given several times with different values "
            f"(noise: standard deviation {deviation:.3g}); averaged",
            stacklevel=4,
        )
    return masks[first], mean


def limit_outliers(values: np.ndarray) -> np.ndarray:
    """Moves outliers to the range of the other values, with a warning.

    One value a thousand times the rest would leave nothing else to learn. Outliers are more than 30 interquartile
    ranges from the median; if there are more of them than one plus one in a thousand, they belong to the function.
    """
    scaled = values / (np.abs(values).max() or 1.0)  # differences of values near the largest float would overflow
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
    return np.asarray(np.clip(values, rest.min(), rest.max()))


def trust(held_out: Callable[[], np.ndarray], values: np.ndarray, n: int) -> float:
    """Returns the share of a fit to trust: 1 where its out-of-fold predictions are better than the mean value by two
    standard errors (more where few rows make these uncertain themselves).

    Below that the share falls, to 0 where they are no better: a table without a signal must come out constant. So must
    one of fewer than ten rows, unless it is complete.

    Args:
      held_out: returns [N], the prediction for each row by a fit without it; nan for rows that no fit left out.
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


def prepare(masks: Any, values: Any, seed: int = 0, coordinates: Any = None) -> Table | float:
    """Checks, deduplicates, orders and scales a table of ablations.

    The rows are put in an order that depends on their masks alone and is random otherwise: the folds, sums and ties of
    a fit are then the same however the rows were given.

    Args:
      masks: bool [M, n].
      values: [M].
      seed: for the folds.
      coordinates: [n, d], see `fit`; or None.

    Returns:
      The table, or the value of a function that is constant on these masks.

    Raises:
      ValueError: no rows, or masks, values or coordinates that `check_masks`, `check_values` and `check_coordinates`
        refuse.
    """
    masks_lib.check_not_traced("a fit")
    masks = masks_lib.check_masks(masks)
    places = check_coordinates(coordinates, masks.shape[1])
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
    fold = np.random.default_rng(seed).permutation(len(masks)) % FOLDS
    return Table(
        masks=masks,
        values=targets,
        mean=mean,
        scale=scale,
        fold=fold.astype(np.int32),
        order=order,
        coordinates=places,
    )
