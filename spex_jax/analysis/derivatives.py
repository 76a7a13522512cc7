"""Discrete derivatives of one set of features: the masks that they need, and the index that they estimate."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.contexts import Contexts
from spex_jax.utils.seeds import Stream, generator

__all__ = ["Derivatives", "Values", "draw"]

_FITTED = 8  # fewest contexts for the regression on the derivatives of the spectrum


def draw(how: str, n: int, count: int, seed: int) -> np.ndarray:
    """Draws masks bool [count, n] whose features outside a set are its contexts, whatever the set.

    Args:
      how: a key of `spex_jax.core.contexts.DRAWS`.
      n: number of features.
      count: number of masks; a larger count returns the same masks and further ones.
      seed: seed of the draw.
    """
    uniform = generator(seed, Stream.CONTEXTS).random((count, n + 1))
    return uniform[:, 1:] < (uniform[:, :1] if how == "size" else 0.5)


class Values:
    """The values of a model, some known before and the others evaluated when they are needed.

    Attributes:
      asked: the number of masks that were evaluated.
      used: the number of masks known before that were needed.
    """

    def __init__(self, ask: Callable[[np.ndarray], np.ndarray] | None, masks: np.ndarray, values: np.ndarray):
        """Starts with the values float64 [K] of distinct masks bool [K, n]."""
        self._ask, self._masks, self._values = ask, masks, values
        self._touched = np.zeros(len(masks), np.bool_)
        self.asked = 0

    @property
    def used(self) -> int:
        """The number of masks known before that were needed."""
        return int(self._touched.sum())

    @property
    def rounding(self) -> float:
        """The largest rounding error of one value; that of float32 where all values are float32 numbers."""
        with np.errstate(over="ignore"):
            single = bool((self._values.astype(np.float32) == self._values).all())
        return float(np.finfo(np.float32 if single else np.float64).eps / 2 * np.abs(self._values).max(initial=0.0))

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        """Returns the values float64 [M] of distinct masks bool [M, n].

        Raises:
          ValueError: a value is not finite, or a mask is not known and there is no value function.
        """
        known = len(self._masks)
        first, inverse = masks_lib.deduplicate(np.concatenate([self._masks, masks]))
        where = inverse[known:]
        todo = masks[first[first >= known] - known]
        if len(todo):
            if self._ask is None:
                raise ValueError(
                    f"{len(todo)} ablations are not known, and there is no value function to evaluate: give value_fn= "
                    "(an explanation loaded from a folder has none)"
                )
            found = masks_lib.check_values(self._ask(todo), todo)
            self._masks, self._values = np.concatenate([self._masks, todo]), np.concatenate([self._values, found])
            self.asked += len(todo)
        before = len(self._touched)
        self._touched[where[where < before]] = True
        return np.asarray(self._values[where])


class Derivatives:
    """The discrete derivatives of one set, and the estimate of an index from them.

    Attributes:
      members: the set.
      fixed: the number of contexts that are always taken.
      drawn: the number of drawn contexts that are available.
    """

    def __init__(self, members: tuple[int, ...], n: int, plan: Contexts, most: int, drawn: Callable[[str], np.ndarray]):
        """Chooses the contexts.

        Args:
          members: features, sorted.
          n: number of features.
          plan: how the index weighs contexts.
          most: the most contexts; where the other features have no more subsets, all are taken and none is drawn.
          drawn: returns the masks of `draw` for a key of DRAWS.

        Raises:
          ValueError: the contexts that the index weighs one by one are more than `most`.
        """
        self.members = members
        others = np.setdiff1d(np.arange(n), members)
        m, contexts = len(others), np.zeros((0, n), np.bool_)
        by_size = plan.by_size()
        self.amplification = float(np.abs(by_size).sum())  # factor from the error of derivatives to that of the index
        if plan.draw != "none" and m < 63 and 2**m <= most:
            fixed = np.zeros((2**m, n), np.bool_)
            fixed[:, others] = masks_lib.all_masks(m)
            each = {size: by_size[size] / math.comb(m, size) for size in range(m + 1)}
        else:
            count = sum(math.comb(m, size) for size in plan.whole)
            if count > most:
                raise ValueError(
                    f"this index weighs {count} contexts of {members!r} one by one, more than contexts={most}; give "
                    "more, or validate SII"
                )
            fixed = np.zeros((count, n), np.bool_)
            kept = (subset for size in plan.whole for subset in combinations(others.tolist(), size))
            for row, subset in zip(fixed, kept, strict=True):
                row[list(subset)] = True
            each = {size: weight / math.comb(m, size) for size, weight in plan.whole.items()}
            if plan.draw != "none":
                contexts = drawn(plan.draw).copy()
                contexts[:, list(members)] = False
        self._weights = np.array([each[size] for size in fixed.sum(axis=1).tolist()])
        self._ratios = plan.ratios[contexts.sum(axis=1)]
        self._contexts = np.concatenate([fixed, contexts])
        self._corners = masks_lib.all_masks(len(members))
        self._signs = 1.0 - 2.0 * ((len(members) - self._corners.sum(axis=1)) % 2)
        self.fixed, self.drawn = len(fixed), len(contexts)

    def masks(self, count: int) -> np.ndarray:
        """Returns the corners in the fixed contexts and the first `count` drawn ones, bool [(fixed + count) 2^s, n]."""
        masks = np.repeat(self._contexts[: self.fixed + count], len(self._corners), axis=0)
        masks[:, list(self.members)] = np.tile(self._corners, (self.fixed + count, 1))
        return masks

    def estimate(self, real: np.ndarray, surrogate: np.ndarray, predicted: float) -> tuple[float, float, float]:
        """Estimates the index of the model.

        Args:
          real: float64, values of the model at `masks(count)`.
          surrogate: values of the spectrum at the same masks.
          predicted: the index of the spectrum.

        Returns:
          The estimate, the half-width of its 95% interval, and the range of the derivatives in drawn contexts.
        """
        from scipy import special

        own = real.reshape(-1, len(self._corners)) @ self._signs
        other = surrogate.reshape(-1, len(self._corners)) @ self._signs
        total = float(self._weights @ own[: self.fixed])
        count = len(own) - self.fixed
        if not count:
            return total, 0.0, 0.0
        y, x = self._ratios[:count] * own[self.fixed :], self._ratios[:count] * other[self.fixed :]
        mean, deviation = y.mean(), x - x.mean()
        left, lost, leverage = y - mean, 1, 0.0
        power = float(deviation @ deviation)
        if count >= _FITTED and power > 1e-18 * count * float(x @ x):
            # The mean of x over all contexts is known, so the regression line is evaluated there.
            slope = float(deviation @ y) / power
            away = predicted - float(self._weights @ other[: self.fixed]) - x.mean()
            mean, left, lost, leverage = mean + slope * away, left - slope * deviation, 2, away**2 / power
        error = math.sqrt(float(left @ left) / (count - lost) * (1 / count + leverage))
        half = float(special.stdtrit(count - lost, 0.975)) * error
        return total + float(mean), half, float(np.ptp(own[self.fixed :]))
