"""trees: gradient boosted trees for binary features, the proxy of the published ProxySPEX, in JAX.

A histogram of gradients over binary features is a matrix product: with `member` [N, nodes] the rows of each node,
(member * residual)^T x holds for every node and feature the sum over the rows that keep it. One product gives the
sums and counts of every other node of a level, for the trees of all fits side by side; the siblings of these nodes hold
the rest of their parents. Splits and leaf values are those of Friedman's (2001) least-squares boosting, in the
second-order form of Chen and Guestrin (KDD 2016).
"""

import dataclasses
import functools
from itertools import combinations
from typing import ClassVar, NamedTuple

import chex
import jax
import numpy as np

from spex_jax.core.spectrum import Spectrum
from spex_jax.proxyspex.preprocessing import FOLDS, Fitted, Table
from spex_jax.proxyspex.proxy import Proxy
from spex_jax.utils.array_api import Array, namespace, put, repeat_while
from spex_jax.utils.precision import portable
from spex_jax.utils.threads import blas_threads_for

__all__ = ["Boosted", "Forest", "Trees", "boost", "fit", "forest_terms"]

_DEPTHS = (3, 5)
_RATES = (0.1, 0.05)
_MOST_TREES = 1000
_PATIENCE = 60  # trees without a better held-out error before boosting stops
_LEAST_ROWS = 10  # fewest rows in a leaf
_RIDGE = 1.0


@functools.partial(jax.tree_util.register_dataclass, data_fields=["features", "leaves"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Forest:
    """Level-wise trees of depth d: node 2^l - 1 + p is the p-th of level l; its right child takes the rows that keep
    the feature.

    features: int32 [..., T, 2^d - 1], -1 where a node is not split (all rows go left).
    leaves: float32 [..., T, 2^d], the rate included.
    """

    features: Array
    leaves: Array


class Boosted(NamedTuple):
    """The result of `boost`: B fits of T trees.

    Attributes:
      forest: [B, T, ...].
      errors: float [B, T], held-out mean squared errors after each tree, infinite past the last.
      predictions: float [B, N], held-out predictions at each fit's best number of trees.
      trees: int [], the number of trees grown.
    """

    forest: Forest
    errors: Array
    predictions: Array
    trees: Array


class _State(NamedTuple):
    """The state of B fits between two trees.

    Attributes:
      trees: int [], the number of trees grown so far.
      prediction: float [B, N].
      forest, errors, best: as `Boosted.forest`, `Boosted.errors` and `Boosted.predictions`, so far.
      best_error: float [B], the least held-out errors so far.
      best_tree: int [B], the trees that reached them.
    """

    trees: Array
    prediction: Array
    forest: Forest
    errors: Array
    best: Array
    best_error: Array
    best_tree: Array


class _Setting(NamedTuple):
    """The result of a depth and a rate: the least out-of-fold error, the forest of all rows with the number of trees
    that reaches it, and the out-of-fold predictions float64 [N].
    """

    error: float
    depth: int
    forest: Forest
    held_out: np.ndarray


def _grow_tree(
    kept: Array, design: Array, residual: Array, weight: Array, rate: Array, depth: int
) -> tuple[Array, Array, Array]:
    """Grows one tree for each of B fits: features [B, 2^d - 1], leaves [B, 2^d] and its predictions [B, N].

    Args:
      kept: bool [n + 1, N], the rows that keep each feature; the last one, which index -1 finds too, is False.
      design: float [N, n + 1], the same as numbers; the last column is 1.
      residual: [B, N].
      weight: [B, N], 0 for rows outside a fit.
      rate: [B].
      depth: d.
    """
    xp = namespace(kept, design, residual)
    fits, rows = residual.shape
    summed = xp.stack([weight * residual, weight], axis=1)[:, :, None]
    node = xp.zeros((fits, rows), xp.int16)
    features: list[Array] = []
    every: Array = None
    for level in range(depth):
        member = node[:, None] == xp.arange(2**level, dtype=xp.int16)[:, None]
        # Only the left one of two siblings is counted: the right one has the rest of their parent.
        counted = member[:, ::2].astype(xp.float32)
        found = xp.matmul((counted[:, None] * summed).reshape(-1, rows), design)
        found = found.reshape(fits, 2, counted.shape[1], -1)
        # Sums of residuals and numbers of rows at each node: over rows that keep each feature; last: over all rows.
        every = found if level == 0 else xp.stack([found, every - found], axis=3).reshape(fits, 2, 2**level, -1)
        feature = _best_splits(every)
        features.append(feature)
        node = 2 * node + (member & kept[feature]).any(axis=1)
    at = xp.maximum(feature, 0)[:, None, :, None]
    right_part = xp.take_along_axis(every, at, axis=3)[..., 0] * (feature >= 0)[:, None]
    leaf_parts = xp.stack([every[..., -1] - right_part, right_part], axis=3).reshape(fits, 2, 2**depth)
    leaves = rate[:, None] * leaf_parts[:, 0] / (leaf_parts[:, 1] + _RIDGE)
    change = leaves.ravel()[node + 2**depth * xp.arange(fits)[:, None]]
    return xp.concatenate(features, axis=1), leaves, change


def _best_splits(every: Array) -> Array:
    """Returns the feature int [B, nodes] at which each node is best split, -1 for none.

    Takes sums and counts [B, 2, nodes, n + 1] over the rows that keep each feature, and over all rows. A feature that
    no row keeps is never chosen.
    """
    xp = namespace(every)
    right, total = every[..., :-1], every[..., -1:]
    left = total - right
    scores = [part[:, 0] ** 2 / (part[:, 1] + _RIDGE) for part in (right, left, total)]
    allowed = xp.minimum(right[:, 1], left[:, 1]) >= _LEAST_ROWS
    gain = (scores[0] + scores[1] - scores[2]) * allowed
    return xp.where(gain.max(axis=2) > 1e-6, gain.argmax(axis=2), -1)


@portable(static_argnames=("depth", "most_trees"))
def boost(
    signs: Array,
    targets: Array,
    weight: Array,
    held_out: Array,
    rate: Array,
    *,
    depth: int,
    most_trees: int = _MOST_TREES,
) -> Boosted:
    """Boosts B fits side by side until none improves on its held-out rows any more; fits without such rows go on as
    long as the others.

    Args:
      signs: [N, n] of -1 (kept), 1, padded with 0.
      targets: [N].
      weight: [B, N], 1 for the rows of each fit.
      held_out: [B, N], 1 for the rows on which each fit is scored.
      rate: [B], learning rates.
      depth: depth of the trees.
      most_trees: T.
    """
    chex.assert_shape(signs, (*targets.shape, None))
    chex.assert_shape([weight, held_out], (*rate.shape, *targets.shape))
    xp = namespace(signs, targets, weight, held_out, rate)
    fits, rows = weight.shape
    kept = xp.concatenate([signs.T < 0, xp.zeros((1, rows), bool)])
    design = xp.concatenate([(signs < 0).astype(xp.float32), xp.ones((rows, 1), xp.float32)], axis=1)
    improvable = held_out.any(axis=1)
    scored = xp.maximum(held_out.sum(axis=1), 1.0)

    def step(state: _State) -> _State:
        t, forest = state.trees, state.forest
        feature, leaf, change = _grow_tree(kept, design, targets - state.prediction, weight, rate, depth)
        prediction = state.prediction + change
        error = ((targets - prediction) ** 2 * held_out).sum(axis=1) / scored
        better = error < state.best_error
        place = (slice(None), t)
        return _State(
            trees=t + 1,
            prediction=prediction,
            forest=Forest(features=put(forest.features, place, feature), leaves=put(forest.leaves, place, leaf)),
            errors=put(state.errors, place, error),
            best=xp.where(better[:, None], prediction, state.best),
            best_error=xp.minimum(error, state.best_error),
            best_tree=xp.where(better, t, state.best_tree),
        )

    def goes_on(state: _State) -> Array:
        improving = improvable & (state.trees - state.best_tree <= _PATIENCE)
        return (state.trees < most_trees) & improving.any()

    start = _State(
        trees=xp.zeros((), xp.int32),
        prediction=xp.zeros((fits, rows), xp.float32),
        forest=Forest(
            features=xp.full((fits, most_trees, 2**depth - 1), -1, xp.int32),
            leaves=xp.zeros((fits, most_trees, 2**depth), xp.float32),
        ),
        errors=xp.full((fits, most_trees), xp.inf, xp.float32),
        best=xp.zeros((fits, rows), xp.float32),
        best_error=(targets**2 * held_out).sum(axis=1) / scored,
        best_tree=xp.zeros(fits, xp.int32),
    )
    last = repeat_while(goes_on, step, start)
    return Boosted(last.forest, last.errors, last.best, last.trees)


def forest_terms(forest: Forest, n: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the exact spectrum of a sum of trees (Butler et al., 2025, section 4: a split is (L + R) / 2 at S and
    (L - R) / 2 at S with i added).

    A leaf of value v at the end of a path over features P, of which it keeps some, is v prod_{i in P} (1 -+ s_i) / 2:
    it adds +-v / 2^|P| to every subset of P.

    Args:
      forest: features [T, 2^d - 1], leaves [T, 2^d].
      n: number of features.
      depth: d.

    Returns:
      support bool [K, n] and coefficients float64 [K], () among them.
    """
    features, leaves = np.asarray(forest.features), np.asarray(forest.leaves, np.float64)
    trees, places = leaves.shape
    paths = np.full((trees, places, depth), n)
    signs = np.ones((trees, places, depth))
    reached = np.ones((trees, places), np.bool_)
    for leaf in range(places):
        for level in range(depth):
            node = 2**level - 1 + (leaf >> (depth - level))
            right = leaf >> (depth - 1 - level) & 1
            feature = features[:, node]
            split = feature >= 0
            paths[:, leaf, level] = np.where(split, feature, n)
            signs[:, leaf, level] = -1.0 if right else 1.0  # a kept feature has sign -1
            reached[:, leaf] &= split | (right == 0)
    used = paths < n
    weight = np.where(reached, leaves, 0.0) / 2.0 ** used.sum(axis=2)
    codes, values = [], []
    base = n + 1
    for size in range(depth + 1):
        for chosen in combinations(range(depth), size):
            picked = list(chosen)
            valid = used[..., picked].all(axis=2) & (weight != 0)
            members = np.sort(paths[..., picked][valid], axis=1)
            code = np.zeros(len(members), np.int64)
            for column in members.T:
                code = code * base + column + 1
            codes.append(code)
            values.append((weight * signs[..., picked].prod(axis=2))[valid])
    distinct, group = np.unique(np.concatenate(codes), return_inverse=True)
    coefficients = np.bincount(group, np.concatenate(values), len(distinct))
    support = np.zeros((len(distinct), n + 1), np.bool_)
    rest = distinct.copy()
    for _ in range(depth):
        support[np.arange(len(rest)), np.where(rest > 0, rest % base - 1, n)] = True
        rest //= base
    return support[:, :n], coefficients


def fit(table: Table, *, max_degree: int, seed: int) -> Fitted:
    """Boosts by folds to choose depth, rate and number of trees, and reads the exact spectrum of the trees that are
    boosted on all rows beside them.
    """
    del seed  # only the folds are random, and they come with the table
    rows = table.rows
    xp = namespace(rows)
    real = (rows.fold >= 0)[None]
    out = rows.fold == xp.arange(FOLDS)[:, None]
    # The last fit sees all rows and is scored on none. It runs along, since a tree of six fits takes hardly longer than
    # one of five, and a second run would take as many steps again.
    weight = xp.concatenate([~out & real, real]).astype(xp.float32)
    held_out = xp.concatenate([out, xp.zeros_like(real)]).astype(xp.float32)

    def boosted(depth: int, rate: float) -> _Setting:
        with blas_threads_for(rows.signs.size):
            rates = xp.full(len(weight), rate, xp.float32)
            found = boost(rows.signs, rows.targets, weight, held_out, rates, depth=depth)
        errors = np.asarray(found.errors)[:FOLDS, : int(found.trees)].mean(axis=0)
        predictions = np.asarray(found.predictions, np.float64)[:FOLDS] * np.asarray(out)
        forest = jax.tree.map(lambda leaf: np.asarray(leaf)[FOLDS, : errors.argmin() + 1], found.forest)
        return _Setting(float(errors.min()), depth, forest, predictions.sum(axis=0)[: table.count])

    # Tries all depths at the faster rate, then the best depth at the slower rate.
    best = min((boosted(depth, _RATES[0]) for depth in _DEPTHS), key=lambda setting: setting.error)
    best = min(best, boosted(best.depth, _RATES[1]), key=lambda setting: setting.error)
    support, coefficients = forest_terms(best.forest, table.n, best.depth)
    keep = support.sum(axis=1) <= max_degree
    return Fitted(spectrum=Spectrum(support[keep], coefficients[keep]), held_out=lambda: best.held_out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trees(Proxy):
    """The proxy "trees": gradient boosted trees, the proxy of the published ProxySPEX."""

    name: ClassVar[str] = "trees"

    def fit(self, table: Table, *, max_degree: int, seed: int) -> Fitted:
        """Boosts trees and reads their exact spectrum."""
        return fit(table, max_degree=max_degree, seed=seed)
