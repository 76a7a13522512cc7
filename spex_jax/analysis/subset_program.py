"""The integer program of the best set of units under a spectrum.

The program has a variable z_U = prod_{i in U} x_i for every subset U of every term. A term of up to 5 units is
described exactly: each of its 2^d patterns has a weight of at least 0 (Sherali and Adams, SIAM J. Discrete Math. 3,
1990), and terms that overlap share variables. Triangle inequalities, for triples whose three pairs occur (Padberg,
Math. Programming 45, 1989), are added where they are violated. This relaxation is far tighter than the usual
z_U <= x_i, z_U >= sum x_i - |U| + 1. Longer terms get a parity bit. HiGHS, called through scipy, branches from there.

In shape descriptions n is the number of units, and K, V, R and W are the numbers of terms other than (), variables,
rows and sets.
"""

import dataclasses
import time
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from spex_jax.core.masks import all_masks

__all__ = ["Problem", "Program", "program_of", "stacked", "triangles_of"]

_LIFTED = 5  # the largest degree whose subsets all get a variable: 3^degree entries of the matrix for each term
_TRIANGLES = 200_000  # the most triples that are examined


@dataclasses.dataclass(frozen=True)
class Problem:
    """Maximise weights @ characters over masks with always <= mask <= ~never and low <= mask.sum() <= high."""

    members: Any  # sparse float [K, n], the support
    weights: np.ndarray  # [K], the largest of absolute value 1
    always: np.ndarray  # bool [n]
    never: np.ndarray  # bool [n]
    low: int
    high: int
    extra: list[LinearConstraint]  # for the exact method only
    deadline: float  # the time.perf_counter() at which the search stops

    @property
    def n(self) -> int:
        """The number of units."""
        return len(self.always)

    def weighted(self, masks: np.ndarray) -> np.ndarray:
        """Returns weights times characters at masks bool [W, n], float64 [W, K]."""
        return np.asarray(self.weights * (1.0 - 2.0 * ((self.members @ masks.T.astype(np.float64)).T % 2)))

    def value(self, mask: np.ndarray) -> float:
        """Returns the sum of the weighted characters at one mask bool [n]."""
        return float(self.weighted(mask[None]).sum())


@dataclasses.dataclass(frozen=True)
class Program:
    """Maximise objective @ z over bounds and rows; the first n variables are the mask, the next is 1."""

    n: int
    sets: np.ndarray  # int [V, D], the units of each variable, padded with n
    long: Any  # sparse [B, n], terms with a parity bit: B bits follow the V variables, then B halves of counts
    objective: np.ndarray
    integral: np.ndarray
    bounds: np.ndarray  # [2, ...], lower and upper
    rows: LinearConstraint

    def solve(self, deadline: float, *, near: np.ndarray | None = None, gap: float | None = None) -> Any:
        """Returns the result of scipy's milp; of the relaxation alone where `gap` is None.

        Variables are differences from those of the mask `near`, so that the point 0, which HiGHS tries first, is that
        mask: scipy has no other way to pass a first solution.
        """
        start = np.zeros(len(self.objective))
        if near is not None:
            counts = self.long @ near.astype(np.float64)
            start = np.concatenate([np.append(near, True)[self.sets].all(axis=1), counts % 2, counts // 2])
        start[self.n] = 0  # stays 1 and carries the value at `near`, as HiGHS's gap is relative to the whole value
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


def program_of(problem: Problem) -> Program:
    """Returns the integer program of the module docstring, without the triangle inequalities."""
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
        # The patterns of a term add up to those of any subset, so a term inside it needs no rows of its own.
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
    return Program(n, sets, members[long], objective, integral, np.stack([lower, upper]), stacked(rows))


def _rows(columns: np.ndarray, entries: Any, low: float, high: float, width: int) -> LinearConstraint:
    """Returns the constraint low <= sum_j entries[j] z[columns[r, j]] <= high for each row r of columns."""
    data = np.tile(np.asarray(entries, np.float64), len(columns))
    matrix = sparse.csr_array((data, (np.indices(columns.shape)[0].ravel(), columns.ravel())), (len(columns), width))
    return LinearConstraint(matrix, np.full(len(columns), low), np.full(len(columns), high))


def stacked(rows: list[LinearConstraint]) -> LinearConstraint:
    """Stacks several constraints into one."""
    low = [np.broadcast_to(one.lb, one.A.shape[0]) for one in rows]
    high = [np.broadcast_to(one.ub, one.A.shape[0]) for one in rows]
    return LinearConstraint(sparse.vstack([one.A for one in rows], format="csr"), np.hstack(low), np.hstack(high))


def triangles_of(program: Program) -> LinearConstraint:
    """Returns the four inequalities of every triple of units whose three pairs have variables."""
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
    return stacked([whole, *(_rows(side, [1, 1, -1, -1], -np.inf, 0, width) for side in sides)])
