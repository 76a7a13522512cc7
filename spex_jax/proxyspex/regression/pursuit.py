"""Orthogonal matching pursuit over characters: the greedy solver of "linear".

Each step screens with `screening.choose`. The chosen characters are orthogonalised on the training rows (Pati et al.,
1993; Tropp and Gilbert, 2007), several at a time where n is large (generalised OMP, Wang et al., 2012).
"""

from typing import NamedTuple

import chex

from spex_jax.proxyspex.regression.screening import choose, no_pool
from spex_jax.utils.array_api import Array, for_each, namespace, on_host, put, repeat_while
from spex_jax.utils.precision import portable

__all__ = ["MOST_TERMS", "Pursuit", "pursue"]

MOST_TERMS = 256
_PATIENCE = 24  # terms without a better held-out error before a fit stops


class Pursuit(NamedTuple):
    """The result of `pursue`: B fits of T terms, chosen in S steps.

    Attributes:
      sets: bool [B, T, n], in the order of their choice.
      errors: float [B, S], held-out mean squared errors after each step, infinite past the last.
      predictions: float [B, N], held-out predictions of each fit at its best step.
      steps: int [], the number of steps.
    """

    sets: Array
    errors: Array
    predictions: Array
    steps: Array


class _State(NamedTuple):
    """The state of B fits between two steps.

    Attributes:
      terms: int [], the number of terms chosen.
      prediction: float [B, N].
      orthogonal: float [B, T, N], the characters made orthogonal on the training rows.
      characters: float [B, T, N].
      sets, errors, best: as `Pursuit.sets`, `Pursuit.errors` and `Pursuit.predictions`, so far.
      best_error: float [B], the least held-out errors so far.
    """

    terms: Array
    prediction: Array
    orthogonal: Array
    characters: Array
    sets: Array
    errors: Array
    best_error: Array
    best: Array


def _chosen(array: Array, terms: Array) -> Array:
    """Returns the first terms of an array [B, T, ...]; all of them on a device, where the others are 0."""
    return array[:, :terms] if on_host(array) else array


@portable(static_argnames=("max_degree", "most_terms", "at_once"))
def pursue(
    signs: Array,
    targets: Array,
    weight: Array,
    held_out: Array,
    used: Array,
    limit: Array | int = MOST_TERMS,
    pool: tuple[Array, Array] | None = None,
    *,
    max_degree: int,
    most_terms: int = MOST_TERMS,
    at_once: int = 1,
) -> Pursuit:
    """Pursues B fits side by side until none improves on its held-out rows any more.

    Args:
      signs: [N, n] of -1 (kept), 1, padded with 0.
      targets: [N].
      weight: [B, N], 1 for the rows of each fit.
      held_out: [B, N], 1 for the rows on which each fit is scored.
      used: bool [n].
      limit: terms after which to stop in any case; a new limit does not recompile.
      pool: further candidates, sets bool [P, n] and characters [N, P]; None for none.
      max_degree: largest degree of a character.
      most_terms: T, a multiple of at_once.
      at_once: characters chosen in a step.
    """
    chex.assert_shape([weight, held_out, used], [(None, *targets.shape), weight.shape, signs.shape[1:]])
    chex.assert_shape(signs, (*targets.shape, None))
    xp = namespace(signs, targets, weight, held_out, used)
    fits, rows, n = weight.shape[0], signs.shape[0], signs.shape[1]
    scored = xp.maximum(held_out.sum(axis=1), 1.0)
    pool = no_pool(signs) if pool is None else pool

    def pick(residual: Array, sets: Array, characters: Array) -> tuple[Array, Array]:
        found = choose(residual, signs, used, sets, characters.T, pool, degree=max_degree, count=at_once)
        return found[0], found[1].T

    def add(weight: Array, prediction: Array, orthogonal: Array, column: Array) -> tuple[Array, Array]:
        """Adds a character [N] to one fit, orthogonalised on its training rows, twice because of rounding."""
        for _ in range(2):
            column = column - (orthogonal @ (weight * column)) @ orthogonal
        norm = xp.sqrt((weight * column**2).sum())
        # Only rounding is left of a character that the others already span.
        column = xp.where(norm > 1e-2 * xp.sqrt(weight.sum()), column / xp.maximum(norm, 1e-20), 0.0)
        return prediction + column * (weight * column * (targets - prediction)).sum(), column

    def step(state: _State) -> _State:
        t, prediction = state.terms, state.prediction
        orthogonal, characters, sets = state.orthogonal, state.characters, state.sets
        residual = weight * (targets - prediction)
        found, columns = for_each(pick, residual, _chosen(sets, t), _chosen(characters, t))
        for k in range(at_once):
            place = (slice(None), t + k)
            prediction, new = for_each(add, weight, prediction, _chosen(orthogonal, t + k), columns[:, k])
            orthogonal = put(orthogonal, place, new)
            characters, sets = put(characters, place, columns[:, k]), put(sets, place, found[:, k])
        error = ((targets - prediction) ** 2 * held_out).sum(axis=1) / scored
        better = error < state.best_error
        return _State(
            terms=t + at_once,
            prediction=prediction,
            orthogonal=orthogonal,
            characters=characters,
            sets=sets,
            errors=put(state.errors, (slice(None), t // at_once), error),
            best_error=xp.minimum(error, state.best_error),
            best=xp.where(better[:, None], prediction, state.best),
        )

    def goes_on(state: _State) -> Array:
        t = state.terms
        last_best = (xp.argmin(state.errors, axis=1) + 1) * at_once
        return (t < xp.minimum(limit, most_terms)) & ((t == 0) | (t - last_best <= _PATIENCE).any())

    start = _State(
        terms=xp.zeros((), xp.int32),
        prediction=xp.zeros((fits, rows), xp.float32),
        orthogonal=xp.zeros((fits, most_terms, rows), xp.float32),
        characters=xp.zeros((fits, most_terms, rows), xp.float32),
        sets=xp.zeros((fits, most_terms, n), bool),
        errors=xp.full((fits, most_terms // at_once), xp.inf, xp.float32),
        best_error=(targets**2 * held_out).sum(axis=1) / scored,
        best=xp.zeros((fits, rows), xp.float32),
    )
    last = repeat_while(goes_on, step, start)
    return Pursuit(last.sets, last.errors, last.best, last.terms // at_once)
