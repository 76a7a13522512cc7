"""Finds the best set of k units to keep or remove under a spectrum: which heads to prune, which words to leave out.

`select` finds the mask of a given size at which a `Spectrum` is largest or smallest. That is NP-hard (max-cut is the
case of degree 2), so there are three methods: greedy, a beam, and an exact one, which also bounds all other sets. With
few units it evaluates all masks; with more it solves the integer program of `subset_program`.

In shape descriptions n, K, R and W are the numbers of units, terms other than (), rows and sets.
"""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import LinearConstraint

from spex_jax.analysis.subset_program import Problem, program_of, stacked, triangles_of
from spex_jax.core.masks import all_masks, check_whole
from spex_jax.core.spectrum import Spectrum
from spex_jax.core.walsh import walsh_hadamard

__all__ = ["Selection", "select"]

_TOLERANCE = 1e-6  # tolerance of HiGHS, in units of the largest coefficient
_FEW = 18  # most units for which all masks are evaluated
_SEARCHED = 3000  # most units for which the local search holds a matrix [n, n]
_MOVES = 1000  # most moves of the local search from each start
_CUTS, _ROUNDS = 2000, 8  # most triangle inequalities added in a round, and most rounds
_NONE_MEETS = "no set of the given size meets the constraints; loosen them or change keep or remove"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """A set of units, and a bound on the value of any other set.

    Attributes:
      mask: bool [n], True = kept.
      value: the value of the spectrum at the mask.
      bound: no allowed set has a better value; inf (-inf for the smallest value) where unknown: greedy and beam.
      gap: |bound - value| / |value - the spectrum's mean|; 0 where the set is proven to be a best one (up to 1e-6 of
        the largest coefficient), inf where the bound is unknown.
      method: "exact", "greedy" or "beam".
      seconds: the time that the search took.
    """

    mask: np.ndarray
    value: float
    bound: float
    gap: float
    method: str
    seconds: float


def select(  # noqa: PLR0913
    spectrum: Spectrum,
    *,
    keep: int | None = None,
    remove: int | None = None,
    maximize: bool = True,
    method: str = "exact",
    exactly: bool = True,
    always_keep: Sequence[int] = (),
    always_remove: Sequence[int] = (),
    constraints: LinearConstraint | Sequence[LinearConstraint] = (),
    beam_width: int = 64,
    time_limit: float = 60.0,
    gap: float = 0.0,
) -> Selection:
    """Finds the set of units to keep at which a spectrum is largest or smallest.

    Args:
      spectrum: a spectrum of n units; its variances are not used.
      keep, remove: how many units are kept, or how many are removed; give one of the two.
      maximize: whether to look for the largest value; otherwise for the smallest.
      method: "greedy" flips one unit at a time, from the fewest units up and from the most units down; "beam" also
        holds `beam_width` sets at a time, from the nearer side; "exact" continues with local search, then bounds and
        branches. Each starts from the result of the one before, and so is at least as good.
      exactly: False for at most that many kept, or at most that many removed.
      always_keep, always_remove: units kept, and units removed, in any case; they count towards `keep` and `remove`.
      constraints: further constraints on the mask as 0/1 numbers, such as at most m heads of a layer; "exact" only.
      beam_width: sets held at a time, by "beam" and at the start of "exact".
      time_limit: seconds after which "exact" returns the best set that it has found, with its bound.
      gap: "exact" stops at a gap of at most this.

    Raises:
      ValueError: an argument is wrong, or no set meets the constraints.
      TimeoutError: no set that meets `constraints` was found in time.
    """
    begin = time.perf_counter()
    if not isinstance(spectrum, Spectrum):
        raise ValueError(f"select needs a Spectrum, such as the one of an Explanation, got {type(spectrum).__name__}")
    always_keep, always_remove = _units_of(always_keep), _units_of(always_remove)
    extra = [constraints] if isinstance(constraints, LinearConstraint) else list(constraints)
    if method not in ("exact", "greedy", "beam"):
        raise ValueError(f"method must be exact, greedy or beam, got {method!r}")
    if not (time_limit > 0 and gap >= 0):
        raise ValueError(f"time_limit must be above 0 and gap at least 0, got {time_limit!r} and {gap!r}")
    if any(not isinstance(one, LinearConstraint) or one.A.shape[1] != spectrum.n for one in extra):
        raise ValueError(f"constraints must be scipy.optimize.LinearConstraint with A of shape [R, {spectrum.n}]")
    if extra and method != "exact":
        raise ValueError(f"constraints need method 'exact', got {method!r}; leave them out or change the method")
    check_whole("beam_width", beam_width, 1)
    if (keep is None) == (remove is None):
        raise ValueError(f"give either keep or remove, the number of units, got keep={keep!r} and remove={remove!r}")
    check_whole("keep" if remove is None else "remove", keep if remove is None else remove, 0, spectrum.n)
    for unit in [*always_keep, *always_remove]:
        check_whole("each unit of always_keep and always_remove", unit, 0, spectrum.n - 1)
    always, never = (np.isin(np.arange(spectrum.n), units) for units in (always_keep, always_remove))
    if (always & never).any():
        shared = np.flatnonzero(always & never)[:10].tolist()
        raise ValueError(f"always_keep and always_remove share the units {shared}; leave each in one of them")
    fewest, most = int(always.sum()), int((~never).sum())
    low = high = keep if keep is not None else spectrum.n - int(remove or 0)
    if not exactly:
        low, high = (fewest, high) if remove is None else (low, most)
    if high < fewest or low > most:
        raise ValueError(
            f"keep={keep}, remove={remove} leaves no set: always_keep and always_remove allow {fewest} to {most} of "
            f"{spectrum.n} units to be kept; change the number or shorten the lists"
        )
    low, high = max(low, fewest), min(high, most)
    constant = ~spectrum.support.any(axis=1)
    rows = ~constant & (spectrum.coefficients != 0)
    scale = float(np.abs(spectrum.coefficients[rows]).max(initial=0)) or 1.0
    weights = spectrum.coefficients[rows] / (scale if maximize else -scale)
    members = sparse.csr_array(spectrum.support[rows].astype(np.float64))
    problem = Problem(members, weights, always, never, low, high, extra, begin + time_limit)

    best, bound = max((_walk(problem, 1, up) for up in (True, False)), key=problem.value), np.inf
    if method != "greedy":
        nearer = high - always.sum() <= (~never).sum() - low
        best = max(best, _walk(problem, beam_width, bool(nearer)), key=problem.value)
    if method == "exact":
        best, bound = _exact(problem, best, gap)
    value = float(spectrum(best[None])[0])
    excess = bound - problem.value(best)
    excess = 0.0 if excess <= _TOLERANCE else excess * scale
    size = abs(value - float(spectrum.coefficients[constant].sum()))
    return Selection(
        mask=best,
        value=value,
        bound=value + (excess if maximize else -excess),
        gap=0.0 if excess == 0 else (excess / size if size else np.inf),
        method=method,
        seconds=time.perf_counter() - begin,
    )


def _units_of(given: Any) -> list[Any]:
    """Returns one unit or several as a list."""
    if hasattr(given, "ndim"):
        return list(np.ravel(given).tolist())
    return list(given) if isinstance(given, Iterable) else [given]


def _walk(problem: Problem, width: int, up: bool) -> np.ndarray:
    """Returns the best allowed mask of a beam search by single flips, from the fewest units up or the most down."""
    incidence = sparse.csr_array(problem.members.T)  # [n, K]
    keys = np.random.default_rng(0).integers(0, 2**63, problem.n)
    masks = (problem.always if up else ~problem.never)[None]
    weighted = problem.weighted(masks)
    labels = np.zeros(1, np.int64)  # the XOR of the keys of the units flipped, a label for each set
    best, best_value = masks[0], -np.inf
    end, step = (problem.high, 1) if up else (problem.low, -1)
    for count in range(int(masks.sum()), end + step, step):
        values = weighted.sum(axis=1)
        if problem.low <= count <= problem.high and values.max() > best_value:
            best, best_value = masks[values.argmax()], float(values.max())
        if count == end:
            break
        scores = values[:, None] - 2 * (incidence @ weighted.T).T
        scores = np.where((masks != up) & ~problem.always & ~problem.never, scores, -np.inf).ravel()
        # A set arises from each of the W parents at most once, so that W * width children hold `width` sets.
        few = min(width * len(masks), len(scores))
        order = np.argpartition(-scores, few - 1)[:few]
        order = order[np.argsort(-scores[order], kind="stable")][: np.isfinite(scores[order]).sum()]
        children = labels[order // problem.n] ^ keys[order % problem.n]
        first = np.sort(np.unique(children, return_index=True)[1])[:width]
        parents, units, labels = order[first] // problem.n, order[first] % problem.n, children[first]
        masks, weighted = masks[parents], weighted[parents]
        masks[np.arange(len(units)), units] = up
        changed = incidence[units].tocoo()
        weighted[changed.row, changed.col] *= -1
    return np.asarray(best)


def _improve(problem: Problem, mask: np.ndarray) -> np.ndarray:
    """Returns the best mask of a tabu search from an allowed mask, by swaps (and single flips where the size is free).

    A swap of a and b changes the value by g_a + g_b + 4 Q_ab, where Q_ab sums the weighted characters of the terms with
    both, and g_a = -2 Q_aa. The unit n stands for no unit.
    """
    n = problem.n
    if n > _SEARCHED or not problem.members.nnz:
        return mask
    rng, incidence = np.random.default_rng(0), sparse.csr_array(problem.members.T)  # [n, K]
    listed = np.split(problem.members.indices.astype(np.int64), problem.members.indptr[1:-1])
    pairs = [np.add.outer(units * (n + 1), units).ravel() for units in listed]  # places in Q of each term
    lengths = np.array([len(places) for places in pairs])
    weighted = problem.weighted(mask[None])[0]
    both = np.zeros((n + 1, n + 1))
    np.add.at(both.reshape(-1), np.concatenate(pairs), np.repeat(weighted, lengths))
    best, mask, tabu_until = mask, mask.copy(), np.zeros(n + 1)
    free = ~problem.always & ~problem.never
    value = best_value = float(weighted.sum())
    for move in range(min(_MOVES, 20 * n)):
        leave = np.append(np.flatnonzero(mask & free), np.full(int(mask.sum() < problem.high), n))
        enter = np.append(np.flatnonzero(~mask & free), np.full(int(mask.sum() > problem.low), n))
        if time.perf_counter() > problem.deadline or not len(leave) or not len(enter):
            break
        gains = np.add.outer(-2 * both[leave, leave], -2 * both[enter, enter]) + 4 * both[np.ix_(leave, enter)]
        tabu = (tabu_until[leave] > move)[:, None] | (tabu_until[enter] > move)
        gains[tabu & (value + gains <= best_value + _TOLERANCE)] = -np.inf
        gains[np.ix_(leave == n, enter == n)] = -np.inf
        row, column = np.unravel_index(gains.argmax(), gains.shape)
        if gains[row, column] == -np.inf:  # every move is tabu
            continue
        value += gains[row, column]
        for unit in sorted({int(leave[row]), int(enter[column])} - {n}):
            mask[unit] ^= True
            terms = incidence.indices[incidence.indptr[unit] : incidence.indptr[unit + 1]]
            places = np.concatenate([pairs[0][:0], *(pairs[term] for term in terms)])
            np.add.at(both.reshape(-1), places, np.repeat(-2 * weighted[terms], lengths[terms]))
            weighted[terms] *= -1
            tabu_until[unit] = move + rng.integers(5, 15)
        if value > best_value + 1e-9:
            best, best_value = mask.copy(), value
    return best


def _exact(problem: Problem, start: np.ndarray, gap: float) -> tuple[np.ndarray, float]:
    """Returns the best mask found, and a bound on the value of any mask, in units of the largest coefficient."""
    if problem.n <= _FEW:
        first = _best_of_all(problem)
        return first, problem.value(first)
    best = _better(problem, None, start)
    bound = float(np.abs(problem.weights).sum())
    program = program_of(problem)
    triangles, relaxing = triangles_of(program), 0.4 * problem.deadline + 0.6 * time.perf_counter()
    for _ in range(_ROUNDS):
        found = program.solve(relaxing)
        if found.x is None:
            break
        before, bound = bound, min(bound, -found.fun)
        best = _better(problem, best, found.x)
        value = -np.inf if best is None else problem.value(best)
        if best is not None and bound - value <= max(_TOLERANCE, gap * abs(value)):
            return best, bound
        excess = triangles.A @ found.x - triangles.ub
        worst = np.argsort(-excess, kind="stable")[: min(_CUTS, int((excess > 1e-4).sum()))]
        if not len(worst) or before - bound < 1e-3 * (bound - value):
            break
        cuts = LinearConstraint(triangles.A[worst], triangles.lb[worst], triangles.ub[worst])
        program = dataclasses.replace(program, rows=stacked([program.rows, cuts]))
    found = program.solve(problem.deadline, near=best, gap=gap)
    if found.x is not None:
        best = _better(problem, best, found.x)
        bound = min(bound, -found.mip_dual_bound)
    if best is None and found.status == 2:
        raise ValueError(_NONE_MEETS)
    if best is None:
        raise TimeoutError("no set that meets the constraints was found in time; raise time_limit or loosen them")
    return best, problem.value(best) if found.status == 0 and gap == 0 else bound


def _best_of_all(problem: Problem) -> np.ndarray:
    """Returns the best of all masks of few units; one transform evaluates them, however many terms there are."""
    table = np.zeros(2**problem.n)
    np.add.at(table, (problem.members @ 2.0 ** np.arange(problem.n)).astype(np.int64), problem.weights)
    masks = all_masks(problem.n)
    counts = masks.sum(axis=1)
    fine = (counts >= problem.low) & (counts <= problem.high)
    fine &= masks[:, problem.always].all(axis=1) & ~masks[:, problem.never].any(axis=1)
    for one in problem.extra:
        sums = one.A @ masks.T.astype(np.float64)
        low, high = (np.reshape(limit, (-1, 1)) for limit in (one.lb, one.ub))
        fine &= ((sums >= low - _TOLERANCE) & (sums <= high + _TOLERANCE)).all(axis=0)
    if not fine.any():
        raise ValueError(_NONE_MEETS)
    return np.asarray(masks[np.where(fine, walsh_hadamard(table), -np.inf).argmax()])


def _better(problem: Problem, best: np.ndarray | None, point: np.ndarray) -> np.ndarray | None:
    """Returns the better of `best` and a mask near `point` after local search; None where neither meets constraints."""
    order = np.where(problem.always, np.inf, np.where(problem.never, -np.inf, point[: problem.n]))
    count = int(np.clip((order > 0.5).sum(), problem.low, problem.high))
    mask = np.isin(np.arange(problem.n), np.argsort(-order, kind="stable")[:count])
    if any((np.minimum(*one.residual(mask)) < -_TOLERANCE).any() for one in problem.extra):
        return best
    mask = mask if problem.extra else _improve(problem, mask)
    return mask if best is None or problem.value(mask) > problem.value(best) else best
