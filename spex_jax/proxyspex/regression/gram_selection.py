"""Selects among a few candidates from their products alone: sparse regression whose cost does not grow with the rows.

X^T X and X^T r of the candidates, on the training rows and on the held-out rows, are all that a least squares fit and
its held-out error need. `select` works with these; other modules use `minimise` and `discoveries` too.
"""

import math
from collections.abc import Callable

import numpy as np

__all__ = ["discoveries", "minimise", "select"]

_FALSE = 0.05  # share of chance among the discoveries
_LEVELS = 12
_SPANNED = 1e-3  # share of its squared length below which the others span a candidate
_RIDGE = 1e-6
_LASSO_STEPS = 300

Loss = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def discoveries(scores: np.ndarray, tests: int) -> float:
    """Returns the score from which on at most a twentieth of the discoveries is chance (Benjamini and Hochberg, 1995).

    Args:
      scores: [K], the largest absolute scores of all tests, standard normal by chance.
      tests: the number of tests.

    Returns:
      The score to reach; infinite where none reaches it.
    """
    from scipy import special

    ordered = np.sort(scores)[::-1]
    log_chance = np.log(2) + special.log_ndtr(-ordered)
    allowed = _FALSE * np.arange(1, len(ordered) + 1) / max(tests, 1)
    passed = np.flatnonzero(log_chance <= np.log(allowed))
    return float(-special.ndtri(allowed[passed[-1]] / 2)) if len(passed) else math.inf


def minimise(
    loss: Loss,
    start: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    curvature: float,
    steps: int,
    done: Callable[[np.ndarray, np.ndarray, np.ndarray], bool],
) -> np.ndarray:
    """Returns the argmin of loss(c) + sum first |c| + second c^2 / 2, for many columns side by side, by accelerated
    proximal gradient steps (Beck and Teboulle, 2009) that restart where the momentum points uphill (O'Donoghue and
    Candes, 2015).

    Args:
      loss: returns the gradient [P, L] of a quadratic loss at coefficients [P, L], and an array for `done`.
      start: [P, L].
      first, second: [P, L]; infinity in `first` fixes a coefficient at 0.
      curvature: an estimate of the largest curvature of the loss, raised where two gradients show a larger one.
      steps: most calls of `loss`.
      done: whether to stop, from the coefficients, those before and the array of `loss`.
    """
    old = ahead = np.where(np.isinf(first), 0.0, start)
    momentum = np.ones(start.shape[1])
    before: tuple[np.ndarray, np.ndarray] | None = None
    for _ in range(steps):
        slope, seen = loss(ahead)
        if before is not None:
            step = ahead - before[0]
            square = np.square(step).sum(axis=0)
            reliable = square > 1e-8 * np.square(ahead).sum(axis=0)  # less is rounding
            curvatures = ((slope - before[1]) * step).sum(axis=0)[reliable] / square[reliable]
            if curvatures.max(initial=0.0) > curvature:
                curvature, momentum = 1.1 * float(curvatures.max()), np.ones_like(momentum)
        moved = ahead - slope / curvature
        new = np.sign(moved) * np.maximum(np.abs(moved) - first / curvature, 0.0) / (1 + second / curvature)
        momentum = np.where(((ahead - new) * (new - old)).sum(axis=0) > 0, 1.0, momentum)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        before = ahead, slope
        ahead = new + (momentum - 1) / following * (new - old)
        stop = done(new, old, seen)
        old, momentum = new, following
        if stop:
            break
    return old


def _pursue(
    gram: np.ndarray, target: np.ndarray, size: float, rows: float, floor: np.ndarray
) -> list[tuple[int, float]]:
    """Returns candidates in the order in which they explain most of the rest (orthogonal least squares, Chen et al.,
    1989), each with its score over its floor, until no score reaches its floor.
    """
    target, norm = target.copy(), gram.diagonal().copy()
    spanned = _SPANNED * np.maximum(norm, 1e-9 * rows)
    basis = np.zeros((len(target), len(target)))
    found: list[tuple[int, float]] = []
    left = size
    while len(found) < len(target) and left > 1e-9 * size:
        gain = np.where(norm > spanned, target**2 / np.maximum(norm, spanned), 0.0)
        score = np.sqrt(gain * rows / left) / floor
        pick = int(score.argmax())
        if score[pick] < 1:
            break
        k = len(found)
        column = (gram[pick] - basis[:k, pick] @ basis[:k]) / np.sqrt(norm[pick])
        amount = target[pick] / np.sqrt(norm[pick])
        target -= amount * column
        norm -= column**2
        left -= amount**2
        basis[k] = column
        found.append((pick, float(score[pick])))
    return found


def _left(gram: np.ndarray, target: np.ndarray, size: float, rows: float) -> float:
    """Returns the part of r^T r that all candidates together leave, as it would be on other rows."""
    found = _least_squares(gram, target, np.arange(len(target)))
    left = size - 2 * target @ found + found @ gram @ found
    return float(np.clip(left * rows / max(rows - len(target), 1.0), 1e-9 * size, size))


def _active(
    gram: np.ndarray, target: np.ndarray, size: float, rows: float, floor: np.ndarray, levels: np.ndarray, solver: str
) -> list[np.ndarray]:
    """Returns the candidates int [k] that a solver keeps at each level, a factor on their floors."""
    if solver == "greedy":
        order = _pursue(gram, target, size, rows, floor * levels.min())
        under = [
            next((k for k, (_, s) in enumerate(order) if s * levels.min() < level), len(order)) for level in levels
        ]
        return [np.sort(np.array([pick for pick, _ in order[:k]], int)) for k in under]
    penalty = np.sqrt(_left(gram, target, size, rows)) / rows * floor[:, None] * levels
    coefficients = minimise(
        lambda c: ((gram @ c - target[:, None]) / rows, np.zeros(0)),
        np.zeros(penalty.shape),
        penalty,
        np.zeros(penalty.shape),
        curvature=1.0,
        steps=_LASSO_STEPS,
        done=lambda new, old, _: bool(np.abs(new - old).max() <= 1e-6 * np.abs(new).max()),
    )
    return [np.flatnonzero(column) for column in coefficients.T]


def _least_squares(gram: np.ndarray, target: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Returns the least squares coefficients [K] on the active candidates, 0 on the others."""
    found = np.zeros(len(target))
    if not len(active):
        return found
    matrix = gram[np.ix_(active, active)]
    # A little ridge, since two candidates may be equal on all rows.
    found[active] = np.linalg.solve(
        matrix + _RIDGE * np.trace(matrix) / len(active) * np.eye(len(active)), target[active]
    )
    return found


def select(
    grams: np.ndarray, targets: np.ndarray, sizes: np.ndarray, rows: np.ndarray, floor: np.ndarray, solver: str
) -> tuple[np.ndarray, np.ndarray]:
    """Selects the candidates that stand out; the held-out error of their least squares fit sets how far they have to.

    Args:
      grams: float64 [2, K, K], X^T X on the training rows and on the held-out rows.
      targets: [2, K], X^T r there.
      sizes: [2], r^T r there.
      rows: [2], the numbers of these rows.
      floor: [K], the least score of each candidate, in standard deviations of chance.
      solver: "greedy" or "lasso", which keeps the candidates that a penalty of that size does not set to 0.

    Returns:
      bool [K], those kept on the training rows; and those kept on all rows at the level so chosen.
    """
    nothing = np.zeros(len(floor), np.bool_)
    if not len(floor):
        return nothing, nothing
    left = _left(grams[0], targets[0], sizes[0], rows[0])
    highest = float((np.abs(targets[0]) / np.sqrt(max(left, 1e-300)) / floor).max())
    levels = np.geomspace(1.0, np.clip(highest, 1.0, 1e3), _LEVELS)
    found = _active(grams[0], targets[0], sizes[0], rows[0], floor, levels, solver)
    fits = [np.zeros(len(floor)), *(_least_squares(grams[0], targets[0], active) for active in found)]
    errors = [sizes[1] + c @ (grams[1] @ c - 2 * targets[1]) for c in fits]
    best = int(np.argmin(errors))
    # Keeps what stands out from chance unless it makes the held-out error worse by more than a standard error.
    variance = max(errors[best], 0.0) / max(rows[1], 1.0)
    apart = [c - fits[best] for c in fits]
    margins = [2 * math.sqrt(variance * max(d @ grams[1] @ d, 0.0)) for d in apart]
    place = next(k for k in range(1, len(fits) + 1) if k > len(levels) or errors[k] <= errors[best] + margins[k])
    if place > len(levels):
        return nothing, nothing
    chosen, kept = levels[place - 1], np.isin(np.arange(len(floor)), found[place - 1])
    everything = (grams.sum(axis=0), targets.sum(axis=0), sizes.sum(), rows.sum())
    (active,) = _active(*everything, floor, np.array([chosen]), solver)
    return kept, np.isin(np.arange(len(floor)), active)
