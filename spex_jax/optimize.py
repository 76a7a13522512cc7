"""The best set of k units to keep or to remove under a spectrum: which heads to prune, which words to leave out.

`select` finds the mask of a given size at which a `Spectrum` is largest or smallest. That is NP-hard (max-cut is the
case of degree 2), so there are three methods: greedy, a beam, and an integer program, which also bounds all other sets.

The program has a variable z_U = prod_{i in U} x_i for every subset U of every term. A term of up to 5 units is
described exactly: each of its 2^d patterns has a weight of at least 0 (Sherali and Adams, SIAM J. Discrete Math. 3,
1990), and terms that overlap share variables. Triangle inequalities, for triples whose three pairs occur (Padberg,
Math. Programming 45, 1989), are added where violated. This relaxation is far tighter than the usual z_U <= x_i,
z_U >= sum x_i - |U| + 1. Longer terms get a parity bit. HiGHS, by way of scipy, branches from there.

In shape descriptions n is the number of units, K of terms other than (), V of variables, R of rows, W of sets.
"""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from spex_jax.masks import all_masks, check_whole
from spex_jax.spectrum import Spectrum
from spex_jax.walsh import walsh_hadamard

__all__ = ["Selection", "select"]

_TOLERANCE = 1e-6  # what HiGHS calls equal, in units of the largest coefficient
_LIFTED = 5  # the largest degree whose subsets all get a variable: 3^degree entries of the matrix for each term
_FEW = 18  # units of which all masks are looked at
_SEARCHED = 3000  # the most units of which the local search holds a matrix [n, n]
_MOVES = 1000  # of the local search at most, from each start
_TRIANGLES = 200_000  # looked at
_CUTS, _ROUNDS = 2000, 8  # triangle inequalities added in a round, and rounds
_NONE_MEETS = "no set of the size asked for meets the constraints; loosen them or change keep or remove"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """A set of units, and how good any other set could be.

    Attributes:
      mask: bool [n], True = kept.
      value: what the spectrum predicts for it.
      bound: no allowed set has a better value; inf (-inf for the smallest value) where unknown: greedy and beam.
      gap: |bound - value| / |value - the spectrum's mean|; 0 where the set is proven to be a best one (up to 1e-6 of
        the largest coefficient), inf where the bound is unknown.
      method: "exact", "greedy" or "beam".
      seconds: that it took.
    """

    mask: np.ndarray
    value: float
    bound: float
    gap: float
    method: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Maximise weights @ characters over masks with always <= mask <= ~never and low <= mask.sum() <= high."""

    members: Any  # sparse float [K, n], the support
    weights: np.ndarray  # [K], the largest of size 1
    always: np.ndarray  # bool [n]
    never: np.ndarray  # bool [n]
    low: int
    high: int
    extra: list[LinearConstraint]  # for the integer program only
    deadline: float  # time.perf_counter() at which it stops

    @property
    def n(self) -> int:
        return len(self.always)

    def weighted(self, masks: np.ndarray) -> np.ndarray:
        """Weights times characters of masks bool [W, n], float64 [W, K]."""
        return self.weights * (1.0 - 2.0 * ((self.members @ masks.T.astype(np.float64)).T % 2))

    def value(self, mask: np.ndarray) -> float:
        return float(self.weighted(mask[None]).sum())


def select(
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
    """The set of units to keep at which a spectrum is largest or smallest.

    Args:
      spectrum: of n units; variances play no part.
      keep, remove: how many units are kept, or how many are removed; give one of the two.
      maximize: look for the largest value, otherwise for the smallest.
      method: "greedy" flips one unit at a time, from the fewest units up and from the most units down; "beam" also
        holds `beam_width` sets at a time, from the nearer side; "exact" goes on with local search, then bounds and
        branches. Each starts from the one before, and so is at least as good.
      exactly: False for at most that many kept, or at most that many removed.
      always_keep, always_remove: units kept, and units removed, in any case; they count towards `keep` and `remove`.
      constraints: further constraints on the mask as 0/1 numbers, such as at most m heads of a layer; "exact" only.
      beam_width: sets held at a time, by "beam" and at the start of "exact".
      time_limit: seconds after which "exact" returns the best set it has, with its bound.
      gap: "exact" stops at a gap of at most this.

    Raises:
      ValueError: an argument is wrong, or no set meets what is asked.
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
    problem = _Problem(members, weights, always, never, low, high, extra, begin + time_limit)

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
    """What was given as one unit or several, in a list."""
    if hasattr(given, "ndim"):
        return np.ravel(given).tolist()
    return list(given) if isinstance(given, Iterable) else [given]


def _walk(problem: _Problem, width: int, up: bool) -> np.ndarray:
    """Beam search by single flips, from the fewest units up or from the most units down; the best mask allowed."""
    incidence = sparse.csr_array(problem.members.T)  # [n, K]
    keys = np.random.default_rng(0).integers(0, 2**63, problem.n)
    masks = (problem.always if up else ~problem.never)[None]
    weighted = problem.weighted(masks)
    labels = np.zeros(1, np.int64)  # the exclusive or of the keys of the units flipped: one label for each set
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
    return best


def _improve(problem: _Problem, mask: np.ndarray) -> np.ndarray:
    """Tabu search by swaps (and by single flips where the size is free) from an allowed mask; the best mask seen.

    A swap of a and b changes the value by g_a + g_b + 4 Q_ab, where Q_ab sums the weighted characters of the terms with
    both, and g_a = -2 Q_aa. The unit n stands for none.
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


@dataclasses.dataclass(frozen=True)
class _Program:
    """Maximise objective @ z over bounds and rows; the first n variables are the mask, the next is 1."""

    n: int
    sets: np.ndarray  # int [V, D], the units of each variable, filled up with n
    long: Any  # sparse [B, n], terms that have a bit instead: after the V variables B bits, then B halves of counts
    objective: np.ndarray
    integral: np.ndarray
    bounds: np.ndarray  # [2, ...], lower and upper
    rows: LinearConstraint

    def solve(self, deadline: float, *, near: np.ndarray | None = None, gap: float | None = None) -> Any:
        """What scipy's milp says; the relaxation alone where `gap` is None.

        Variables are counted from those of the mask `near`, so that the point 0, which HiGHS tries first, is that mask:
        scipy has no other way to hand over a first solution.
        """
        start = np.zeros(len(self.objective))
        if near is not None:
            counts = self.long @ near.astype(np.float64)
            start = np.concatenate([np.append(near, True)[self.sets].all(axis=1), counts % 2, counts // 2])
        start[self.n] = 0  # stays 1 and carries the value at `near`: HiGHS takes its gap relative to the whole value
        turn = np.where((start == 1) & (self.bounds[1] == 1), -1.0, 1.0)
        objective, moved = self.objective * turn, self.rows.A @ start
        objective[self.n] += self.objective @ start
        ends = np.sort((self.bounds - start) * turn, axis=0)
        rows = LinearConstraint(self.rows.A @ sparse.diags_array(turn), self.rows.lb - moved, self.rows.ub - moved)
        options = {"time_limit": max(deadline - time.perf_counter(), 0.01), "mip_rel_gap": gap or 0.0}
        integral = self.integral * (gap is not None)
        found = milp(-objective, constraints=rows, bounds=Bounds(*ends), integrality=integral, options=options)
        found.x = None if found.x is None else start + turn * found.x
        return found


def _program(problem: _Problem) -> _Program:
    """The integer program of the module's docstring, before the triangle inequalities."""
    n, members, weights = problem.n, problem.members, problem.weights
    degrees = np.diff(members.indptr)
    groups = [(np.flatnonzero(degrees == degree), all_masks(degree)) for degree in range(1, _LIFTED + 1)]
    blocks = [np.arange(n + 1)[:, None]]
    for terms, subsets in groups:
        units = members[terms].indices.reshape(len(terms), 1, subsets.shape[1])
        blocks.append(np.sort(np.where(subsets, units, n), axis=2).reshape(-1, subsets.shape[1]))
    filled = [np.pad(block, ((0, 0), (0, _LIFTED - block.shape[1])), constant_values=n) for block in blocks]
    sets, which = np.unique(np.concatenate(filled), axis=0, return_inverse=True)
    order = np.append(which[: n + 1], np.setdiff1d(np.arange(len(sets)), which[: n + 1]))
    sets, which = sets[order], np.argsort(order)[which]
    tables = np.split(which, np.cumsum([len(block) for block in blocks])[:-1])[1:]

    long = np.flatnonzero(degrees > _LIFTED)
    bits, width = len(sets) + np.arange(len(long)), len(sets) + 2 * len(long)
    objective, lower, upper, integral = np.zeros(width), np.zeros(width), np.ones(width), np.zeros(width)
    lower[:n], upper[:n], lower[n], integral[:n] = problem.always, ~problem.never, 1, 1
    upper[bits + len(long)], integral[bits + len(long)] = degrees[long] // 2, 1
    objective[n], objective[bits] = weights[long].sum(), -2 * weights[long]
    rows = [_rows(np.arange(n)[None], np.ones(n), problem.low, problem.high, width)]
    covered = np.zeros(len(sets), np.bool_)
    for (terms, subsets), flat in list(zip(groups, tables, strict=True))[::-1]:
        table, sizes = flat.reshape(-1, len(subsets)), subsets.sum(axis=1)
        np.add.at(objective, table, weights[terms][:, None] * (-2.0) ** sizes)  # prod (1 - 2 x_i), multiplied out
        # The patterns of a term add up to those of a term inside it, which then needs no rows of its own.
        table = table[~covered[table[:, -1]]]
        covered[table] = True
        for pattern, size in zip(subsets, sizes, strict=True):
            larger = (subsets >= pattern).all(axis=1)
            rows.append(_rows(table[:, larger], (-1.0) ** (sizes[larger] - size), 0, np.inf, width))
    for bit, term in zip(bits, long, strict=True):  # count = bit + 2 half
        columns = np.append(members[[term]].indices, [bit, bit + len(long)])[None]
        rows.append(_rows(columns, np.append(np.ones(degrees[term]), [-1, -2]), 0, 0, width))
    for one in problem.extra:
        wide = sparse.hstack([one.A, sparse.csr_array((one.A.shape[0], width - n))], format="csr")
        rows.append(LinearConstraint(wide, one.lb, one.ub))
    return _Program(n, sets, members[long], objective, integral, np.stack([lower, upper]), _stacked(rows))


def _rows(columns: np.ndarray, entries: Any, low: float, high: float, width: int) -> LinearConstraint:
    """low <= sum_j entries[j] z[columns[r, j]] <= high for each row r of columns."""
    data = np.tile(np.asarray(entries, np.float64), len(columns))
    matrix = sparse.csr_array((data, (np.indices(columns.shape)[0].ravel(), columns.ravel())), (len(columns), width))
    return LinearConstraint(matrix, np.full(len(columns), low), np.full(len(columns), high))


def _stacked(rows: list[LinearConstraint]) -> LinearConstraint:
    """All of these as one."""
    low = [np.broadcast_to(one.lb, one.A.shape[0]) for one in rows]
    high = [np.broadcast_to(one.ub, one.A.shape[0]) for one in rows]
    return LinearConstraint(sparse.vstack([one.A for one in rows], format="csr"), np.hstack(low), np.hstack(high))


def _triangles(program: _Program) -> LinearConstraint:
    """The four inequalities of every triple of units of which every two have a variable."""
    n, width = program.n, len(program.objective)
    pairs = np.flatnonzero((program.sets < n).sum(axis=1) == 2)
    index = sparse.csr_array((pairs, program.sets[pairs, :2].T), shape=(n, n))
    found = [np.zeros((0, 6), np.int64)]  # variables of a, b, c, ab, ac, bc
    for unit in range(n):
        row = index[[unit]].toarray()[0]
        near = np.flatnonzero(row)
        inner = index[near][:, near].tocoo()
        b, c = near[inner.row], near[inner.col]
        found.append(np.stack([np.full_like(b, unit), b, c, row[b], row[c], inner.data], axis=1))
    a, b, c, ab, ac, bc = np.concatenate(found)[:_TRIANGLES].T
    whole = _rows(np.stack([a, b, c, ab, ac, bc], axis=1), [1, 1, 1, -1, -1, -1], -np.inf, 1, width)
    sides = [np.stack(side, axis=1) for side in ((ab, ac, a, bc), (ab, bc, b, ac), (ac, bc, c, ab))]
    return _stacked([whole, *(_rows(side, [1, 1, -1, -1], -np.inf, 0, width) for side in sides)])


def _exact(problem: _Problem, start: np.ndarray, gap: float) -> tuple[np.ndarray, float]:
    """The best mask found, and a bound on the value of any, in units of the largest coefficient."""
    if problem.n <= _FEW:
        first = _best_of_all(problem)
        return first, problem.value(first)
    best = _better(problem, None, start)
    bound = float(np.abs(problem.weights).sum())
    program = _program(problem)
    triangles, relaxing = _triangles(program), 0.4 * problem.deadline + 0.6 * time.perf_counter()
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
        program = dataclasses.replace(program, rows=_stacked([program.rows, cuts]))
    found = program.solve(problem.deadline, near=best, gap=gap)
    if found.x is not None:
        best = _better(problem, best, found.x)
        bound = min(bound, -found.mip_dual_bound)
    if best is None and found.status == 2:
        raise ValueError(_NONE_MEETS)
    if best is None:
        raise TimeoutError("no set that meets the constraints was found in time; raise time_limit or loosen them")
    return best, problem.value(best) if found.status == 0 and gap == 0 else bound


def _best_of_all(problem: _Problem) -> np.ndarray:
    """The best of all masks of few units, whatever the number of terms: a transform gives the values of all of them."""
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
    return masks[np.where(fine, walsh_hadamard(table), -np.inf).argmax()]


def _better(problem: _Problem, best: np.ndarray | None, point: np.ndarray) -> np.ndarray | None:
    """The better of the mask `best` and of one near `point` after local search; None where both break constraints."""
    order = np.where(problem.always, np.inf, np.where(problem.never, -np.inf, point[: problem.n]))
    count = int(np.clip((order > 0.5).sum(), problem.low, problem.high))
    mask = np.isin(np.arange(problem.n), np.argsort(-order, kind="stable")[:count])
    if any((np.minimum(*one.residual(mask)) < -_TOLERANCE).any() for one in problem.extra):
        return best
    mask = mask if problem.extra else _improve(problem, mask)
    return mask if best is None or problem.value(mask) > problem.value(best) else best
