"""Bins of the subsampled transforms, and the bins of a sparse function.

In group c the transform over the lattice puts every set k into bin M_c^T k. A bin that holds one set has the values
F(k) (-1)^<d_p, k> over the delays d_p: their signs relative to delay 0 are a parity word of the code, with errors where
noise or other sets flipped a sign (Kang et al., ICML 2025, arXiv 2502.13870; Li, Bradley and Ramchandran, SPRIGHT,
2015). Two sets of at most t features never have the same word, so that signs also tell sets apart.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core.walsh import walsh_hadamard
from spex_jax.spex.bch import BCH

__all__ = [
    "Lattice",
    "Residual",
    "Views",
    "bins",
    "first_of_equals",
    "lattice",
    "model",
    "same",
    "score",
    "solve",
    "views",
]

_STEPS = 60  # most steps of the conjugate gradients
_TOLERANCE = 1e-8  # relative tolerance of the squared residual


class Lattice(NamedTuple):
    """The bins and signs of single features.

    Attributes:
      places: int [C, n], the bin of every feature; the bin of a set is the bitwise sum of those of its members.
      signs: float [n, P + 1], (-1)^<d_p, {i}>; the signs of a set are the products of those of its members.
      digits: float [n, P + C b], the parity words and the digits of the bins of single features.
      uniform: float [n, U], 0 or 1: masks that were evaluated besides those of the transforms.
    """

    places: jax.Array
    signs: jax.Array
    digits: jax.Array
    uniform: jax.Array

    def coded(self) -> "Lattice":
        """Returns the same without the uniform masks."""
        return self._replace(uniform=self.uniform[:, :0])


class Views(NamedTuple):
    """The bins, signs and characters of sets [K, n].

    Attributes:
      places: int [K, C], the bin in every group.
      signs: [K, P + 1], the signs over the delays.
      characters: [K, U], the characters at the uniform masks.
    """

    places: jax.Array
    signs: jax.Array
    characters: jax.Array


class Residual(NamedTuple):
    """A function, or a residual of one: its bins, [C, 2^b, P + 1], and its values at the uniform masks, [U]."""

    bins: jax.Array
    values: jax.Array

    def coded(self) -> "Residual":
        """Returns the same without the uniform masks."""
        return self._replace(values=self.values[:0])

    def without(self, other: "Residual") -> "Residual":
        """Returns the difference from another function."""
        return Residual(self.bins - other.bins, self.values - other.values)

    def standard_error(self) -> jax.Array:
        """Returns the standard error of the correlation with a set, if the whole residual is noise."""
        rows = self.bins.size + len(self.values)
        squares = self.bins.shape[1] * jnp.square(self.bins).sum() + jnp.square(self.values).sum()
        return jnp.sqrt(squares) / rows


class _Descent(NamedTuple):
    """The state of the conjugate gradients between two steps.

    Attributes:
      solution: [K].
      left: [K], the residual of the normal equations.
      direction: [K], the direction of the next step.
      size: [], the squared norm of the residual.
      steps: int [], the number of steps done.
    """

    solution: jax.Array
    left: jax.Array
    direction: jax.Array
    size: jax.Array
    steps: jax.Array


def bins(values: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns the transforms [C, 2^b, P + 1] of values [M] at the rows int [C, P + 1, 2^b] of a design."""
    found: jax.Array = walsh_hadamard(values[rows])
    return found.transpose(0, 2, 1) / rows.shape[-1]


def lattice(matrices: jax.Array, uniform: jax.Array, code: BCH) -> Lattice:
    """Returns the lattice of matrices 0 or 1 [C, n, b] and uniform masks bool [U, n]."""
    groups, n, b = matrices.shape
    parity = jnp.asarray(code.parity.T, jnp.float32)
    digits = jnp.concatenate([parity, matrices.astype(jnp.float32).transpose(1, 0, 2).reshape(n, groups * b)], axis=1)
    unknown = Lattice(jnp.zeros((groups, n)), jnp.zeros((n, code.checks + 1)), digits, uniform.T.astype(jnp.float32))
    single = views(unknown, jnp.eye(n, dtype=bool))
    return unknown._replace(places=single.places.T, signs=single.signs)


def views(of: Lattice, sets: jax.Array) -> Views:
    """Returns the views of sets bool [K, n]."""
    groups, checks = len(of.places), of.signs.shape[1] - 1
    digits = jnp.matmul(sets.astype(jnp.float32), of.digits).astype(jnp.int32) & 1
    places = digits[:, checks:].reshape(len(sets), groups, -1)
    places = (places << jnp.arange(places.shape[2])).sum(axis=2)
    signs = 1.0 - 2.0 * digits[:, :checks]
    odd = jnp.matmul(sets.astype(jnp.float32), of.uniform).astype(jnp.int32) & 1
    return Views(places, jnp.concatenate([jnp.ones((len(sets), 1)), signs], axis=1), 1.0 - 2.0 * odd)


def same(left: Views, right: Views) -> jax.Array:
    """Returns which sets of at most t features are equal, bool [K, Q]."""
    return jnp.matmul(left.signs, right.signs.T) > left.signs.shape[1] - 0.5


def first_of_equals(names: jax.Array) -> jax.Array:
    """Marks the first of all equal rows of int [N, C], bool [N]; by chance it may leave out a few other rows too."""
    table = 65_537
    key = functools.reduce(lambda sum_, column: (sum_ * 8191 + column) % table, names.T)
    row = jnp.arange(len(names))
    return row == jnp.full(table, len(names)).at[key].min(row)[key]


def score(left: Residual, at: Views) -> jax.Array:
    """Returns the correlation [K] with sets over all masks: the coefficient of a set that is alone in its bins."""
    values = left.bins[jnp.arange(len(left.bins)), at.places]
    coded = jnp.einsum("kcp,kp->k", values, at.signs) * left.bins.shape[1]
    uniform = jnp.matmul(at.characters, left.values)
    return (coded + uniform) / (left.bins.size + len(left.values))


def model(at: Views, coefficients: jax.Array, b: int) -> Residual:
    """Returns the function with these coefficients [K]."""
    groups = at.places.shape[1]
    terms = coefficients[:, None] * at.signs
    empty = jnp.zeros((2**b, at.signs.shape[1]))
    found = jnp.stack([empty.at[at.places[:, c]].add(terms) for c in range(groups)])
    return Residual(found, jnp.matmul(coefficients, at.characters))


def solve(found: Residual, at: Views, active: jax.Array, start: jax.Array) -> jax.Array:
    """Solves least squares [K] on the active sets by conjugate gradients from a start [K]."""
    b = int(np.log2(found.bins.shape[1]))

    def times(x: jax.Array) -> jax.Array:
        return jnp.where(active, score(model(at, x, b), at), 0.0)

    def step(state: _Descent) -> _Descent:
        image = times(state.direction)
        length = state.size / (state.direction @ image)
        left = state.left - length * image
        size = left @ left
        return _Descent(
            solution=state.solution + length * state.direction,
            left=left,
            direction=left + size / state.size * state.direction,
            size=size,
            steps=state.steps + 1,
        )

    target = jnp.where(active, score(found, at), 0.0)
    start = jnp.where(active, start, 0.0)
    left = target - times(start)
    small = _TOLERANCE * (target @ target)
    first = _Descent(start, left, direction=left, size=left @ left, steps=jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(lambda state: (state.size > small) & (state.steps < _STEPS), step, first).solution
