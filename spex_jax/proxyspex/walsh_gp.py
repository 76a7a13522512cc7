"""walsh_gp: a Gaussian process whose kernel is diagonal in the Walsh basis (an extension of ProxySPEX, not part of the
paper).

The kernel is a sum of R product kernels, a first-order kernel and a constant,

  k(x, x') = sum_r A_r prod_i (1 + w_ri s_i s'_i) / (1 + w_ri)  +  sum_i b_i s_i s'_i  +  c,

so the prior variance of F(S) is P(S) = sum_r A_r prod_{i in S} w_ri prod_i (1 + w_ri)^-1 (+ b_i for S = {i}, + c for S
= ()): high degrees are rare, and features that matter interact with each other. With a = atanh(w) a product kernel is A
exp(sum_i a_i (s_i s'_i - 1)): one matrix product and one exp. The posterior mean is sum_j alpha_j k(x, x_j), so that
F(S) = P(S) sum_j alpha_j chi_S(x_j) in closed form.

The scales are learned by the marginal likelihood (Rasmussen and Williams, 2006, chapter 5) of a fresh random subset of
rows at every step.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import threadpoolctl

from spex_jax.proxyspex.extract import grow
from spex_jax.proxyspex.table import Table, Terms

__all__ = ["Scales", "fit", "kernel", "learn_scales", "posterior"]

_KERNELS = 2
_FRONT = 2048
_ROWS = 600  # rows in each step of learning the scales
_STEPS = 150
_RATE = 0.15
_PRECISION = 1.0  # of the normal prior on each log scale around its kernel's mean
_NOISE_FLOOR = 1e-4  # of the variance of the values: what float32 can invert


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["log_scale", "log_amplitude", "log_first", "log_constant", "log_noise"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Scales:
    """Hyperparameters: log a [R, n], log A [R], log b [n], log c [], log noise variance []."""

    log_scale: jax.Array
    log_amplitude: jax.Array
    log_first: jax.Array
    log_constant: jax.Array
    log_noise: jax.Array

    @property
    def noise(self) -> jax.Array:
        """Noise variance, never below what float32 can invert."""
        return jnp.exp(self.log_noise) + _NOISE_FLOOR


def kernel(scales: Scales, left: jax.Array, right: jax.Array, used: jax.Array) -> jax.Array:
    """Prior covariance without noise of signs [N, n] and [M, n]; used bool [n] are the features that exist."""
    a = jnp.where(used, jnp.exp(scales.log_scale), 0.0)
    b = jnp.where(used, jnp.exp(scales.log_first), 0.0)
    agree = jnp.einsum("ni,ri,mi->rnm", left, a, right, precision="highest") - a.sum(axis=1)[:, None, None]
    products = jnp.einsum("rnm,r->nm", jnp.exp(agree), jnp.exp(scales.log_amplitude), precision="highest")
    return products + jnp.matmul(left * b, right.T, precision="highest") + jnp.exp(scales.log_constant)


def _log_prior(scales: Scales, used: jax.Array) -> jax.Array:
    total = jnp.zeros(())
    for logs in (scales.log_scale, scales.log_first[None]):
        mean = jnp.where(used, logs, 0.0).sum(axis=1, keepdims=True) / used.sum()
        total -= 0.5 * _PRECISION * jnp.where(used, (logs - mean) ** 2, 0.0).sum()
    return total


def _loss_gradient(scales: Scales, signs: jax.Array, values: jax.Array, real: jax.Array, used: jax.Array) -> Scales:
    """Gradient of the negative log marginal likelihood and prior. Rows that are not real have no influence."""

    def covariance(scales: Scales) -> jax.Array:
        both = real[:, None] & real[None, :]
        noise = jnp.where(real, scales.noise, 1.0)
        return jnp.where(both, kernel(scales, signs, signs, used), 0.0) + jnp.diag(noise)

    # d loss / d K = (K^-1 - alpha alpha^T) / 2, so one factorisation gives the gradient with no derivative of a
    # Cholesky factor.
    k, pull = jax.vjp(covariance, scales)
    inverse = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(k), True), jnp.eye(len(k)))
    alpha = inverse @ values
    (likelihood,) = pull((inverse - jnp.outer(alpha, alpha)) / 2)
    prior = jax.grad(_log_prior)(scales, used)
    return jax.tree.map(jnp.subtract, likelihood, prior)


def _initial(key: jax.Array, kernels: int, width: int, used: jax.Array) -> Scales:
    # A prior that expects about two features a term, each kernel a random start of its own.
    start = jnp.log(2.0 / used.sum()) + 0.5 * jax.random.normal(key, (kernels, width))
    return Scales(
        log_scale=start,
        log_amplitude=jnp.full(kernels, jnp.log(0.5 / kernels)),
        log_first=jnp.full(width, jnp.log(0.5 / used.sum())),
        log_constant=jnp.log(0.1),
        log_noise=jnp.log(0.1),
    )


@functools.partial(jax.jit, static_argnames=("kernels", "rows", "steps"))
def learn_scales(
    key: jax.Array,
    signs: jax.Array,
    values: jax.Array,
    count: jax.Array,
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
      count: number of rows that are real; they come first.
      used: bool [n], features that are real.
      kernels: R.
      rows: rows in a step.
      steps: Adam steps.
    """
    start = _initial(jax.random.fold_in(key, 0), kernels, signs.shape[1], used)
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))

    def step(carry: tuple[Scales, optax.OptState], key: jax.Array) -> tuple[tuple[Scales, optax.OptState], None]:
        scales, state = carry
        order = jnp.where(jnp.arange(len(signs)) < count, jax.random.uniform(key, signs.shape[:1]), 2.0)
        chosen = jnp.argsort(order)[:rows]
        gradient = _loss_gradient(scales, signs[chosen], values[chosen], chosen < count, used)
        update, state = optimizer.update(gradient, state)
        scales = optax.apply_updates(scales, update)
        return (scales, state), None

    keys = jax.random.split(jax.random.fold_in(key, 1), steps)
    return jax.lax.scan(step, (start, optimizer.init(start)), keys)[0][0]


@jax.jit
def posterior(scales: Scales, signs: jax.Array, values: jax.Array, count: jax.Array, used: jax.Array) -> jax.Array:
    """alpha [N] = (K + noise)^-1 values on all rows; zero on padding."""
    real = jnp.arange(len(signs)) < count
    both = real[:, None] & real[None, :]
    k = jnp.where(both, kernel(scales, signs, signs, used), 0.0) + jnp.diag(jnp.where(real, scales.noise, 1.0))
    alpha = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(k), True), values)
    return jnp.where(real, alpha, 0.0)


def _spectral_prior(scales: Scales, used: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """log w [R, n], log of the product kernels' prior variance of F(()) [R], b [n], and the whole prior variance of
    F(()).
    """
    a = jnp.exp(scales.log_scale)
    # tanh(a) = a for small a; the floor keeps the logarithm of a scale that underflows finite.
    log_w = jnp.log(jnp.maximum(jnp.tanh(a), 1e-30))
    log_empty = scales.log_amplitude - jnp.where(used, jnp.log1p(jnp.tanh(a)), 0.0).sum(axis=1)
    return log_w, log_empty, jnp.exp(scales.log_first), jnp.exp(log_empty).sum() + jnp.exp(scales.log_constant)


@functools.partial(jax.jit, static_argnames=("max_degree", "front"))
def spectrum_terms(
    scales: Scales, alpha: jax.Array, signs: jax.Array, used: jax.Array, *, max_degree: int, front: int = _FRONT
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Largest terms of the posterior mean, exact values: those of `extract.grow`, and F(())."""
    log_w, log_empty, first, empty = _spectral_prior(scales, used)
    found = grow(signs, alpha, used, log_w, log_empty, first, max_degree=max_degree, front=front)
    return *found, empty * alpha.sum()


def fit(table: Table, *, max_degree: int, seed: int) -> Terms:
    """Learns the scales, solves the posterior on all rows and reads its largest terms.

    The posterior means are the best coefficients under the prior also for a part of the support, so there is no refit
    (BUILD_NOTES.md).
    """
    key = jax.random.key(seed)
    rows = min(_ROWS, len(table.targets))
    data = (table.signs, table.targets, table.count, table.used)
    # Hundreds of small factorisations: on a CPU that others use too, BLAS threads would spend the time waiting for each
    # other (58 s in place of 1.3, BUILD_NOTES.md).
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        scales = jax.block_until_ready(learn_scales(key, *data, kernels=_KERNELS, rows=rows, steps=_STEPS))
    alpha = posterior(scales, *data)
    found = spectrum_terms(scales, alpha, table.signs, table.used, max_degree=max_degree)
    support, coefficients, prior, constant = (np.asarray(array) for array in jax.device_get(found))
    real = prior.ravel() > 0
    support = support.reshape(-1, support.shape[-1])[real][:, : table.n]
    coefficients = coefficients.ravel()[real].astype(np.float64)
    return Terms(
        support=np.concatenate([np.zeros((1, table.n), np.bool_), support]),
        coefficients=np.concatenate([[float(constant)], coefficients]),
    )
