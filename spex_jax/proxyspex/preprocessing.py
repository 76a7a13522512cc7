"""Prepares a table of ablations: distinct rows, values of mean 0 and variance 1, and shared shapes."""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.side_information import NOTHING, SideInformation
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
      mean, scale: the given values are mean + scale * (values + those of `base`).
      fold: int32 [N], as `Rows.fold`.
      order: int [N], the index of each row in the given table, if all its rows were distinct.
      known: what is known of the features.
      base: the spectrum that was known before, times its coefficient, in units of `values`; None for none.
      doubt: the relative standard error of that coefficient.
    """

    masks: np.ndarray
    values: np.ndarray
    mean: float
    scale: float
    fold: np.ndarray
    order: np.ndarray
    known: SideInformation = NOTHING
    base: Spectrum | None = None
    doubt: float = 0.0

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

    def in_units(self, values: np.ndarray) -> np.ndarray:
        """Returns values [N] of the table, or predictions of them, in the units of the given values."""
        whole = values if self.base is None else values + self.base(self.masks)
        return np.asarray(self.mean + self.scale * whole)


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


def prepare(masks: Any, values: Any, seed: int = 0, known: SideInformation = NOTHING) -> Table | Spectrum:
    """Checks, deduplicates, orders and scales a table of ablations.

    The rows are put in an order that depends on their masks alone and is random otherwise: the folds, sums and ties of
    a fit are then the same however the rows were given.

    Args:
      masks: bool [M, n].
      values: [M].
      seed: for the folds.
      known: what is known of the features.

    Returns:
      The table, or the spectrum of a function that is constant on these masks, or a known spectrum plus a constant.

    Raises:
      ValueError: no rows, or masks or values that `check_masks` and `check_values` refuse.
    """
    masks_lib.check_not_traced("a fit")
    masks = masks_lib.check_masks(masks)
    if not len(masks):
        raise ValueError("a fit needs at least one ablation, got an empty table")
    values = masks_lib.check_values(values, masks)
    order = np.lexsort((values, _scattered(masks)))
    masks, values = masks[order], values[order]
    masks, values = average_duplicates(masks, values)
    values = limit_outliers(values)
    base, doubt = None, 0.0
    if known.prior is not None:
        base, doubt = _base(known.prior, masks, values)
        values = values if base is None else values - base(masks)
    standardised = masks_lib.standardise(values)
    if isinstance(standardised, float):
        alone = Spectrum(np.zeros((1, masks.shape[1]), np.bool_), np.array([standardised]))
        return alone if base is None else base + alone
    targets, mean, scale = standardised
    fold = np.random.default_rng(seed).permutation(len(masks)) % FOLDS
    return Table(
        masks=masks,
        values=targets,
        mean=mean,
        scale=scale,
        fold=fold.astype(np.int32),
        order=order,
        known=known,
        base=None if base is None else base * (1 / scale),
        doubt=doubt,
    )


def _base(prior: Spectrum, masks: np.ndarray, values: np.ndarray) -> tuple[Spectrum | None, float]:
    """Returns a known spectrum without its constant, times the coefficient with which it explains values [N] at masks
    bool [N, n] best, and the relative standard error of that coefficient; None where it explains nothing.

    The coefficient c is that of least squares, times 1 - (its standard error / c)^2, or 0 (the positive part of James
    and Stein, 1961): a spectrum that has nothing to do with these values is left out, and otherwise nearly so.
    """
    varied = prior.take(prior.support.any(axis=1) & (prior.coefficients != 0))
    predicted = varied(masks)
    standardised = masks_lib.standardise(predicted)
    if isinstance(standardised, float):
        return None, 0.0
    predicted, _, scale = standardised
    centred = values - values.mean()
    coefficient = float(predicted @ centred) / len(values)
    error = float(np.sqrt(np.mean((centred - coefficient * predicted) ** 2) / len(values)))
    if not abs(coefficient) > error:
        return None, 0.0
    share = 1 - (error / coefficient) ** 2
    return Spectrum(varied.support, varied.coefficients * (share * coefficient / scale)), error / abs(
        share * coefficient
    )
