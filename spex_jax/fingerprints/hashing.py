"""The hash that names a value function in a store."""

from typing import Any

import jax

from spex_jax.fingerprints.code import own_name
from spex_jax.fingerprints.digests import combined
from spex_jax.fingerprints.walk import Walk
from spex_jax.utils.jax_settings import own_settings

__all__ = ["fingerprint", "static_content"]

# Of JAX, which change values.
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable", "jax_default_prng_impl")


@own_settings()
def fingerprint(fn: Any, n: int, outputs: tuple[int, ...] = ()) -> str:
    """A hash of a pure function of masks: its arrays, its code, its settings, and JAX's settings of precision.

    Functions are hashed by their byte code, with constants, defaults, closures and whatever globals they refer to;
    functions and classes of installed libraries by name and version. Of the code of this package only the names count
    that its classes declare (`identity_name`), so that a store outlives a change of the program around it.

    Args:
      fn: a pytree, or a function.
      n: number of features.
      outputs: shape of one value.

    Returns:
      64 hexadecimal digits.

    Raises:
      ValueError: something in it could hold anything, is traced, was deleted or is on other hosts. The message names
        it, and ends without saying what to do.
    """
    if own_name(type(fn)) and hasattr(fn, "without_derived"):
        fn = fn.without_derived()  # of arrays that follow from the others, with rounding that differs by machine
    settings = [getattr(jax.config, name) for name in _SETTINGS]
    parts = _walked(Walk(), n, tuple(outputs), tuple(settings), fn)
    return combined("value function", *parts).hex()


def static_content(structure: Any) -> str | None:
    """A hash of what a pytree's structure holds, in this process; None where something in it could hold anything.

    Two structures that JAX holds to be equal, since an object in them says so, differ where the objects do: a frozen
    dataclass with an array that it does not compare, say.
    """
    try:
        return _walked(Walk(by_code=False), structure)[0].hex()
    except ValueError:
        return None


def _walked(walk: Walk, *values: Any) -> list[bytes]:
    try:
        return [walk.of_value(value) for value in values]
    except RecursionError as error:
        raise ValueError("it is nested too deeply to be hashed") from error
    except ValueError:
        raise
    except Exception as error:  # of an attribute that cannot be read, say
        raise ValueError(f"something in it cannot be looked into ({type(error).__name__}: {error})") from error
