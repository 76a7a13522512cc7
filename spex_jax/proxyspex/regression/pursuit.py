"""Orthogonal matching pursuit over characters: the greedy solver of "linear".

Each step screens with `screening.choose`. The chosen characters are orthogonalised on the training rows (Pati et al.,
1993; Tropp and Gilbert, 2007), several at a time where n is large (generalised OMP, Wang et al., 2012).
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from spex_jax.proxyspex.regression.screening import choose, no_pool
from spex_jax.utils.precision import compiled

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

    sets: jax.Array
    errors: jax.Array
    predictions: jax.Array
    steps: jax.Array


class _State(NamedTuple):
    """The state of B fits between two steps.

    Attributes:
      terms: int [], the number of terms chosen.
      prediction: float [B, N].
      orthogonal: float [B, N, T], the characters made orthogonal on the training rows.
      characters: float [B, N, T].
      sets, errors, best: as `Pursuit.sets`, `Pursuit.errors` and `Pursuit.predictions`, so far.
      best_error: float [B], the least held-out errors so far.
    """

    terms: jax.Array
    prediction: jax.Array
    orthogonal: jax.Array
    characters: jax.Array
    sets: jax.Array
    errors: jax.Array
    best_error: jax.Array
    best: jax.Array


@compiled(static_argnames=("max_degree", "most_terms", "at_once"))
def pursue(
    signs: jax.Array,
    targets: jax.Array,
    weight: jax.Array,
    held_out: jax.Array,
    used: jax.Array,
    limit: jax.Array | int = MOST_TERMS,
    pool: tuple[jax.Array, jax.Array] | None = None,
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
    fits, rows, n = weight.shape[0], signs.shape[0], signs.shape[1]
    scored = jnp.maximum(held_out.sum(axis=1), 1.0)
    pool = no_pool(signs) if pool is None else pool

    def add(
        weight: jax.Array, prediction: jax.Array, orthogonal: jax.Array, column: jax.Array, place: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Adds a character [N] to one fit, orthogonalised on its training rows, twice because of rounding."""
        for _ in range(2):
            column = column - orthogonal @ (orthogonal.T @ (weight * column))
        norm = jnp.sqrt((weight * column**2).sum())
        # Only rounding is left of a character that the others already span.
        column = jnp.where(norm > 1e-2 * jnp.sqrt(weight.sum()), column / jnp.maximum(norm, 1e-20), 0.0)
        prediction = prediction + column * (weight * column * (targets - prediction)).sum()
        return prediction, orthogonal.at[:, place].set(column)

    def step(state: _State) -> _State:
        t, prediction, orthogonal = state.terms, state.prediction, state.orthogonal
        residual = weight * (targets - prediction)
        pick = functools.partial(choose, degree=max_degree, count=at_once)
        axes = (0, None, None, 0, 0, None)
        chosen, columns, _ = jax.vmap(pick, in_axes=axes)(residual, signs, used, state.sets, state.characters, pool)
        for k in range(at_once):
            prediction, orthogonal = jax.vmap(add, in_axes=(0, 0, 0, 0, None))(
                weight, prediction, orthogonal, columns[:, :, k], t + k
            )
        characters = jax.lax.dynamic_update_slice(state.characters, columns, (0, 0, t))
        sets = jax.lax.dynamic_update_slice(state.sets, chosen, (0, t, 0))
        error = ((targets - prediction) ** 2 * held_out).sum(axis=1) / scored
        better = error < state.best_error
        return _State(
            terms=t + at_once,
            prediction=prediction,
            orthogonal=orthogonal,
            characters=characters,
            sets=sets,
            errors=state.errors.at[:, t // at_once].set(error),
            best_error=jnp.minimum(error, state.best_error),
            best=jnp.where(better[:, None], prediction, state.best),
        )

    def goes_on(state: _State) -> jax.Array:
        t = state.terms
        last_best = (jnp.argmin(state.errors, axis=1) + 1) * at_once
        return (t < jnp.minimum(limit, most_terms)) & ((t == 0) | (t - last_best <= _PATIENCE).any())

    start = _State(
        terms=jnp.zeros((), jnp.int32),
        prediction=jnp.zeros((fits, rows)),
        orthogonal=jnp.zeros((fits, rows, most_terms)),
        characters=jnp.zeros((fits, rows, most_terms)),
        sets=jnp.zeros((fits, most_terms, n), bool),
        errors=jnp.full((fits, most_terms // at_once), jnp.inf),
        best_error=(targets**2 * held_out).sum(axis=1) / scored,
        best=jnp.zeros((fits, rows)),
    )
    last = jax.lax.while_loop(goes_on, step, start)
    return Pursuit(last.sets, last.errors, last.best, last.terms // at_once)
