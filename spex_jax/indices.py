"""The ten interaction indices as weights on a Walsh spectrum, in exact arithmetic.

Every index is a sum over the supersets of T of the Moebius transform mu with weights that depend on sizes alone, and mu
is such a sum of the spectrum F. So each is I(T) = sum_{R superset T} gain(|R|, |T|) F(R). In floating point the
alternating sums behind a gain lose every digit at degree 40; as fractions they are exact, and each is computed once.
"""

import functools
import math
from fractions import Fraction

__all__ = ["INDICES", "SHAPLEY_TYPE", "bernoulli", "gain"]

SHAPLEY_TYPE = ("SV", "SII", "k-SII", "STII", "FSII")  # which weigh small and large sets
INDICES = ("SV", "BV", "SII", "k-SII", "BII", "STII", "FSII", "FBII", "Moebius", "Fourier")


@functools.cache
def _weight(index: str, s: int, t: int, order: int) -> Fraction:
    """Weight of mu(S) in I(T), T a subset of S with sizes s >= t, for an index of maximal order `order`.

    SII: Grabisch and Roubens, 1999. BII: the same with uniform weights. STII: Sundararajan et al., ICML 2020. FSII,
    FBII: Tsai et al., JMLR 2023. k-SII is aggregated from SII in `gain`.
    """
    if index == "Moebius":
        return Fraction(s == t)
    if index in ("SV", "SII"):
        return Fraction(1, s - t + 1)
    if index in ("BV", "BII"):
        return Fraction(1, 2 ** (s - t))
    if index == "STII":
        if t < order or s < order:
            return Fraction(s == t)
        return Fraction(1, math.comb(s, order))
    if s <= order:
        return Fraction(s == t)
    sign = (-1) ** (order - t)
    if index == "FSII":
        if t == 0:
            return Fraction(0)
        spread = math.comb(order, t) * math.comb(s - 1, order)
        return sign * Fraction(t, order + t) * Fraction(spread, math.comb(s + order - 1, order + t))
    return Fraction(sign * math.comb(s - t - 1, order - t), 2 ** (s - t))  # FBII


@functools.cache
def bernoulli(m: int) -> Fraction:
    """The m-th Bernoulli number, with B_1 = -1/2."""
    return Fraction(m == 0) - sum(math.comb(m, k) * bernoulli(k) / (m - k + 1) for k in range(m))


@functools.cache
def gain(index: str, r: int, t: int, order: int) -> Fraction:
    """Weight of F(R) in I(T), T a subset of R with sizes r >= t, exactly.

    With mu(S) = (-2)^s sum_{R superset S} F(R), it is sum_{s=t}^{r} C(r-t, s-t) weight(s, t) (-2)^s. k-SII(T) is
    sum_{S superset T, s <= order} B_{s-t} SII(S) (Bordt and von Luxburg, AISTATS 2023, with the Bernoulli numbers of
    Theorem 6).
    """
    if index == "Fourier":
        return Fraction(r == t)
    if index == "k-SII":
        sizes = range(t, min(order, r) + 1)
        return sum((math.comb(r - t, s - t) * bernoulli(s - t) * gain("SII", r, s, order) for s in sizes), Fraction(0))
    if index in ("SV", "SII"):  # the alternating sum is an integral of (1 - 2x)^(r-t) over [0, 1]
        return Fraction((-2) ** t * ((r - t + 1) % 2), r - t + 1)
    return sum(
        (math.comb(r - t, s - t) * _weight(index, s, t, order) * (-2) ** s for s in range(t, r + 1)), Fraction(0)
    )
