"""The lasso over characters, with its whole path on the device: the convex solver of "linear".

Minimises |y - sum_S c_S chi_S|^2 / 2N + penalty sum_S |c_S| (Tibshirani, 1996) for a falling sequence of penalties over
all singles, all pairs and the extensions of what is active. The design matrix is never formed: a working set of
characters with its Gram matrix is solved by accelerated proximal gradient steps (Beck and Teboulle, 2009), and at every
penalty one screening over all candidates admits those that violate the optimality conditions most (the strategy of
Friedman, Hastie and Tibshirani, 2010, and of the strong rules, 2012).
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from spex_jax.core.masks import number_of_sets
from spex_jax.proxyspex.regression.screening import choose, no_pool
from spex_jax.utils.precision import compiled

__all__ = ["PENALTIES", "Path", "lasso_path"]

PENALTIES = 64
_SMALLEST = 0.01  # last penalty, as a share of the one at which nothing is active
_WORKING_SET = 512  # most characters in it
_ENTER = 32  # characters that may enter at one penalty
_STEPS = 150  # proximal steps at one penalty
_POWER_STEPS = 20
_PATIENCE = 8  # penalties without a better held-out error before a path stops
_RIDGE = 1e-3


class Path(NamedTuple):
    """The result of `lasso_path`: B paths of L penalties, each with two kinds of coefficients, those of the lasso and
    those of least squares on its selection.

    Attributes:
      sets: bool [B, W, n], the working sets at the last penalty.
      coefficients: float [B, 2, W], those of the working sets.
      errors: float [B, 2, L], held-out mean squared errors at each penalty, infinite past the last.
      predictions: float [B, 2, N], held-out predictions at the best penalty of each.
      steps: int [], the number of penalties.
    """

    sets: jax.Array
    coefficients: jax.Array
    errors: jax.Array
    predictions: jax.Array
    steps: jax.Array


class _Momentum(NamedTuple):
    """The state of accelerated proximal gradient steps on W characters.

    Attributes:
      old: [W], the coefficients.
      ahead: [W], the point at which the next gradient is taken.
      momentum: [], from 1 on.
    """

    old: jax.Array
    ahead: jax.Array
    momentum: jax.Array


class _Working(NamedTuple):
    """The characters among which B fits are solved, in W slots each.

    Attributes:
      sets: bool [B, W, n], all False in a slot that was never filled.
      characters: float [B, N, W].
      gram: float [B, W, W], mean products of the characters over the training rows.
      target: float [B, W], their mean products with the targets.
      coefficients: float [B, W].
    """

    sets: jax.Array
    characters: jax.Array
    gram: jax.Array
    target: jax.Array
    coefficients: jax.Array


class _State(NamedTuple):
    """The state of B paths between two penalties.

    Attributes:
      steps: int [], the number of penalties done.
      working: the characters, with their coefficients at the last penalty.
      errors, best: as `Path.errors` and `Path.predictions`, so far.
      best_error: float [B, 2], the least held-out errors so far.
      both: as `Path.coefficients`, at the last penalty.
    """

    steps: jax.Array
    working: _Working
    errors: jax.Array
    best: jax.Array
    best_error: jax.Array
    both: jax.Array


def _solve(gram: jax.Array, target: jax.Array, penalty: jax.Array, start: jax.Array) -> jax.Array:
    """Returns the argmin [W] of c^T gram c / 2 - target^T c + penalty |c|_1."""

    def power(vector: jax.Array, _: None) -> tuple[jax.Array, None]:
        product = gram @ vector
        return product / jnp.maximum(jnp.linalg.norm(product), 1e-20), None

    vector, _ = jax.lax.scan(power, jnp.ones(len(gram)) / jnp.sqrt(len(gram)), None, length=_POWER_STEPS)
    # A few power steps come close to the largest eigenvalue from below.
    rate = 1 / (1.2 * jnp.linalg.norm(gram @ vector) + 1e-6)

    def step(state: _Momentum, _: None) -> tuple[_Momentum, None]:
        old, ahead = state.old, state.ahead
        moved = ahead - rate * (gram @ ahead - target)
        new = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - rate * penalty, 0.0)
        # Restart where the momentum points uphill (O'Donoghue and Candes, 2015).
        momentum = jnp.where(((ahead - new) * (new - old)).sum() > 0, 1.0, state.momentum)
        following = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        return _Momentum(new, ahead=new + (momentum - 1) / following * (new - old), momentum=following), None

    return jax.lax.scan(step, _Momentum(start, ahead=start, momentum=jnp.ones(())), None, length=_STEPS)[0].old


def _unpenalised(gram: jax.Array, target: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Solves least squares on the active characters, with a little ridge: the relaxed lasso (Meinshausen, 2007)."""
    active = coefficients != 0
    both = active[:, None] & active[None, :]
    matrix = jnp.where(both, gram, 0.0) + jnp.diag(jnp.where(active, _RIDGE, 1.0))
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), jnp.where(active, target, 0.0))


@compiled(static_argnames=("max_degree",))
def lasso_path(
    signs: jax.Array,
    targets: jax.Array,
    weight: jax.Array,
    held_out: jax.Array,
    used: jax.Array,
    limit: jax.Array | int = PENALTIES,
    pool: tuple[jax.Array, jax.Array] | None = None,
    *,
    max_degree: int,
) -> Path:
    """Follows B paths side by side until none improves on its held-out rows any more.

    Args:
      signs: [N, n] of -1 (kept), 1, padded with 0.
      targets: [N].
      weight: [B, N], 1 for the rows of each fit.
      held_out: [B, N], 1 for the rows on which each fit is scored.
      used: bool [n].
      limit: penalties after which to stop in any case; a new limit does not recompile.
      pool: further candidates, sets bool [P, n] and characters [N, P]; None for none.
      max_degree: largest degree of a character.
    """
    chex.assert_shape([weight, held_out, used], [(None, *targets.shape), weight.shape, signs.shape[1:]])
    chex.assert_shape(signs, (*targets.shape, None))
    fits, rows, n = weight.shape[0], signs.shape[0], signs.shape[1]
    # No more slots than there are characters, plus room for those that enter.
    most = number_of_sets(n, max_degree) - 1
    size_of_set = min(_WORKING_SET, -(-most // _ENTER) * _ENTER + _ENTER)
    count, scored = weight.sum(axis=1), jnp.maximum(held_out.sum(axis=1), 1.0)
    pool = no_pool(signs) if pool is None else pool
    pick = functools.partial(choose, degree=max_degree, count=_ENTER)
    screen = jax.vmap(pick, in_axes=(0, None, None, 0, 0, None))

    def enter(working: _Working, residual: jax.Array, least: jax.Array) -> _Working:
        sets, characters = working.sets, working.characters
        chosen, columns, size = screen(residual, signs, used, sets, characters, pool)
        # Only the first of equal candidates enters: their sets agree in every feature.
        members = chosen.astype(jnp.float32)
        equal = jnp.einsum("bki,bli->bkl", 2 * members - 1, 2 * members - 1) == n
        first = jnp.argmax(equal, axis=2) == jnp.arange(_ENTER)
        admitted = first & (size > (least * count)[:, None])
        # The slots to fill: empty ones, then those of coefficient 0.
        free = jnp.where(sets.any(axis=2), 1.0, 0.0) + jnp.where(working.coefficients != 0, 2.0, 0.0)
        slots = jnp.argsort(free, axis=1, stable=True)[:, :_ENTER]
        admitted &= jnp.take_along_axis(free, slots, axis=1) < 2

        def put(array: jax.Array, slot: jax.Array, new: jax.Array, admitted: jax.Array) -> jax.Array:
            shape = (-1,) + (1,) * (array.ndim - 1)
            return array.at[slot].set(jnp.where(admitted.reshape(shape), new, array[slot]))

        sets = jax.vmap(put)(sets, slots, chosen, admitted)
        characters = jax.vmap(put)(characters.mT, slots, columns.mT, admitted).mT
        new = jnp.take_along_axis(characters, slots[:, None, :], axis=2)
        weighted = new * weight[:, :, None] / count[:, None, None]
        products = jnp.einsum("bnw,bnk->bwk", characters, weighted)
        gram = jax.vmap(lambda g, slot, p: g.at[:, slot].set(p).at[slot].set(p.T))(working.gram, slots, products)
        fresh = jnp.einsum("bnk,n->bk", weighted, targets)
        target = jax.vmap(lambda t, slot, f: t.at[slot].set(f))(working.target, slots, fresh)
        return _Working(sets, characters, gram, target, working.coefficients)

    def step(state: _State) -> _State:
        t, working = state.steps, state.working
        residual = weight * (targets - jnp.einsum("bnw,bw->bn", working.characters, working.coefficients))
        penalty, before = penalties[:, t], penalties[:, jnp.maximum(t - 1, 0)]
        working = enter(working, residual, 2 * penalty - before)
        coefficients = jax.vmap(_solve)(working.gram, working.target, penalty, working.coefficients)
        unpenalised = jax.vmap(_unpenalised)(working.gram, working.target, coefficients)
        both = jnp.stack([coefficients, unpenalised], axis=1)
        prediction = jnp.einsum("bnw,bkw->bkn", working.characters, both)
        error = ((targets - prediction) ** 2 * held_out[:, None]).sum(axis=2) / scored[:, None]
        better = error < state.best_error
        return _State(
            steps=t + 1,
            working=working._replace(coefficients=coefficients),
            errors=state.errors.at[:, :, t].set(error),
            best=jnp.where(better[:, :, None], prediction, state.best),
            best_error=jnp.minimum(error, state.best_error),
            both=both,
        )

    def goes_on(state: _State) -> jax.Array:
        t = state.steps
        stale = t - 1 - jnp.argmin(state.errors, axis=2) > _PATIENCE
        full = ((state.working.coefficients != 0).sum(axis=1) > size_of_set - _ENTER).any()
        return (t < jnp.minimum(limit, PENALTIES)) & ~full & ((t == 0) | ~stale.all())

    blank = jnp.zeros((fits, 1, n), bool)
    first = screen(weight * targets, signs, used, blank, jnp.zeros((fits, rows, 1)), pool)[2][:, 0] / count
    penalties = first[:, None] * _SMALLEST ** (jnp.arange(1, PENALTIES + 1) / PENALTIES)
    variance = (targets**2 * held_out).sum(axis=1) / scored
    start = _State(
        steps=jnp.zeros((), jnp.int32),
        working=_Working(
            sets=jnp.zeros((fits, size_of_set, n), bool),
            characters=jnp.zeros((fits, rows, size_of_set)),
            gram=jnp.zeros((fits, size_of_set, size_of_set)),
            target=jnp.zeros((fits, size_of_set)),
            coefficients=jnp.zeros((fits, size_of_set)),
        ),
        errors=jnp.full((fits, 2, PENALTIES), jnp.inf),
        best=jnp.zeros((fits, 2, rows)),
        best_error=jnp.broadcast_to(variance[:, None], (fits, 2)),
        both=jnp.zeros((fits, 2, size_of_set)),
    )
    last = jax.lax.while_loop(goes_on, step, start)
    return Path(last.working.sets, last.both, last.errors, last.best, last.steps)
