"""Contexts against JAX's optional checks, which a program may turn on, and under which other code does not run."""

import contextlib
from collections.abc import Iterator

import jax

__all__ = ["in_float32", "own_settings"]


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Enters the settings for which the package and the libraries that it uses (optax, flax, orbax) are written.

    `jax_numpy_dtype_promotion="strict"`, `jax_numpy_rank_promotion="raise"` and `jax_transfer_guard="disallow"` turn
    what is done here on purpose into errors; none of them changes a value. The settings belong to a thread: code that
    runs in another thread enters this context there.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.transfer_guard("allow"):
        yield


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Enters `own_settings` with 64-bit types off, for mathematics in float32; no model is called in it.

    The results have the same bits whether the user sets `jax_enable_x64` or not.
    """
    with own_settings(), jax.enable_x64(False):
        yield
