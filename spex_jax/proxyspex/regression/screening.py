"""Screens characters by their correlation with a residual: all singles and pairs, extensions of known sets, and all
triples.

With signs s [N, n] and residual r [N] one matrix product, (s * r)^T s, holds the correlations of all n(n-1)/2 pairs,
whether or not their singles matter; (characters * r)^T s holds those of all one-feature extensions of known sets.
"""

import math

import chex
import numpy as np

from spex_jax.proxyspex.extraction import characters_of
from spex_jax.utils.array_api import Array, for_each, namespace, on_host, put, top_k
from spex_jax.utils.precision import portable

__all__ = ["characters_on_rows", "choose", "no_pool", "triples"]

_TAIL = 256  # features in a block of the search for triples
_SCREENED_ROWS = 4096
_MOST_PRODUCTS = 4e12  # multiplications that a search for triples may cost: minutes on two cores, n = 1,400
_PARTNERS = 3  # triples kept among those that share their first two features
_LOOSE = 4.5  # standard deviations on part of the rows beyond which a triple is tested on all of them


@portable
def characters_on_rows(signs: Array, sets: Array) -> Array:
    """Returns characters [N, K] of sets bool [K, n]; 0 on rows that are padding and for sets without a feature."""
    return characters_of(signs, sets) * (signs[:, :1] != 0)


def no_pool(signs: Array) -> tuple[Array, Array]:
    """Returns a pool without sets, for `choose`."""
    xp = namespace(signs)
    return xp.zeros((0, signs.shape[1]), bool), xp.zeros((len(signs), 0), xp.float32)


def choose(
    residual: Array,
    signs: Array,
    used: Array,
    sets: Array,
    characters: Array,
    pool: tuple[Array, Array],
    *,
    degree: int,
    count: int,
) -> tuple[Array, Array, Array]:
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
    xp = namespace(residual, signs, sets)
    n, size, place = signs.shape[1], sets.sum(axis=1), xp.arange(signs.shape[1])
    weighted = signs * residual[:, None]
    # One half of the symmetric product is enough; its diagonal holds the singles.
    above = (place[:, None] < place) & used & used[:, None] & (degree > 1)
    pairs = xp.where(above, xp.abs(xp.matmul(weighted.T, signs)), -1.0)
    single = xp.where(used, xp.abs(weighted.sum(axis=0)), -1.0)
    pairs = xp.where(place[:, None] == place, single, pairs)
    # Known singles and pairs, by their first and last feature; for others a place where there is no candidate anyway.
    small = (size == 1) | (size == 2)
    first, last = xp.argmax(sets, axis=1), n - 1 - xp.argmax(sets[:, ::-1], axis=1)
    pairs = put(pairs, (xp.where(small, first, n - 1), xp.where(small, last, 0)), -1.0)

    longer = xp.abs(xp.matmul((characters * residual[:, None]).T, signs))
    # Extending set t by feature i would give set u again where t is in u and i is the rest of it.
    members = sets.astype(xp.float32)
    within = ((members @ members.T) == size[:, None]) & (size[None, :] == size[:, None] + 1)
    known = (within.astype(xp.float32) @ members) > 0
    allowed = ~sets & ~known & used & ((size >= 2) & (size < degree))[:, None]
    longer = xp.where(allowed, longer, -1.0)

    pool_sets, pool_characters = pool
    pooled = xp.abs(xp.matmul(residual, pool_characters))
    equal = (members @ pool_sets.T.astype(xp.float32) == size[:, None]) & (pool_sets.sum(axis=1) == size[:, None])
    pooled = xp.where(equal.any(axis=0) | ~pool_sets.any(axis=1), -1.0, pooled)

    best, flat = top_k(xp.concatenate([pairs.ravel(), longer.ravel(), pooled]), count)
    base = xp.concatenate([xp.eye(n, dtype=bool), sets])
    from_pool = flat - n * len(base)
    row, feature = xp.minimum(flat // n, len(base) - 1), flat % n
    chosen = put(base[row], (xp.arange(count), feature), True)
    if len(pool_sets):
        chosen = xp.where((from_pool >= 0)[:, None], pool_sets[xp.maximum(from_pool, 0)], chosen)
    return chosen, characters_on_rows(signs, chosen), best


@portable(static_argnames=("start", "block"))
def _best_partners(signs: Array, residual: Array, used: Array, *, start: int, block: int) -> tuple[Array, Array]:
    """Finds the three k > j with the largest |sum r s_i s_j s_k|, for i = start ... start + block - 1 and every j > i.

    Returns:
      float [block, 3, n - start] of correlations, -1 where there is no triple, and int [block, 3, n - start] of
      k - start.
    """
    chex.assert_shape([signs, used], [(*residual.shape, None), signs.shape[1:]])
    xp = namespace(signs, residual, used)
    tail, width = signs[:, start:], signs.shape[1] - start
    place = xp.arange(width)

    def best_of(i: Array) -> tuple[Array, Array]:
        weighted = tail * (residual * tail[:, i])[:, None]
        found = xp.abs(weighted.T @ tail)
        allowed = (place[:, None] > i) & (place[None, :] > place[:, None]) & used[start:] & used[start:, None]
        found = xp.where(allowed & used[start + i], found, -1.0)
        best = []
        for _ in range(_PARTNERS):
            size, k = found.max(axis=1), found.argmax(axis=1)
            found = xp.where(place == k[:, None], -1.0, found)
            best.append((size, k))
        return xp.stack([size for size, _ in best]), xp.stack([k for _, k in best])

    found: tuple[Array, Array] = for_each(best_of, xp.arange(block), at_once=False)
    return found


def triples(signs: Array, residual: np.ndarray, used: Array, rows: np.ndarray) -> np.ndarray:
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
    xp, everything = namespace(signs), np.asarray(signs)
    if len(part) == len(rows):  # padding stays, so that tables of one bucket share a program
        seen, answers = signs, xp.asarray(residual, xp.float32)
    else:
        seen, answers = xp.asarray(everything[part]), xp.asarray(residual[part], xp.float32)
    at_once = 1 if on_host(signs) else _TAIL  # there are no programs to share on the host: only the features after i
    scale = float(np.sqrt((residual[part] ** 2).sum()))
    found = []
    for start in range(0, width, at_once):
        block = min(at_once, width - start)
        size, partner = map(np.asarray, _best_partners(seen, answers, used, start=start, block=block))
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
