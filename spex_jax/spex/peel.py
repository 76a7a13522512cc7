"""Peeling: bins of subsampled transforms, single sets in them, and what is left when those are taken away (Kang et al.,
ICML 2025, arXiv 2502.13870; Li, Bradley and Ramchandran, SPRIGHT, 2015).

In group c the transform over the lattice puts every set k into bin M_c^T k. A bin that holds one set has the values
F(k) (-1)^<d_p, k> over the delays d_p: their signs against that of delay 0 are a parity word of the code, with errors
where noise or smaller sets turned a sign.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.masks import all_masks
from spex_jax.spex.bch import BCH, decode
from spex_jax.walsh import walsh_hadamard

__all__ = ["bins", "peel"]

_CHASE = 5  # least reliable signs, of which every pattern of flips is tried (Chase, 1972, algorithm 2)
_AT_ONCE = 64  # bins decoded at a time, which bounds the memory
_UNEXPLAINED = 0.9  # share of a bin's energy that a single set may leave
_ROUNDS = 12


def bins(values: jax.Array, rows: jax.Array) -> jax.Array:
    """Transforms [C, P + 1, 2^b] of values [M] at the rows int [C, P + 1, 2^b] of a design."""
    found: jax.Array = walsh_hadamard(values[rows]) / rows.shape[-1]
    return found


def _delay_signs(members: jax.Array, parity: jax.Array) -> jax.Array:
    """(-1)^<d_p, k>, [..., P + 1], of sets [..., n]: 1 at delay 0, then the parity word; parity float [n, P]."""
    words = 1.0 - 2.0 * (jnp.matmul(members, parity).astype(jnp.int32) & 1)
    return jnp.concatenate([jnp.ones((*words.shape[:-1], 1)), words], axis=-1)


def _single(
    bin_values: jax.Array, place: jax.Array, matrix: jax.Array, code: BCH, parity: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The one set that explains most of each of B bins: sets bool [B, n], coefficients [B], and whether to believe it.

    bin_values [B, P + 1]; place bool [B, b], the digits of the bins; matrix float [B, n, b], of their groups.
    """
    count, checks = len(bin_values), code.checks
    negative = (bin_values[:, 1:] < 0) ^ (bin_values[:, :1] < 0)
    weakest = jnp.argsort(jnp.abs(bin_values[:, 1:]), axis=1)[:, :_CHASE]
    flips = jnp.asarray(all_masks(_CHASE))
    row, pattern = jnp.arange(count), jnp.arange(2**_CHASE)
    patterns = jnp.zeros((count, 2**_CHASE, checks), bool)
    patterns = patterns.at[row[:, None, None], pattern[:, None], weakest[:, None]].set(flips)
    words = negative[:, None] ^ patterns
    words = jnp.concatenate([words, ~words], axis=1)  # a wrong sign of delay 0 turns all others
    sets, _, found = decode(code, words.reshape(-1, checks))
    members = sets.reshape(count, -1, code.n).astype(jnp.float32)
    there = jnp.einsum("bwn,bnd->bwd", members, matrix).astype(jnp.int32) & 1
    found = found.reshape(count, -1) & (there == place[:, None]).all(axis=2)
    signs = _delay_signs(members, parity)
    size = jnp.einsum("bwp,bp->bw", signs, bin_values, precision="highest") / (checks + 1)
    best = jnp.argmax(jnp.where(found, jnp.abs(size), -1.0), axis=1)
    energy = jnp.square(bin_values).sum(axis=1)
    left = energy - jnp.square(size[row, best]) * (checks + 1)
    believed = found[row, best] & (left <= _UNEXPLAINED * energy)
    return sets.reshape(count, -1, code.n)[row, best], size[row, best], believed


@functools.partial(jax.jit, static_argnames=("code", "most_terms"))
def peel(
    values: jax.Array, rows: jax.Array, matrices: jax.Array, floor: jax.Array, *, code: BCH, most_terms: int
) -> tuple[jax.Array, jax.Array]:
    """Finds single sets in the bins and takes them away until nothing new comes out.

    Args:
      values: float [M].
      rows: int [C, P + 1, 2^b], see `Design`.
      matrices: float [C, n, b] of 0 and 1.
      floor: coefficients smaller than this are not believed.
      code: of the delays.
      most_terms: K.

    Returns:
      sets bool [K, n] and coefficients [K], 0 on rows without a set; a set may stand in several rows, whose
      coefficients add up.
    """
    groups, n, b = matrices.shape
    parity = jnp.asarray(code.parity.T, jnp.float32)
    places = jnp.asarray(all_masks(b))
    names = jax.random.bits(jax.random.key(0), (2, n), jnp.uint32)
    count = groups * 2**b
    at_once = min(_AT_ONCE, 2**b)
    group = jnp.repeat(jnp.arange(groups), 2**b)
    weights = jnp.asarray(2 ** np.arange(b))

    State = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]

    def chunk(arguments: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        part, place, of = arguments
        return _single(part, place, matrices[of], code, parity)

    def step(state: State) -> State:
        left, sets, sizes, used, turn, _ = state
        flat = left.transpose(0, 2, 1).reshape(count, -1)
        parts = (flat, jnp.tile(places, (groups, 1)), group)
        pieces = jax.tree.map(lambda a: a.reshape(count // at_once, at_once, *a.shape[1:]), parts)
        found, size, believed = jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), jax.lax.map(chunk, pieces))
        believed &= jnp.abs(size) > floor
        # Bins that found the same set: its coefficient is their mean, and the first of them stands for all.
        code_of = (found[:, None, :] * names).sum(axis=2, dtype=jnp.uint32)
        same = (code_of[:, None] == code_of[None]).all(axis=2) & believed[:, None] & believed[None, :]
        mean = (same * size).sum(axis=1) / jnp.maximum(same.sum(axis=1), 1)
        first = believed & (jnp.argmax(same, axis=1) == jnp.arange(count))
        slot = used + jnp.cumsum(first) - 1
        first &= slot < most_terms
        mean = jnp.where(first, mean, 0.0)
        slot = jnp.where(first, slot, most_terms)
        sets = sets.at[slot].set(found, mode="drop")
        sizes = sizes.at[slot].set(mean, mode="drop")
        members = found.astype(jnp.float32)
        signs = _delay_signs(members, parity) * mean[:, None]
        for c in range(groups):
            where = (jnp.matmul(members, matrices[c]).astype(jnp.int32) & 1) @ weights
            left = left.at[c].add(-jnp.zeros_like(left[c]).at[:, where].add(signs.T))
        new = first.sum()
        return left, sets, sizes, used + new, turn + 1, new

    def goes_on(state: State) -> jax.Array:
        return (state[5] > 0) & (state[4] < _ROUNDS) & (state[3] < most_terms)

    zero = jnp.zeros((), jnp.int32)
    start = (
        bins(values, rows),
        jnp.zeros((most_terms, n), bool),
        jnp.zeros(most_terms),
        zero,
        zero,
        zero + 1,
    )
    _, sets, sizes, *_ = jax.lax.while_loop(goes_on, step, start)
    return sets, sizes
