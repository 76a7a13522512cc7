"""Candidate sets for the residual in the bins: from sums of bins over the groups, and from all singles and pairs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core.masks import all_masks
from spex_jax.spex.bch import BCH, decode
from spex_jax.spex.lattice import Lattice, Residual, Views, first_of_equals, score

__all__ = ["aligned", "all_pairs", "crowd", "from_sums", "singles_and_pairs"]

_STRONGEST = 1024  # most bins of a group that are matched with bins of the other groups
_PAIRED = 768  # pairs of bins to start from, over all orders of the groups
_MANY_BINS = 256
_FEWEST, _MOST = 256, 2048  # limits of the number of sums that are decoded
_MOST_PRODUCTS = 2**33  # most products in a search of all pairs on the uniform masks
_AT_ONCE = 2**22  # elements of an intermediate array


def aligned(left: jax.Array) -> jax.Array:
    """Returns sums [S, P + 1] of one bin of each group, those that agree most over the delays first.

    A set appears in one bin of each group with the same signs, so that the inner products of these three bins are
    large. For every bin the best partners in a second group are tried, each with the best bin of the third group, in
    every order of the groups.
    """
    groups, count, _ = left.shape
    kept = min(count, _STRONGEST)
    strongest = jax.lax.top_k(jnp.square(left).sum(axis=2), kept)[1]
    left = jnp.take_along_axis(left, strongest[:, :, None], axis=1)
    products = jnp.einsum("cip,djp->cdij", left, left)
    # Where most bins hold little, the strongest bin would be the partner of all others. There the angle is compared,
    # and the least of the three inner products counts.
    many = kept >= _MANY_BINS
    lengths = jnp.linalg.norm(left, axis=2) + 1e-30 if many else jnp.ones((groups, kept))
    partners = max(1, min(kept, _PAIRED // (6 * kept)))
    orders = np.array(list(itertools.permutations(range(groups))))

    def start_from(order: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the best triples [N, C] that start in the first group of this order, and their strength."""
        c, d, e = order
        first = jnp.repeat(jnp.arange(kept), partners)
        second = jax.lax.top_k(products[c, d] / lengths[d], partners)[1].ravel()
        third = jnp.argmax((products[c, e][first] + products[d, e][second]) / lengths[e], axis=1)
        pairs = products[c, d][first, second], products[c, e][first, third], products[d, e][second, third]
        triple = jnp.zeros((len(first), groups), jnp.int32)
        triple = triple.at[:, c].set(first).at[:, d].set(second).at[:, e].set(third)
        return triple, functools.reduce(jnp.minimum if many else jnp.add, pairs)

    triples, strength = jax.lax.map(start_from, jnp.asarray(orders))
    triples, strength = triples.reshape(-1, groups), strength.ravel()
    # Several starts give equal triples, and a strong set would fill the list with triples in which one bin is wrong.
    # So triples that are the strongest of each of their bins come before all others.
    first = jnp.ones(len(triples), bool)
    for c in range(groups):
        strongest_here = jnp.full(kept, -jnp.inf).at[triples[:, c]].max(strength)
        first &= strength == strongest_here[triples[:, c]]
    strength += jnp.where(first, 2 * jnp.abs(strength).max(), 0.0)
    strength = jnp.where(first_of_equals(triples), strength, -jnp.inf)
    most = min(len(triples), int(np.clip(2 * kept, _FEWEST, _MOST)))
    best = triples[jax.lax.top_k(strength, most)[1]]
    return sum((left[c][best[:, c]] for c in range(groups)), jnp.zeros(()))


def from_sums(sums: jax.Array, code: BCH, flips: int, most: int) -> jax.Array:
    """Decodes sets bool [most, n] from sums of bins [S, P + 1] over the groups; all False where there is none.

    Adding the bins of a set before taking signs makes wrong signs rarer than in any single bin. Every pattern of flips
    of the `flips` weakest signs is tried (Chase, 1972, algorithm 2), delay 0 included.
    """
    weakest = jax.lax.top_k(-jnp.abs(sums), flips)[1]
    row, pattern = jnp.arange(len(sums)), jnp.arange(2**flips)
    flipped = jnp.zeros((2**flips, *sums.shape), bool)
    flipped = flipped.at[pattern[:, None, None], row[:, None], weakest].set(jnp.asarray(all_masks(flips))[:, None])
    negative = ((sums < 0) ^ flipped).reshape(-1, sums.shape[1])
    words = negative[:, 1:] ^ negative[:, :1]
    return decode(code, words, min(most, len(words)))[1]


def crowd(n: int, b: int) -> int:
    """Returns the most single features that a bin may hold, far more than chance puts there. Designs respect it."""
    mean = n / 2**b
    return 4 * int(np.ceil((mean + 4 * np.sqrt(mean) + 4) / 4))


def all_pairs(left: jax.Array, of: Lattice) -> jax.Array:
    """Returns the correlations [n, n] with the sets {i, j}, added up over groups and delays.

    For all features i in bin a, the pair {i, j} is in bin a + place_j: the bins gathered once for each a serve all of
    them, in a matrix product.
    """
    groups, count, delays = left.shape
    n = len(of.signs)
    slots = crowd(n, int(np.log2(count)))
    at_once = 1
    while at_once < count and 2 * at_once * n * delays <= _AT_ONCE:
        at_once *= 2
    signs = jnp.concatenate([of.signs, jnp.zeros((1, delays))])
    total = jnp.zeros((n, n))
    for c in range(groups):
        places = of.places[c]
        sorting = jnp.argsort(places)
        start = jnp.searchsorted(places[sorting], jnp.arange(count))
        slot = jnp.zeros(n, jnp.int32).at[sorting].set(jnp.arange(n) - start[places[sorting]])
        members = jnp.full((count, slots), n).at[places, slot].set(jnp.arange(n), mode="drop")

        def add(total: jax.Array, part: tuple[jax.Array, jax.Array], c: int = c) -> tuple[jax.Array, None]:
            bin_of, inside = part
            shifted = left[c][bin_of[:, None] ^ of.places[c]] * of.signs
            blocks = jnp.einsum("alp,anp->aln", signs[inside], shifted)
            return total.at[inside.ravel()].add(blocks.reshape(-1, n), mode="drop"), None

        parts = (jnp.arange(count).reshape(-1, at_once), members.reshape(-1, at_once, slots))
        total = jax.lax.scan(add, total, parts)[0]
    return total


def singles_and_pairs(left: Residual, of: Lattice, margins: jax.Array, most: int) -> jax.Array:
    """Returns the sets bool [most, n] of one or two features that stand out most, with at most one pair for each first
    feature; margins [2] divide the correlations of singles and of pairs.
    """
    n, rows = len(of.signs), len(left.values)
    feature = jnp.arange(n)
    characters = 1.0 - 2.0 * of.uniform
    single = jnp.abs(score(left, Views(of.places.T, of.signs, characters))) / margins[0]
    pairs = left.bins.shape[1] * all_pairs(left.bins, of)
    if n * n * rows <= _MOST_PRODUCTS:
        pairs += jnp.matmul(characters * left.values, characters.T)
    else:
        rows = 0
    pairs = jnp.abs(pairs) * (feature[:, None] < feature)
    partner = jnp.argmax(pairs, axis=1)
    pair = pairs[feature, partner] / ((left.bins.size + rows) * margins[1])
    chosen = jax.lax.top_k(jnp.concatenate([single, pair]), min(most, 2 * n))[1]
    other = jnp.where(chosen < n, chosen, partner[chosen % n])
    return (feature == (chosen % n)[:, None]) | (feature == other[:, None])
