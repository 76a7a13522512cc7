"""Remembering what was computed of an array for as long as the array lives."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import jax

__all__ = ["ArrayMemo"]

T = TypeVar("T")


def _cannot_change(array: Any) -> bool:
    """Whether an array keeps its values: those of JAX do, but on a CPU one may be a view of an array of NumPy's.

    `jax.device_put` copies nothing there where the memory is aligned, and nothing about the result tells: what is later
    changed in NumPy's array changes in JAX's.
    """
    return isinstance(array, jax.Array) and all(device.platform != "cpu" for device in array.devices())


class ArrayMemo(Generic[T]):
    """A function of an array and of hashable arguments, computed once for each array object.

    Only arrays of JAX on an accelerator are remembered: they cannot be changed in place. Of any other leaf it is
    computed every time.
    """

    def __init__(self, compute: Callable[..., T]):
        """Wraps `compute(array, *arguments)`."""
        self._compute = compute
        self._known: dict[int, tuple[weakref.ref, dict[Hashable, T]]] = {}

    def __len__(self) -> int:
        """The number of arrays of which something is known."""
        return len(self._known)

    def __call__(self, array: Any, *arguments: Hashable) -> T:
        """The value, from memory or computed."""
        if not _cannot_change(array):
            return self._compute(array, *arguments)
        key = id(array)
        found = self._known.get(key)
        if found is None or found[0]() is not array:

            def forget(gone: weakref.ref) -> None:
                if key in self._known and self._known[key][0] is gone:
                    del self._known[key]

            found = self._known[key] = (weakref.ref(array, forget), {})
        if arguments not in found[1]:
            found[1][arguments] = self._compute(array, *arguments)
        return found[1][arguments]
