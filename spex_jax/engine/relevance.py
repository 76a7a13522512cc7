"""How much each unit is likely to matter, from gradients by how far it is kept."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core.masks import check_whole
from spex_jax.core.spectrum import Spectrum
from spex_jax.utils.flops import matmul_flops
from spex_jax.utils.seeds import Stream, generator

__all__ = ["RELEVANCE_MASKS", "Relevance", "relevance_of"]

RELEVANCE_MASKS = 8
_USUAL_COST = 3  # forward passes of a gradient whose products cannot be counted


class Relevance(NamedTuple):
    """How much each unit is likely to matter.

    Attributes:
      values: float64 [n], the root mean square of the derivatives by how far each unit is kept.
      slopes: float64 [n], their mean.
      passes: what they cost, in forward passes of one mask each.
    """

    values: np.ndarray
    slopes: np.ndarray
    passes: int

    @property
    def spectrum(self) -> Spectrum:
        """The function of the first order with these slopes: sum_i slopes_i x_i is -sum_i slopes_i chi_i / 2 and a
        constant.
        """
        return Spectrum(np.eye(len(self.slopes), dtype=np.bool_), -self.slopes / 2)


@jax.jit
def _gradients(fn: Callable[[jax.Array], jax.Array], points: jax.Array) -> jax.Array:
    # One after another, so that a model that barely fits needs no more memory than one backward pass.
    def value(point: jax.Array) -> jax.Array:
        return fn(point[None])[0]

    found: jax.Array = jax.lax.map(jax.grad(value), points)
    return found


def relevance_of(fn: Any, n: int, width: int, count: int, seed: int) -> Relevance:
    """Returns the relevance of n units under a function of masks float32 [B, width] in which values are differentiable.

    Args:
      fn: a pytree.
      n: the number of units; columns from there on are padding.
      width: the number of columns.
      count: the number of gradients, each at a mask that keeps every unit to a share drawn from 0 to 1.
      seed: seed of these masks.

    Raises:
      ValueError: a count that is not a number of masks, or derivatives that are not finite or vanish everywhere.
    """
    check_whole("masks", count, 1)
    points = np.ones((int(count), width), np.float32)
    points[:, :n] = generator(seed, Stream.RELEVANCE).random((int(count), n), np.float32)
    found = np.asarray(jax.device_get(_gradients(fn, points)), np.float64)[:, :n]
    if not np.isfinite(found).all():
        row, unit = np.argwhere(~np.isfinite(found))[0]
        raise ValueError(
            f"the derivative of the value by unit {unit} is {found[row, unit]} where every unit is partly kept; the "
            "value has no gradient there, and relevance needs one: leave it out"
        )
    if not found.any():
        raise ValueError(
            "the value does not change where units are kept a little more or less, so that its gradient says nothing "
            "of their relevance: leave it out, or take a smooth value such as 'logit_diff'"
        )
    return Relevance(np.sqrt(np.mean(found**2, axis=0)), found.mean(axis=0), math.ceil(count * _cost(fn, points)))


def _cost(fn: Any, points: np.ndarray) -> float:
    """Returns the matrix products of one gradient in units of those of one value."""
    values = matmul_flops(jax.make_jaxpr(lambda fn, point: fn(point))(fn, jnp.asarray(points[:1])).jaxpr)
    gradients = matmul_flops(jax.make_jaxpr(_gradients)(fn, points).jaxpr)
    return gradients / (len(points) * values) if values else _USUAL_COST
