"""The kernel of walsh_gp, and the prior of the coefficients that it implies."""

import dataclasses
import functools
import math
from typing import NamedTuple

import chex
import jax
import numpy as np

from spex_jax.proxyspex.walsh_gp.windows import Windows
from spex_jax.utils.array_api import Array, fold_in_order, namespace, put
from spex_jax.utils.precision import portable

__all__ = [
    "NOISE_FLOOR",
    "PriorSets",
    "Scales",
    "SpectralPrior",
    "kernel",
    "kernel_of_sets",
    "plus_windows",
    "prior_variances",
    "product_kernel",
    "spectral_prior",
    "window_kernel",
]

NOISE_FLOOR = 1e-4  # least noise that float32 can invert, as a share of the variance of the values
_LEAST_W = 1e-30  # keeps the logarithm of a scale that underflows finite, and is that of a unit outside of a window


class PriorSets(NamedTuple):
    """K sets of a known spectrum, whose coefficients may differ from it in proportion to their size.

    Attributes:
      support: float32 [K, n], 1 for the members of each set.
      weight: float32 [K], the squares of its coefficients as parts of 1; 0 on padding.
    """

    support: Array
    weight: Array

    def characters(self, signs: Array) -> Array:
        """Returns the characters float32 [N, K] at signs [N, n]."""
        xp = namespace(signs)
        odd = xp.matmul((signs < 0).astype(np.float32), self.support.T) % 2
        found: Array = (1 - 2 * odd).astype(np.float32)
        return found

    def at(self, support: Array) -> Array:
        """Returns the weights [M] of sets bool [M, n], 0 for sets that are not among them."""
        xp = namespace(self.support)
        members, own = support.astype(np.float32), self.support.sum(axis=1)
        shared = xp.matmul(members, self.support.T)
        same = (shared == own) & (shared == members.sum(axis=1)[:, None])
        return xp.where(same, self.weight, 0.0).sum(axis=1)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        *("log_scale", "log_amplitude", "log_first", "log_constant", "log_noise"),
        *("log_window_scale", "log_window_amplitude", "power", "log_sets", "windows", "relevance", "sets"),
    ],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Scales:
    """Hyperparameters: log a [R, n], log A [R], log b [n], log c [], log noise variance []; with windows of neighbours
    log a [W, k] and log A [W] of each; with a relevance of the units the powers [R + 2] of it that the scales of
    each kernel, of windows and b are expected to follow; with sets of a known spectrum the log [] of their variance.
    The windows, the log relevance [n] and these sets are not learned.
    """

    log_scale: Array
    log_amplitude: Array
    log_first: Array
    log_constant: Array
    log_noise: Array
    log_window_scale: Array = None
    log_window_amplitude: Array = None
    power: Array = None
    log_sets: Array = None
    windows: Windows | None = None
    relevance: Array = None
    sets: PriorSets | None = None

    def by_relevance(self) -> Array:
        """Returns how log a of each kernel, of windows, and log b are expected to differ among units, [R + 2, n]."""
        xp = namespace(self.log_scale)
        if self.relevance is None:
            return xp.zeros((len(self.log_scale) + 2, 1), np.float32)
        times = xp.where(xp.arange(len(self.power)) == len(self.power) - 1, 2.0, 1.0)
        return ((times * self.power)[:, None] * self.relevance).astype(np.float32)

    @property
    def noise(self) -> Array:
        """The noise variance, never below what float32 can invert."""
        return namespace(self.log_noise).exp(self.log_noise) + NOISE_FLOOR


def kernel(scales: Scales, left: Array, right: Array, used: Array) -> Array:
    """Returns the prior covariance without noise of signs [N, n] and [M, n]; used bool [n] marks the real features."""
    xp = namespace(scales, left, right)
    a = xp.where(used, xp.exp(scales.log_scale), 0.0)
    b = xp.where(used, xp.exp(scales.log_first), 0.0)
    total = xp.matmul(left * b, right.T) + xp.exp(scales.log_constant)
    for row, log_amplitude in zip(a, scales.log_amplitude, strict=True):
        total += product_kernel(row, log_amplitude, left, right)
    if scales.sets is not None:
        total += xp.exp(scales.log_sets) * kernel_of_sets(scales.sets, left, right)
    return plus_windows(scales, total, left, right)


def kernel_of_sets(sets: PriorSets, left: Array, right: Array) -> Array:
    """Returns sum_k weight_k chi_k(x) chi_k(x'), [N, M], for signs [N, n] and [M, n]."""
    return namespace(left).matmul(sets.characters(left) * sets.weight, sets.characters(right).T)


def plus_windows(scales: Scales, total: Array, left: Array, right: Array) -> Array:
    """Returns a kernel [N, M] plus those of all windows, where there are any. A NumPy kernel is changed in place."""
    if scales.windows is None:
        return total

    def add(found: Array, window: Array) -> Array:
        found += window_kernel(scales, window, left, right)
        return found

    return fold_in_order(add, total, namespace(left).arange(len(scales.windows.units)))


def window_kernel(scales: Scales, window: Array, left: Array, right: Array) -> Array:
    """Returns the product kernel [N, M] of one window, by its number, for signs [N, n] and [M, n]."""
    assert scales.windows is not None
    xp = namespace(scales, left, right)
    units, inside = scales.windows.units[window], scales.windows.inside[window]
    a = xp.where(inside, xp.exp(scales.log_window_scale[window]), 0.0)
    # A window without units, which fills up the windows of a program, has no amplitude either.
    log_amplitude = xp.where(inside.any(), scales.log_window_amplitude[window], -math.inf)
    return product_kernel(a, log_amplitude, left[:, units], right[:, units])


def product_kernel(a: Array, log_amplitude: Array, left: Array, right: Array) -> Array:
    """Returns A exp(sum_i a_i (s_i s'_i - 1)), [N, M], for signs [N, n] and [M, n]; a [n] is 0 on padding."""
    xp = namespace(a, left, right)
    agree = xp.matmul(left * a, right.T)
    agree += log_amplitude - a.sum()
    return np.exp(agree, out=agree) if isinstance(agree, np.ndarray) else xp.exp(agree)


class SpectralPrior(NamedTuple):
    """The prior variances of the coefficients, in parts.

    Attributes:
      log_w: float [R + W, n], log w; those of windows come last, and vanish outside of them.
      log_empty: float [R + W], the logarithm of each product kernel's prior variance of F(()).
      first: float [n], b.
      empty: float [], the whole prior variance of F(()).
    """

    log_w: Array
    log_empty: Array
    first: Array
    empty: Array


def spectral_prior(scales: Scales, used: Array) -> SpectralPrior:
    """Returns the prior of the coefficients under scales; used bool [n] marks the real features."""
    xp = namespace(scales)
    a = xp.exp(scales.log_scale)
    log_w = xp.log(xp.maximum(xp.tanh(a), _LEAST_W))  # tanh(a) = a for small a
    log_empty = scales.log_amplitude - xp.where(used, xp.log1p(xp.tanh(a)), 0.0).sum(axis=1)
    if scales.windows is not None:
        windows, w = scales.windows, xp.tanh(xp.exp(scales.log_window_scale))
        at = xp.where(windows.inside, windows.units, len(used))  # one column more takes what is outside
        outside = xp.full((len(w), len(used) + 1), math.log(_LEAST_W), np.float32)
        spread = put(outside, (xp.arange(len(w))[:, None], at), xp.log(xp.maximum(w, _LEAST_W)))[:, :-1]
        shrunk = scales.log_window_amplitude - xp.where(windows.inside, xp.log1p(w), 0.0).sum(axis=1)
        log_w = xp.concatenate([log_w, spread])
        log_empty = xp.concatenate([log_empty, xp.where(windows.inside.any(axis=1), shrunk, -math.inf)])
    first, empty = xp.exp(scales.log_first), xp.exp(log_empty).sum() + xp.exp(scales.log_constant)
    return SpectralPrior(log_w, log_empty, first, empty)


@portable
def prior_variances(scales: Scales, used: Array, support: Array) -> Array:
    """Returns P(S), [K], of the sets support bool [K, n]."""
    chex.assert_shape(support, (None, *used.shape))
    chex.assert_type([used, support], bool)
    xp = namespace(scales)
    parts = spectral_prior(scales, used)
    members, size = support.astype(np.float32), support.sum(axis=1)
    products = xp.exp(parts.log_empty + xp.matmul(members, parts.log_w.T)).sum(axis=1)
    products += xp.where(size == 1, xp.matmul(members, parts.first), 0.0)
    if scales.sets is not None:
        products += xp.exp(scales.log_sets) * scales.sets.at(support)
    return products + xp.where(size == 0, xp.exp(scales.log_constant), 0.0)
