"""Checks of a model with one or two calls when a lens is made, such as whether the rows of a batch are independent."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from spex_jax.engine.hints import shape_hint

__all__ = ["Remedy", "check_rows", "logits_of", "with_remedies"]

_TOLERANCE = 0.01  # how far apart the outputs of one row may be in any precision, as a part of the largest


class Remedy(NamedTuple):
    """Holds other input shapes that a model may take, and the advice to give where it does."""

    shapes: tuple[jax.ShapeDtypeStruct, ...]
    advice: str


def check_rows(twice: Any, beside: Any, model: str, *, tolerance: float = _TOLERANCE) -> None:
    """Raises ValueError where the outputs of a row change with its place in a batch, or with the row beside it.

    The values of masks that are evaluated together would then depend on one another, and no result would show it.

    Args:
      twice: outputs [2, ...] of a batch that holds one row twice.
      beside: outputs [2, ...] of a batch of the same shape that holds this row and another one.
      model: the name of the model in messages.
      tolerance: the change that counts as rounding, as a part of the largest output.
    """
    first, second, other = (np.asarray(rows, np.float64) for rows in (twice[0], twice[1], beside[0]))
    allowed = tolerance * (1e-6 + np.abs(first).max(initial=0.0))
    if not np.abs(first - second).max(initial=0.0) <= allowed and not _both_nan(first, second):
        raise ValueError(
            f"{model} gives two outputs for the same input in one batch ({_shown(first, second)}): dropout or other "
            "noise is on, and would be taken for effects of the ablation. Switch it off (deterministic=True, "
            "train=False, or the inference mode of the library)"
        )
    if not np.abs(first - other).max(initial=0.0) <= allowed and not _both_nan(first, other):
        raise ValueError(
            f"the outputs of {model} for an input change with the other inputs of its batch ({_shown(first, other)}), "
            "as with batch normalisation in training mode. Masks that are evaluated together would act on one another. "
            "Use the running statistics (use_running_average=True, train=False), or layer or group norms"
        )


def _both_nan(first: np.ndarray, second: np.ndarray) -> bool:
    return bool(np.isnan(first).all() and np.isnan(second).all())


def _shown(first: np.ndarray, second: np.ndarray) -> str:
    worst = np.unravel_index(np.nanargmax(np.nan_to_num(np.abs(first - second), nan=np.inf)), first.shape)
    return f"{first[worst]:.4g} and {second[worst]:.4g}"


def with_remedies(call: Callable[[], Any], apply: Callable[..., Any], remedies: Sequence[Remedy], model: str) -> Any:
    """Returns the result of `call`; where it fails and the model works with other shapes, the error says what to do.

    Args:
      call: queries the model, or traces it.
      apply: the model; it is traced with the shapes of the remedies (`jax.eval_shape`).
      remedies: the shapes to try, in order.
      model: the name of the model in messages.

    Raises:
      ValueError: `call` failed, and one of the remedies works. Other errors pass through.
    """
    try:
        return call()
    except Exception as error:
        for shapes, advice in remedies:
            try:
                found = jax.eval_shape(apply, *shapes)
            except Exception:  # the model does not take these shapes either
                continue
            if hasattr(found, "shape"):
                raise ValueError(f"{model} failed ({type(error).__name__}: {error}); {advice}") from error
        if isinstance(error, TypeError) and "not a valid JAX type" in str(error):
            raise ValueError(
                f"{model} must give an array, but gave an object; choose the array: lambda *given: model(*given).logits"
            ) from error
        raise


def logits_of(found: Any, model: str, expected: str, rows: int) -> Any:
    """Returns the outputs of a model where they are one array.

    Raises:
      ValueError: they are a tuple, a dictionary or another object; the message says how to choose the array.
    """
    if hasattr(found, "shape"):
        return found
    hint = shape_hint(found, rows, ()).replace("lambda masks: f(masks)", "lambda *given: model(*given)")
    if not hint and hasattr(found, "logits"):
        hint = "; choose its logits, lambda *given: model(*given).logits"
    raise ValueError(f"{model} must give {expected}, but gave a {type(found).__name__}{hint}")
