"""Banzhaf and Shapley values, and the interactions of low order that are faithful to a function, from a table of
ablations.

All but one are regressions on the characters of all sets up to an order, which fit the spectrum of a surrogate. Equal
rows count as often as they stand in the table. Where masks leave coefficients open, the docstring of each tells which
of the solutions is returned.
"""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import numpy as np

from spex_jax.baselines.additive import additive_spectrum
from spex_jax.baselines.regression import (
    check_rows,
    check_weights,
    coefficients_up_to,
    least_squares,
    support_up_to,
    table,
)
from spex_jax.baselines.surrogate import Regression
from spex_jax.core.ablations import Ablations
from spex_jax.core.masks import check_whole
from spex_jax.core.sampling import PAIRED, Sampling
from spex_jax.core.spectrum import Spectrum
from spex_jax.core.walsh import subset_characters

__all__ = [
    "Banzhaf",
    "Estimator",
    "FaithBanzhaf",
    "FaithShapley",
    "KernelSHAP",
    "banzhaf",
    "faith_banzhaf",
    "faith_shapley",
    "kernel_shap",
]

Estimator = Literal["regression", "reuse"]


def banzhaf(masks: Any, values: Any, *, estimator: Estimator = "regression") -> Spectrum:
    """Estimates Banzhaf values (Data Banzhaf: Wang and Jia 2023, https://arxiv.org/abs/2205.15466).

    Args:
      masks: bool [M, n], uniform.
      values: [M].
      estimator: "regression" (least squares of first order: `faith_banzhaf` of order 1), or "reuse" (maximum sample
        reuse, section 4 of the paper: for each unit the mean value with it minus the mean without), which needs no
        more than two masks and is noisier.

    Raises:
      ValueError: no table of ablations, a unit that is always kept or always removed, an unknown estimator, or fewer
        than n + 1 masks for the regression.
    """
    Banzhaf(estimator=estimator).check_choices()
    if estimator == "regression":
        return faith_banzhaf(masks, values, order=1)
    masks, values = table(masks, values)
    middle, kept = _middle(values), masks.astype(np.float64)
    values = values - middle
    effects = values @ kept / kept.sum(axis=0) - values @ (1 - kept) / (1 - kept).sum(axis=0)
    return additive_spectrum(effects, float(middle + values.mean() + effects.sum() / 2))


def faith_banzhaf(masks: Any, values: Any, *, order: int = 2, weights: Any = None) -> Spectrum:
    """Fits least squares on all sets of up to `order` units; on all masks this gives the Faithful Banzhaf interactions
    (Tsai et al. 2023, https://arxiv.org/abs/2203.00870; Hammer and Holzman 1992).

    K = sum of C(n, s), s <= order, coefficients take M K^2 operations and 8 K^2 bytes: 128 units have 8,257 at order 2.
    With little more than K masks the answer amplifies their noise many times. Where masks leave coefficients open they
    are the smallest that fit.

    Args:
      masks: bool [M, n], uniform.
      values: [M].
      order: the size of the largest set; more than n means n.
      weights: [M], one for each row; None weighs all alike.

    Returns:
      The spectrum of the surrogate with all K terms; its `interactions("FBII", order)` are the estimates.

    Raises:
      ValueError: no table of ablations, a unit that is always kept or always removed, fewer masks than coefficients, or
        more than 20,000 of them.
    """
    masks, values = table(masks, values)
    check_whole("order", order, 1)
    support = support_up_to(masks.shape[1], int(order))
    check_rows(masks, support)
    return _free(masks, values, support, np.ones(len(masks)) if weights is None else check_weights(weights, masks))


def kernel_shap(masks: Any, values: Any, *, weights: Any = None) -> Spectrum:
    """Fits the regression of KernelSHAP (Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874, theorem 2), which
    gives Shapley values; for trainings Data Shapley (Ghorbani and Zou 2019, https://arxiv.org/abs/1904.02868).

    Hardly any uniform masks are small or large, where the kernel has its weight: with many units the estimate is
    consistent but noisy. It sums to f(all) - f(none) where both were evaluated; what fewer masks than units leave open
    is shared equally.

    Args:
      masks: bool [M, n], uniform within each coalition size.
      values: [M].
      weights: [M], one for each row; None is the kernel of all masks of a size over the number of rows of that size.

    Raises:
      ValueError: no table of ablations, or a unit that is always kept or always removed.
    """
    return _shapley(*table(masks, values), order=1, weights=weights)


def faith_shapley(masks: Any, values: Any, *, order: int = 2, weights: Any = None) -> Spectrum:
    """Fits the regression of KernelSHAP on all sets of up to `order` units; on all masks this gives the Faithful
    Shapley interactions (Faith-Shap: Tsai et al. 2023, https://arxiv.org/abs/2203.00870).

    The surrogate equals f at the full and the empty mask where both were evaluated; otherwise it has no constraint. The
    cost is that of `faith_banzhaf`. Where masks leave coefficients open they are those that deviate least from equal
    single effects and no interactions. A mask and its complement give one equation for the odd coefficients and one for
    the even ones: as many pairs as the larger of the two groups has coefficients determine all.

    Args:
      masks: bool [M, n], uniform within each coalition size.
      values: [M].
      order: the size of the largest set; more than n means n.
      weights: [M], one for each row, not used for full and empty ones; None is the kernel of all masks of a size over
        the number of rows of that size.

    Returns:
      The spectrum of the surrogate with all K terms; its `interactions("FSII", order)` are the estimates.

    Raises:
      ValueError: no table of ablations, a unit that is always kept or always removed, fewer masks than coefficients, or
        more than 20,000 of them.
    """
    masks, values = table(masks, values)
    check_whole("order", order, 1)
    check_rows(masks, support_up_to(masks.shape[1], int(order)))
    return _shapley(masks, values, order=int(order), weights=weights)


def _middle(values: np.ndarray) -> float:
    """Returns the middle between the extremes; constant values minus it are exactly 0."""
    return float(values.min() / 2 + values.max() / 2)


def _free(masks: np.ndarray, values: np.ndarray, support: np.ndarray, weights: np.ndarray) -> Spectrum:
    """Fits weighted least squares on the characters of all sets of `support`, of which () is the first."""
    middle = _middle(values)
    coefficients = least_squares(
        lambda part: subset_characters(part, support).astype(np.float64),
        len(support),
        masks,
        values - middle,
        weights,
    )
    coefficients[0] += middle
    return Spectrum(support=support, coefficients=coefficients)


def _shapley(masks: np.ndarray, values: np.ndarray, *, order: int, weights: Any) -> Spectrum:
    n = masks.shape[1]
    support = support_up_to(n, order)
    size = masks.sum(axis=1)
    inner = (size > 0) & (size < n)
    drawn = np.bincount(size, minlength=n + 1)
    if weights is None:
        # The kernel of all sets of a size, (n - 1) / (s (n - s)), shared by those that were drawn.
        weights = (n - 1) / np.maximum(size * (n - size), 1) / drawn[size]
    weights = check_weights(weights, masks)[inner]
    if not (drawn[0] and drawn[n]):
        return _free(masks[inner], values[inner], support, weights)
    none, every = values[size == 0].mean(), values[size == n].mean()
    # The surrogate equals f at both ends where its even coefficients sum to `even` and its odd ones to `odd`. It starts
    # from `even` at () and equal shares of `odd` at the single units. The fitted deviation from these sums to 0 in its
    # odd part, and the coefficient of () makes its even part do so.
    even, odd = none / 2 + every / 2, none / 2 - every / 2
    sets = support[1:]
    is_odd = sets.sum(axis=1) % 2 == 1

    def design(part: np.ndarray) -> np.ndarray:
        found = subset_characters(part, sets).astype(np.float64)
        found -= np.where(is_odd, found[:, is_odd].mean(axis=1, keepdims=True), 1.0)
        return found

    shares = odd / n * (n - 2.0 * size[inner])
    deviation = least_squares(
        design, len(sets), masks[inner], values[inner] - even - shares, weights, closed=is_odd.astype(np.float64)
    )
    deviation[is_odd] -= deviation[is_odd].mean()
    coefficients = np.concatenate([[even - deviation[~is_odd].sum()], deviation])
    coefficients[1 : n + 1] += odd / n
    return Spectrum(support=support, coefficients=coefficients)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Banzhaf(Regression):
    """The method "banzhaf" of `explain`; see `banzhaf`.

    Attributes:
      estimator: "regression" (least squares) or "reuse" (maximum sample reuse).
    """

    name: ClassVar[str] = "banzhaf"
    estimator: Estimator = "regression"

    def least(self, n: int) -> int:
        """Returns n + 1, a mask for each coefficient."""
        return n + 1

    def fit(self, ablations: Ablations, seed: int) -> Spectrum:
        """Returns the surrogate of first order."""
        del seed
        return banzhaf(ablations.masks, ablations.values, estimator=self.estimator)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaithBanzhaf(Regression):
    """The method "faith_banzhaf" of `explain`; see `faith_banzhaf`.

    Attributes:
      order: the size of the largest set.
    """

    name: ClassVar[str] = "faith_banzhaf"
    order: int = 2

    def check(self, seed: int) -> None:
        """Raises ValueError for options that could not be used."""
        super().check(seed)
        check_whole("order", self.order, 1)

    def least(self, n: int) -> int:
        """Returns the number of coefficients."""
        return coefficients_up_to(n, self.order)

    def fit(self, ablations: Ablations, seed: int) -> Spectrum:
        """Returns the surrogate of this order."""
        del seed
        return faith_banzhaf(ablations.masks, ablations.values, order=self.order)


def _least_shapley(n: int, order: int, sampling: Sampling) -> int:
    """Returns the fewest masks of a sampling that determine the surrogate of this order."""
    order = min(order, n)
    fewest = coefficients_up_to(n, order)
    if sampling in PAIRED:
        # A pair of complements gives one equation for the odd coefficients and one for the even ones; the pair of the
        # full and the empty mask constrains both.
        groups = [sum(math.comb(n, size) for size in range(first, order + 1, 2)) for first in (0, 1)]
        fewest = 2 * max(groups)
    return min(fewest, 1 << min(n, 63))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaithShapley(Regression):
    """The method "faith_shapley" of `explain`; see `faith_shapley`.

    Attributes:
      order: the size of the largest set.
      sampling: how masks are drawn (see `sampling.draw`); None is "kernel_shap".
    """

    name: ClassVar[str] = "faith_shapley"
    order: int = 2
    sampling: Sampling | None = None

    def drawn(self) -> Sampling:
        """Returns how the masks are drawn."""
        return self.sampling or "kernel_shap"

    def check(self, seed: int) -> None:
        """Raises ValueError for options that could not be used."""
        super().check(seed)
        check_whole("order", self.order, 1)

    def least(self, n: int) -> int:
        """Returns the fewest masks that determine all coefficients."""
        return _least_shapley(n, self.order, self.drawn())

    def fit(self, ablations: Ablations, seed: int) -> Spectrum:
        """Returns the surrogate of this order."""
        del seed
        return faith_shapley(ablations.masks, ablations.values, order=self.order)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelSHAP(Regression):
    """The method "kernel_shap" of `explain`; see `kernel_shap`.

    Attributes:
      sampling: how masks are drawn (see `sampling.draw`); None is "kernel_shap".
    """

    name: ClassVar[str] = "kernel_shap"
    sampling: Sampling | None = None

    def drawn(self) -> Sampling:
        """Returns how the masks are drawn."""
        return self.sampling or "kernel_shap"

    def least(self, n: int) -> int:
        """Returns the fewest masks that determine all coefficients."""
        return _least_shapley(n, 1, self.drawn())

    def fit(self, ablations: Ablations, seed: int) -> Spectrum:
        """Returns the surrogate of first order."""
        del seed
        return kernel_shap(ablations.masks, ablations.values)
