"""Learns the scales of walsh_gp from the marginal likelihood of random rows."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from spex_jax.proxyspex.preprocessing import Table
from spex_jax.proxyspex.walsh_gp.prior import NOISE_FLOOR, Scales, plus_windows, product_kernel, window_kernel
from spex_jax.proxyspex.walsh_gp.windows import Windows
from spex_jax.utils.array_api import (
    Array,
    add_to_diagonal,
    cholesky,
    cholesky_inverse,
    fold_in_order,
    for_each,
    namespace,
    principal,
)
from spex_jax.utils.precision import portable
from spex_jax.utils.seeds import Stream, generator
from spex_jax.utils.threads import one_blas_thread

__all__ = ["KERNELS", "Draws", "draw", "learn", "learn_scales", "learn_windows", "rows_of_step"]

KERNELS = 4
_ROWS = 600  # rows in each step
_STEPS = 150
# Windows start from the scales without them, and need less: more steps or rows hardly help (docs/decisions/65).
_WINDOW_ROWS = 400
_WINDOW_STEPS = 50
_WINDOW_AMPLITUDE_PRECISION = 1.0  # of the log amplitudes around their mean
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


def _pull(logs: Array, chosen: Array, precision: Array | float) -> Array:
    """Returns the gradient of the negative log of a normal prior of logs [..., k] around their mean over chosen bool
    [..., k].
    """
    xp = namespace(logs, chosen)
    count = xp.maximum(chosen.sum(axis=-1, keepdims=True, dtype=np.float32), 1)
    mean = xp.where(chosen, logs, 0.0).sum(axis=-1, keepdims=True) / count
    return precision * xp.where(chosen, logs - mean, 0.0)


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
    k = plus_windows(scales, k, signs, signs)
    k = add_to_diagonal(principal(k, real), xp.where(real, scales.noise, 1.0).astype(np.float32))
    inverse = cholesky_inverse(cholesky(k))
    alpha = xp.matmul(inverse, values)
    inverse -= alpha[:, None] * alpha[None, :]
    inverse *= 0.5
    g = principal(inverse, real)

    def by_feature(weights: Array, signs: Array) -> Array:
        return (signs * xp.matmul(weights, signs)).sum(axis=0)

    def by_kernel(a: Array, piece: Array, signs: Array) -> tuple[Array, Array]:
        """Returns the derivatives by the logarithms of the scales a [k] and of the amplitude of a product kernel."""
        piece *= g
        total = piece.sum()
        return a * (by_feature(piece, signs) - total), total

    found = [by_kernel(row, piece, signs) for row, piece in zip(a, pieces, strict=True)]
    by_scale, by_amplitude = (xp.stack(parts) for parts in zip(*found, strict=True))
    without = Scales(
        log_scale=by_scale + _pull(scales.log_scale, used, precision),
        log_amplitude=by_amplitude,
        log_first=b * by_feature(g, signs) + _pull(scales.log_first, used, precision),
        log_constant=xp.exp(scales.log_constant) * g.sum(),
        log_noise=xp.exp(scales.log_noise) * xp.diagonal(g).sum(),
    )
    if scales.windows is None:
        return without
    units, inside = scales.windows

    def by_window(window: Array) -> tuple[Array, Array]:
        # Computes the kernel again: memory is slower than the exponential.
        a = xp.where(inside[window], xp.exp(scales.log_window_scale[window]), 0.0)
        return by_kernel(a, window_kernel(scales, window, signs, signs), signs[:, units[window]])

    by_scale, by_amplitude = for_each(by_window, xp.arange(len(units)), at_once=False)
    present = inside.any(axis=1)
    return dataclasses.replace(
        without,
        log_window_scale=by_scale + _pull(scales.log_window_scale, inside, precision),
        log_window_amplitude=by_amplitude + _pull(scales.log_window_amplitude, present, _WINDOW_AMPLITUDE_PRECISION),
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


def _with_windows(scales: Scales, windows: Windows, used: Array) -> Scales:
    """Returns scales that give half of the prior variance to windows, each of which expects two units in a term."""
    xp = namespace(scales)
    present = windows.inside.any(axis=1)
    half = math.log(0.5)
    known = xp.exp(scales.log_amplitude).sum() + xp.where(used, xp.exp(scales.log_first), 0.0).sum()
    sizes = xp.maximum(windows.inside.sum(axis=1, dtype=np.float32), 1)
    return dataclasses.replace(
        scales,
        log_amplitude=scales.log_amplitude + half,
        log_first=scales.log_first + half,
        log_window_scale=xp.broadcast_to(xp.log(2 / sizes)[:, None], windows.units.shape).astype(np.float32),
        log_window_amplitude=xp.where(present, xp.log(0.5 * known / present.sum()), 0.0).astype(np.float32),
        windows=windows,
    )


@portable
def learn_scales(draws: Draws, signs: Array, values: Array, real: Array, used: Array) -> Scales:
    """Learns the scales without windows.

    Args:
      draws: the random choices, made by `draw`.
      signs: [N, n], padded.
      values: [N], padded, of mean 0 and variance 1.
      real: bool [N], rows to learn from.
      used: bool [n], features that are real.
    """
    return _descend(_initial(draws.start, used), draws.rows, signs, values, real, used)


@portable
def learn_scales_of_windows(
    scales: Scales, windows: Windows, rows: Array, signs: Array, values: Array, real: Array, used: Array
) -> Scales:
    """Goes on from scales without windows and learns those of windows too; rows int [S, M] are those of each step, see
    `learn_scales` for the others.
    """
    return _descend(_with_windows(scales, windows, used), rows, signs, values, real, used)


def _descend(start: Scales, rows: Array, signs: Array, values: Array, real: Array, used: Array) -> Scales:
    """Learns the scales by Adam with a rate that falls like a cosine."""
    chex.assert_shape([signs, values, real], [(*real.shape, *used.shape), real.shape, real.shape])
    chex.assert_type([signs, values, real, used], [float, float, bool, bool])
    xp, steps, windows = namespace(signs), len(rows), start.windows
    start = dataclasses.replace(start, windows=None)
    precision = xp.clip(_PRECISION / real.sum(dtype=np.float32), *_PRECISION_BOUNDS)
    (keep_mean, keep_square), tree = _DECAYS, jax.tree.map

    def step(state: _State, chosen: Array) -> _State:
        here = dataclasses.replace(state.scales, windows=windows)
        gradient = loss_gradient(here, signs[chosen], values[chosen], real[chosen], used, precision)
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
    learned = fold_in_order(step, _State(xp.zeros((), np.float32), start, nothing, nothing), rows).scales
    return dataclasses.replace(learned, windows=windows)


def rows_of_step(rows: int) -> int:
    """Returns the number of rows in a step of learning from `rows` rows."""
    return min(_ROWS, rows)


def draw(seed: int, real: np.ndarray, used: np.ndarray) -> Draws:
    """Makes the random choices of learning from the rows where real bool [N'] is True, with used bool [n'].

    They do not depend on padding, except that rows of padding fill up the steps of a padded table of few rows.
    """
    n = int(used.sum())
    start = np.zeros((KERNELS, len(used)), np.float32)
    start[:, :n] = generator(seed, Stream.WALSH_GP_START).standard_normal((KERNELS, n), np.float32)
    return Draws(start, _draw_rows(seed, Stream.WALSH_GP_STEPS, real, rows_of_step(len(real)), _STEPS))


def _draw_rows(seed: int, stream: Stream, real: np.ndarray, size: int, steps: int) -> np.ndarray:
    at = np.flatnonzero(real)
    rest = np.flatnonzero(~real)[: max(size - len(at), 0)]
    if len(at) <= size:
        return np.tile(np.concatenate([at, rest])[:size].astype(np.int32), (steps, 1))
    rng = generator(seed, stream)
    rows = [rng.choice(at, size, replace=False, shuffle=False) for _ in range(steps)]
    return np.stack(rows).astype(np.int32)


def _seen_rows(table: Table, seen: np.ndarray) -> tuple[Array, Array, np.ndarray, np.ndarray]:
    """Returns signs, targets, which rows are real and which features are used, where seen bool [N] is True."""
    rows = table.rows
    if isinstance(rows.signs, np.ndarray):
        return rows.signs[seen], rows.targets[seen], np.ones(int(seen.sum()), np.bool_), rows.used
    real = np.pad(seen, (0, len(rows.targets) - table.count))
    return rows.signs, rows.targets, real, np.asarray(rows.used)


def _run(learning: Callable[..., Scales], table: Table, chosen: Any, data: tuple[Any, ...]) -> Scales:
    if not isinstance(table.rows.signs, np.ndarray):
        chosen, data = jax.device_put((chosen, data))
    # Hundreds of small factorisations: on a shared CPU, BLAS threads would spend the time waiting for each other (58 s
    # in place of 1.3, BUILD_NOTES.md).
    with one_blas_thread():
        return jax.block_until_ready(learning(*chosen, *data))  # type: ignore[no-any-return]


def learn(seed: int, table: Table, seen: np.ndarray) -> Scales:
    """Learns the scales from the rows of a table where seen bool [N] is True."""
    data = _seen_rows(table, seen)
    return _run(learn_scales, table, (draw(seed, *data[2:]),), data)


def learn_windows(seed: int, table: Table, seen: np.ndarray, scales: Scales, windows: Windows) -> Scales:
    """Learns the scales of windows from the same rows, beside the scales that `learn` found."""
    data = _seen_rows(table, seen)
    real = data[2]
    rows = _draw_rows(seed, Stream.WALSH_GP_WINDOWS, real, min(_WINDOW_ROWS, len(real)), _WINDOW_STEPS)
    return _run(learn_scales_of_windows, table, (scales, windows, rows), data)
