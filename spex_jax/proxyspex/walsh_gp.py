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
from spex_jax.proxyspex.table import FOLDS, Fitted, Table
from spex_jax.spectrum import Spectrum

__all__ = ["HONEST_ROWS", "Scales", "fit", "kernel", "learn_scales", "posterior"]

_KERNELS = 4
_FRONT = 2048
_ROWS = 600  # rows in each step of learning the scales
_STEPS = 150
_RATE = 0.15
# The normal prior on each log scale around its kernel's mean has this precision at one row and 1 / N of it at N rows,
# within bounds: few rows overfit n scales, many determine them.
_PRECISION = 450.0
_PRECISION_BOUNDS = (0.15, 3.0)
SOLVE_ROWS = 8192  # rows of the largest posterior that is solved at once
_BLOCK = 2048  # rows whose characters are widened at a time; row buckets past SOLVE_ROWS are multiples of it
_TERMS = 1024  # whose deviations are drawn at a time
_LEFT_OUT = 0.05  # share of the prior variance outside the terms that counts as noise (BUILD_NOTES.md)
HONEST_ROWS = 128  # up to which out-of-fold predictions learn their own scales, at five times the cost
_DRAWS = 64  # of the posterior: a standard error is known to 1 / sqrt(2 * 64) = 9%
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


def _log_prior(scales: Scales, used: jax.Array, precision: jax.Array) -> jax.Array:
    total = jnp.zeros(())
    for logs in (scales.log_scale, scales.log_first[None]):
        mean = jnp.where(used, logs, 0.0).sum(axis=1, keepdims=True) / used.sum()
        total -= 0.5 * precision * jnp.where(used, (logs - mean) ** 2, 0.0).sum()
    return total


def _loss_gradient(
    scales: Scales, signs: jax.Array, values: jax.Array, real: jax.Array, used: jax.Array, precision: jax.Array
) -> Scales:
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
    prior = jax.grad(_log_prior)(scales, used, precision)
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
    start = _initial(jax.random.fold_in(key, 0), kernels, signs.shape[1], used)
    precision = jnp.clip(_PRECISION / real.sum(), *_PRECISION_BOUNDS)
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))

    def step(carry: tuple[Scales, optax.OptState], key: jax.Array) -> tuple[tuple[Scales, optax.OptState], None]:
        scales, state = carry
        order = jnp.where(real, jax.random.uniform(key, signs.shape[:1]), 2.0)
        chosen = jnp.argsort(order)[:rows]
        gradient = _loss_gradient(scales, signs[chosen], values[chosen], real[chosen], used, precision)
        update, state = optimizer.update(gradient, state)
        scales = optax.apply_updates(scales, update)
        return (scales, state), None

    keys = jax.random.split(jax.random.fold_in(key, 1), steps)
    return jax.lax.scan(step, (start, optimizer.init(start)), keys)[0][0]


def _solve(k: jax.Array, scales: Scales, values: jax.Array, real: jax.Array) -> jax.Array:
    """(k + noise)^-1 values, [N] or [N, R], of the rows that are real alone; zero on the others."""
    both = real[:, None] & real[None, :]
    noisy = jnp.where(both, k, 0.0) + jnp.diag(jnp.where(real, scales.noise, 1.0))
    alpha = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(noisy), True), values)
    return jnp.where(real if values.ndim == 1 else real[:, None], alpha, 0.0)


@jax.jit
def posterior(scales: Scales, signs: jax.Array, values: jax.Array, real: jax.Array, used: jax.Array) -> jax.Array:
    """alpha = (K + noise)^-1 values, [N] or [N, R], on the rows that are real bool [N], zero on the others."""
    return _solve(kernel(scales, signs, signs, used), scales, values, real)


@jax.jit
def held_out_predictions(
    scales: Scales, signs: jax.Array, values: jax.Array, fold: jax.Array, used: jax.Array
) -> jax.Array:
    """Posterior mean [N] at each row from the rows of the other folds, under the same scales; fold int [N], -1 on
    padding.
    """
    k = kernel(scales, signs, signs, used)

    def left_out(each: jax.Array) -> jax.Array:
        real = (fold >= 0) & (fold != each)
        return jnp.where(fold == each, k @ _solve(k, scales, values, real), 0.0)

    return jax.lax.map(left_out, jnp.arange(FOLDS)).sum(axis=0)


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


@jax.jit
def prior_variances(scales: Scales, used: jax.Array, support: jax.Array) -> jax.Array:
    """P(S), [K], of the sets support bool [K, n]."""
    log_w, log_empty, first, _ = _spectral_prior(scales, used)
    members, size = support.astype(jnp.float32), support.sum(axis=1)
    products = jnp.exp(log_empty + jnp.matmul(members, log_w.T, precision="highest")).sum(axis=1)
    products += jnp.where(size == 1, jnp.matmul(members, first, precision="highest"), 0.0)
    return products + jnp.where(size == 0, jnp.exp(scales.log_constant), 0.0)


@jax.jit
def _prior_draws(
    key: jax.Array, scales: Scales, signs: jax.Array, used: jax.Array, support: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Characters [N, K], prior variances [K] and draws [K, R] of the coefficients of support bool [K, n], and the
    values [N, R] that these draws make; rows from `count` on are padding.
    """
    present = jnp.arange(len(support)) < count
    odd = jnp.matmul((signs < 0).astype(jnp.float32), support.T.astype(jnp.float32)).astype(jnp.int32) & 1
    characters = jnp.where(present, 1.0 - 2.0 * odd, 0.0)
    prior = jnp.where(present, prior_variances(scales, used, support), 0.0)
    known = jnp.sqrt(prior)[:, None] * jax.random.normal(key, (len(prior), _DRAWS))
    return characters, prior, known, jnp.matmul(characters, known, precision="highest")


@jax.jit
def _alpha_of_draws(
    key: jax.Array,
    scales: Scales,
    signs: jax.Array,
    real: jax.Array,
    used: jax.Array,
    values: jax.Array,
    drawn: jax.Array,
) -> jax.Array:
    """What `posterior` gives for values [N, R] with noise; what is not drawn of the prior counts as noise."""
    one = signs[:1]
    left = jnp.maximum(kernel(scales, one, one, used)[0, 0] - drawn, 0.0)
    values += jnp.sqrt(scales.noise + left) * jax.random.normal(key, values.shape)
    return posterior(scales, signs, jnp.where(real[:, None], values, 0.0), real, used)


@jax.jit
def _deviation(characters: jax.Array, prior: jax.Array, known: jax.Array, alpha: jax.Array) -> jax.Array:
    return known - prior[:, None] * jnp.matmul(characters.T, alpha, precision="highest")


def deviations(
    key: jax.Array, scales: Scales, signs: jax.Array, real: jax.Array, used: jax.Array, support: np.ndarray
) -> np.ndarray:
    """Random deviations float64 [K, R] of the coefficients of support bool [K, n] from their posterior mean.

    Matheron's rule: a draw F of the prior, minus the posterior mean that its own noisy values would give, is a draw of
    the posterior around its mean.
    """
    parts, values, drawn = [], jnp.zeros((len(signs), _DRAWS)), jnp.zeros(())
    for start in range(0, len(support), _TERMS):
        padded = np.zeros((_TERMS, signs.shape[1]), np.bool_)
        part = support[start : start + _TERMS]
        padded[: len(part), : part.shape[1]] = part
        keys = jax.random.fold_in(key, 1 + start // _TERMS)
        characters, prior, known, made = _prior_draws(keys, scales, signs, used, jnp.asarray(padded), len(part))
        parts.append((characters, prior, known))
        values, drawn = values + made, drawn + prior.sum()
    alpha = _alpha_of_draws(jax.random.fold_in(key, 0), scales, signs, real, used, values, drawn)
    found = [np.asarray(_deviation(*part, alpha), np.float64) for part in parts]
    return np.concatenate(found)[: len(support)]


@jax.jit
def _predict(scales: Scales, alpha: jax.Array, signs: jax.Array, asked: jax.Array, used: jax.Array) -> jax.Array:
    """Posterior mean [M] at asked [M, n]."""
    return jnp.matmul(kernel(scales, asked, signs, used), alpha, precision="highest")


@jax.jit
def _all_rows(
    signs: jax.Array, values: jax.Array, support: jax.Array, start: jax.Array, prior: jax.Array, noise: jax.Array
) -> jax.Array:
    """Posterior mean [K] of the coefficients of support bool [K, n] from all rows, by conjugate gradients.

    What the terms leave out counts as noise. Characters are kept as int8 and widened block by block.
    """
    block = min(_BLOCK, len(signs))
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
    return jax.scipy.sparse.linalg.cg(apply, target, x0=start, tol=1e-5, maxiter=100, M=lambda x: scale * x)[0]


def _learn(key: jax.Array, table: Table, real: np.ndarray) -> Scales:
    """The scales by the rows that are real, bool [N']."""
    rows = min(_ROWS, len(table.targets))
    # Hundreds of small factorisations: on a CPU that others use too, BLAS threads would spend the time waiting for each
    # other (58 s in place of 1.3, BUILD_NOTES.md).
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        data = (table.signs, table.targets, jnp.asarray(real), table.used)
        return jax.block_until_ready(learn_scales(key, *data, kernels=_KERNELS, rows=rows, steps=_STEPS))


def _held_out_with_own_scales(key: jax.Array, table: Table) -> np.ndarray:
    """Predictions [N] by folds that learn their scales too: with few rows, scales that have seen a row flatter its
    prediction.
    """
    found = np.zeros(len(table.targets))
    for each in range(FOLDS):
        seen = (table.fold >= 0) & (table.fold != each)
        scales = _learn(key, table, seen)
        alpha = posterior(scales, table.signs, table.targets, jnp.asarray(seen), table.used)
        predicted = np.asarray(_predict(scales, alpha, table.signs, table.signs, table.used))
        found = np.where(table.fold == each, predicted, found)
    return found[: table.count]


def fit(table: Table, *, max_degree: int, seed: int) -> Fitted:
    """Learns the scales, solves the posterior and reads its largest terms.

    The posterior means are the best coefficients under the prior also for a part of the support, so there is no refit
    (BUILD_NOTES.md). Past 8,192 rows the posterior of that many finds the terms, and all rows give their coefficients.
    """
    key = jax.random.key(seed)
    real = table.fold >= 0
    data = (table.signs, table.targets, jnp.asarray(real), table.used)
    scales = _learn(key, table, real)
    # A fifth is left over at the least, so that there are rows to predict that the posterior has not seen.
    most = SOLVE_ROWS if table.count <= SOLVE_ROWS else min(SOLVE_ROWS, int(0.8 * table.count) // 512 * 512)
    chosen = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(real))[:most])
    solved = data if len(chosen) == table.count else (*(array[chosen] for array in data[:3]), table.used)
    alpha = posterior(scales, *solved)
    found = spectrum_terms(scales, alpha, solved[0], table.used, max_degree=max_degree)
    support, coefficients, prior, constant = found
    support = support.reshape(-1, support.shape[-1])
    coefficients, prior = coefficients.ravel(), prior.ravel()
    present = np.asarray(prior) > 0
    if len(chosen) < table.count:
        one = table.signs[:1]
        left = jnp.maximum(kernel(scales, one, one, table.used)[0, 0] - prior.sum() - jnp.exp(scales.log_constant), 0.0)
        noise = scales.noise + _LEFT_OUT * left
        arguments = (support, coefficients, jnp.maximum(prior, 1e-12), noise)
        coefficients = _all_rows(table.signs, table.targets, *arguments)

    def covariance_factor(support: np.ndarray) -> np.ndarray:
        found = deviations(jax.random.fold_in(key, 1), scales, solved[0], solved[2], table.used, support)
        return found / np.sqrt(_DRAWS)

    def held_out() -> np.ndarray:
        if table.count <= HONEST_ROWS:
            return _held_out_with_own_scales(key, table)
        if len(chosen) == table.count:
            fold = jnp.asarray(table.fold)
            return np.asarray(held_out_predictions(scales, *data[:2], fold, table.used), np.float64)[: table.count]
        predicted = np.full(table.count, np.nan)
        others = np.setdiff1d(np.arange(table.count), chosen)
        for start in range(0, len(others), _BLOCK):
            part = others[start : start + _BLOCK]
            asked = table.signs[np.resize(part, _BLOCK)]
            predicted[part] = np.asarray(_predict(scales, alpha, solved[0], asked, table.used))[: len(part)]
        return predicted

    terms = np.concatenate([np.zeros((1, table.n), np.bool_), np.asarray(support)[present][:, : table.n]])
    values = np.concatenate([[float(constant)], np.asarray(coefficients, np.float64)[present]])
    return Fitted(spectrum=Spectrum(terms, values), held_out=held_out, covariance_factor=covariance_factor)
