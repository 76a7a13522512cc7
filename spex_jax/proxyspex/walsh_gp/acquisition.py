"""Chooses the masks to evaluate next: those most informative about the spectrum (an extension of this project).

Under the Gaussian process of `walsh_gp` with fixed scales, the values at a set of masks A carry the information log
det(I + K_A / noise) / 2 about the function. That is monotone and submodular in A, so that choosing the mask of the
largest gain, again and again, reaches 1 - 1/e of the most that so many masks can carry (Krause, Singh and Guestrin,
JMLR 2008). With fixed scales the gain does not depend on the values: the choice adapts through the scales, refitted
after every batch, and through the sets whose corners are candidates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.interactions import Interactions
from spex_jax.core.walsh import signs
from spex_jax.proxyspex import walsh_gp
from spex_jax.proxyspex.preprocessing import Table, feature_bucket, prepare, row_bucket
from spex_jax.utils.jax_settings import in_float32
from spex_jax.utils.precision import compiled

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
      gains: float [count], in nats.
    """

    rows: jax.Array
    variance: jax.Array
    free: jax.Array
    chosen: jax.Array
    gains: jax.Array


@compiled(static_argnames=("count",))
def greedy_information(
    scales: walsh_gp.Scales,
    evaluated: jax.Array,
    real: jax.Array,
    pool: jax.Array,
    free: jax.Array,
    used: jax.Array,
    *,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """Chooses rows of the pool greedily; returns them in order, and the information gain of each in nats.

    The Cholesky factor of the evaluated masks is computed once; each choice adds a row, for all candidates at once.

    Args:
      scales: scales of the kernel.
      evaluated: signs [N, n] of the evaluated masks.
      real: bool [N], the rows that are not padding.
      pool: signs [P, n] of the candidates.
      free: bool [P], the candidates that may be chosen, at least `count`.
      used: bool [n], features that are real.
      count: how many to choose.

    Returns:
      rows int [count] and gains float [count], log(1 + variance / noise) / 2 of each given those before it.
    """
    chex.assert_shape([evaluated, pool], [(*real.shape, *used.shape), (*free.shape, *used.shape)])
    noise = scales.noise
    factor = walsh_gp.factorise(walsh_gp.kernel(scales, evaluated, evaluated, used), noise, real)
    cross = jnp.where(real[:, None], walsh_gp.kernel(scales, evaluated, pool, used), 0.0)
    known = jax.scipy.linalg.solve_triangular(factor, cross, lower=True)
    rows = jnp.concatenate([known, jnp.zeros((count, len(pool)))])
    prior = walsh_gp.kernel(scales, pool[:1], pool[:1], used)[0, 0]  # the same at every mask
    variance = jnp.maximum(prior - jnp.square(known).sum(axis=0), 0.0)

    def choose(turn: jax.Array, state: _Greedy) -> _Greedy:
        best = jnp.argmax(jnp.where(state.free, state.variance, -jnp.inf))
        left = state.variance[best]
        covariance = walsh_gp.kernel(scales, pool[best][None], pool, used)[0]
        covariance -= jnp.matmul(state.rows[:, best], state.rows)
        row = covariance / jnp.sqrt(left + noise)
        return _Greedy(
            rows=state.rows.at[len(evaluated) + turn].set(row),
            variance=jnp.maximum(state.variance - jnp.square(row), 0.0),
            free=state.free.at[best].set(False),
            chosen=state.chosen.at[turn].set(best),
            gains=state.gains.at[turn].set(0.5 * jnp.log1p(left / noise)),
        )

    start = _Greedy(rows, variance, free, chosen=jnp.zeros(count, jnp.int32), gains=jnp.zeros(count))
    last = jax.lax.fori_loop(0, count, choose, start)
    return last.chosen, last.gains


@in_float32()
def most_informative(
    masks: np.ndarray, values: np.ndarray, candidates: np.ndarray, count: int, *, seed: int = 0
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

    Returns:
      bool [count, n], in the order of their choice; where the values are constant, the first candidates.

    Raises:
      ValueError: fewer candidates than `count`.
    """
    if len(candidates) < count:
        raise ValueError(f"cannot choose {count} of {len(candidates)} candidates; give more of them")
    table = prepare(masks, values, seed)
    if isinstance(table, float) or len(candidates) == count:
        return candidates[:count]
    scales = walsh_gp.learn(jax.random.key(seed), table, np.arange(len(table.targets)) < table.count)
    evaluated, real = _last_rows(table)
    # Both counts are rounded up, so that batches of other sizes share the program.
    places = min(row_bucket(count), len(candidates))
    pool = np.zeros((row_bucket(len(candidates)), feature_bucket(table.n)), np.float32)
    pool[: len(candidates), : table.n] = signs(candidates)
    free = np.arange(len(pool)) < len(candidates)
    rows, _ = greedy_information(
        scales, evaluated, real, jnp.asarray(pool), jnp.asarray(free), table.used, count=places
    )
    return np.asarray(candidates[np.asarray(rows)[:count]])


def _last_rows(table: Table) -> tuple[jax.Array, jax.Array]:
    """Returns signs [N, n] of the last rows of a table, as many as are solved at once, and which are not padding; the
    order of a table is as good as random.
    """
    first = max(0, table.count - walsh_gp.SOLVE_ROWS)
    rows = table.signs[first : first + row_bucket(table.count - first)]
    return rows, jnp.arange(len(rows)) < table.count - first


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
