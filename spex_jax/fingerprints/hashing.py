"""Hashes that name value functions in stores."""

from typing import Any

import jax

from spex_jax.fingerprints.code import own_name
from spex_jax.fingerprints.digests import combined
from spex_jax.fingerprints.walk import Walk
from spex_jax.utils.jax_settings import own_settings

__all__ = ["fingerprint", "static_content"]

# Settings of JAX that change values.
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable", "jax_default_prng_impl")


@own_settings()
def fingerprint(fn: Any, n: int, outputs: tuple[int, ...] = ()) -> str:
    """Hashes a pure function of masks: its arrays, its code, its settings, and JAX's settings of precision.

    Functions are hashed by their byte code, with constants, defaults, closures and the globals that they refer to;
    functions and classes of installed libraries by name and version. The code of this package counts only by the names
    that its classes declare (`identity_name`), so that a store outlives changes of the package.

    Args:
      fn: a pytree or a function.
      n: number of features.
      outputs: shape of one value.

    Returns:
      64 hexadecimal digits.

    Raises:
      ValueError: a part of it could hold anything, is traced, was deleted or is on other hosts. The message names
        the part; the caller adds what to do.
    """
    if own_name(type(fn)) and hasattr(fn, "without_derived"):
        fn = fn.without_derived()  # the rounding of derived arrays differs between machines
    settings = [getattr(jax.config, name) for name in _SETTINGS]
    parts = _walked(Walk(), n, tuple(outputs), tuple(settings), fn)
    return combined("value function", *parts).hex()


def static_content(structure: Any) -> str | None:
    """Hashes the contents of a pytree's structure, for this process; None where a part of it could hold anything.

    Structures that JAX takes to be equal, because an object in them compares so, get different hashes where the
    objects differ: for example a frozen dataclass with an array that it does not compare.
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
    except Exception as error:  # for example, an attribute cannot be read
        raise ValueError(f"a part of it cannot be read ({type(error).__name__}: {error})") from error
