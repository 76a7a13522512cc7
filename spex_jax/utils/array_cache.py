"""Caches results that were computed from an array, for as long as the array lives."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import jax

__all__ = ["ArrayMemo"]

T = TypeVar("T")


def _cannot_change(array: Any) -> bool:
    """Returns whether an array keeps its values: JAX arrays do, but on a CPU one may be a view of a NumPy array.

    There `jax.device_put` does not copy aligned memory, and the result does not show this: later changes of the NumPy
    array change the JAX array.
    """
    return isinstance(array, jax.Array) and all(device.platform != "cpu" for device in array.devices())


class ArrayMemo(Generic[T]):
    """Caches a function of an array and of hashable arguments, computed once for each array object.

    Only results of JAX arrays on an accelerator are cached, as these cannot be changed in place. For any other leaf the
    function is computed every time.
    """

    def __init__(self, compute: Callable[..., T]):
        """Wraps `compute(array, *arguments)`."""
        self._compute = compute
        self._known: dict[int, tuple[weakref.ref[Any], dict[Hashable, T]]] = {}

    def __len__(self) -> int:
        """Returns the number of arrays with cached results."""
        return len(self._known)

    def __call__(self, array: Any, *arguments: Hashable) -> T:
        """Returns the result, cached or computed."""
        if not _cannot_change(array):
            return self._compute(array, *arguments)
        key = id(array)
        found = self._known.get(key)
        if found is None or found[0]() is not array:

            def forget(gone: weakref.ref[Any]) -> None:
                if key in self._known and self._known[key][0] is gone:
                    del self._known[key]

            found = self._known[key] = (weakref.ref(array, forget), {})
        if arguments not in found[1]:
            found[1][arguments] = self._compute(array, *arguments)
        return found[1][arguments]
