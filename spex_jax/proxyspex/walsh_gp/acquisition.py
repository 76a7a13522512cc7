"""Chooses the masks to evaluate next: those most informative about the spectrum (an extension of this project).

Under the Gaussian process of `walsh_gp` with fixed scales, the values at a set of masks A carry the information log
det(I + K_A / noise) / 2 about the function. That is monotone and submodular in A, so that choosing the mask of the
largest gain, again and again, reaches 1 - 1/e of the most that so many masks can carry (Krause, Singh and Guestrin,
JMLR 2008). With fixed scales the gain does not depend on the values: the choice adapts through the scales, refitted
after every batch, and through the sets whose corners are candidates.

Where only an index matters, the gain of a mask is instead the variance of that index which its value removes, summed
over sets (A-optimal design); ShaplEIG (arXiv 2606.02247) takes the information about Shapley values.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.interactions import Interactions
from spex_jax.core.side_information import NOTHING, SideInformation
from spex_jax.core.spectrum import Spectrum
from spex_jax.core.walsh import signs
from spex_jax.proxyspex import walsh_gp
from spex_jax.proxyspex.preprocessing import Table, prepare, row_bucket
from spex_jax.proxyspex.walsh_gp.index_gain import Targets, covariances, targets_of
from spex_jax.utils.array_api import Array, fold_in_order, namespace, put, solve_lower
from spex_jax.utils.jax_settings import in_float32
from spex_jax.utils.precision import portable

__all__ = ["corners", "greedy_information", "most_informative", "uncertain_sets"]

_SURE = 3.0  # standard errors from zero beyond which an interaction is certain


class _Greedy(NamedTuple):
    """The state of the greedy choice among P candidates.

    Attributes:
      rows: float [N + count, P], rows of the Cholesky factor of the evaluated and chosen masks with all candidates; 0
        for choices to come.
      variance: float [P], of the function at the candidates, given the evaluated and chosen masks.
      free: bool [P], the candidates that may still be chosen.
      chosen: int [count], candidates in the order of their choice.
      gains: float [count], in nats, or in the variance of the index.
      index: float [K, P], the covariance of the sets of an index with the function at the candidates, given the same;
        None without an index.
    """

    rows: Array
    variance: Array
    free: Array
    chosen: Array
    gains: Array
    index: Array


@portable(static_argnames=("count",))
def greedy_information(
    scales: walsh_gp.Scales,
    evaluated: Array,
    real: Array,
    pool: Array,
    free: Array,
    used: Array,
    targets: Targets | None = None,
    *,
    count: int,
) -> tuple[Array, Array]:
    """Chooses rows of the pool greedily; returns them in order, and the gain of each.

    The Cholesky factor of the evaluated masks is computed once; each choice adds a row, for all candidates at once.

    Args:
      scales: scales of the kernel.
      evaluated: signs [N, n] of the evaluated masks.
      real: bool [N], the rows that are not padding.
      pool: signs [P, n] of the candidates.
      free: bool [P], the candidates that may be chosen, at least `count`.
      used: bool [n], features that are real.
      targets: the sets of an index; None for information about the whole function.
      count: how many to choose.

    Returns:
      rows int [count] and gains float [count] of each given those before it: log(1 + variance / noise) / 2 in nats, or
      the variance that it removes from the index, summed over its sets.
    """
    chex.assert_shape([evaluated, pool], [(*real.shape, *used.shape), (*free.shape, *used.shape)])
    xp, noise = namespace(scales, evaluated), scales.noise
    factor = walsh_gp.factorise(walsh_gp.kernel(scales, evaluated, evaluated, used), noise, real)
    cross = xp.where(real[:, None], walsh_gp.kernel(scales, evaluated, pool, used), 0.0)
    known = solve_lower(factor, cross)
    rows = xp.concatenate([known, xp.zeros((count, len(pool)), known.dtype)])
    prior = walsh_gp.kernel(scales, pool[:1], pool[:1], used)[0, 0]  # the same at every mask
    variance = xp.maximum(prior - xp.square(known).sum(axis=0), 0.0)

    index = None
    if targets is not None:
        seen = xp.where(real, covariances(scales, targets, evaluated, used), 0.0)
        index = covariances(scales, targets, pool, used) - xp.matmul(solve_lower(factor, seen.T).T, known)

    def gain(state: _Greedy) -> Array:
        if state.index is None:
            return 0.5 * xp.log1p(state.variance / noise)
        return xp.square(state.index).sum(axis=0) / (state.variance + noise)

    def choose(state: _Greedy, turn: Array) -> _Greedy:
        gains = gain(state)
        best = xp.argmax(xp.where(state.free, gains, -xp.inf))
        left = state.variance[best]
        covariance = walsh_gp.kernel(scales, pool[best][None], pool, used)[0]
        covariance -= xp.matmul(state.rows[:, best], state.rows)
        row = covariance / xp.sqrt(left + noise)
        return _Greedy(
            rows=put(state.rows, len(evaluated) + turn, row),
            variance=xp.maximum(state.variance - xp.square(row), 0.0),
            free=put(state.free, best, False),
            chosen=put(state.chosen, turn, best),
            gains=put(state.gains, turn, gains[best]),
            index=None
            if state.index is None
            else state.index - (state.index[:, best] / xp.sqrt(left + noise))[:, None] * row,
        )

    nothing = xp.zeros(count, np.int32), xp.zeros(count, np.float32)
    last = fold_in_order(choose, _Greedy(rows, variance, xp.array(free), *nothing, index), xp.arange(count))
    return last.chosen, last.gains


@in_float32()
def most_informative(
    masks: np.ndarray,
    values: np.ndarray,
    candidates: np.ndarray,
    count: int,
    *,
    seed: int = 0,
    known: SideInformation = NOTHING,
    index: tuple[str, int] | None = None,
) -> np.ndarray:
    """Returns the `count` candidates that are most informative about the function, given the evaluated masks: greedy
    information gain under a Gaussian process whose scales are learned from the values.

    Past 8,192 ablations a random 8,192 of them condition the choice.

    Args:
      masks: bool [M, n], evaluated.
      values: [M].
      candidates: bool [P, n], distinct and not evaluated; at least `count`.
      count: how many to choose.
      seed: for the scales.
      known: what is known of the features.
      index: the name of an index and its order; the candidates are then those most informative about it.

    Returns:
      bool [count, n], in the order of their choice; where the values are constant, the first candidates.

    Raises:
      ValueError: fewer candidates than `count`.
    """
    if len(candidates) < count:
        raise ValueError(f"cannot choose {count} of {len(candidates)} candidates; give more of them")
    table = prepare(masks, values, seed, known)
    if isinstance(table, Spectrum) or len(candidates) == count:
        return candidates[:count]
    scales = walsh_gp.learn(seed, table, np.ones(table.count, np.bool_))
    evaluated, real = _last_rows(table)
    used = table.rows.used
    pool: Array = signs(candidates)
    free: Array = np.ones(len(candidates), np.bool_)
    places = count
    if not isinstance(evaluated, np.ndarray):
        # Both counts are rounded up, so that batches of other sizes share the program.
        places = min(row_bucket(count), len(candidates))
        more = row_bucket(len(candidates)) - len(candidates)
        pool = jnp.asarray(np.pad(pool, ((0, more), (0, len(used) - table.n))))
        free = jnp.asarray(np.pad(free, (0, more)))
    targets = None if index is None else targets_of(index[0], table.n, index[1], scales)
    if targets is not None and not isinstance(evaluated, np.ndarray):
        targets = jax.device_put(targets)
    rows, _ = greedy_information(scales, evaluated, real, pool, free, used, targets, count=places)
    return np.asarray(candidates[np.asarray(rows)[:count]])


def _last_rows(table: Table) -> tuple[Array, Array]:
    """Returns signs [N, n] of the last rows of a table, as many as are solved at once, and which are not padding; the
    order of a table is as good as random.
    """
    first = max(0, table.count - walsh_gp.SOLVE_ROWS)
    kept = slice(first, first + row_bucket(table.count - first))
    return table.rows.signs[kept], table.rows.fold[kept] >= 0


def uncertain_sets(interactions: Interactions, most: int) -> list[tuple[int, ...]]:
    """Returns up to `most` large, uncertain sets: the largest by |value| of those within 3 standard errors of zero,
    then the others by standard error; without standard errors the largest.

    Args:
      interactions: interactions of a proxy.
      most: how many.
    """
    ranked = [key for key, _ in interactions.top(len(interactions)) if len(key) > 1]
    errors = interactions.std_errors
    if errors is None:
        return ranked[:most]
    uncertain = [key for key in ranked if abs(interactions[key]) < _SURE * errors[key]]
    return (uncertain + sorted(set(ranked) - set(uncertain), key=lambda key: (-errors[key], key)))[:most]


def corners(sets: Sequence[tuple[int, ...]], n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns all 2^|S| settings of each set, within random contexts of the other features.

    Args:
      sets: sets of features.
      n: number of features.
      count: about how many masks to make.
      rng: numpy generator.

    Returns:
      bool [M, n], distinct, with M at most `count` and a few more.
    """
    contexts = max(1, count // sum(2 ** len(key) for key in sets))
    parts = []
    for key in sets:
        within = masks_lib.all_masks(len(key))
        made = np.repeat(masks_lib.unpack(rng.integers(0, 256, (contexts, -(-n // 8)), np.uint8), n), len(within), 0)
        made[:, list(key)] = np.tile(within, (contexts, 1))
        parts.append(made)
    made = np.concatenate(parts)
    return np.asarray(made[masks_lib.deduplicate(made)[0]])
