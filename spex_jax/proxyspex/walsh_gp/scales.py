"""Learns the scales of walsh_gp from the marginal likelihood of random rows."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from spex_jax.proxyspex.preprocessing import Table
from spex_jax.proxyspex.walsh_gp.prior import NOISE_FLOOR, Scales, kernel
from spex_jax.utils.precision import compiled
from spex_jax.utils.seeds import WalshGPKey
from spex_jax.utils.threads import one_blas_thread

__all__ = ["learn", "learn_scales", "settings"]

_KERNELS = 4
_ROWS = 600  # rows in each step
_STEPS = 150
_RATE = 0.15
# Each log scale has a normal prior around its kernel's mean, with this precision at one row and 1 / N of it at N rows,
# within bounds: few rows overfit n scales, many determine them.
_PRECISION = 450.0
_PRECISION_BOUNDS = (0.15, 3.0)
_MORE_NOISE = 0.5  # step of the log noise where float32 fails


def _log_prior(scales: Scales, used: jax.Array, precision: jax.Array) -> jax.Array:
    total = jnp.zeros(())
    for logs in (scales.log_scale, scales.log_first[None]):
        mean = jnp.where(used, logs, 0.0).sum(axis=1, keepdims=True) / used.sum()
        total -= 0.5 * precision * jnp.where(used, (logs - mean) ** 2, 0.0).sum()
    return total


def _loss_gradient(
    scales: Scales, signs: jax.Array, values: jax.Array, real: jax.Array, used: jax.Array, precision: jax.Array
) -> Scales:
    """Returns the gradient of the negative log marginal likelihood and prior; rows of padding have no influence."""

    def covariance(scales: Scales) -> jax.Array:
        both = real[:, None] & real[None, :]
        noise = jnp.where(real, scales.noise, 1.0)
        return jnp.where(both, kernel(scales, signs, signs, used), 0.0) + jnp.diag(noise)

    # d loss / d K = (K^-1 - alpha alpha^T) / 2, so one factorisation gives the gradient without
    # differentiating a Cholesky factor.
    k, pull = jax.vjp(covariance, scales)
    inverse = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(k), True), jnp.eye(len(k)))
    alpha = inverse @ values
    (likelihood,) = pull((inverse - jnp.outer(alpha, alpha)) / 2)
    gradient: Scales = jax.tree.map(jnp.subtract, likelihood, jax.grad(_log_prior)(scales, used, precision))
    return gradient


def _initial(key: jax.Array, kernels: int, width: int, used: jax.Array) -> Scales:
    # Starts from a prior that expects about two features in a term, each kernel with random scales of its own.
    start = jnp.log(2.0 / used.sum()) + 0.5 * jax.random.normal(key, (kernels, width))
    return Scales(
        log_scale=start,
        log_amplitude=jnp.full(kernels, jnp.log(0.5 / kernels)),
        log_first=jnp.full(width, jnp.log(0.5 / used.sum())),
        log_constant=jnp.log(0.1),
        log_noise=jnp.log(0.1),
    )


@compiled(static_argnames=("kernels", "rows", "steps"))
def learn_scales(
    key: jax.Array,
    signs: jax.Array,
    values: jax.Array,
    real: jax.Array,
    used: jax.Array,
    *,
    kernels: int,
    rows: int,
    steps: int,
) -> Scales:
    """Learns the scales.

    Args:
      key: PRNG key.
      signs: [N, n], padded.
      values: [N], padded, of mean 0 and variance 1.
      real: bool [N], rows to learn from.
      used: bool [n], features that are real.
      kernels: R.
      rows: rows in a step.
      steps: Adam steps.
    """
    chex.assert_shape([signs, values, real], [(*real.shape, *used.shape), real.shape, real.shape])
    chex.assert_type([signs, values, real, used], [float, float, bool, bool])
    start = _initial(jax.random.fold_in(key, WalshGPKey.SCALES_START), kernels, signs.shape[1], used)
    precision = jnp.clip(_PRECISION / real.sum(), *_PRECISION_BOUNDS)
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))

    def step(carry: tuple[Scales, optax.OptState], key: jax.Array) -> tuple[tuple[Scales, optax.OptState], None]:
        scales, state = carry
        order = jnp.where(real, jax.random.uniform(key, signs.shape[:1]), 2.0)
        chosen = jnp.argsort(order)[:rows]
        gradient = _loss_gradient(scales, signs[chosen], values[chosen], real[chosen], used, precision)
        update, moved = optimizer.update(gradient, state)
        updated = optax.apply_updates(scales, update), moved
        # Where float32 cannot factorise, raise the noise; the gradient of the other scales is then unknown.
        noisier = jnp.maximum(scales.log_noise, jnp.log(NOISE_FLOOR)) + _MORE_NOISE
        fine = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)]).all()
        instead = dataclasses.replace(scales, log_noise=noisier), state
        return jax.tree.map(functools.partial(jnp.where, fine), updated, instead), None

    keys = jax.random.split(jax.random.fold_in(key, WalshGPKey.SCALES_STEPS), steps)
    return jax.lax.scan(step, (start, optimizer.init(start)), keys)[0][0]


def settings(rows: int) -> dict[str, int]:
    """Returns the static arguments of `learn_scales` for a table padded to `rows` rows."""
    return {"kernels": _KERNELS, "rows": min(_ROWS, rows), "steps": _STEPS}


def learn(key: jax.Array, table: Table, real: np.ndarray) -> Scales:
    """Learns the scales from the rows where real bool [N'] is True."""
    # Hundreds of small factorisations: on a shared CPU, BLAS threads would spend the time waiting for each other (58 s
    # in place of 1.3, BUILD_NOTES.md).
    with one_blas_thread():
        found: Scales = jax.block_until_ready(
            learn_scales(key, table.signs, table.targets, jnp.asarray(real), table.used, **settings(len(table.targets)))
        )
    return found
