"""Mathematics that is written once, for NumPy arrays on the host and for JAX arrays in a program on a device.

On a CPU a fit waits for XLA's compiler, not for its sums: the programs of one fit take seconds to compile and run once.
So functions of a table take the namespace of their arrays from `namespace`. NumPy arrays run as they are, without any
compilation, and their shapes may depend on values; JAX arrays are traced into one program. What the two spell in
different ways has one name here. `precision.portable` decorates such functions.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

__all__ = [
    "Array",
    "add_to_diagonal",
    "cholesky",
    "cholesky_inverse",
    "cholesky_solve",
    "default_device",
    "fold_in_order",
    "for_each",
    "host_is_best",
    "namespace",
    "on_host",
    "principal",
    "put",
    "repeat_while",
    "solve_lower",
    "top_k",
]

# A NumPy or a JAX array; what both can do has no static type.
Array: TypeAlias = Any
State = TypeVar("State")


def on_host(*arrays: Any) -> bool:
    """Returns whether none of the arrays is a JAX array."""
    return not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(arrays))


def namespace(*arrays: Any) -> ModuleType:
    """Returns `jax.numpy` if one of the arrays is a JAX array, else `numpy`."""
    return np if on_host(*arrays) else jnp


def default_device() -> jax.Device:
    """Returns the device on which JAX puts an array."""
    device = jax.config.values["jax_default_device"]
    return device if isinstance(device, jax.Device) else jax.local_devices(backend=device)[0]


def host_is_best() -> bool:
    """Returns whether the device on which JAX puts an array is the host's own CPU."""
    return bool(default_device().platform == "cpu")


def put(array: Any, index: Any, value: Any) -> Any:
    """Returns the array with `array[index] = value`. A NumPy array is changed in place: pass one that nothing else
    holds.
    """
    if isinstance(array, np.ndarray):
        array[index] = value
        return array
    return array.at[index].set(value)


def top_k(scores: Any, count: int) -> tuple[Any, Any]:
    """Returns the `count` largest of scores [K], largest first, and their indices; of equal scores the first ones."""
    if not isinstance(scores, np.ndarray):
        return jax.lax.top_k(scores, count)
    if count >= len(scores):
        chosen = np.arange(len(scores))
    else:
        least = np.partition(scores, len(scores) - count)[len(scores) - count] if count else np.inf
        above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        chosen = np.sort(np.concatenate([above, equal[: count - len(above)]]))
    order = chosen[np.argsort(-scores[chosen], kind="stable")]
    return scores[order], order


def fold_in_order(step: Callable[[State, Any], State], start: State, items: Any) -> State:
    """Returns step(... step(step(start, items[0]), items[1]) ...), a `jax.lax.scan` for a JAX array of items."""
    if isinstance(items, np.ndarray):
        for item in items:
            start = step(start, item)
        return start
    return jax.lax.scan(lambda state, item: (step(state, item), None), start, items)[0]


def for_each(function: Callable[..., Any], *batched: Any, at_once: bool = True) -> Any:
    """Returns what a function gives for each part of the leading axis, stacked. A device works on all parts at once, as
    `jax.vmap`, or on one after another, as `jax.lax.map`, which takes less memory.
    """
    if on_host(batched):
        found = [function(*parts) for parts in zip(*batched, strict=True)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    return jax.vmap(function)(*batched) if at_once else jax.lax.map(lambda parts: function(*parts), batched)


def repeat_while(goes_on: Callable[[State], Any], step: Callable[[State], State], start: State) -> State:
    """Repeats a step while a condition holds, as `jax.lax.while_loop` does."""
    if on_host(start):
        while goes_on(start):
            start = step(start)
        return start
    found: State = jax.lax.while_loop(goes_on, step, start)
    return found


def add_to_diagonal(matrix: Any, amount: Any) -> Any:
    """Returns the matrix [N, N] plus diag(amount), [N]. A NumPy matrix is changed in place."""
    if not isinstance(matrix, np.ndarray):
        return matrix + jnp.diag(amount)
    np.einsum("ii->i", matrix)[:] += amount
    return matrix


def principal(matrix: Any, chosen: Any) -> Any:
    """Returns a matrix [N, N] with zeros in the rows and columns where chosen bool [N] is False."""
    if isinstance(matrix, np.ndarray) and chosen.all():
        return matrix
    return namespace(matrix).where(chosen[:, None] & chosen[None, :], matrix, 0.0)


def cholesky(matrix: Any) -> Any:
    """Returns the lower Cholesky factor of a matrix [N, N]; one of NaN where the matrix is not positive definite to
    rounding. A NumPy matrix is overwritten.
    """
    if not isinstance(matrix, np.ndarray):
        return jnp.linalg.cholesky(matrix)
    # LAPACK works on columns: the upper factor of the transpose, which is the same matrix, is the lower one of rows.
    (factorise,) = scipy.linalg.get_lapack_funcs(("potrf",), (matrix,))
    upper, info = factorise(matrix.T, lower=False, clean=True, overwrite_a=True)
    return np.full_like(matrix, np.nan) if info else upper.T


def cholesky_solve(factor: Any, right: Any) -> Any:
    """Returns x with factor factor^T x = right, [N] or [N, R]."""
    if not isinstance(factor, np.ndarray):
        return jax.scipy.linalg.cho_solve((factor, True), right)
    return scipy.linalg.cho_solve((factor.T, False), right, check_finite=False)


def solve_lower(factor: Any, right: Any) -> Any:
    """Returns x with factor x = right, [N, R], for a lower triangular factor [N, N]."""
    if not isinstance(factor, np.ndarray):
        return jax.scipy.linalg.solve_triangular(factor, right, lower=True)
    return scipy.linalg.solve_triangular(factor, right, lower=True, check_finite=False)


def cholesky_inverse(factor: Any) -> Any:
    """Returns the inverse [N, N] of factor factor^T, for a factor of `cholesky`."""
    if not isinstance(factor, np.ndarray):
        return jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(factor)))
    (invert,) = scipy.linalg.get_lapack_funcs(("potri",), (factor,))
    upper, _ = invert(factor.T, lower=False)
    found = upper.T + upper  # whose other triangle is 0
    np.einsum("ii->i", found)[:] /= 2
    return found
