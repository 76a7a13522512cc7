"""linear: sparse regression over characters by orthogonal matching pursuit (an extension of ProxySPEX, not of the
paper).

Each step screens all singles and all n(n-1)/2 pairs in one matrix product, (signs * residual)^T signs, whether or not
their singles matter, and the one-feature extensions of the sets chosen so far, which is how higher degrees come in. The
characters chosen are orthogonalised on the rows of the fit (Pati et al., 1993; Tropp and Gilbert, 2007), several at a
time where n is large (generalised OMP, Wang et al., 2012). Out-of-fold errors choose the number of terms.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.proxyspex.refit import refit
from spex_jax.proxyspex.table import FOLDS, Fitted, Table
from spex_jax.spectrum import Spectrum

__all__ = ["fit", "pursue"]

_MOST_TERMS = 256
_PATIENCE = 24  # terms without a better held-out error
_MANY_FEATURES = 128  # from here on _AT_ONCE characters are chosen in a step
_AT_ONCE = 8
_FEW_ROWS = 400

# Number of terms; for each fit: predictions, orthogonal columns, characters, sets; errors, best error, best number.
_State = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


def _choose(
    residual: jax.Array,
    signs: jax.Array,
    used: jax.Array,
    characters: jax.Array,
    sets: jax.Array,
    degree: int,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """The `count` characters of the largest correlation with the residual [N]: sets bool [count, n] and columns [N,
    count].
    """
    n, terms = signs.shape[1], sets.shape[0]
    weighted = signs * residual[:, None]
    pairs = jnp.abs(jnp.matmul(weighted.T, signs, precision="highest"))
    # Of the two halves of the product one is enough; its diagonal holds the singles.
    pairs = jnp.where(jnp.triu(jnp.ones((n, n), bool), 1) & used & used[:, None], pairs, -1.0)
    single = jnp.where(used, jnp.abs(weighted.sum(axis=0)), -1.0)
    pairs = jnp.where(jnp.eye(n, dtype=bool), single, pairs)
    longer = jnp.abs(jnp.matmul((characters * residual[:, None]).T, signs, precision="highest"))
    size = sets.sum(axis=1)
    allowed = ~sets & used & ((size >= 2) & (size < degree))[:, None]
    scores = jnp.concatenate([pairs, jnp.where(allowed, longer, -1.0)])
    if degree == 1:
        scores = jnp.where(jnp.eye(n + terms, n, dtype=bool), scores, -1.0)
    _, flat = jax.lax.top_k(scores.ravel(), count)
    row, feature = flat // n, flat % n
    base = jnp.concatenate([jnp.eye(n, dtype=bool), sets])[row]
    chosen = base.at[jnp.arange(count), feature].set(True)
    removed = (signs < 0).astype(jnp.float32)
    odd = jnp.matmul(removed, chosen.T.astype(jnp.float32)).astype(jnp.int32) & 1
    return chosen, jnp.where((signs != 0).any(axis=1)[:, None], 1.0 - 2.0 * odd, 0.0)


@functools.partial(jax.jit, static_argnames=("max_degree", "most_terms", "at_once"))
def pursue(
    signs: jax.Array,
    targets: jax.Array,
    weight: jax.Array,
    held_out: jax.Array,
    used: jax.Array,
    limit: jax.Array | int = _MOST_TERMS,
    *,
    max_degree: int,
    most_terms: int = _MOST_TERMS,
    at_once: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Pursues B fits side by side until none improves on its held-out rows any more.

    Args:
      signs: [N, n] of -1 (kept), 1, padded with 0.
      targets: [N].
      weight: [B, N], 1 for the rows of each fit.
      held_out: [B, N], 1 for the rows on which each fit is scored.
      used: bool [n].
      limit: terms after which to stop in any case; another one compiles nothing.
      max_degree: of the characters.
      most_terms: T, a multiple of at_once.
      at_once: characters chosen in a step.

    Returns:
      Sets bool [B, T, n] in the order chosen, held-out mean squared errors [B, T / at_once] after each step (infinite
      past the last), held-out predictions [B, N] of each fit at its best step, and the number of steps.
    """
    fits, rows, n = weight.shape[0], signs.shape[0], signs.shape[1]
    scored = jnp.maximum(held_out.sum(axis=1), 1.0)

    def add(
        weight: jax.Array, prediction: jax.Array, orthogonal: jax.Array, column: jax.Array, place: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Adds a character [N] to one fit: orthogonalised on its rows, twice against rounding."""
        for _ in range(2):
            column = column - orthogonal @ (orthogonal.T @ (weight * column))
        norm = jnp.sqrt((weight * column**2).sum())
        # A character that the others already span leaves rounding only.
        column = jnp.where(norm > 1e-2 * jnp.sqrt(weight.sum()), column / jnp.maximum(norm, 1e-20), 0.0)
        prediction = prediction + column * (weight * column * (targets - prediction)).sum()
        return prediction, orthogonal.at[:, place].set(column)

    def step(state: _State) -> _State:
        t, prediction, orthogonal, characters, sets, errors, best_error, best = state
        residual = weight * (targets - prediction)
        choose = functools.partial(_choose, degree=max_degree, count=at_once)
        chosen, columns = jax.vmap(choose, in_axes=(0, None, None, 0, 0))(residual, signs, used, characters, sets)
        for k in range(at_once):
            prediction, orthogonal = jax.vmap(add, in_axes=(0, 0, 0, 0, None))(
                weight, prediction, orthogonal, columns[:, :, k], t + k
            )
        characters = jax.lax.dynamic_update_slice(characters, columns, (0, 0, t))
        sets = jax.lax.dynamic_update_slice(sets, chosen, (0, t, 0))
        error = ((targets - prediction) ** 2 * held_out).sum(axis=1) / scored
        errors = errors.at[:, t // at_once].set(error)
        better = error < best_error
        best = jnp.where(better[:, None], prediction, best)
        return t + at_once, prediction, orthogonal, characters, sets, errors, jnp.minimum(error, best_error), best

    def goes_on(state: _State) -> jax.Array:
        t, errors = state[0], state[5]
        last_best = (jnp.argmin(errors, axis=1) + 1) * at_once
        return (t < jnp.minimum(limit, most_terms)) & ((t == 0) | (t - last_best <= _PATIENCE).any())

    start = (
        jnp.zeros((), jnp.int32),
        jnp.zeros((fits, rows)),
        jnp.zeros((fits, rows, most_terms)),
        jnp.zeros((fits, rows, most_terms)),
        jnp.zeros((fits, most_terms, n), bool),
        jnp.full((fits, most_terms // at_once), jnp.inf),
        (targets**2 * held_out).sum(axis=1) / scored,
        jnp.zeros((fits, rows)),
    )
    taken, _, _, _, sets, errors, _, best = jax.lax.while_loop(goes_on, step, start)
    return sets, errors, best, taken // at_once


def _best_steps(errors: np.ndarray, rows: int) -> int:
    """The number of steps, 0 included, with the least mean error over folds [folds, steps].

    With few rows the fewest within one standard error of it (Breiman et al., 1984): there the least is too good to be
    true, and a function without structure must come out constant.
    """
    errors = np.concatenate([np.ones((len(errors), 1)), errors], axis=1)  # no terms leave the variance of the values, 1
    mean = errors.mean(axis=0)
    least = int(mean.argmin())
    margin = errors[:, least].std(ddof=1) / np.sqrt(len(errors)) if rows < _FEW_ROWS else 0.0
    return int(np.argmax(mean <= mean[least] + margin))


def fit(table: Table, *, max_degree: int, seed: int) -> Fitted:
    """Pursues by folds to choose the number of terms, pursues all rows, and refits the terms by ridge."""
    del seed  # nothing is drawn but the folds, which come with the table
    real = table.fold >= 0
    out = table.fold == np.arange(FOLDS)[:, None]
    at_once = _AT_ONCE if table.n > _MANY_FEATURES else 1
    search = functools.partial(pursue, used=table.used, max_degree=max_degree, at_once=at_once)
    weight, scored = jnp.asarray(~out & real, jnp.float32), jnp.asarray(out, jnp.float32)
    _, errors, predictions, steps = search(table.signs, table.targets, weight, scored)
    held_out = (np.asarray(predictions, np.float64) * out).sum(axis=0)[: table.count]
    chosen = _best_steps(np.asarray(errors, np.float64)[:, : int(steps)], table.count)
    empty = np.zeros((1, table.n), np.bool_)
    if chosen == 0:
        return Fitted(spectrum=Spectrum(empty, np.zeros(1)), held_out=lambda: np.zeros(table.count))
    everything = jnp.asarray(real, jnp.float32)[None]
    sets = np.asarray(search(table.signs, table.targets, everything, everything, limit=chosen * at_once)[0])[0]
    terms = np.unique(sets[: chosen * at_once, : table.n], axis=0)
    terms = np.concatenate([empty, terms[terms.any(axis=1)]])
    coefficients, _ = refit(table.masks, table.values, terms, np.ones(len(terms)))
    return Fitted(spectrum=Spectrum(terms, coefficients), held_out=lambda: held_out)
