"""The interaction indices: one record each, which all other parts of the package read.

Every index sums the Moebius transform mu over the supersets of T, with weights that depend on sizes alone, and mu is
such a sum of the spectrum F. So each is I(T) = sum_{R superset T} gain(|R|, |T|) F(R). In floating point the
alternating sums behind a gain lose every digit at degree 40; as fractions they are exact, and each is computed once.

Each index is also a mean of discrete derivatives, with D(p) as in `spex_jax.core.contexts` and |S| the size of the set:

  BII D(1/2); Fourier (-1/2)^|S| D(1/2); Moebius, and STII below its order, D(0)
  SII, SV, and k-SII of its order: the integral of D; STII of its order l, of D(p) l (1-p)^(l-1)
  FSII: the integral of D(p) times a polynomial, for sets of its order l the density of Beta(l, l)
  FBII: the Taylor polynomial of D around 1/2, of degree l - |S|, at 0
  k-SII below its order: the integral of D and sum_{j = 1}^{k - |S|} B_j / j! (D^(j-1)(1) - D^(j-1)(0))

To add an index to the package, add a record at the end of this file, and a test. A program adds its own by
`register_index`, after which all public functions accept its name or the record itself:

    mine = Index(name="mine", formula=from_moebius(weight), contexts=contexts, empty=EmptySet.FORMULA, meaning="...")
    spex_jax.indices.register_index(mine)
"""

import dataclasses
import enum
import functools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from spex_jax.core.contexts import Contexts

__all__ = ["INDICES", "EmptySet", "Index", "find_index", "from_moebius", "register_index"]

Formula = Callable[[int, int, int], Fraction]


class EmptySet(enum.Enum):
    """The value that an index gives to the empty set."""

    VALUE = "the value f(none) of the empty mask"
    MEAN = "the mean of f over all masks"
    FORMULA = "what the formula gives"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """An interaction index.

    Attributes:
      name: the name that users give.
      formula: (r, t, order) -> Fraction, the exact weight of F(R) in I(T), T a subset of R with sizes r >= t, for an
        index of maximal order `order`; `from_moebius` makes it from weights of the Moebius transform. It is called
        with t = 0 only where `empty` is FORMULA.
      contexts: (size, n, order) -> Contexts, how the index weighs the derivatives of a set of `size` <= order of n
        features. It is called with size 0 only where the index is of Shapley type and `empty` is not VALUE.
      empty: the value of the empty set.
      meaning: one or two sentences for reports.
      shapley_type: whether it gives small and large coalitions as much weight as medium ones, as the Shapley value
        does. Masks are then drawn by size, and `spex_jax.analysis.correction` adds what the spectrum misses at them.
      largest: the size of the largest set that has a value, whatever max_order is; None where max_order decides.
      in_shapiq: whether the package shapiq has the same index by this name.
    """

    name: str
    formula: Formula
    contexts: Callable[[int, int, int], Contexts]
    empty: EmptySet
    meaning: str
    shapley_type: bool = False
    largest: int | None = None
    in_shapiq: bool = False

    def gain(self, r: int, t: int, order: int) -> Fraction:
        """Returns the weight of F(R) in I(T), T a subset of R with sizes r >= t, exactly."""
        if t == 0 and self.empty is EmptySet.VALUE:
            return Fraction(1)  # f(none) = sum_R F(R): no feature is kept, every character is 1
        if t == 0 and self.empty is EmptySet.MEAN:
            return Fraction(r == 0)
        return self.formula(r, t, order)

    def order(self, max_order: int) -> int:
        """Returns the size of the largest sets for a given `max_order`."""
        return max_order if self.largest is None else min(max_order, self.largest)

    @property
    def positive_lowers(self) -> bool:
        """Whether a positive index of a single feature means that keeping it lowers the value."""
        return self.gain(1, 1, 1) > 0  # (-1)^1 = -1: F({i}) > 0 lowers the value


def from_moebius(weight: Formula) -> Formula:
    """Returns the formula of an index, given its weights of the Moebius transform.

    With mu(S) = (-2)^s sum_{R superset S} F(R), it is sum_{s=t}^{r} C(r-t, s-t) weight(s, t, order) (-2)^s.

    Args:
      weight: (s, t, order) -> Fraction, the weight of mu(S) in I(T), T a subset of S with sizes s >= t.
    """

    @functools.cache
    def formula(r: int, t: int, order: int) -> Fraction:
        return sum((math.comb(r - t, s - t) * weight(s, t, order) * (-2) ** s for s in range(t, r + 1)), Fraction(0))

    return formula


def find_index(index: "str | Index") -> Index:
    """Returns the record of an index, given its name or the record itself.

    Raises:
      ValueError: the name is unknown, or the record is not registered.
    """
    if isinstance(index, Index):
        if INDICES.get(index.name) is not index:
            raise ValueError(
                f"the index {index.name!r} is not registered; register it with spex_jax.indices.register_index(index)"
            )
        return index
    if not isinstance(index, str) or index not in INDICES:
        raise ValueError(f"unknown index {index!r}; expected one of {', '.join(INDICES)}")
    return INDICES[index]


def register_index(index: Index) -> None:
    """Registers an index under its name, in this process.

    Raises:
      ValueError: not an `Index`, or another index has this name.
    """
    if not isinstance(index, Index):
        raise ValueError(f"expected a spex_jax.indices.Index, got {index!r:.80}")
    if INDICES.setdefault(index.name, index) is not index:
        raise ValueError(f"an index {index.name!r} is registered already; give this one another name")


@functools.cache
def _bernoulli(m: int) -> Fraction:
    """Returns the m-th Bernoulli number, with B_1 = -1/2."""
    return Fraction(m == 0) - sum(math.comb(m, k) * _bernoulli(k) / (m - k + 1) for k in range(m))


def _sii(r: int, t: int, order: int) -> Fraction:
    """Returns the gain of SII (Grabisch and Roubens, 1999): sum_{S superset T} mu(S) / (s - t + 1)."""
    del order
    return Fraction((-2) ** t * ((r - t + 1) % 2), r - t + 1)  # the integral of (1 - 2x)^(r-t) over [0, 1]


@functools.cache
def _ksii(r: int, t: int, order: int) -> Fraction:
    """Returns the gain of k-SII: sum_{S superset T, s <= order} B_{s-t} SII(S).

    Bordt and von Luxburg, AISTATS 2023, with the Bernoulli numbers of Theorem 6.
    """
    sizes = range(t, min(order, r) + 1)
    return sum((math.comb(r - t, s - t) * _bernoulli(s - t) * _sii(r, s, order) for s in sizes), Fraction(0))


def _fourier(r: int, t: int, order: int) -> Fraction:
    """Returns the gain of a Fourier coefficient: 1 for its own set, 0 for others."""
    del order
    return Fraction(r == t)


def _moebius(s: int, t: int, order: int) -> Fraction:
    """Returns the weight of mu(S) in mu(T)."""
    del order
    return Fraction(s == t)


def _bii(s: int, t: int, order: int) -> Fraction:
    """Returns the weight of mu(S) in BII(T) (Grabisch and Roubens, 1999)."""
    del order
    return Fraction(1, 2 ** (s - t))


def _stii(s: int, t: int, order: int) -> Fraction:
    """Returns the weight of mu(S) in STII(T) (Sundararajan et al., ICML 2020)."""
    if t < order or s < order:
        return Fraction(s == t)
    return Fraction(1, math.comb(s, order))


def _fsii(s: int, t: int, order: int) -> Fraction:
    """Returns the weight of mu(S) in FSII(T), t >= 1 (Tsai et al., JMLR 2023)."""
    if s <= order:
        return Fraction(s == t)
    sign = -1 if (order - t) % 2 else 1
    spread = math.comb(order, t) * math.comb(s - 1, order)
    return sign * Fraction(t, order + t) * Fraction(spread, math.comb(s + order - 1, order + t))


def _fbii(s: int, t: int, order: int) -> Fraction:
    """Returns the weight of mu(S) in FBII(T) (Tsai et al., JMLR 2023)."""
    if s <= order:
        return Fraction(s == t)
    return Fraction((-1) ** (order - t) * math.comb(s - t - 1, order - t), 2 ** (s - t))


def _empty_context(size: int, n: int, order: int) -> Contexts:
    del order
    return Contexts.empty(n - size)


def _shapley_contexts(size: int, n: int, order: int) -> Contexts:
    del order
    return Contexts.integral(n - size, {0: Fraction(1)})


def _banzhaf_contexts(size: int, n: int, order: int) -> Contexts:
    del order
    return Contexts(draw="uniform", ratios=np.ones(n - size + 1))


def _fourier_contexts(size: int, n: int, order: int) -> Contexts:
    del order
    scale = (-0.5) ** size
    return Contexts(draw="uniform", ratios=np.full(n - size + 1, scale), scale=scale)


def _ksii_contexts(size: int, n: int, order: int) -> Contexts:
    m, whole = n - size, dict[int, Fraction]()
    for j in range(1, order - size + 1):
        for removed in range(min(j - 1, m) + 1):
            # D^(j-1) / (j-1)! at 0 and at 1, as differences of means over sizes.
            share = _bernoulli(j) / j * math.comb(m, removed) * math.comb(m - removed, j - 1 - removed)
            whole[m - removed] = whole.get(m - removed, Fraction(0)) + (-1) ** removed * share
            whole[removed] = whole.get(removed, Fraction(0)) - (-1) ** (j - 1 - removed) * share
    return Contexts.integral(m, {0: Fraction(1)}, whole)


def _stii_contexts(size: int, n: int, order: int) -> Contexts:
    if size < order:
        return Contexts.empty(n - size)
    density = {i: Fraction(order * math.comb(order - 1, i) * (-1) ** i) for i in range(order)}
    return Contexts.integral(n - size, density)


def _fsii_contexts(size: int, n: int, order: int) -> Contexts:
    """Returns the contexts of FSII by partial fractions: the weight of mu(R), |R| = size + j, is a rational function of
    j with the simple poles -size, ..., -(size + order - 1); a part A / (j + a) is the moment of A p^(a-1).
    """
    t, spread, density = size, order - size, {}
    rising = math.prod(range(order + 1, order + 1 + t))
    constant = (-1) ** spread * Fraction(t * math.comb(order, t), order + t) * rising
    for i in range(order):
        zeros = math.prod(-(t + i) - b for b in range(1, spread + 1))
        poles = math.prod(a - i for a in range(order) if a != i)
        density[t + i - 1] = constant * Fraction(zeros, poles)
    return Contexts.integral(n - size, density)


def _fbii_contexts(size: int, n: int, order: int) -> Contexts:
    m, degrees = n - size, range(order - size + 1)
    ratios = [float(sum((-1) ** i * _krawtchouk(m, k, i) for i in degrees)) for k in range(m + 1)]
    return Contexts(draw="uniform", ratios=np.array(ratios))


def _krawtchouk(m: int, k: int, degree: int) -> int:
    """Returns the coefficient of x^degree in (1 + x)^k (1 - x)^(m - k)."""
    return sum((-1) ** (degree - a) * math.comb(k, a) * math.comb(m - k, degree - a) for a in range(degree + 1))


_JOINT = (
    "For two or more, positive: together they raise the value more than the sum of their parts; negative: less, "
    "because they say the same or undo each other."
)
_SINGLE = "Positive: the part raises the value. What several parts do together is shared among them."

_KNOWN = (
    Index(
        name="SV",
        formula=_sii,
        contexts=_shapley_contexts,
        empty=EmptySet.VALUE,
        meaning="Shapley value: what keeping a part adds to the value, averaged over all orders in which the parts can "
        f"be added one by one. {_SINGLE}",
        shapley_type=True,
        largest=1,
        in_shapiq=True,
    ),
    Index(
        name="BV",
        formula=from_moebius(_bii),
        contexts=_banzhaf_contexts,
        empty=EmptySet.MEAN,
        meaning="Banzhaf value: what keeping a part adds to the value, averaged over all subsets of the others, each "
        f"counted the same. {_SINGLE}",
        largest=1,
        in_shapiq=True,
    ),
    Index(
        name="SII",
        formula=_sii,
        contexts=_shapley_contexts,
        empty=EmptySet.FORMULA,
        meaning="Shapley interaction index: what a set does beyond its parts, averaged over the subsets of all others "
        f"with the weights of the Shapley value; for one part it is its Shapley value. {_JOINT}",
        shapley_type=True,
        in_shapiq=True,
    ),
    Index(
        name="k-SII",
        formula=_ksii,
        contexts=_ksii_contexts,
        empty=EmptySet.VALUE,
        meaning="k-Shapley values: the Shapley interaction index, shared out so that all sets up to the highest order "
        f"add up to the value of the whole. {_JOINT}",
        shapley_type=True,
        in_shapiq=True,
    ),
    Index(
        name="BII",
        formula=from_moebius(_bii),
        contexts=_banzhaf_contexts,
        empty=EmptySet.MEAN,
        meaning="Banzhaf interaction index: what a set does beyond its parts, averaged over the subsets of all others, "
        f"each counted the same; for one part it is its Banzhaf value. {_JOINT}",
        in_shapiq=True,
    ),
    Index(
        name="STII",
        formula=from_moebius(_stii),
        contexts=_stii_contexts,
        empty=EmptySet.VALUE,
        meaning="Shapley-Taylor interaction index: below the highest order, what a set adds when nothing else is kept; "
        f"at the highest order, all that is left, averaged over the orders in which the parts can be added. {_JOINT}",
        shapley_type=True,
        in_shapiq=True,
    ),
    Index(
        name="FSII",
        formula=from_moebius(_fsii),
        contexts=_fsii_contexts,
        empty=EmptySet.VALUE,
        meaning="Faithful Shapley interaction index: the numbers whose sum over the sets inside what is kept comes "
        f"closest to the value, with the weights of the Shapley value. {_JOINT}",
        shapley_type=True,
        in_shapiq=True,
    ),
    Index(
        name="FBII",
        formula=from_moebius(_fbii),
        contexts=_fbii_contexts,
        empty=EmptySet.FORMULA,
        meaning="Faithful Banzhaf interaction index: the numbers whose sum over the sets inside what is kept comes "
        f"closest to the value, every mask counted the same. {_JOINT}",
        in_shapiq=True,
    ),
    Index(
        name="Moebius",
        formula=from_moebius(_moebius),
        contexts=_empty_context,
        empty=EmptySet.VALUE,
        meaning="Moebius transform: what a set adds when nothing else is kept, beyond all that the smaller sets inside "
        f"it add. {_JOINT}",
        in_shapiq=True,
    ),
    Index(
        name="Fourier",
        formula=_fourier,
        contexts=_fourier_contexts,
        empty=EmptySet.MEAN,
        meaning="Fourier (Walsh) coefficient: the weight of -1 to the number of parts of the set that are kept. For "
        "one part, negative: keeping it raises the value on average. For two, positive: the value is higher when both "
        "are kept or both are removed.",
        in_shapiq=True,
    ),
)

INDICES = {index.name: index for index in _KNOWN}  # `register_index` adds to it
