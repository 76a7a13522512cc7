"""The checks of JAX's that a program may turn on for its own code, and under which code of others does not run."""

import contextlib
from collections.abc import Iterator

import jax

__all__ = ["in_float32", "own_settings"]


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """The settings under which the package and the libraries that it uses (optax, flax, orbax) are written.

    `jax_numpy_dtype_promotion="strict"`, `jax_numpy_rank_promotion="raise"` and `jax_transfer_guard="disallow"` turn
    what is done here on purpose into errors; none of them changes a value. They belong to a thread: what runs in
    others enters this context there.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.transfer_guard("allow"):
        yield


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """The same for the mathematics on the device, which is written for float32 and gives the same bits under
    `jax_enable_x64`. No model is called in it.
    """
    with own_settings(), jax.enable_x64(False):
        yield
