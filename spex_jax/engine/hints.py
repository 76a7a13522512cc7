"""Advice for value functions that return an unexpected shape: what they probably are, and how to adapt them."""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

__all__ = ["as_values", "failed_as_one_mask", "naming_ended_iterators", "one_mask_hint", "shape_hint", "wrong_shape"]

_ONE_MASK = "; it takes one mask and not several: give {} in its place"


@contextlib.contextmanager
def naming_ended_iterators() -> Iterator[None]:
    """Turns a StopIteration of a value function, which would end the engine's generators, into a ValueError."""
    try:
        yield
    except (StopIteration, StopAsyncIteration) as error:
        raise ValueError(
            f"the value function raised {type(error).__name__}: an iterator that it reads has come to its end; create "
            "it anew in each call"
        ) from error


def one_mask_hint(fn: Callable[..., Any], n: int, outputs: tuple[int, ...], *, on_device: bool) -> str:
    """Returns advice where a function takes one mask bool [n] and returns one value, else ''.

    Args:
      fn: a value function that did not return what a batch should.
      n: number of columns of its masks.
      outputs: the shape of one value.
      on_device: whether it is a JAX function, which is then traced and not run.
    """
    try:
        if on_device:
            found = jax.eval_shape(fn, jax.ShapeDtypeStruct((n,), np.bool_))
        else:
            found = np.asarray(fn(np.ones(n, np.bool_)))
    except Exception:  # whatever goes wrong, it is not a function of one mask
        return ""
    if getattr(found, "shape", None) != outputs or found.dtype.kind not in "fiub":
        return ""
    core = "()" if not outputs else f"({','.join('abcdefgh'[: len(outputs)])})"
    mapped = f"np.vectorize(f, signature='(n)->{core}')"
    return _ONE_MASK.format("jax.vmap(f)" if on_device else f"{mapped}, or jax.vmap(f) where it is JAX code,")


def failed_as_one_mask(
    error: Exception, fn: Callable[..., Any], n: int, outputs: tuple[int, ...], *, on_device: bool
) -> ValueError | None:
    """Returns the error to raise in place of `error` where the function takes one mask, else None."""
    hint = one_mask_hint(fn, n, outputs, on_device=on_device)
    if not hint:
        return None
    return ValueError(f"the value function failed ({type(error).__name__}: {error}){hint}")


def wrong_shape(given: str, masks: tuple[int, ...], expected: tuple[int, ...], hint: str) -> ValueError:
    """Returns the error for a function that returned another shape than `expected` for masks of shape `masks`."""
    return ValueError(
        f"the value function returned {given} for masks {masks}; expected shape {expected}, one value for each "
        f"mask{hint}"
    )


def shape_hint(found: Any, count: int, outputs: tuple[int, ...]) -> str:
    """Returns advice for a result that is not an array of `count` values of shape `outputs`, else ''."""
    if inspect.isawaitable(found):
        return "; it is asynchronous: give lambda masks: asyncio.run(f(masks)) in its place"
    if isinstance(found, Mapping):
        keys = ", ".join(map(repr, list(found)[:5]))
        return f"; choose the values from its result, which has the keys {keys}: lambda masks: f(masks)[...]"
    if isinstance(found, tuple | list) and len(found) and all(np.ndim(part) for part in found[:1]):
        return "; where the values are the first part of its result, give lambda masks: f(masks)[0] in its place"
    if found is None:
        return "; it returned nothing"
    shape = np.shape(found)
    if outputs == () and len(shape) > 1 and shape[0] == count:
        first, several = ", ".join("0" * (len(shape) - 1)), ", ".join(map(str, shape[1:]))
        return (
            f"; of several values for each mask choose one, lambda masks: f(masks)[:, {first}], or explain each: "
            f"spex_jax.explain_many(spex_jax.ValueFunction(f, n, outputs=({several},)))"
        )
    return ""


def as_values(found: Any, fn: Callable[..., Any], masks: np.ndarray, outputs: tuple[int, ...]) -> np.ndarray:
    """Converts the result of a host function at masks bool [M, n] to an array [M, *outputs].

    Raises:
      ValueError: the result has another shape; the message says what the function probably is.
    """
    if isinstance(found, jax.core.Tracer):
        raise ValueError(
            "the value function returned a traced value: it uses an argument of a function that jit, vmap or grad "
            "traces; evaluate it outside"
        )
    expected, shape = (len(masks), *outputs), None
    if not inspect.isawaitable(found):
        try:
            array = np.asarray(found)
        except ValueError:  # parts of different shapes
            pass
        else:
            if array.shape == expected:
                return array
            shape = array.shape if array.dtype != np.object_ else None
    hint = shape_hint(found, len(masks), outputs) if math.prod(expected) or found is None else ""
    hint = hint or one_mask_hint(fn, masks.shape[1], outputs, on_device=False)
    if inspect.iscoroutine(found):
        found.close()  # or Python warns that it was never awaited
    given = f"shape {shape}" if shape is not None else f"a {type(found).__name__}"
    raise wrong_shape(given, masks.shape, expected, hint)
