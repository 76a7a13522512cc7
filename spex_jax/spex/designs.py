"""The masks of SPEX: subsampling matrices and the delays of a code (Kang et al., ICML 2025, arXiv 2502.13870)."""

import dataclasses
from typing import Any

import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.spex.bch import BCH, bch
from spex_jax.spex.candidates import crowd
from spex_jax.utils.seeds import Stream, generator

__all__ = ["MOST_DEGREE", "Design", "Plan", "check_design", "design", "least_budget", "plan"]

GROUPS = 3
_LEAST_B = 3
_MOST_B = 20
MOST_DEGREE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The sizes of a design that a budget pays for, known before any mask is evaluated.

    Attributes:
      n: the number of features.
      b: the transforms have 2^b bins in each of the three groups.
      t: the number of errors that the code corrects, the largest degree found.
      delays: masks for each bin of the transform, one more than the code has parity bits.
      coded: masks of the transforms, before equal masks are merged.
    """

    n: int
    b: int
    t: int
    delays: int
    coded: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """The masks to evaluate, and how they were made.

    Attributes:
      plan: the sizes of the design.
      masks: bool [M, n], distinct: those of the transforms, then uniform ones.
      code: the code of the delays.
      matrices: bool [3, n, b], subsampling matrices of rank b.
      rows: int [3, P + 1, 2^b], the row of `masks` that is M_c l + d_p; l counts from 0, its lowest bit first.
      seed: the seed of everything random.
    """

    plan: Plan
    masks: np.ndarray
    code: BCH
    matrices: np.ndarray
    rows: np.ndarray
    seed: int

    @property
    def n(self) -> int:
        """The number of features."""
        return self.plan.n


def _coded(n: int, b: int, t: int) -> int:
    return GROUPS * (bch(n, t).checks + 1) << b


def plan(n: int, budget: int, *, max_degree: int | str = 5) -> Plan:
    """Returns the plan of the largest transforms that a budget pays for.

    Args:
      n: number of features.
      budget: the most masks to evaluate.
      max_degree: largest degree of a term, 1 to 8; "auto" is 5, or less where the budget requires it.

    Raises:
      ValueError: an argument is out of range, or the budget is too small; the message states the least that suffices.
    """
    masks_lib.check_whole("budget", budget, 1)
    degrees = _degrees(n, max_degree)
    least = min(_LEAST_B, n)
    for t in degrees:
        if _coded(n, least, t) <= budget:
            b = max(b for b in range(least, min(n, _MOST_B) + 1) if _coded(n, b, t) <= budget)
            return Plan(n=int(n), b=b, t=t, delays=bch(n, t).checks + 1, coded=_coded(n, b, t))
    raise ValueError(
        f"a budget of {budget} is too small for SPEX with {n} features and degree {degrees[-1]}: "
        f"at least {least_budget(n, max_degree=max_degree)} ablations are needed"
        + ("" if max_degree == "auto" or degrees[-1] == 1 else ", or a smaller max_degree ('auto' chooses one)")
    )


def _degrees(n: int, max_degree: int | str) -> list[int]:
    """Returns the degrees that may be planned, the preferred one first."""
    masks_lib.check_whole("n", n, 1)
    if n < 2:
        raise ValueError("SPEX needs at least 2 features, got 1; two ablations determine a function of one feature")
    if max_degree == "auto":
        return list(range(min(5, n), 0, -1))
    whole = isinstance(max_degree, int | np.integer) and not isinstance(max_degree, bool)
    if not whole or not 1 <= int(max_degree) <= min(n, MOST_DEGREE):
        raise ValueError(
            f"max_degree must be from 1 to {min(n, MOST_DEGREE)} for {n} features, or 'auto', got {max_degree!r}"
        )
    return [int(max_degree)]


def least_budget(n: int, *, max_degree: int | str = 5) -> int:
    """Returns the smallest budget that can be planned for n features.

    Raises:
      ValueError: an argument is out of range.
    """
    return _coded(n, min(_LEAST_B, n), _degrees(n, max_degree)[-1])


def _rank(matrix: np.ndarray) -> int:
    """Returns the rank over F2 of a bool matrix [n, b]."""
    rows, rank = matrix.copy(), 0
    for column in range(matrix.shape[1]):
        pivots = np.flatnonzero(rows[rank:, column]) + rank
        if not len(pivots):
            continue
        rows[[rank, pivots[0]]] = rows[[pivots[0], rank]]
        others = rows[:, column].copy()
        others[rank] = False
        rows[others] ^= rows[rank]
        rank += 1
    return rank


def design(n: int, budget: int, *, max_degree: int | str = 5, seed: int = 0, leftover: bool = True) -> Design:
    """Returns the masks to evaluate: three subsampled transforms with the delays of a BCH code, then uniform masks for
    the rest of the budget. A larger budget includes all coded masks of a smaller one of the same degree.

    Args:
      n: number of features.
      budget: the most masks to evaluate.
      max_degree: largest degree of a term, 1 to 8; "auto" is 5, or less where the budget requires it.
      seed: the same arguments and seed give the same masks.
      leftover: whether to add uniform masks for the part of the budget that the transforms leave.

    Raises:
      ValueError: as in `plan`.
    """
    chosen = plan(n, budget, max_degree=max_degree)
    rng = np.random.default_rng(seed)
    code = bch(chosen.n, chosen.t)
    matrices = np.zeros((GROUPS, n, chosen.b), np.bool_)
    for matrix, stream in zip(matrices, rng.spawn(GROUPS), strict=True):
        for column in range(chosen.b):  # column by column, so that a larger design begins with those of a smaller one
            bits, begun = 1 << np.arange(column + 1), matrix[:, : column + 1]
            while True:
                matrix[:, column] = stream.integers(0, 2, n, dtype=np.uint8).astype(np.bool_)
                if _rank(begun) == column + 1 and np.bincount(begun @ bits).max() <= crowd(n, column + 1):
                    break
    places = masks_lib.all_masks(chosen.b)
    delays = np.concatenate([np.zeros((1, n), np.bool_), code.parity])
    lattice = (places.astype(np.float32) @ matrices.transpose(0, 2, 1).astype(np.float32)).astype(np.int64) & 1 == 1
    coded = (lattice[:, None] ^ delays[None, :, None]).reshape(-1, n)
    first, inverse = masks_lib.deduplicate(coded)
    distinct = coded if len(first) == len(coded) else coded[first]
    total = (min(budget, 2**n) if n < 63 else budget) if leftover else 0
    everything = masks_lib.uniform(n, max(total, len(distinct)), generator(seed, Stream.LEFTOVER_MASKS), given=distinct)
    return Design(
        plan=chosen,
        masks=everything,
        code=code,
        matrices=matrices,
        rows=inverse.reshape(GROUPS, len(delays), 2**chosen.b),
        seed=seed,
    )


def check_design(design: Any, values: Any) -> np.ndarray:
    """Returns values float64 [M] at the masks of a design, after checking both.

    Raises:
      ValueError: not a design, or values that do not belong to it.
    """
    if not isinstance(design, Design):
        raise ValueError(f"expected a Design of spex_jax.spex.design, got {type(design).__name__}")
    masks_lib.check_not_traced("decoding")
    return masks_lib.check_values(values, design.masks)
