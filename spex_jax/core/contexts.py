"""How an interaction index weighs contexts, so that a measurement on a model estimates the index itself.

The discrete derivative of a set S, Delta_S(T) = sum_{W subset S} (-1)^{|S| - |W|} f(T u W), is the effect of S beyond
its parts in the context T, the other features that are kept. Let D(p) be its mean over contexts that keep each of the m
other features with probability p: D(p) = sum_{R superset S} mu(R) p^(|R| - |S|). Every index is a functional of D (see
`spex_jax.core.indices` for the functional of each).

Some of these weights are negative. As weights of the sizes of T they are the only ones that give the index for every f.
"""

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

__all__ = ["DRAWS", "Contexts"]

DRAWS = {
    "uniform": "each of the other features is kept with probability 1/2",
    "size": "the number of other features that are kept is uniform",
    "none": "none of the other features is kept",
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contexts:
    """How an index weighs the derivatives of a set of s features, in contexts of the m = n - s other features.

    Attributes:
      draw: how contexts are drawn, a key of DRAWS: "uniform" keeps each other feature with probability 1/2; "size"
        first draws this probability uniformly, so that all sizes are equally likely; "none" draws nothing.
      ratios: float64 [m + 1], the factor of a derivative at a drawn context, by the size of the context.
      whole: sizes of which all contexts are taken in addition, with the weight of the mean derivative over them.
      scale: the sum of all weights, 1 except for Fourier.
    """

    draw: str
    ratios: np.ndarray
    whole: Mapping[int, float] = dataclasses.field(default_factory=dict)
    scale: float = 1.0

    @classmethod
    def empty(cls, m: int) -> "Contexts":
        """Returns the contexts of D(0): the empty context alone, with m other features."""
        return cls(draw="none", ratios=np.zeros(m + 1), whole={0: 1.0})

    @classmethod
    def integral(
        cls, m: int, density: Mapping[int, Fraction], whole: Mapping[int, Fraction] | None = None
    ) -> "Contexts":
        """Returns the contexts of the integral over [0, 1] of D(p) times a polynomial.

        Args:
          m: number of other features.
          density: coefficients of the polynomial by power of p.
          whole: weights by size, which are added, of the mean derivatives over all contexts of that size.
        """
        # The integral of p^i over binomial sizes, times the m + 1 of the uniform draw: (k+1)...(k+i) / (m+2)...(m+i+1).
        ratios = [
            float(sum(c * Fraction(_rising(k + 1, i), _rising(m + 2, i)) for i, c in density.items()))
            for k in range(m + 1)
        ]
        taken = {size: float(weight) for size, weight in (whole or {}).items() if weight}
        return cls(draw="size", ratios=np.array(ratios), whole=taken)

    def by_size(self) -> np.ndarray:
        """Returns the weights float64 [m + 1] of the mean derivatives over all contexts of each size."""
        from scipy import stats

        m = len(self.ratios) - 1
        share = stats.binom.pmf(np.arange(m + 1), m, 0.5) if self.draw == "uniform" else 1 / (m + 1)
        weights = self.ratios * share
        for size, weight in self.whole.items():
            weights[size] += weight
        return weights

    def by_context(self) -> np.ndarray:
        """Returns the weight float64 [m + 1] of the derivative at one context, by the size of the context."""
        from scipy import special

        m = len(self.ratios) - 1
        alike = special.comb(m, np.arange(m + 1))  # contexts of each size
        weights = self.ratios * 0.5**m if self.draw == "uniform" else self.ratios / ((m + 1) * alike)
        for size, weight in self.whole.items():
            weights[size] += weight / alike[size]
        return weights


def _rising(start: int, factors: int) -> int:
    return math.prod(range(start, start + factors))
