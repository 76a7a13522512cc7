"""Learns the scales of walsh_gp from the marginal likelihood of random rows."""

import dataclasses
import functools
import math
from typing import NamedTuple

import chex
import jax
import numpy as np

from spex_jax.proxyspex.preprocessing import Table
from spex_jax.proxyspex.walsh_gp.prior import NOISE_FLOOR, Scales, product_kernel
from spex_jax.utils.array_api import (
    Array,
    add_to_diagonal,
    cholesky,
    cholesky_inverse,
    fold_in_order,
    namespace,
    principal,
)
from spex_jax.utils.precision import portable
from spex_jax.utils.seeds import Stream, generator
from spex_jax.utils.threads import one_blas_thread

__all__ = ["KERNELS", "Draws", "draw", "learn", "learn_scales", "rows_of_step"]

KERNELS = 4
_ROWS = 600  # rows in each step
_STEPS = 150
_RATE = 0.15
_DECAYS = (0.9, 0.999)  # of Adam's averages (Kingma and Ba, ICLR 2015)
_EPSILON = 1e-8
# Each log scale has a normal prior around its kernel's mean, with this precision at one row and 1 / N of it at N rows,
# within bounds: few rows overfit n scales, many determine them.
_PRECISION = 450.0
_PRECISION_BOUNDS = (0.15, 3.0)
_MORE_NOISE = 0.5  # step of the log noise where float32 fails


class Draws(NamedTuple):
    """The random choices of learning, with a leading axis where there are several.

    Attributes:
      start: float32 [R, n], standard normal deviations of the first log scales.
      rows: int32 [S, M], the rows of each step.
    """

    start: Array
    rows: Array


class _State(NamedTuple):
    """The state of Adam between two steps.

    Attributes:
      step: float [], the number of steps done.
      scales: the scales.
      mean, square: the moving averages of their gradient and of its square.
    """

    step: Array
    scales: Scales
    mean: Scales
    square: Scales


def _prior_gradient(scales: Scales, used: Array, precision: Array) -> tuple[Array, Array]:
    """Returns the gradient of the negative log prior of the scales with respect to log_scale and log_first."""
    xp = namespace(scales)

    def pull(logs: Array) -> Array:
        mean = xp.where(used, logs, 0.0).sum(axis=-1, keepdims=True) / used.sum(dtype=np.float32)
        return precision * xp.where(used, logs - mean, 0.0)

    return pull(scales.log_scale), pull(scales.log_first)


def loss_gradient(scales: Scales, signs: Array, values: Array, real: Array, used: Array, precision: Array) -> Scales:
    """Returns the gradient of the negative log marginal likelihood and prior; rows of padding have no influence.

    With G = (K^-1 - alpha alpha^T) / 2 and alpha = K^-1 values the derivative by a parameter t is sum(G * dK/dt)
    (Rasmussen and Williams, 2006, equation 5.9). A product kernel P has dP/da_i = P (s_i s'_i - 1), so that one product
    with the signs gives the derivatives by all its scales.
    """
    xp = namespace(scales, signs)
    a = xp.where(used, xp.exp(scales.log_scale), 0.0)
    b = xp.where(used, xp.exp(scales.log_first), 0.0)
    pieces = [product_kernel(a[r], scales.log_amplitude[r], signs, signs) for r in range(len(a))]
    k = xp.matmul(signs * b, signs.T) + xp.exp(scales.log_constant)
    for piece in pieces:
        k += piece
    k = add_to_diagonal(principal(k, real), xp.where(real, scales.noise, 1.0).astype(np.float32))
    inverse = cholesky_inverse(cholesky(k))
    alpha = xp.matmul(inverse, values)
    inverse -= alpha[:, None] * alpha[None, :]
    inverse *= 0.5
    g = principal(inverse, real)

    def by_feature(weights: Array) -> Array:
        return (signs * xp.matmul(weights, signs)).sum(axis=0)

    by_scale, by_amplitude = [], []
    for row, piece in zip(a, pieces, strict=True):
        piece *= g
        total = piece.sum()
        by_amplitude.append(total)
        by_scale.append(row * (by_feature(piece) - total))
    prior_scale, prior_first = _prior_gradient(scales, used, precision)
    return Scales(
        log_scale=xp.stack(by_scale) + prior_scale,
        log_amplitude=xp.stack(by_amplitude),
        log_first=b * by_feature(g) + prior_first,
        log_constant=xp.exp(scales.log_constant) * g.sum(),
        log_noise=xp.exp(scales.log_noise) * xp.diagonal(g).sum(),
    )


def _initial(deviations: Array, used: Array) -> Scales:
    # Starts from a prior that expects about two features in a term, each kernel with random scales of its own.
    xp, (kernels, width) = namespace(deviations), deviations.shape
    features = used.sum(dtype=np.float32)
    return Scales(
        log_scale=xp.log(2.0 / features) + 0.5 * deviations,
        log_amplitude=xp.full(kernels, math.log(0.5 / kernels), np.float32),
        log_first=xp.full(width, xp.log(0.5 / features), np.float32),
        log_constant=xp.asarray(math.log(0.1), np.float32),
        log_noise=xp.asarray(math.log(0.1), np.float32),
    )


@portable
def learn_scales(draws: Draws, signs: Array, values: Array, real: Array, used: Array) -> Scales:
    """Learns the scales by Adam with a rate that falls like a cosine.

    Args:
      draws: the random choices, made by `draw`.
      signs: [N, n], padded.
      values: [N], padded, of mean 0 and variance 1.
      real: bool [N], rows to learn from.
      used: bool [n], features that are real.
    """
    chex.assert_shape([signs, values, real], [(*real.shape, *used.shape), real.shape, real.shape])
    chex.assert_type([signs, values, real, used], [float, float, bool, bool])
    xp, steps = namespace(signs), len(draws.rows)
    start = _initial(draws.start, used)
    precision = xp.clip(_PRECISION / real.sum(dtype=np.float32), *_PRECISION_BOUNDS)
    (keep_mean, keep_square), tree = _DECAYS, jax.tree.map

    def step(state: _State, chosen: Array) -> _State:
        gradient = loss_gradient(state.scales, signs[chosen], values[chosen], real[chosen], used, precision)
        mean = tree(lambda m, g: keep_mean * m + (1 - keep_mean) * g, state.mean, gradient)
        square = tree(lambda s, g: keep_square * s + (1 - keep_square) * g * g, state.square, gradient)
        rate = _RATE * 0.5 * (1 + xp.cos(math.pi * state.step / steps))
        done = state.step + 1
        mean_bias, square_bias = 1 - keep_mean**done, 1 - keep_square**done

        def moved(scale: Array, m: Array, s: Array) -> Array:
            return scale - rate * (m / mean_bias) / (xp.sqrt(s / square_bias) + _EPSILON)

        updated = _State(done, tree(moved, state.scales, mean, square), mean, square)
        # Where float32 cannot factorise, raise the noise; the gradient of the other scales is then unknown.
        noisier = xp.maximum(state.scales.log_noise, math.log(NOISE_FLOOR)) + _MORE_NOISE
        fine = xp.stack([xp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)]).all()
        instead = state._replace(scales=dataclasses.replace(state.scales, log_noise=noisier))
        found: _State = tree(functools.partial(xp.where, fine), updated, instead)
        return found

    nothing = tree(xp.zeros_like, start)
    return fold_in_order(step, _State(xp.zeros((), np.float32), start, nothing, nothing), draws.rows).scales


def rows_of_step(rows: int) -> int:
    """Returns the number of rows in a step of learning from `rows` rows."""
    return min(_ROWS, rows)


def draw(seed: int, real: np.ndarray, used: np.ndarray) -> Draws:
    """Makes the random choices of learning from the rows where real bool [N'] is True, with used bool [n'].

    They do not depend on padding, except that rows of padding fill up the steps of a padded table of few rows.
    """
    at, n = np.flatnonzero(real), int(used.sum())
    start = np.zeros((KERNELS, len(used)), np.float32)
    start[:, :n] = generator(seed, Stream.WALSH_GP_START).standard_normal((KERNELS, n), np.float32)
    size = rows_of_step(len(real))
    rest = np.flatnonzero(~real)[: max(size - len(at), 0)]
    if len(at) <= size:
        return Draws(start, np.tile(np.concatenate([at, rest])[:size].astype(np.int32), (_STEPS, 1)))
    rng = generator(seed, Stream.WALSH_GP_STEPS)
    rows = [rng.choice(at, size, replace=False, shuffle=False) for _ in range(_STEPS)]
    return Draws(start, np.stack(rows).astype(np.int32))


def learn(seed: int, table: Table, seen: np.ndarray) -> Scales:
    """Learns the scales from the rows of a table where seen bool [N] is True."""
    rows = table.rows
    if isinstance(rows.signs, np.ndarray):
        signs, targets, real = rows.signs[seen], rows.targets[seen], np.ones(int(seen.sum()), np.bool_)
        draws = draw(seed, real, rows.used)
    else:
        signs, targets, real = rows.signs, rows.targets, np.pad(seen, (0, len(rows.targets) - table.count))
        draws, real = jax.device_put((draw(seed, real, np.asarray(rows.used)), real))
    # Hundreds of small factorisations: on a shared CPU, BLAS threads would spend the time waiting for each other (58 s
    # in place of 1.3, BUILD_NOTES.md).
    with one_blas_thread():
        found: Scales = jax.block_until_ready(learn_scales(draws, signs, targets, real, rows.used))
    return found
