"""The posterior of walsh_gp under known scales: its mean, its largest terms and draws from it."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.proxyspex.extraction import grow
from spex_jax.proxyspex.preprocessing import FOLDS
from spex_jax.proxyspex.walsh_gp.prior import Scales, kernel, prior_variances, spectral_prior
from spex_jax.utils.array_api import (
    Array,
    add_to_diagonal,
    cholesky,
    cholesky_solve,
    fold_in_order,
    namespace,
    on_host,
    principal,
    repeat_while,
)
from spex_jax.utils.precision import compiled, portable
from spex_jax.utils.seeds import Stream, generator

__all__ = [
    "BLOCK",
    "DRAWS",
    "Solved",
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
      support: bool [..., n], by degree and place in the front on a device, one after another on the host.
      coefficients: float [...].
      prior: float [...], their prior variances, 0 where a row holds no set.
      constant: float [], F(()).
    """

    support: Array
    coefficients: Array
    prior: Array
    constant: Array


class Solved(NamedTuple):
    """The posterior of the values at N rows.

    Attributes:
      kernel: float [N, N], the prior covariance without noise.
      factor: float [N, N], the Cholesky factor of `factorise`.
      alpha: float [N], (kernel + noise)^-1 values on the real rows, zero elsewhere.
    """

    kernel: Array
    factor: Array
    alpha: Array


def factorise(k: Array, noise: Array, real: Array) -> Array:
    """Returns the Cholesky factor of k + noise on real rows, and of 1 on the others.

    Where float32 cannot factorise it, as for a function without noise that a large prior variance explains, the noise
    is multiplied by ten until it can.
    """
    xp = namespace(k)
    kept = principal(k, real)

    def attempt(times: Array) -> tuple[Array, Array]:
        matrix = kept.copy() if isinstance(kept, np.ndarray) else kept
        return times, cholesky(add_to_diagonal(matrix, xp.where(real, times * noise, 1.0).astype(np.float32)))

    def failed(state: tuple[Array, Array]) -> Array:
        return ~xp.isfinite(state[1]).all() & (state[0] < _MOST_NOISE)

    return repeat_while(failed, lambda state: attempt(10 * state[0]), attempt(xp.ones((), np.float32)))[1]


@portable
def posterior(scales: Scales, signs: Array, values: Array, real: Array, used: Array) -> Solved:
    """Solves the posterior of values [N] at the rows where real bool [N] is True."""
    chex.assert_shape([signs, real, used], [(len(values), None), (len(values),), signs.shape[1:]])
    k = kernel(scales, signs, signs, used)
    factor = factorise(k, scales.noise, real)
    alpha = namespace(signs).where(real, cholesky_solve(factor, values), 0.0)
    return Solved(k, factor, alpha)


def solve(k: Array, scales: Scales, values: Array, real: Array) -> Array:
    """Returns (k + noise)^-1 values, [N], on the real rows; zero on the others."""
    if isinstance(k, np.ndarray):
        alpha, at = np.zeros_like(values), np.flatnonzero(real)
        part = factorise(k[np.ix_(at, at)], scales.noise, np.ones(len(at), np.bool_))
        alpha[at] = cholesky_solve(part, values[at])
        return alpha
    return jnp.where(real, cholesky_solve(factorise(k, scales.noise, real), values), 0.0)


@portable
def held_out_predictions(k: Array, scales: Scales, values: Array, fold: Array) -> Array:
    """Returns the posterior mean [N] at each row from the rows of the other folds, under the same scales; k [N, N] is
    the kernel, fold int [N] is -1 on padding.
    """
    chex.assert_shape([k, fold], [(*values.shape, *values.shape), values.shape])
    xp = namespace(k)

    def add(found: Array, each: Array) -> Array:
        alpha = solve(k, scales, values, (fold >= 0) & (fold != each))
        return xp.where(fold == each, xp.matmul(k, alpha), found)

    return fold_in_order(add, xp.zeros_like(values), xp.arange(FOLDS))


@portable(static_argnames=("max_degree", "front"))
def spectrum_terms(
    scales: Scales, alpha: Array, signs: Array, used: Array, *, max_degree: int, front: int = FRONT
) -> Terms:
    """Returns the largest terms of the posterior mean that `extraction.grow` finds, with exact values, and F(())."""
    chex.assert_shape([signs, used], [(*alpha.shape, None), signs.shape[1:]])
    known = spectral_prior(scales, used)
    support, coefficients, prior = grow(
        signs, alpha, used, known.log_w, known.log_empty, known.first, max_degree=max_degree, front=front
    )
    return Terms(support, coefficients, prior, constant=known.empty * alpha.sum())


class _Drawn(NamedTuple):
    """Prior draws of K terms, with a leading axis of tables where there are several.

    Attributes:
      characters: float [N, K], of the terms on the rows.
      prior: float [K], prior variances.
      coefficients: float [K, R], the draws.
    """

    characters: Array
    prior: Array
    coefficients: Array


@portable
def _prior_draws(
    normal: Array, scales: Scales, signs: Array, used: Array, support: Array, count: Array
) -> tuple[_Drawn, Array]:
    """Draws the coefficients of support bool [K, n], whose rows from `count` on are padding, from standard normal
    deviations [K, R]; also returns the values [N, R] of the draws.
    """
    chex.assert_shape([signs, support], [(None, *used.shape), (None, *used.shape)])
    xp = namespace(signs)
    present = xp.arange(len(support)) < count
    odd = xp.matmul((signs < 0).astype(np.float32), support.T.astype(np.float32)).astype(np.int32) & 1
    characters = xp.where(present, 1.0 - 2.0 * odd.astype(np.float32), 0.0)
    prior = xp.where(present, prior_variances(scales, used, support), 0.0)
    coefficients = xp.sqrt(prior)[:, None] * normal
    return _Drawn(characters, prior, coefficients), xp.matmul(characters, coefficients)


def _variance(scales: Scales, signs: Array, used: Array) -> Array:
    """Returns the prior variance [] of a value, the same at every mask."""
    return kernel(scales, signs[:1], signs[:1], used)[0, 0]


@portable
def _alpha_of_draws(
    normal: Array, scales: Scales, signs: Array, real: Array, used: Array, factor: Array, values: Array, drawn: Array
) -> Array:
    """Returns (kernel + noise)^-1 of values [N, R] with noise from standard normal deviations [N, R]; the part of the
    prior that is not drawn counts as noise.
    """
    xp = namespace(signs)
    left = xp.maximum(_variance(scales, signs, used) - drawn, 0.0)
    noisy = values + xp.sqrt(scales.noise + left) * normal
    return xp.where(real[:, None], cholesky_solve(factor, xp.where(real[:, None], noisy, 0.0)), 0.0)


@portable
def _deviation(characters: Array, prior: Array, known: Array, alpha: Array) -> Array:
    return known - prior[:, None] * namespace(characters).matmul(characters.T, alpha)


@compiled
def _draws_together(
    normal: Array, scales: Scales, signs: Array, used: Array, support: Array, count: Array
) -> tuple[_Drawn, Array]:
    """Maps `_prior_draws` over B tables: all arguments have a leading axis of tables."""
    return jax.vmap(_prior_draws)(normal, scales, signs, used, support, count)


@compiled
def _alpha_together(
    normal: Array,
    scales: Scales,
    signs: Array,
    real: Array,
    used: Array,
    values: Array,
    drawn: Array,
) -> Array:
    """Maps `_alpha_of_draws` over B tables, whose factors it computes: B of them would not fit where one does."""

    def one(
        normal: Array,
        scales: Scales,
        signs: Array,
        real: Array,
        used: Array,
        values: Array,
        drawn: Array,
    ) -> Array:
        found = factorise(kernel(scales, signs, signs, used), scales.noise, real)
        return _alpha_of_draws(normal, scales, signs, real, used, found, values, drawn)

    found: Array = jax.vmap(one)(normal, scales, signs, real, used, values, drawn)
    return found


@compiled
def _deviation_together(characters: Array, prior: Array, known: Array, alpha: Array) -> Array:
    """Maps `_deviation` over B tables."""
    found: Array = jax.vmap(_deviation)(characters, prior, known, alpha)
    return found


def _normal(seed: int, rows: np.ndarray, width: int, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Makes standard normal deviations for the noise of `width` rows, of which rows [...] are real, and for the
    coefficients of count [...] terms: float32 [..., width, R] and [..., K, R]; 0 on padding. Each table draws the same
    as it would alone.
    """
    noise = np.zeros((*rows.shape, width, DRAWS), np.float32)
    terms = np.zeros((*rows.shape, int(count.max()), DRAWS), np.float32)
    for table in np.ndindex(rows.shape):
        rng = generator(seed, Stream.WALSH_GP_DRAWS)
        noise[(*table, slice(int(rows[table])))] = rng.standard_normal((int(rows[table]), DRAWS), np.float32)
        terms[(*table, slice(int(count[table])))] = rng.standard_normal((int(count[table]), DRAWS), np.float32)
    return noise, terms


def deviations(
    seed: int,
    scales: Scales,
    signs: Array,
    real: Array,
    used: Array,
    factor: Array | None,
    support: np.ndarray,
    count: np.ndarray | int | None = None,
) -> np.ndarray:
    """Draws deviations float64 [K, R] of the coefficients of support bool [K, n] from their posterior mean.

    Matheron's rule: a draw F of the prior, minus the posterior mean that its own noisy values would give, is a draw of
    the posterior around its mean.

    Handles B tables at once where all arguments but the seed have a leading axis of tables; the sets of table b are
    then the first count[b] rows of support[b], and factor is None. The draws are those of each table alone. The real
    rows come first.
    """
    together = support.ndim == 3
    draw = _draws_together if together else _prior_draws
    move = _deviation_together if together else _deviation
    length, host = support.shape[-2], on_host(signs)
    count = np.asarray(length if count is None else count)
    noise, normal = _normal(seed, np.asarray(real).sum(axis=-1), signs.shape[-2], count)
    parts: list[_Drawn] = []
    values: Array = np.zeros_like(noise)
    drawn: Array = np.zeros(support.shape[:-2], np.float32)
    for start in range(0, length, _TERMS):
        size = min(_TERMS, length - start) if host else _TERMS
        padded = np.zeros((*support.shape[:-2], size, signs.shape[-1]), np.bool_)
        part = support[..., start : start + size, :]
        padded[..., : part.shape[-2], : part.shape[-1]] = part
        chosen = np.zeros((*support.shape[:-2], size, DRAWS), np.float32)
        made = normal[..., start : start + size, :]
        chosen[..., : made.shape[-2], :] = made
        here = np.clip(count - start, 0, size).astype(np.int32)
        terms, of_terms = draw(chosen, scales, signs, used, padded, here)
        parts.append(terms)
        values, drawn = values + of_terms, drawn + terms.prior.sum(axis=-1)
    if together:
        alpha = _alpha_together(noise, scales, signs, real, used, values, drawn)
    else:
        alpha = _alpha_of_draws(noise, scales, signs, real, used, factor, values, drawn)
    found = [np.asarray(move(*part, alpha), np.float64) for part in parts]
    return np.concatenate(found, axis=-2)[..., :length, :]


@portable
def predict(scales: Scales, alpha: Array, signs: Array, queries: Array, used: Array) -> Array:
    """Returns the posterior mean [M] at queries [M, n]."""
    return namespace(signs).matmul(kernel(scales, queries, signs, used), alpha)


@portable
def noise_and_rest(scales: Scales, signs: Array, used: Array, prior: Array) -> Array:
    """Returns the noise variance [], plus the share that counts as noise of the prior variance outside the terms."""
    left = _variance(scales, signs, used) - prior.sum() - namespace(scales).exp(scales.log_constant)
    return scales.noise + _LEFT_OUT * namespace(scales).maximum(left, 0.0)


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
