"""The posterior of walsh_gp under known scales: its mean, its largest terms and draws from it."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.proxyspex.extraction import grow
from spex_jax.proxyspex.preprocessing import FOLDS
from spex_jax.proxyspex.walsh_gp.prior import Scales, kernel, prior_variances, spectral_prior
from spex_jax.utils.precision import compiled
from spex_jax.utils.seeds import DrawKey

__all__ = [
    "BLOCK",
    "DRAWS",
    "Terms",
    "coefficients_of_all_rows",
    "deviations",
    "factorise",
    "held_out_predictions",
    "noise_and_rest",
    "posterior",
    "predict",
    "solve",
    "spectrum_terms",
]

FRONT = 2048
BLOCK = 2048  # rows whose characters are widened at a time; row buckets past one posterior are multiples of it
_TERMS = 1024  # terms whose deviations are drawn at a time
_LEFT_OUT = 0.05  # share of the prior variance outside the terms that counts as noise (BUILD_NOTES.md)
_MOST_NOISE = 1e6  # times the learned noise
DRAWS = 64  # from the posterior: a standard error is accurate to 1 / sqrt(2 * 64) = 9%


class Terms(NamedTuple):
    """The largest terms of a posterior mean, with a leading axis of tables where there are several.

    Attributes:
      support: bool [degrees, front, n].
      coefficients: float [degrees, front].
      prior: float [degrees, front], their prior variances, 0 where a row holds no set.
      constant: float [], F(()).
    """

    support: jax.Array | np.ndarray
    coefficients: jax.Array | np.ndarray
    prior: jax.Array | np.ndarray
    constant: jax.Array | np.ndarray


class _Drawn(NamedTuple):
    """Prior draws of K terms, with a leading axis of tables where there are several.

    Attributes:
      characters: float [N, K], of the terms on the rows.
      prior: float [K], prior variances.
      coefficients: float [K, R], the draws.
    """

    characters: jax.Array
    prior: jax.Array
    coefficients: jax.Array


def factorise(k: jax.Array, noise: jax.Array, real: jax.Array) -> jax.Array:
    """Returns the Cholesky factor of k + noise on real rows, and of 1 on the others.

    Where float32 cannot factorise it, as for a function without noise that a large prior variance explains, the noise
    is multiplied by ten until it can.
    """
    kept = jnp.where(real[:, None] & real[None, :], k, 0.0)

    def attempt(times: jax.Array) -> tuple[jax.Array, jax.Array]:
        return times, jnp.linalg.cholesky(kept + jnp.diag(jnp.where(real, times * noise, 1.0)))

    def failed(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        return ~jnp.isfinite(state[1]).all() & (state[0] < _MOST_NOISE)

    return jax.lax.while_loop(failed, lambda state: attempt(10 * state[0]), attempt(jnp.ones(())))[1]


def solve(k: jax.Array, scales: Scales, values: jax.Array, real: jax.Array) -> jax.Array:
    """Returns (k + noise)^-1 values, [N] or [N, R], on the real rows; zero on the others."""
    alpha = jax.scipy.linalg.cho_solve((factorise(k, scales.noise, real), True), values)
    return jnp.where(real if values.ndim == 1 else real[:, None], alpha, 0.0)


@compiled
def posterior(scales: Scales, signs: jax.Array, values: jax.Array, real: jax.Array, used: jax.Array) -> jax.Array:
    """Returns alpha = (K + noise)^-1 values, [N] or [N, R], on the rows where real bool [N] is True, zero elsewhere."""
    chex.assert_shape([signs, real, used], [(len(values), None), (len(values),), signs.shape[1:]])
    return solve(kernel(scales, signs, signs, used), scales, values, real)


@compiled
def held_out_predictions(
    scales: Scales, signs: jax.Array, values: jax.Array, fold: jax.Array, used: jax.Array
) -> jax.Array:
    """Returns the posterior mean [N] at each row from the rows of the other folds, under the same scales; fold int [N]
    is -1 on padding.
    """
    chex.assert_shape([signs, fold, used], [(len(values), None), values.shape, signs.shape[1:]])
    k = kernel(scales, signs, signs, used)

    def left_out(each: jax.Array) -> jax.Array:
        real = (fold >= 0) & (fold != each)
        return jnp.where(fold == each, k @ solve(k, scales, values, real), 0.0)

    found: jax.Array = jax.lax.map(left_out, jnp.arange(FOLDS))
    return found.sum(axis=0)


@compiled(static_argnames=("max_degree", "front"))
def spectrum_terms(
    scales: Scales, alpha: jax.Array, signs: jax.Array, used: jax.Array, *, max_degree: int, front: int = FRONT
) -> Terms:
    """Returns the largest terms of the posterior mean that `extraction.grow` finds, with exact values, and F(())."""
    chex.assert_shape([signs, used], [(*alpha.shape, None), signs.shape[1:]])
    known = spectral_prior(scales, used)
    support, coefficients, prior = grow(
        signs, alpha, used, known.log_w, known.log_empty, known.first, max_degree=max_degree, front=front
    )
    return Terms(support, coefficients, prior, constant=known.empty * alpha.sum())


@compiled
def _prior_draws(
    key: jax.Array, scales: Scales, signs: jax.Array, used: jax.Array, support: jax.Array, count: jax.Array
) -> tuple[_Drawn, jax.Array]:
    """Draws the coefficients of support bool [K, n], whose rows from `count` on are padding; also returns the values
    [N, R] of the draws.
    """
    chex.assert_shape([signs, support], [(None, *used.shape), (None, *used.shape)])
    present = jnp.arange(len(support)) < count
    odd = jnp.matmul((signs < 0).astype(jnp.float32), support.T.astype(jnp.float32)).astype(jnp.int32) & 1
    characters = jnp.where(present, 1.0 - 2.0 * odd, 0.0)
    prior = jnp.where(present, prior_variances(scales, used, support), 0.0)
    coefficients = jnp.sqrt(prior)[:, None] * jax.random.normal(key, (len(prior), DRAWS))
    return _Drawn(characters, prior, coefficients), jnp.matmul(characters, coefficients)


def _variance(scales: Scales, signs: jax.Array, used: jax.Array) -> jax.Array:
    """Returns the prior variance [] of a value, the same at every mask."""
    return kernel(scales, signs[:1], signs[:1], used)[0, 0]


@compiled
def _alpha_of_draws(
    key: jax.Array,
    scales: Scales,
    signs: jax.Array,
    real: jax.Array,
    used: jax.Array,
    values: jax.Array,
    drawn: jax.Array,
) -> jax.Array:
    """Returns `posterior` for values [N, R] with noise; the part of the prior that is not drawn counts as noise."""
    left = jnp.maximum(_variance(scales, signs, used) - drawn, 0.0)
    values += jnp.sqrt(scales.noise + left) * jax.random.normal(key, values.shape)
    return posterior(scales, signs, jnp.where(real[:, None], values, 0.0), real, used)


@compiled
def _deviation(characters: jax.Array, prior: jax.Array, known: jax.Array, alpha: jax.Array) -> jax.Array:
    return known - prior[:, None] * jnp.matmul(characters.T, alpha)


@compiled
def _draws_together(
    key: jax.Array, scales: Scales, signs: jax.Array, used: jax.Array, support: jax.Array, count: jax.Array
) -> tuple[_Drawn, jax.Array]:
    """Maps `_prior_draws` over B tables: all arguments but the key have a leading axis of tables."""
    return jax.vmap(_prior_draws, in_axes=(None, 0, 0, 0, 0, 0))(key, scales, signs, used, support, count)


@compiled
def _alpha_together(
    key: jax.Array,
    scales: Scales,
    signs: jax.Array,
    real: jax.Array,
    used: jax.Array,
    values: jax.Array,
    drawn: jax.Array,
) -> jax.Array:
    """Maps `_alpha_of_draws` over B tables."""
    axes = (None, 0, 0, 0, 0, 0, 0)
    return jax.vmap(_alpha_of_draws, in_axes=axes)(key, scales, signs, real, used, values, drawn)


@compiled
def _deviation_together(characters: jax.Array, prior: jax.Array, known: jax.Array, alpha: jax.Array) -> jax.Array:
    """Maps `_deviation` over B tables."""
    return jax.vmap(_deviation)(characters, prior, known, alpha)


def deviations(
    key: jax.Array,
    scales: Scales,
    signs: jax.Array,
    real: jax.Array,
    used: jax.Array,
    support: np.ndarray,
    count: np.ndarray | int | None = None,
) -> np.ndarray:
    """Draws deviations float64 [K, R] of the coefficients of support bool [K, n] from their posterior mean.

    Matheron's rule: a draw F of the prior, minus the posterior mean that its own noisy values would give, is a draw of
    the posterior around its mean.

    Handles B tables at once where all arguments but the key have a leading axis of tables; the sets of table b are then
    the first count[b] rows of support[b]. The draws are those of each table alone.
    """
    together = support.ndim == 3
    draw = _draws_together if together else _prior_draws
    solve = _alpha_together if together else _alpha_of_draws
    move = _deviation_together if together else _deviation
    length = support.shape[-2]
    count = np.asarray(length if count is None else count)
    parts: list[_Drawn] = []
    values, drawn = jnp.zeros((*signs.shape[:-1], DRAWS)), jnp.zeros(support.shape[:-2])
    for start in range(0, length, _TERMS):
        part = support[..., start : start + _TERMS, :]
        padded = np.zeros((*support.shape[:-2], _TERMS, signs.shape[-1]), np.bool_)
        padded[..., : part.shape[-2], : part.shape[-1]] = part
        here = jnp.asarray(np.clip(count - start, 0, _TERMS), jnp.int32)
        keys = jax.random.fold_in(key, DrawKey.FIRST_TERMS + start // _TERMS)
        terms, made = draw(keys, scales, signs, used, jnp.asarray(padded), here)
        parts.append(terms)
        values, drawn = values + made, drawn + terms.prior.sum(axis=-1)
    alpha = solve(jax.random.fold_in(key, DrawKey.NOISE), scales, signs, real, used, values, drawn)
    found = [np.asarray(move(*part, alpha), np.float64) for part in parts]
    return np.concatenate(found, axis=-2)[..., :length, :]


@compiled
def predict(scales: Scales, alpha: jax.Array, signs: jax.Array, queries: jax.Array, used: jax.Array) -> jax.Array:
    """Returns the posterior mean [M] at queries [M, n]."""
    return jnp.matmul(kernel(scales, queries, signs, used), alpha)


@compiled
def noise_and_rest(scales: Scales, signs: jax.Array, used: jax.Array, prior: jax.Array) -> jax.Array:
    """Returns the noise variance [], plus the share that counts as noise of the prior variance outside the terms."""
    left = _variance(scales, signs, used) - prior.sum() - jnp.exp(scales.log_constant)
    return scales.noise + _LEFT_OUT * jnp.maximum(left, 0.0)


@compiled
def coefficients_of_all_rows(
    signs: jax.Array, values: jax.Array, support: jax.Array, start: jax.Array, prior: jax.Array, noise: jax.Array
) -> jax.Array:
    """Returns the posterior mean [K] of the coefficients of support bool [K, n] from all rows, by conjugate gradients.

    The rest of the function counts as noise. Characters are kept as int8 and widened block by block.
    """
    block = min(BLOCK, len(signs))
    real = (signs != 0).any(axis=1)
    removed = (signs < 0).astype(jnp.float32).reshape(-1, block, signs.shape[1])
    members = support.T.astype(jnp.float32)
    odd = jax.lax.map(lambda rows: (jnp.matmul(rows, members).astype(jnp.int32) & 1).astype(jnp.int8), removed)
    weight = real.reshape(-1, block).astype(jnp.float32)

    def project(blocks: jax.Array) -> jax.Array:
        def add(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            return total + part[1] @ (1 - 2 * part[0].astype(jnp.float32)), None

        return jax.lax.scan(add, jnp.zeros(support.shape[:1]), (odd, blocks))[0]

    def apply(coefficients: jax.Array) -> jax.Array:
        fitted = jax.lax.map(lambda part: (1 - 2 * part.astype(jnp.float32)) @ coefficients, odd)
        return project(fitted * weight) / noise + coefficients / prior

    scale = 1 / (real.sum() / noise + 1 / prior)
    target = project(values.reshape(-1, block) * weight) / noise
    found = jax.scipy.sparse.linalg.cg(apply, target, x0=start, tol=1e-5, maxiter=100, M=lambda x: scale * x)
    coefficients: jax.Array = found[0]
    return coefficients
