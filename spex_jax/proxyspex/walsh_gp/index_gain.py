"""What a value says about the interactions of an index, under walsh_gp (an extension of this project).

Every index is a mean of D_T(p), the mean derivative of a set T over contexts that keep each other unit with probability
p (see `spex_jax.core.contexts`): I(T) = sum_j omega_j D_T(p_j) with few nodes p_j. Under a product kernel A prod_i
kappa_i(x_i, x'_i), with kappa_i = 1 where x_i = x'_i and exp(-2 a_i) elsewhere, its covariance with a value is closed
form, since the mean over contexts goes into the product:

  Cov(D_T(p), f(x')) = A prod_{i in T} (kappa_i(1, x'_i) - kappa_i(0, x'_i))
                         prod_{j not in T} (p kappa_j(1, x'_j) + (1 - p) kappa_j(0, x'_j)).
"""

import functools
from typing import NamedTuple

import chex
import numpy as np

from spex_jax.core.contexts import Contexts
from spex_jax.core.indices import find_index
from spex_jax.proxyspex.walsh_gp.prior import Scales
from spex_jax.utils.array_api import Array, fold_in_order, namespace
from spex_jax.utils.precision import portable

__all__ = ["Targets", "covariances", "targets_of"]

_NODES = 16
_MOST_PAIRS = 400


class Targets(NamedTuple):
    """K sets of one or two units, and how an index weighs their derivatives at J nodes.

    Attributes:
      first, second: int32 [K], the units of each set; equal for a single unit.
      weight: float32 [K, J], of D(p) at each node.
      nodes: float32 [J], the probabilities p.
    """

    first: Array
    second: Array
    weight: Array
    nodes: Array


def _nodes() -> np.ndarray:
    """Returns the nodes float64 [J]: those of Gauss and Legendre, and 0, 1/2 and 1, which some indices take alone."""
    inner = (np.polynomial.legendre.leggauss(_NODES)[0] + 1) / 2
    return np.concatenate([inner, [0.0, 0.5, 1.0]])


@functools.lru_cache(maxsize=64)
def _weights(index: str, size: int, n: int, order: int) -> np.ndarray:
    """Returns the weights float64 [J] of the nodes, which give the index's own weights of the sizes of contexts."""
    from scipy import stats

    contexts: Contexts = find_index(index).contexts(size, n, order)
    m, nodes = n - size, _nodes()
    by_node = stats.binom.pmf(np.arange(m + 1)[:, None], m, nodes)
    return np.asarray(np.linalg.lstsq(by_node, contexts.by_size(), rcond=1e-10)[0])


def targets_of(index: str, n: int, order: int, scales: Scales) -> Targets:
    """Returns all single units, and for an order of at least 2 the pairs that the scales expect to be largest, at most
    400.
    """
    order, single = find_index(index).order(order), np.arange(n)
    first, second = [single], [single]
    if order >= 2 and n >= 2:
        left, right = np.triu_indices(n, 1)
        a = np.tanh(np.exp(np.asarray(scales.log_scale, np.float64)[:, :n]))
        size = np.exp(np.asarray(scales.log_amplitude, np.float64)) / np.prod(1 + a, axis=1)
        strongest = np.argsort(-np.einsum("r,rk,rk->k", size, a[:, left], a[:, right]), kind="stable")[:_MOST_PAIRS]
        first.append(left[strongest])
        second.append(right[strongest])
    weight = [np.tile(_weights(index, size + 1, n, order), (len(sets), 1)) for size, sets in enumerate(first)]
    return Targets(
        np.concatenate(first).astype(np.int32),
        np.concatenate(second).astype(np.int32),
        np.concatenate(weight).astype(np.float32),
        _nodes().astype(np.float32),
    )


@portable
def covariances(scales: Scales, targets: Targets, signs: Array, used: Array) -> Array:
    """Returns the prior covariances [K, M] of the index at its targets with the values at signs [M, n]; used bool [n]
    marks the real units.
    """
    chex.assert_shape([used], [signs.shape[1:]])
    xp = namespace(scales, signs)
    first, second, weight, nodes = targets
    alone = first == second
    kept = signs < 0
    a = xp.where(used, xp.exp(scales.log_scale), 0.0)

    def add(total: Array, step: Array) -> Array:
        r, j = step // len(nodes), step % len(nodes)
        apart = xp.exp(-2 * a[r])
        here, away = xp.where(kept, 1.0, apart), xp.where(kept, apart, 1.0)  # kappa_i(1, x'_i) and kappa_i(0, x'_i)
        mean = nodes[j] * here + (1 - nodes[j]) * away
        whole = xp.exp(scales.log_amplitude[r] + xp.log(mean).sum(axis=1))  # [M]
        ratio = ((here - away) / mean).T  # [n, M]
        pair = ratio[first] * xp.where(alone[:, None], 1.0, ratio[second])
        found: Array = total + weight[:, j, None] * pair * whole
        return found

    total = xp.zeros((len(first), len(signs)), np.float32)
    total = fold_in_order(add, total, xp.arange(len(a) * len(nodes)))
    # The kernel of the first order: the derivative of s_i is -2.
    b = xp.where(used, xp.exp(scales.log_first), 0.0)
    straight = -2 * (weight.sum(axis=1) * b[first])[:, None] * signs.T[first]
    total = total + xp.where(alone[:, None], straight, 0.0)
    if scales.sets is not None:
        total = total + xp.exp(scales.log_sets) * _of_sets(scales, targets, signs)
    return total


def _of_sets(scales: Scales, targets: Targets, signs: Array) -> Array:
    """Returns what the sets of a known spectrum add: chi_S has D_T(p) = (-2)^|T| (1 - 2 p)^|S - T| where T is in S."""
    xp, sets = namespace(scales, signs), scales.sets
    assert sets is not None
    first, second, weight, nodes = targets
    order = xp.where(first == second, 1.0, 2.0)
    inside = sets.support[:, first] * sets.support[:, second]  # [S, K]
    rest = xp.maximum(sets.support.sum(axis=1)[:, None] - order, 0.0)
    powers = (1 - 2 * nodes) ** rest[..., None]  # [S, K, J]
    derivative = inside * (-2.0) ** order * (powers * weight).sum(axis=2)
    return xp.matmul(derivative.T * sets.weight, sets.characters(signs).T)
