"""Base classes of baselines as methods of `explain`; their answers are those of a surrogate."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from spex_jax.core import sampling
from spex_jax.methods import Method

__all__ = ["OwnMasks", "Regression", "ShrunkRegression"]

_FEWEST_ROWS = 12  # for shrunk regressions, which could be fitted to any number


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnMasks(Method):
    """A surrogate whose masks follow from n and the budget, and which needs all of them."""

    exact: ClassVar[bool] = False
    from_any_masks: ClassVar[bool] = False

    def least(self, n: int) -> int:
        """Returns n + 1."""
        return n + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Method):
    """A regression on masks from one of the samplings."""

    exact: ClassVar[bool] = False

    def drawn(self) -> sampling.Sampling:
        """Returns how the masks are drawn."""
        return "uniform"

    def check(self, seed: int) -> None:
        """Raises ValueError for options that could not be used."""
        super().check(seed)
        sampling.check(self.drawn())

    def draw(self, n: int, count: int, seed: int) -> tuple[np.ndarray, Any]:
        """Returns masks from the sampling."""
        return sampling.draw(self.drawn(), n, count, seed), None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShrunkRegression(Regression):
    """A regression whose coefficients are shrunk, so that it can do with fewer masks than units."""

    def least(self, n: int) -> int:
        """Returns 12, or all masks where there are fewer."""
        return min(_FEWEST_ROWS, 1 << min(n, 63))
