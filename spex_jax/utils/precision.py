"""The precision of the package's own mathematics, apart from that of a model's passes.

By default a TPU rounds the factors of a float32 product to bfloat16 and a recent GPU to TF32. A network tolerates that;
a Cholesky factor, a posterior or a count of set members does not, and no error would show it. So every mathematical
program is made by `compiled`, and no product in it sets its own precision (tests/utils/precision_test.py).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, overload

import jax
import numpy as np

from spex_jax.utils.array_api import on_host
from spex_jax.utils.jax_settings import own_settings

__all__ = ["compiled", "portable", "precision_of_models"]

P = ParamSpec("P")
R = TypeVar("R")

# JAX's precision outside of the outermost program that is being traced, as a tuple of one; None outside of any program.
# It is part of the key of JAX's caches, because a program that calls a model depends on it.
_OUTSIDE = jax.make_user_context(None)


@overload
def compiled(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def compiled(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def compiled(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Compiles a function like `jax.jit`; the factors of every product, also in callees, keep all bits of float32.

    Args:
      function: the function to compile; None returns a decorator with these options.
      **options: options of `jax.jit`.
    """
    if function is None:
        return functools.partial(compiled, **options)

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        outside = _OUTSIDE.value or (jax.config.values["jax_default_matmul_precision"],)
        with own_settings(), _OUTSIDE(outside), jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return jax.jit(traced, **options)


@overload
def portable(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def portable(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def portable(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Runs a function as it is where all its arrays are NumPy arrays, else its attribute `program`: `compiled` of it.

    Args:
      function: a function that is written with `array_api`; None returns a decorator with these options.
      **options: options of `jax.jit`.
    """
    if function is None:
        return functools.partial(portable, **options)
    program = compiled(function, **options)

    @functools.wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        if not on_host(args, kwargs):
            return program(*args, **kwargs)
        with np.errstate(all="ignore"):  # a program does not warn either
            return function(*args, **kwargs)

    either.program = program  # type: ignore[attr-defined]
    return either


@contextlib.contextmanager
def precision_of_models() -> Iterator[None]:
    """Enters the precision of model calls within a compiled function.

    Products have the precision that the model's author or the user of `jax_default_matmul_precision` chose, also in
    derivatives that are taken inside.
    """
    if _OUTSIDE.value is None:
        yield
        return
    with jax.default_matmul_precision(_OUTSIDE.value[0]), _OUTSIDE(None):
        yield
