"""The precision of the package's own mathematics, which is not that of a model's passes.

By default a TPU rounds the factors of a float32 product to bfloat16 and a recent GPU to TF32. A network bears that; a
Cholesky factor, a posterior or a count of set members does not, and nothing would say so. So every program of the
mathematics is made by `compiled`, and no product in it says anything of its precision (tests/utils/precision_test.py).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax

from spex_jax.utils.jax_settings import own_settings

__all__ = ["compiled", "precision_of_models"]

# What JAX was told outside of the outermost program that is being traced, as a tuple of one; None outside of any. It is
# part of the key of JAX's caches, as a program that calls a model depends on it.
_OUTSIDE = jax.make_user_context(None)


def compiled(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """`jax.jit` of a function in which the factors of every product keep all bits of float32, also in what it calls.

    Args:
      function: what to compile; without it, a decorator with these options.
      **options: of `jax.jit`.
    """
    if function is None:
        return functools.partial(compiled, **options)

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        outside = _OUTSIDE.value or (jax.config.values["jax_default_matmul_precision"],)
        with own_settings(), _OUTSIDE(outside), jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return jax.jit(traced, **options)


@contextlib.contextmanager
def precision_of_models() -> Iterator[None]:
    """A context for calls of a model within a compiled function: its products have the precision that their author or
    the user of `jax_default_matmul_precision` chose, derivatives included if they are taken inside.
    """
    if _OUTSIDE.value is None:
        yield
        return
    with jax.default_matmul_precision(_OUTSIDE.value[0]), _OUTSIDE(None):
        yield
