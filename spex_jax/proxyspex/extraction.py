"""Reads the large terms off a proxy: a search on the device that grows sets one feature at a time.

A proxy that is a weighted sum over rows, g(x) = sum_j weights_j k(x, x_j) with a kernel diagonal in the Walsh basis,
has F(S) = P(S) c(S) with c(S) = sum_j weights_j chi_S(x_j). Scoring all one-feature extensions of a front of sets is
one matrix product, (chi_front * weights) @ signs. With P = 1 and weights = answers / rows the same search estimates the
spectrum of any function that can be evaluated.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import spex
from spex_jax.core import masks as masks_lib
from spex_jax.core.spectrum import Spectrum
from spex_jax.core.walsh import signs as to_signs
from spex_jax.core.walsh import walsh_hadamard
from spex_jax.utils.array_api import Array, fold_in_order, namespace, on_host, put, top_k
from spex_jax.utils.precision import compiled, portable

__all__ = ["EXTRACTS", "Extract", "characters_of", "energy_cut", "grow", "in_units", "read_answers"]

Extract = Literal["grow", "spex"]
EXTRACTS = get_args(Extract)
Query = Callable[[jax.Array], jax.Array]

_ANSWERS = 2**17  # random masks at which a proxy is evaluated
_MOST_COMPLETE = 17  # most features at which all 2^n masks are evaluated
_BATCH = 2**13
_CONSTANT = 1e-6  # relative deviation of float32 answers that counts as none
_FRONT = 512
_LEAST_SQUARES_ROWS = 2**15
_MOST_TERMS = 2048
_DEVIATIONS = 3.0  # standard deviations of the sampling noise beyond which a term is kept


class _Front(NamedTuple):
    """The sets of one degree that are extended to the next, at most F of them.

    Attributes:
      support: bool [F, n].
      characters: float [F, N].
      log_prior: float [F, R], the logarithm of each kernel's prior variance.
      valid: bool [F], the rows that hold a set.
    """

    support: Array
    characters: Array
    log_prior: Array
    valid: Array


class _Found(NamedTuple):
    """The result of `grow`: [max_degree, front] places on a device, the K sets one after another on the host.

    Attributes:
      support: bool [..., n].
      coefficients: float [...], P(S) c(S).
      prior: float [...], P(S); zero where a place holds no set.
    """

    support: Array
    coefficients: Array
    prior: Array


@portable(static_argnames=("max_degree", "front"))
def grow(
    signs: Array,
    weights: Array,
    used: Array,
    log_w: Array,
    log_amplitude: Array,
    first: Array,
    *,
    max_degree: int,
    front: int,
) -> _Found:
    """Searches hierarchically for the largest terms of degree 1 to max_degree.

    The prior variance of F(S) is P(S) = sum_r exp(log_amplitude_r + sum_{i in S} log_w_ri), plus first_i for S = {i}.

    Args:
      signs: [N, n] of -1, 1; padded rows have weight 0.
      weights: [N].
      used: bool [n], features that are real.
      log_w: [R, n].
      log_amplitude: [R].
      first: [n].
      max_degree: largest degree of a term.
      front: sets kept at each degree; all sets of a degree where they are fewer.
    """
    chex.assert_shape(
        [signs, log_w, first], [(*weights.shape, *used.shape), (*log_amplitude.shape, *used.shape), used.shape]
    )
    xp, n = namespace(signs, weights), signs.shape[1]
    # Two sums of random integers identify a set, so that sorting finds equal sets reached from different parents.
    names = np.random.default_rng(0).integers(2**32, size=(2, n), dtype=np.uint32)

    def extend(sets: _Front, degree: Array | int) -> tuple[_Front, _Found]:
        correlation = xp.matmul(sets.characters * weights, signs)
        nothing = xp.zeros_like(correlation)
        prior = fold_in_order(
            lambda total, r: total + xp.exp(sets.log_prior[:, r, None] + log_w[r]), nothing, xp.arange(len(log_w))
        )
        prior += xp.where(degree == 0, first, 0.0)
        allowed = sets.valid[:, None] & ~sets.support & used
        score = xp.where(allowed, xp.abs(prior * correlation), -1.0)
        # A set of d features can be reached from d parents: take more than the front and drop the copies.
        candidates = min(front * max_degree, score.size)
        best, flat = top_k(score.ravel(), candidates)
        parent, feature = flat // n, flat % n
        members = put(sets.support[parent], (xp.arange(candidates), feature), True)
        code = xp.stack([(members * name).sum(axis=1, dtype=np.uint32) for name in names])
        order = xp.lexsort(code)
        ordered = code[:, order]
        repeated = put(xp.zeros(candidates, bool), order[1:], (ordered[:, 1:] == ordered[:, :-1]).all(axis=0))
        fresh = (best >= 0) & ~repeated
        keep = _first_where(fresh, front)
        valid = fresh[keep] & (xp.arange(len(keep)) < candidates)
        parent, feature, members = parent[keep], feature[keep], members[keep]
        chosen = (parent, feature)
        found = _Found(members, (prior * correlation)[chosen] * valid, prior[chosen] * valid)
        following = _Front(
            members, sets.characters[parent] * signs.T[feature], sets.log_prior[parent] + log_w.T[feature], valid
        )
        return following, found

    places = 1 if xp is np else front
    sets = _Front(
        support=xp.zeros((places, n), bool),
        characters=xp.ones((places, len(signs)), np.float32),
        log_prior=xp.broadcast_to(log_amplitude, (places, len(log_amplitude))),
        valid=xp.arange(places) < 1,
    )
    if xp is jnp:
        return jax.lax.scan(extend, sets, jnp.arange(max_degree))[1]
    parts = []
    for degree in range(max_degree):
        sets, part = extend(sets, degree)
        parts.append(part)
    return _Found(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _first_where(wanted: Array, most: int) -> Array:
    """Returns the indices of the first `most` True among wanted bool [K]; on a device exactly as many, filled up with
    indices of others.
    """
    if isinstance(wanted, np.ndarray):
        return np.flatnonzero(wanted)[:most]
    first = jnp.argsort(~wanted, stable=True)[:most]
    return jnp.pad(first, (0, most - len(first)), mode="edge")


def energy_cut(coefficients: np.ndarray, max_terms: int | None) -> np.ndarray:
    """Returns the rows to keep, largest first: `max_terms` of them, or for None the fewest with 99.9% of the energy, at
    most 10,000.

    Args:
      coefficients: float [K].
      max_terms: at least 1, or None.
    """
    order = np.argsort(-np.abs(coefficients), kind="stable")
    if max_terms is None and len(order):
        energy = np.cumsum(np.square(coefficients[order]))
        max_terms = min(int(np.searchsorted(energy, 0.999 * energy[-1])) + 1, 10_000)
    return order[:max_terms]


def in_units(terms: Spectrum, mean: float, scale: float, max_terms: int | None) -> Spectrum:
    """Returns the spectrum of mean + scale * terms, () first, cut by `energy_cut`; max_terms counts ()."""
    nothing = ~terms.support.any(axis=1)
    rows = np.flatnonzero(~nothing)
    rows = rows[energy_cut(terms.coefficients[rows], None if max_terms is None else max_terms - 1)]
    constant = mean + scale * float(terms.coefficients[nothing].sum())
    return Spectrum(
        np.concatenate([np.zeros((1, terms.n), np.bool_), terms.support[rows]]),
        np.concatenate([[constant], scale * terms.coefficients[rows]]),
    )


def characters_of(signs: Array, support: Array) -> Array:
    """Returns characters float32 [Q, K]; 0 for the rows of support that hold no set."""
    xp = namespace(signs, support)
    if on_host(signs, support):  # a few sets leave out most features
        members = support.any(axis=0)
        signs, support = signs[:, members], support[:, members]
    removed = (signs < 0).astype(xp.float32)
    odd = xp.matmul(removed, support.T.astype(xp.float32)).astype(xp.int32) & 1
    return xp.where(support.any(axis=1), 1 - 2 * odd, 0).astype(xp.float32)


@compiled
def _evaluate(signs: jax.Array, support: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Returns the values [Q] of a sum of characters, in blocks of rows that fit in memory."""
    blocks = signs.reshape(-1, _BATCH, signs.shape[1])
    found: jax.Array = jax.lax.map(lambda block: characters_of(block, support) @ coefficients, blocks)
    return found.ravel()


@compiled
def _least_squares(signs: jax.Array, answers: jax.Array, support: jax.Array) -> jax.Array:
    """Fits answers [Q]: returns coefficients [K] of the characters of support bool [K, n], 0 for rows of support that
    are all False.

    On uniform masks the characters are nearly orthogonal, so that a few steps of conjugate gradients are exact to
    rounding.
    """
    chex.assert_shape([signs, support], [(*answers.shape, None), (None, signs.shape[1])])
    characters: jax.Array = characters_of(signs, support)

    def normal(c: jax.Array) -> jax.Array:
        return characters.T @ (characters @ c) / len(signs)

    start = characters.T @ answers / len(signs)
    found: jax.Array = jax.scipy.sparse.linalg.cg(normal, start, x0=start, tol=1e-6, maxiter=30)[0]
    return found


def _complete(answers: np.ndarray, n: int, max_degree: int) -> tuple[np.ndarray, np.ndarray]:
    coefficients = walsh_hadamard(np.asarray(answers, np.float64)) / 2**n
    support = masks_lib.all_masks(n)
    keep = support.sum(axis=1) <= max_degree
    support, coefficients = support[keep], coefficients[keep]
    order = energy_cut(coefficients, min(_MOST_TERMS, len(coefficients)))
    return support[order], coefficients[order]


def _query_masks(query: Query, masks: np.ndarray, width: int) -> tuple[jax.Array, jax.Array]:
    """Returns signs [M, width] and answers [M] at masks bool [M, n]."""
    rows, n = masks.shape
    padded = np.zeros((-(-rows // _BATCH) * _BATCH, width), np.float32)
    padded[:rows, :n] = to_signs(masks)
    values = [query(jnp.asarray(padded[start : start + _BATCH])) for start in range(0, len(padded), _BATCH)]
    return jnp.asarray(padded[:rows]), jnp.concatenate(values)[:rows]


def read_answers(
    query: Query, n: int, width: int, rng: np.random.Generator, *, max_degree: int, extract: str = "grow"
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the large terms of a function that is cheap to evaluate.

    Up to n = 17 a fast transform of all 2^n answers gives them; beyond, a search. "grow" grows sets one feature at a
    time on the answers at 131,072 random masks. It runs twice, the second time on the residual of the terms found
    first, where the sampling noise is smaller; least squares on the answers then gives the coefficients. It finds only
    sets that smaller sets lead to. "spex" evaluates at most as many coded masks and decodes the answers on the device.

    Args:
      query: signs float32 [_BATCH, width] -> answers [_BATCH], on the device.
      n: number of features.
      width: columns of the signs; those from n on are 0.
      rng: draws the masks, or the design.
      max_degree: largest degree of a term; "spex" goes up to 8.
      extract: "grow" or "spex".

    Returns:
      support bool [K, n] and coefficients float64 [K], () among them.
    """
    if n <= _MOST_COMPLETE:
        return _complete(np.asarray(_query_masks(query, masks_lib.all_masks(n), width)[1]), n, max_degree)
    if extract == "spex":
        return _decode_answers(query, n, width, rng, max_degree)
    return _grow_answers(query, n, width, rng, max_degree)


def _decode_answers(
    query: Query, n: int, width: int, rng: np.random.Generator, max_degree: int
) -> tuple[np.ndarray, np.ndarray]:
    seed = int(rng.integers(2**32))
    made = spex.design(n, _ANSWERS, max_degree=min(max_degree, spex.MOST_DEGREE), seed=seed, leftover=False)
    answers = _query_masks(query, made.masks, width)[1]
    mean, deviation = float(answers.mean()), float(answers.std())
    if deviation <= _CONSTANT * abs(mean):
        return np.zeros((1, n), np.bool_), np.array([mean])
    support, coefficients = spex.search(made, (answers - mean) / deviation)
    return support, deviation * coefficients + np.where(support.any(axis=1), 0.0, mean)


def _grow_answers(
    query: Query, n: int, width: int, rng: np.random.Generator, max_degree: int
) -> tuple[np.ndarray, np.ndarray]:
    masks = rng.integers(0, 2, (_ANSWERS, n), np.uint8).astype(np.bool_)
    rows = len(masks)
    signs, answers = _query_masks(query, masks, width)
    part = slice(0, _LEAST_SQUARES_ROWS)
    used = jnp.arange(width) < n
    flat = jnp.zeros((1, width)), jnp.zeros(1), jnp.zeros(width)  # P(S) = 1
    mean = float(answers.mean())
    support = np.zeros((_MOST_TERMS, width), np.bool_)
    coefficients = np.zeros(_MOST_TERMS)
    residual = answers - mean
    for _ in range(2):
        found, values, prior = jax.device_get(
            grow(signs, residual / rows, used, *flat, max_degree=max_degree, front=_FRONT)
        )
        noise = float(jnp.std(residual)) / np.sqrt(rows)
        significant = (prior > 0) & (np.abs(values) > _DEVIATIONS * noise)
        known = coefficients != 0
        candidates = np.concatenate([support[known], found[significant]])
        sizes = np.concatenate([coefficients[known], values[significant]])
        first, inverse = masks_lib.deduplicate(candidates) if len(candidates) else (np.zeros(0, int), np.zeros(0, int))
        sizes = np.bincount(inverse, sizes, len(first))
        keep = energy_cut(sizes, min(_MOST_TERMS, len(first))) if len(first) else first
        support = np.zeros((_MOST_TERMS, width), np.bool_)
        support[: len(keep)] = candidates[first[keep]]
        coefficients = np.asarray(_least_squares(signs[part], (answers - mean)[part], jnp.asarray(support)), np.float64)
        residual = answers - mean - _evaluate(signs, jnp.asarray(support), jnp.asarray(coefficients, jnp.float32))
    known = coefficients != 0
    return (
        np.concatenate([np.zeros((1, n), np.bool_), support[known][:, :n]]),
        np.concatenate([[mean], coefficients[known]]),
    )
