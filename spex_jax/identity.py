"""What makes two computations the same: a hash of their program's static part, their arrays and the precision."""

import hashlib
from typing import Any

import jax
import numpy as np

from spex_jax.jax_settings import own_settings
from spex_jax.memo import ArrayMemo

__all__ = ["fingerprint"]


def _digest(leaf: Any) -> bytes:
    array = np.asarray(leaf)
    content = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    content.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return content.digest()


_digest_once = ArrayMemo(_digest)  # a model is hashed once for many texts


@own_settings()
def fingerprint(fn: Any) -> str | None:
    """A hash of a pytree function: its type, static fields, arrays with their dtypes, and JAX's precision settings.

    Returns:
      64 hexadecimal digits; None where nothing reliable can be said: a plain function or closure, a static field
      without a value of its own (a function, an object that prints its address), arrays on other hosts.
    """
    if hasattr(fn, "without_derived"):  # arrays that follow from the others, with rounding that differs by machine
        fn = fn.without_derived()
    leaves, structure = jax.tree_util.tree_flatten(fn)
    static = str(structure)
    if jax.tree_util.all_leaves([fn]) or " at 0x" in static:
        return None
    if not all(isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | bool) for leaf in leaves):
        return None
    if not all(leaf.is_fully_addressable for leaf in leaves if isinstance(leaf, jax.Array)):
        return None
    config: Any = jax.config  # whose options mypy does not see
    settings = (config.jax_enable_x64, config.jax_default_matmul_precision)
    content = hashlib.sha256(repr((type(fn).__module__, type(fn).__qualname__, static, settings)).encode())
    for leaf in leaves:
        content.update(_digest_once(leaf))
    return content.hexdigest()
