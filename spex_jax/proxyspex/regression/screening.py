"""Screens characters by their correlation with a residual: all singles and pairs, extensions of known sets, and all
triples.

With signs s [N, n] and residual r [N] one matrix product, (s * r)^T s, holds the correlations of all n(n-1)/2 pairs,
whether or not their singles matter; (characters * r)^T s holds those of all one-feature extensions of known sets.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.proxyspex.extraction import characters_of
from spex_jax.utils.precision import compiled

__all__ = ["characters_on_rows", "choose", "no_pool", "triples"]

_TAIL = 256  # features in a block of the search for triples
_SCREENED_ROWS = 4096
_MOST_PRODUCTS = 4e12  # multiplications that a search for triples may cost: minutes on two cores, n = 1,400
_PARTNERS = 3  # triples kept among those that share their first two features
_LOOSE = 4.5  # standard deviations on part of the rows beyond which a triple is tested on all of them


@compiled
def characters_on_rows(signs: jax.Array, sets: jax.Array) -> jax.Array:
    """Returns characters [N, K] of sets bool [K, n]; 0 on rows that are padding and for sets without a feature."""
    return jnp.where((signs != 0).any(axis=1)[:, None], characters_of(signs, sets), 0.0)


def no_pool(signs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns a pool without sets, for `choose`."""
    return jnp.zeros((0, signs.shape[1]), bool), jnp.zeros((len(signs), 0))


def choose(
    residual: jax.Array,
    signs: jax.Array,
    used: jax.Array,
    sets: jax.Array,
    characters: jax.Array,
    pool: tuple[jax.Array, jax.Array],
    *,
    degree: int,
    count: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Chooses the `count` characters with the largest correlation with the residual, none of them in `sets`.

    Args:
      residual: [N].
      signs: [N, n] of -1 (kept), 1, padded with 0.
      used: bool [n].
      sets: bool [T, n], the known sets; those of two features and more are extended. Rows without a feature are empty.
      characters: [N, T], those of the known sets.
      pool: further candidates, sets bool [P, n] and characters [N, P].
      degree: largest degree of a character.
      count: number of characters.

    Returns:
      sets bool [count, n], characters [N, count] and absolute correlations [count], -1 where there was no candidate.
      A set of three features and more may come twice, reached from two of its subsets.
    """
    n, size = signs.shape[1], sets.sum(axis=1)
    weighted = signs * residual[:, None]
    pairs = jnp.abs(jnp.matmul(weighted.T, signs))
    # One half of the symmetric product is enough; its diagonal holds the singles.
    pairs = jnp.where(jnp.triu(jnp.ones((n, n), bool), 1) & used & used[:, None], pairs, -1.0)
    if degree == 1:
        pairs = jnp.full_like(pairs, -1.0)
    single = jnp.where(used, jnp.abs(weighted.sum(axis=0)), -1.0)
    pairs = jnp.where(jnp.eye(n, dtype=bool), single, pairs)
    # Known singles and pairs, by their first and last feature.
    small = (size == 1) | (size == 2)
    first, last = jnp.argmax(sets, axis=1), n - 1 - jnp.argmax(sets[:, ::-1], axis=1)
    pairs = pairs.at[jnp.where(small, first, n), last].set(-1.0, mode="drop")

    longer = jnp.abs(jnp.matmul((characters * residual[:, None]).T, signs))
    # Extending set t by feature i would give set u again where t is in u and i is the rest of it.
    members = sets.astype(jnp.float32)
    within = ((members @ members.T) == size[:, None]) & (size[None, :] == size[:, None] + 1)
    known = (within.astype(jnp.float32) @ members) > 0
    allowed = ~sets & ~known & used & ((size >= 2) & (size < degree))[:, None]
    longer = jnp.where(allowed, longer, -1.0)

    pool_sets, pool_characters = pool
    pooled = jnp.abs(jnp.matmul(residual, pool_characters))
    equal = (members @ pool_sets.T.astype(jnp.float32) == size[:, None]) & (pool_sets.sum(axis=1) == size[:, None])
    pooled = jnp.where(equal.any(axis=0) | ~pool_sets.any(axis=1), -1.0, pooled)

    scores = jnp.concatenate([pairs.ravel(), longer.ravel(), pooled])
    best, flat = jax.lax.top_k(scores, count)
    base = jnp.concatenate([jnp.eye(n, dtype=bool), sets])
    from_pool = flat - n * len(base)
    row, feature = jnp.minimum(flat // n, len(base) - 1), flat % n
    chosen = base[row].at[jnp.arange(count), feature].set(True)
    if len(pool_sets):
        chosen = jnp.where((from_pool >= 0)[:, None], pool_sets[jnp.maximum(from_pool, 0)], chosen)
    return chosen, characters_on_rows(signs, chosen), best


@compiled(static_argnames=("start", "block"))
def _best_partners(
    signs: jax.Array, residual: jax.Array, used: jax.Array, *, start: int, block: int
) -> tuple[jax.Array, jax.Array]:
    """Finds the three k > j with the largest |sum r s_i s_j s_k|, for i = start ... start + block - 1 and every j > i.

    Returns:
      float [block, 3, n - start] of correlations, -1 where there is no triple, and int [block, 3, n - start] of
      k - start.
    """
    chex.assert_shape([signs, used], [(*residual.shape, None), signs.shape[1:]])
    tail, width = signs[:, start:], signs.shape[1] - start
    place = jnp.arange(width)

    def best_of(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        weighted = tail * (residual * tail[:, i])[:, None]
        found = jnp.abs(weighted.T @ tail)
        allowed = (place[:, None] > i) & (place[None, :] > place[:, None]) & used[start:] & used[start:, None]
        found = jnp.where(allowed & used[start + i], found, -1.0)
        best = []
        for _ in range(_PARTNERS):
            size, k = found.max(axis=1), found.argmax(axis=1)
            found = jnp.where(place == k[:, None], -1.0, found)
            best.append((size, k))
        return jnp.stack([size for size, _ in best]), jnp.stack([k for _, k in best])

    found: tuple[jax.Array, jax.Array] = jax.lax.map(best_of, jnp.arange(block))
    return found


def triples(signs: jax.Array, residual: np.ndarray, used: jax.Array, rows: np.ndarray) -> np.ndarray:
    """Finds the sets of three features, of all n^3 / 6, whose correlation with the residual chance does not explain.

    Only the three largest of those that share their first two features are kept. Sets are screened on up to 4,096 of
    the rows; those that stand out there are tested on all rows against the size that the largest of as many independent
    correlations has by chance.

    Args:
      signs: [N, n], padded.
      residual: [N], 0 on padding.
      used: bool [n].
      rows: int [M], the real rows in random order.

    Returns:
      bool [K, n]; none where the search would cost too much.
    """
    width, part = signs.shape[1], rows[:_SCREENED_ROWS]
    n = int(used.sum())
    nothing = np.zeros((0, width), np.bool_)
    if n < 3 or len(part) * width**3 / 3 > _MOST_PRODUCTS:
        return nothing
    everything = np.asarray(signs)
    if len(part) == len(rows):  # padding stays, so that tables of one bucket share a program
        seen, answers = signs, jnp.asarray(residual, jnp.float32)
    else:
        seen, answers = jnp.asarray(everything[part]), jnp.asarray(residual[part], jnp.float32)
    scale = float(np.sqrt((residual[part] ** 2).sum()))
    found = []
    for start in range(0, width, _TAIL):
        block = min(_TAIL, width - start)
        size, partner = jax.device_get(_best_partners(seen, answers, used, start=start, block=block))
        i, choice, j = np.nonzero(size > _LOOSE * scale)
        found.append(np.stack([i, j, partner[i, choice, j]], axis=1) + start)
    members = np.concatenate(found)
    sets = np.zeros((len(members), width), np.bool_)
    sets[np.arange(len(members))[:, None], members] = True
    if not len(sets):
        return nothing
    first, second, third = (everything[rows[:, None], column] for column in members.T)
    columns = first * second * third
    size = np.abs(residual[rows] @ columns) / np.sqrt((residual[rows] ** 2).sum())
    by_chance = math.sqrt(2 * math.log(math.comb(n, 3) + 1)) + 0.5
    kept = np.flatnonzero(size > by_chance)
    return sets[kept[np.argsort(-size[kept], kind="stable")]]
