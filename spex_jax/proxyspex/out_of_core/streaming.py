"""linear on a table that stays on disk: sparse regression in bounded memory, for tables such as those of datamodels
(Ilyas et al., 2022, arXiv 2202.00622: 50,000 features, 300,000 rows).

  1. Fits all singles at once in passes over the rows, with ridge and lasso penalties side by side and a random fifth of
     the rows held out.
  2. Scores all pairs against the residual of the singles, one block of features against another at a time, and keeps
     the strongest; also terms with one more feature, and triples of the features that stand out.
  3. Selects, among those that chance does not explain, the ones that help on the held-out rows (`gram_selection`).
  4. Fits everything together: terms and strong singles without a penalty, so that they are unbiased, and the many small
     singles with the penalty that the held-out rows prefer.

Values and features have mean 0 and variance 1 from the start (`block_products`), so one unit serves all penalties.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from spex_jax.core.masks import check_values, hashes, standardise
from spex_jax.core.packed_masks import PackedMasks
from spex_jax.core.spectrum import Spectrum
from spex_jax.core.walsh import signs as to_signs
from spex_jax.proxyspex.extraction import energy_cut
from spex_jax.proxyspex.out_of_core import block_products
from spex_jax.proxyspex.out_of_core.block_products import Design, Members
from spex_jax.proxyspex.preprocessing import feature_bucket, limit_outliers, row_bucket, trust
from spex_jax.proxyspex.regression.gram_selection import discoveries, minimise, select
from spex_jax.proxyspex.regression.screening import triples

__all__ = ["fit"]

_HELD_OUT = 5  # one row in this many
_RIDGE = 10.0 ** np.arange(-1.5, 2.0, 0.5)  # times features / rows
_LASSO = 4.0 / 1.6 ** np.arange(8)  # times the standard deviation of a chance correlation
_STEPS = 60  # most passes for one solution
_CONVERGED = 1e-3
_LOOSE = 2.5  # standard deviations beyond which a candidate is kept
_LISTED = 4096
_POOL = 1024  # most candidates
_ELEMENTS = 2**22  # scores of extensions computed at a time
_ROUNDS = 6
_DROP = 0.3  # share of the residual that has to be explained before all pairs are searched again
_FEATURES = 512  # features among which triples are searched
_TRIPLE_BYTES = 2**26
_LEFT = 1e-6  # share of the variance below which only rounding is left


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The training rows and the held-out rows.

    Attributes:
      values: float64 [M], mean 0, variance 1.
      weight: float32 [M, 2], column 0 is 1 for the training rows, column 1 for all rows.
      split: float32 [M, 2], column 0 is 1 for the training rows, column 1 for the held-out rows.
      fitted: int [m], the training rows.
    """

    values: np.ndarray
    weight: np.ndarray
    split: np.ndarray
    fitted: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Solved:
    """Coefficients [n + K, 2] of singles and terms, fitted to the training rows and to all rows; residuals [M, 2]; the
    penalties on |c| and on c^2 / 2; and the mean squared errors of the first fit on training and held-out rows.
    """

    coefficients: np.ndarray
    residual: np.ndarray
    penalty: tuple[float, float]
    errors: tuple[float, float]


def _split(masks: PackedMasks, values: np.ndarray, seed: int) -> _Rows:
    """Splits the rows at random; rows of equal masks stay together, or the fit would have seen held-out masks."""
    step = masks.block_rows()
    keys = [hashes(masks.packed_rows(slice(start, start + step))) for start in range(0, len(masks), step)]
    found, mask = np.unique(np.concatenate(keys), return_inverse=True)
    rng = np.random.default_rng(seed)
    if len(found) in (1, len(values)):
        out = rng.permutation(len(values)) % _HELD_OUT == 0
    else:
        out = (rng.permutation(len(found)) % _HELD_OUT == 0)[mask]
    seen = (~out).astype(np.float32)
    return _Rows(values, np.stack([seen, np.ones_like(seen)], 1), np.stack([seen, 1 - seen], 1), np.flatnonzero(~out))


def _penalties(design: Design, rows: _Rows) -> list[tuple[float, float]]:
    """Returns penalties on |c| and on c^2 / 2 of the singles that are not strong; the last removes all of them."""
    count = len(rows.fitted)
    ridge = [(0.0, max(1e-4, factor * design.n / count)) for factor in _RIDGE]
    return [*ridge, *((factor / math.sqrt(count), 0.0) for factor in _LASSO), (math.inf, 0.0)]


def _solve(
    design: Design,
    rows: _Rows,
    terms: Sequence[Members],
    start: np.ndarray,
    columns: Sequence[tuple[tuple[float, float], np.ndarray, np.ndarray]],
) -> _Solved:
    """Fits coefficients for several penalties side by side; returns those with the least held-out error.

    Args:
      design: the table.
      rows: the values.
      terms: K sets, the first ().
      start: [n + K, 2].
      columns: a penalty, and bool [n + K, 2] twice: which may differ from 0, and which are free of the penalty.
    """
    count = len(columns)
    which = np.repeat([0, 1], count)
    first, second = np.zeros((2, len(start), 2 * count))
    for place, (penalty, allowed, free) in enumerate(columns):
        for fit in (0, 1):
            column = place + fit * count
            first[:, column] = np.where(allowed[:, fit], np.where(free[:, fit], 0.0, penalty[0]), math.inf)
            second[:, column] = np.where(free[:, fit], 0.0, penalty[1])
    held = np.diff(rows.weight.sum(axis=0, dtype=np.float64))[0]
    total = rows.weight.sum(axis=0, dtype=np.float64)[which]
    errors, before = np.full(count, math.inf), np.full(count, math.inf)

    def loss(coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope, squares = block_products.gradient(design, terms, rows.values[:, None], rows.weight, which, coefficients)
        return -slope / total, (squares[1] - squares[0])[:count] / max(held, 1.0)

    def done(new: np.ndarray, old: np.ndarray, seen: np.ndarray) -> bool:
        nonlocal errors, before
        before, errors = errors, seen
        best = errors.argmin() + np.array([0, count])
        moved = np.linalg.norm((new - old)[:, best], axis=0) <= _CONVERGED * np.linalg.norm(new[:, best], axis=0)
        return bool(moved.all() and (before - errors).max() < _CONVERGED * errors.min())

    spread = (1 + math.sqrt(design.n / len(rows.fitted))) ** 2  # with independent masks (Marchenko and Pastur, 1967)
    found = minimise(loss, np.repeat(start, count, axis=1), first, second, curvature=spread, steps=_STEPS, done=done)
    best = int(errors.argmin())
    coefficients = found[:, [best, best + count]]
    residual = rows.values[:, None] - block_products.predictions(design, terms, coefficients)
    squares = np.square(residual[:, 0]) @ rows.split
    mean = squares / np.maximum(rows.split.sum(axis=0, dtype=np.float64), 1.0)
    return _Solved(coefficients, residual, columns[best][0], (float(mean[0]), float(mean[1])))


def _admit(
    design: Design, rows: _Rows, residual: np.ndarray, sets: list[Members], tests: int, inflation: float
) -> dict[Members, float]:
    """Returns the sets whose correlation with a residual [M], on the training rows or on all, chance does not explain
    given the number of tests; each with the score that it has to keep.
    """
    if not sets:
        return {}
    size = np.square(residual) @ rows.split
    found = block_products.correlations(design, sets, residual, rows.split)
    # On the training rows, and on all rows.
    scores = np.abs(np.stack([found[0], found.sum(axis=0)])) / np.sqrt(np.array([[size[0]], [size.sum()]])) / inflation
    floor = discoveries(scores[1], tests)
    over = scores.max(axis=0)
    kept = np.flatnonzero(over >= floor)
    kept = kept[np.argsort(-over[kept], kind="stable")[:_POOL]]
    return {sets[k]: floor * inflation for k in kept}


class _Strongest:
    """The largest of scores that arrive in parts, with their sets."""

    def __init__(self) -> None:
        self.scores, self.sets, self.least = np.zeros(0), np.zeros((0, 0), np.int64), _LOOSE

    def add(self, scores: np.ndarray, sets: np.ndarray) -> None:
        """Adds scores [K] of sets int [K, d], all of them at least `least`."""
        self.scores = np.concatenate([self.scores, scores])
        self.sets = np.concatenate([self.sets, sets]) if self.sets.size else sets
        if len(self.scores) > 2 * _LISTED:
            self.cut()

    def cut(self) -> list[Members]:
        """Drops all but the largest 4,096; returns the sets of these, largest first."""
        order = np.argsort(-self.scores, kind="stable")[:_LISTED]
        self.scores, self.sets = self.scores[order], self.sets[order]
        if len(order) == _LISTED:
            self.least = max(self.least, float(self.scores[-1]))
        return [tuple(map(int, row)) for row in self.sets]


def _pairs(design: Design, rows: _Rows, residual: np.ndarray) -> tuple[list[Members], int, float]:
    """Returns the strongest pairs, the number of all pairs, and the inflation: the factor by which scores are larger
    than chance makes them, more than 1 where masks depend on each other or repeat.

    The inflation is read off the middle of the scores, which the few true pairs do not reach (genomic control, Devlin
    and Roeder, 1999).
    """
    from scipy import special

    usable = int((design.inverse > 0).sum())
    tests = math.comb(usable, 2)
    strongest, outside = _Strongest(), 0
    if not tests:
        return [], 0, 1.0
    norm = float(np.sqrt(np.square(residual[rows.fitted]).sum()))
    for i, j, found in block_products.pairs(design, residual, rows.fitted):
        scores = np.abs(found) / norm
        outside += int((scores > 1).sum())
        place = np.flatnonzero(scores > strongest.least)
        members = np.stack(np.divmod(place, scores.shape[1]), axis=1) + np.array([i, j])
        strongest.add(scores.ravel()[place], members)
    inside = np.clip(1 - outside / tests + math.sqrt(1 / tests), 0.01, 0.99)  # few pairs are weak evidence
    return strongest.cut(), tests, float(max(1.0, 1 / special.ndtri((1 + inside) / 2)))


def _extensions(design: Design, rows: _Rows, residual: np.ndarray, terms: list[Members]) -> tuple[list[Members], int]:
    """Returns the strongest sets with one feature more than one of the terms, and the number of all such sets."""
    norm = float(np.sqrt(np.square(residual[rows.fitted]).sum()))
    strongest, weighted = _Strongest(), residual * rows.split[:, 0]
    at_once = max(1, _ELEMENTS // design.n)
    for start in range(0, len(terms), at_once):
        group = terms[start : start + at_once]
        scores = np.abs(block_products.extensions(design, group, weighted)) / norm
        for k, members in enumerate(group):
            scores[k, list(members)] = 0.0
        term, feature = np.nonzero(scores > strongest.least)
        strongest.add(scores[term, feature], np.stack([term + start, feature], axis=1))
    sets = dict.fromkeys(tuple(sorted((*terms[k], feature))) for k, feature in strongest.cut())
    return list(sets), len(terms) * design.n


def _triples(
    design: Design, rows: _Rows, residual: np.ndarray, singles: np.ndarray, terms: list[Members], seed: int
) -> tuple[list[Members], int]:
    """Returns triples that stand out among the features of terms and of large singles, and the number searched."""
    among = dict.fromkeys(itertools.chain(*terms))
    among |= dict.fromkeys(map(int, np.argsort(-np.abs(singles), kind="stable")[:_FEATURES]))
    features = np.sort(np.array([f for f in among if design.inverse[f] > 0][:_FEATURES], int))
    if len(features) < 3:
        return [], 0
    width = feature_bucket(len(features))
    count = min(len(rows.fitted), _TRIPLE_BYTES // (4 * width))
    chosen = np.sort(np.random.default_rng(seed).permutation(rows.fitted)[:count])
    signs = np.zeros((row_bucket(count), width), np.float32)
    signs[:count, : len(features)] = to_signs(design.masks.columns(features, chosen))
    padded = np.pad(residual[chosen], (0, len(signs) - count))
    order = np.random.default_rng(seed).permutation(count)
    found = triples(jnp.asarray(signs), padded, jnp.arange(width) < len(features), order)
    return [tuple(map(int, features[row[: len(features)]])) for row in found], math.comb(len(features), 3)


def _search(
    design: Design, rows: _Rows, solved: _Solved, max_degree: int, solver: str, seed: int
) -> tuple[list[Members], np.ndarray]:
    """Finds terms of two features and more, and which of them, bool [K, 2], the training rows and all rows keep."""
    base = solved.residual[:, 0]
    sets: list[Members] = []
    floor = np.zeros(0)
    kept = np.zeros((0, 2), np.bool_)
    residual, searched = base, math.inf
    for turn in range(_ROUNDS):
        left = float(np.square(residual).mean())
        terms = [members for members, row in zip(sets, kept, strict=True) if row.any()]
        new: dict[Members, float] = {}
        if left < _LEFT or max_degree < 2:
            break
        if left < (1 - _DROP) * searched:
            searched = left
            strongest, pairs, inflation = _pairs(design, rows, residual)
        new |= _admit(design, rows, residual, strongest, pairs, inflation)
        if turn and max_degree > 2:
            growing = [members for members in terms if len(members) < max_degree]
            if growing:
                more, tests = _extensions(design, rows, residual, growing)
                new |= _admit(design, rows, residual, more, tests, inflation)
        if turn == 1 and max_degree > 2:
            more, tests = _triples(design, rows, residual, solved.coefficients[: design.n, 0], terms, seed)
            new |= _admit(design, rows, residual, more, tests, inflation)
        new = {members: least for members, least in new.items() if members not in set(sets)}
        if not new and turn:
            break
        sets, floor = [*sets, *new], np.concatenate([floor, list(new.values())])
        if not sets:
            continue
        # Where there are too many candidates, those that were kept stay, and the other old ones make room for new ones.
        rank = np.concatenate([np.where(kept.any(axis=1), 0, 2), np.ones(len(new), int)])
        order = np.argsort(rank, kind="stable")[:_POOL]
        sets, floor = [sets[k] for k in order], floor[order]
        grams, targets = block_products.gram(design, sets, base, rows.split)
        sizes, counts = np.square(base) @ rows.split, rows.split.sum(axis=0, dtype=np.float64)
        kept = np.stack(select(grams, targets, sizes, counts, floor, solver), axis=1)
        coefficients = np.zeros((design.n + 1 + len(sets), 1))
        active = np.flatnonzero(kept[:, 0])
        if len(active):
            coefficients[design.n + 1 + active, 0] = np.linalg.lstsq(
                grams[0][np.ix_(active, active)], targets[0][active], rcond=1e-6
            )[0]
        residual = base - block_products.predictions(design, [(), *sets], coefficients)[:, 0]
    used = kept.any(axis=1)
    return [sets[k] for k in np.flatnonzero(used)], kept[used]


def _strong(design: Design, rows: _Rows, solved: _Solved) -> np.ndarray:
    """Returns the singles bool [n, 2] that stand out from the others, on the training rows and on all rows.

    A shrunken estimate plus its correlation with the residual is unbiased again, with independent noise, where the
    masks are independent (the debiased lasso, Javanmard and Montanari, 2014).
    """
    from scipy import special

    n = design.n
    own, held = solved.errors
    # Least squares with g parameters for each row scales squared residuals by 1 - g, and held-out ones by its inverse.
    part = np.sqrt(min(1.0, own / held)) if held > 0 else 1.0
    shrunk = np.array([part, 1 - (1 - part) * len(rows.fitted) / len(rows.values)])
    nothing = np.zeros((n + 1, 2))
    total = rows.weight.sum(axis=0, dtype=np.float64)
    products, _ = block_products.gradient(design, [()], solved.residual, rows.weight, np.array([0, 1]), nothing)
    estimates = solved.coefficients[:n] + products[:n] / (total * np.maximum(shrunk, 0.1))
    scores = np.abs(estimates) * np.sqrt(total / max(held, 1e-12))
    # Scale by the bulk, which many small effects make wider than chance does: singles in the bulk are better shrunken.
    scores /= np.maximum(1.0, np.median(scores, axis=0) / special.ndtri(0.75))
    return np.stack([column >= discoveries(column, n) for column in scores.T], axis=1)


def _check(values: Any, masks: PackedMasks) -> np.ndarray:
    """Returns the values float64 [M]; raises ValueError where they are not finite."""
    array = check_values(values, cast(np.ndarray, masks), finite=False)
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(array)} values are not finite; the first is {array[bad[0]]} in row {bad[0]}; "
            "leave these rows out of the table and the values"
        )
    return array


def fit(masks: PackedMasks, values: Any, *, max_degree: int, max_terms: int | None, seed: int, solver: str) -> Spectrum:
    """Fits a table that stays on disk and returns its spectrum; the other arguments are those of `proxyspex.fit`.

    Terms of two features and more are those that stand out from chance, 1,024 at most. A triple is found where two of
    its features are a term too, or where it lies within 512 features: those of the terms and the largest singles. Rows
    of equal masks are not merged but held out together; there is no warning where their values differ. Among features
    that are always kept together any may stand for the others.

    Memory: at most 1 GiB, whatever the number of rows, besides some 100 bytes for each row and the result (a byte for
    each term and feature, twice while it is made; max_terms=None may keep 10,000 terms). Pages of a memory-mapped file
    are not counted: the system takes them back when it needs to.

    Args:
      masks: the table, [M, n].
      values: [M], finite.

    Raises:
      ValueError: an empty table, or values that cannot be used.
    """
    if not len(masks):
        raise ValueError("a fit needs at least one ablation, got an empty table")
    standardised = standardise(limit_outliers(_check(values, masks)))
    if isinstance(standardised, float):
        return Spectrum(np.zeros((1, masks.n), np.bool_), np.array([standardised]))
    targets, mean, scale = standardised
    rows, design = _split(masks, targets, seed), block_products.design(masks)
    n = design.n
    everything, nothing = np.ones((n + 1, 2), np.bool_), np.arange(n + 1)[:, None] == np.array([n, n])
    penalties = _penalties(design, rows)
    solved = _solve(design, rows, [()], np.zeros((n + 1, 2)), [(p, everything, nothing) for p in penalties])
    sets, kept = _search(design, rows, solved, max_degree, solver, seed)
    terms: list[Members] = [(), *sets]
    if sets:
        everything, nothing = (np.concatenate([part, kept]) for part in (everything, nothing))
        start = np.pad(solved.coefficients, ((0, len(sets)), (0, 0)))
        solved = _solve(design, rows, terms, start, [(solved.penalty, everything, nothing)])
    free = nothing.copy()
    free[:n] = _strong(design, rows, solved)
    columns = [(penalty, everything, free) for penalty in penalties]
    # The held-out rows may also prefer strong singles with the penalty, or no terms.
    columns += [(solved.penalty, everything, nothing)]
    columns += [(solved.penalty, everything & (np.arange(len(start)) <= n)[:, None], nothing)] if sets else []
    solved = _solve(design, rows, terms, solved.coefficients, columns)
    predicted = np.where(rows.split[:, 1] > 0, targets - solved.residual[:, 0], np.nan)
    share = trust(lambda: predicted, targets, n)
    found, sizes = block_products.characters(design, terms, share * solved.coefficients[:, 1])
    chosen = 1 + energy_cut(sizes[1:], None if max_terms is None else max_terms - 1)
    support = np.zeros((len(chosen) + 1, n), np.bool_)
    for row, k in enumerate(chosen, 1):
        support[row, list(found[k])] = True
    return Spectrum(support, np.concatenate([[mean + scale * sizes[0]], scale * sizes[chosen]]))
