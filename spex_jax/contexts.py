"""Which contexts an interaction index averages over, so that a measurement on a model estimates the index itself.

The discrete derivative of a set S, Delta_S(T) = sum_{W subset S} (-1)^{|S| - |W|} f(T u W), is what S does beyond its
parts where the features T of the others are kept. With D(p) its mean over contexts in which each of the m others is
kept with probability p, D(p) = sum_{R superset S} mu(R) p^(|R| - |S|), every index is a functional of D:

  BII D(1/2); Fourier (-1/2)^|S| D(1/2); Moebius, and STII below its order, D(0)
  SII, SV, and k-SII of its order: the integral of D; STII of its order l, of D(p) l (1-p)^(l-1)
  FSII: the integral of D(p) times a polynomial, for sets of its order l the density of Beta(l, l)
  FBII: the Taylor polynomial of D around 1/2, of degree l - |S|, at 0
  k-SII below its order: the integral of D and sum_{j = 1}^{k - |S|} B_j / j! (D^(j-1)(1) - D^(j-1)(0))

Some of these weights are negative. As weights of the sizes of T they are the only ones that give the index for every f.
"""

import dataclasses
import math
from fractions import Fraction

import numpy as np
from scipy import stats

from spex_jax.indices import bernoulli

__all__ = ["DRAWS", "Contexts", "contexts_of"]

_HALF = ("BV", "BII", "FBII", "Fourier")

DRAWS = {
    "uniform": "each of the other features is kept with probability 1/2",
    "size": "the number of other features that are kept is uniform",
    "none": "none of the other features is kept",
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contexts:
    """How an index weighs the derivatives of a set of s among n features, m = n - s of them others.

    Attributes:
      draw: how contexts are drawn, a key of DRAWS: "uniform" keeps each other feature with probability 1/2; "size"
        first draws this probability uniformly, so that all sizes are equally likely; "none" draws nothing.
      ratios: float64 [m + 1], what a derivative at a drawn context of this size is multiplied with.
      whole: sizes of which all contexts are taken besides, with the weight of the mean derivative over them.
      scale: the sum of all weights, 1 but for Fourier.
    """

    draw: str
    ratios: np.ndarray
    whole: dict[int, float]
    scale: float

    def by_size(self) -> np.ndarray:
        """Weights float64 [m + 1] of the mean derivatives over all contexts of each size."""
        m = len(self.ratios) - 1
        share = stats.binom.pmf(np.arange(m + 1), m, 0.5) if self.draw == "uniform" else 1 / (m + 1)
        weights = self.ratios * share
        for size, weight in self.whole.items():
            weights[size] += weight
        return weights


def contexts_of(index: str, size: int, n: int, order: int) -> Contexts:
    """The contexts of a set of `size` >= 1 of n features.

    Args:
      index: one of `spex_jax.indices.INDICES`.
      size: of the set, at most `order`.
      n: number of features.
      order: the largest order of the index.
    """
    m, below = n - size, order - size
    sizes = range(m + 1)
    ones, scale = np.ones(m + 1), 1.0
    if index == "Moebius" or (index == "STII" and below):
        return Contexts(draw="none", ratios=0 * ones, whole={0: 1.0}, scale=scale)
    if index in _HALF:
        if index == "FBII":
            ratios = np.array([float(sum((-1) ** i * _krawtchouk(m, k, i) for i in range(below + 1))) for k in sizes])
        else:
            scale = (-0.5) ** size if index == "Fourier" else 1.0
            ratios = scale * ones
        return Contexts(draw="uniform", ratios=ratios, whole={}, scale=scale)
    whole: dict[int, Fraction] = {}
    density = {0: Fraction(1)}
    if index == "STII":
        density = {i: Fraction(order * math.comb(order - 1, i) * (-1) ** i) for i in range(order)}
    elif index == "FSII":
        density = _fsii(size, order)
    elif index == "k-SII":
        for j in range(1, below + 1):
            for removed in range(min(j - 1, m) + 1):
                # D^(j-1) / (j-1)! at 0 and at 1 as differences of means over sizes.
                share = bernoulli(j) / j * math.comb(m, removed) * math.comb(m - removed, j - 1 - removed)
                whole[m - removed] = whole.get(m - removed, Fraction(0)) + (-1) ** removed * share
                whole[removed] = whole.get(removed, Fraction(0)) - (-1) ** (j - 1 - removed) * share
    # The integral of p^i over binomial sizes, times the m + 1 of the uniform draw: (k+1)...(k+i) / ((m+2)...(m+i+1)).
    ratios = np.array(
        [float(sum(c * Fraction(_rising(k + 1, i), _rising(m + 2, i)) for i, c in density.items())) for k in sizes]
    )
    return Contexts(draw="size", ratios=ratios, whole={k: float(w) for k, w in whole.items() if w}, scale=scale)


def _rising(start: int, factors: int) -> int:
    return math.prod(range(start, start + factors))


def _krawtchouk(m: int, k: int, degree: int) -> int:
    """The coefficient of x^degree in (1 + x)^k (1 - x)^(m - k)."""
    return sum((-1) ** (degree - a) * math.comb(k, a) * math.comb(m - k, degree - a) for a in range(degree + 1))


def _fsii(size: int, order: int) -> dict[int, Fraction]:
    """Coefficients by power of p of the density of FSII.

    Its weight of mu(R), |R| = size + j, is a rational function of j with the simple poles -size, ..., -(size + order -
    1); a part A / (j + a) is the moment of A p^(a-1).
    """
    t, spread = size, order - size
    constant = (-1) ** spread * Fraction(t * math.comb(order, t), order + t) * _rising(order + 1, t)
    found = {}
    for i in range(order):
        zeros = math.prod(-(t + i) - b for b in range(1, spread + 1))
        poles = math.prod(a - i for a in range(order) if a != i)
        found[t + i - 1] = constant * Fraction(zeros, poles)
    return found
