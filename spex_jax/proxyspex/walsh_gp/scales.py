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
from spex_jax.proxyspex.walsh_gp.prior import (
    NOISE_FLOOR,
    PriorSets,
    Scales,
    kernel_of_sets,
    plus_windows,
    product_kernel,
    window_kernel,
)
from spex_jax.proxyspex.walsh_gp.windows import Windows
from spex_jax.utils import array_api
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

__all__ = [
    "KERNELS",
    "Draws",
    "draw",
    "learn",
    "learn_scales",
    "learn_windows",
    "log_relevance",
    "prior_sets",
    "rows_of_step",
]

KERNELS = 4
_ROWS = 600  # rows in each step
_STEPS = 150
# Windows start from the scales without them, and need less: more steps or rows hardly help (docs/decisions/65).
_WINDOW_ROWS = 400
_WINDOW_STEPS = 50
_WINDOW_AMPLITUDE_PRECISION = 1.0  # of the log amplitudes around their mean
_POWER_PRECISION = 4.0  # of the powers of the relevance around 1
_MOST_SETS, _SETS_BUCKET = 512, 64
_LEAST_RELEVANCE = 0.02  # of the largest: a gradient that vanishes does not say that a unit has no effect
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
    of_sets = None
    if scales.sets is not None:
        of_sets = xp.exp(scales.log_sets) * kernel_of_sets(scales.sets, signs, signs)
        k += of_sets
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
    expected, kernels = scales.by_relevance(), len(a)
    pull_scale = _pull(scales.log_scale - expected[:kernels], used, precision)
    pull_first = _pull(scales.log_first - expected[-1], used, precision)
    power = None
    if scales.power is not None:
        towards = xp.concatenate([pull_scale, xp.zeros_like(pull_first)[None], 2 * pull_first[None]])
        power = _POWER_PRECISION * (scales.power - 1) - xp.matmul(towards, scales.relevance)
    without = Scales(
        log_scale=by_scale + pull_scale,
        log_amplitude=by_amplitude,
        log_first=b * by_feature(g, signs) + pull_first,
        power=power,
        log_sets=None if of_sets is None else (of_sets * g).sum(),
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
    pull_window = _pull(scales.log_window_scale - xp.broadcast_to(expected[-2], used.shape)[units], inside, precision)
    if power is not None:
        towards = -(pull_window * scales.relevance[units]).sum()
        power = power + xp.where(xp.arange(kernels + 2) == kernels, towards, 0.0)
    return dataclasses.replace(
        without,
        power=power,
        log_window_scale=by_scale + pull_window,
        log_window_amplitude=by_amplitude + _pull(scales.log_window_amplitude, present, _WINDOW_AMPLITUDE_PRECISION),
    )


def _initial(deviations: Array, used: Array, relevance: Array, sets: PriorSets | None) -> Scales:
    # Starts from a prior that expects about two features in a term, each kernel with random scales of its own.
    xp, (kernels, width) = namespace(deviations), deviations.shape
    features = used.sum(dtype=np.float32)
    start = Scales(
        log_scale=xp.log(2.0 / features) + 0.5 * deviations,
        log_amplitude=xp.full(kernels, math.log(0.5 / kernels), np.float32),
        log_first=xp.full(width, xp.log(0.5 / features), np.float32),
        log_constant=xp.asarray(math.log(0.1), np.float32),
        log_noise=xp.asarray(math.log(0.1), np.float32),
        log_sets=None if sets is None else xp.asarray(math.log(0.1), np.float32),
        sets=sets,
    )
    if relevance is None:
        return start

    def among(logs: Array, total: float) -> Array:
        """Returns logs [n] minus a number, so that their exponentials sum to `total`."""
        return logs - xp.log(xp.where(used, xp.exp(logs), 0.0).sum() / total)

    return dataclasses.replace(
        start,
        log_scale=0.5 * deviations + among(relevance, 2.0),
        log_first=among(2 * relevance, 0.5),
        power=xp.ones(kernels + 2, np.float32),
        relevance=relevance,
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
        log_window_scale=_of_windows(scales, windows, xp.log(2 / sizes)).astype(np.float32),
        log_window_amplitude=xp.where(present, xp.log(0.5 * known / present.sum()), 0.0).astype(np.float32),
        windows=windows,
    )


def _of_windows(scales: Scales, windows: Windows, log_mean: Array) -> Array:
    xp = namespace(scales)
    equal = xp.broadcast_to(log_mean[:, None], windows.units.shape)
    if scales.relevance is None:
        return equal
    logs = scales.relevance[windows.units]
    total = xp.where(windows.inside, xp.exp(logs), 0.0).sum(axis=1) / xp.maximum(windows.inside.sum(axis=1), 1)
    return equal + logs - xp.log(xp.maximum(total, 1e-30))[:, None]


@portable
def learn_scales(
    draws: Draws,
    signs: Array,
    values: Array,
    real: Array,
    used: Array,
    relevance: Array = None,
    sets: PriorSets | None = None,
) -> Scales:
    """Learns the scales without windows.

    Args:
      draws: the random choices, made by `draw`.
      signs: [N, n], padded.
      values: [N], padded, of mean 0 and variance 1.
      real: bool [N], rows to learn from.
      used: bool [n], features that are real.
      relevance: [n], see `log_relevance`; None where nothing is known of it.
      sets: see `prior_sets`; None without a known spectrum.
    """
    return _descend(_initial(draws.start, used, relevance, sets), draws.rows, signs, values, real, used)


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
    xp, steps = namespace(signs), len(rows)
    known = {name: getattr(start, name) for name in ("windows", "relevance", "sets")}
    start = dataclasses.replace(start, **dict.fromkeys(known))
    precision = xp.clip(_PRECISION / real.sum(dtype=np.float32), *_PRECISION_BOUNDS)
    (keep_mean, keep_square), tree = _DECAYS, jax.tree.map

    def step(state: _State, chosen: Array) -> _State:
        here = dataclasses.replace(state.scales, **known)
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
    return dataclasses.replace(learned, **known)


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
    relevance = None if table.known.relevance is None else log_relevance(table)
    return _run(learn_scales, table, (draw(seed, *data[2:]),), (*data, relevance, prior_sets(table)))


def prior_sets(table: Table) -> PriorSets | None:
    """Returns the sets of the known spectrum of a table with the largest coefficients; None without such a spectrum."""
    if table.base is None:
        return None
    chosen = table.base.truncate(_MOST_SETS)
    squares = np.square(chosen.coefficients / np.abs(chosen.coefficients).max())
    more = 0 if array_api.on_host(table.rows.signs) else -len(chosen) % _SETS_BUCKET
    support = np.pad(chosen.support.astype(np.float32), ((0, more), (0, len(table.rows.used) - table.n)))
    return PriorSets(support, np.pad(squares / squares.sum(), (0, more)).astype(np.float32))


def log_relevance(table: Table) -> np.ndarray:
    """Returns the logarithm of the relevance of features, float32 [n'], of mean 0 over the real ones and 0 on padding;
    equal for all where it is not known.
    """
    width, given = len(table.rows.used), table.known.relevance
    if given is None:
        return np.zeros(width, np.float32)
    logs = np.log(np.maximum(given / given.max(), _LEAST_RELEVANCE))
    return np.pad(logs - logs.mean(), (0, width - table.n)).astype(np.float32)


def learn_windows(seed: int, table: Table, seen: np.ndarray, scales: Scales, windows: Windows) -> Scales:
    """Learns the scales of windows from the same rows, beside the scales that `learn` found."""
    data = _seen_rows(table, seen)
    real = data[2]
    rows = _draw_rows(seed, Stream.WALSH_GP_WINDOWS, real, min(_WINDOW_ROWS, len(real)), _WINDOW_STEPS)
    return _run(learn_scales_of_windows, table, (scales, windows, rows), data)
