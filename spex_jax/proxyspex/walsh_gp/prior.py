"""The kernel of walsh_gp, and the prior of the coefficients that it implies."""

import dataclasses
import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from spex_jax.utils.precision import compiled

__all__ = ["NOISE_FLOOR", "Scales", "SpectralPrior", "kernel", "prior_variances", "spectral_prior"]

NOISE_FLOOR = 1e-4  # least noise that float32 can invert, as a share of the variance of the values


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
        """The noise variance, never below what float32 can invert."""
        return jnp.exp(self.log_noise) + NOISE_FLOOR


def kernel(scales: Scales, left: jax.Array, right: jax.Array, used: jax.Array) -> jax.Array:
    """Returns the prior covariance without noise of signs [N, n] and [M, n]; used bool [n] marks the real features."""
    a = jnp.where(used, jnp.exp(scales.log_scale), 0.0)
    b = jnp.where(used, jnp.exp(scales.log_first), 0.0)
    agree = jnp.einsum("ni,ri,mi->rnm", left, a, right) - a.sum(axis=1)[:, None, None]
    products = jnp.einsum("rnm,r->nm", jnp.exp(agree), jnp.exp(scales.log_amplitude))
    return products + jnp.matmul(left * b, right.T) + jnp.exp(scales.log_constant)


class SpectralPrior(NamedTuple):
    """The prior variances of the coefficients, in parts.

    Attributes:
      log_w: float [R, n], log w.
      log_empty: float [R], the logarithm of each product kernel's prior variance of F(()).
      first: float [n], b.
      empty: float [], the whole prior variance of F(()).
    """

    log_w: jax.Array
    log_empty: jax.Array
    first: jax.Array
    empty: jax.Array


def spectral_prior(scales: Scales, used: jax.Array) -> SpectralPrior:
    """Returns the prior of the coefficients under scales; used bool [n] marks the real features."""
    a = jnp.exp(scales.log_scale)
    # tanh(a) = a for small a; the floor keeps the logarithm of a scale that underflows finite.
    log_w = jnp.log(jnp.maximum(jnp.tanh(a), 1e-30))
    log_empty = scales.log_amplitude - jnp.where(used, jnp.log1p(jnp.tanh(a)), 0.0).sum(axis=1)
    first, empty = jnp.exp(scales.log_first), jnp.exp(log_empty).sum() + jnp.exp(scales.log_constant)
    return SpectralPrior(log_w, log_empty, first, empty)


@compiled
def prior_variances(scales: Scales, used: jax.Array, support: jax.Array) -> jax.Array:
    """Returns P(S), [K], of the sets support bool [K, n]."""
    chex.assert_shape(support, (None, *used.shape))
    chex.assert_type([used, support], bool)
    parts = spectral_prior(scales, used)
    members, size = support.astype(jnp.float32), support.sum(axis=1)
    products = jnp.exp(parts.log_empty + jnp.matmul(members, parts.log_w.T)).sum(axis=1)
    products += jnp.where(size == 1, jnp.matmul(members, parts.first), 0.0)
    return products + jnp.where(size == 0, jnp.exp(scales.log_constant), 0.0)
