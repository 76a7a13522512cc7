"""What is watched of a classifier: one number of its logits."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["VALUES", "check_value", "choose_classes", "watched"]

VALUES = ("logit", "margin", "logprob", "logit_diff")


def check_value(value: str, contrast: Any) -> None:
    """Raises ValueError for an unknown value, and where `contrast` does not belong to it."""
    if value not in VALUES:
        raise ValueError(f"unknown value {value!r}; expected one of {', '.join(VALUES)}")
    if (contrast is not None) != (value == "logit_diff"):
        raise ValueError(
            f"value 'logit_diff' needs contrast, and only it does; got value {value!r}, contrast {contrast!r}"
        )


def _class_index(names: Sequence[str], given: Any, classes: int, role: str) -> int:
    if isinstance(given, str):
        if given not in names:
            known = ", ".join(names) or "none, so give a number"
            raise ValueError(f"{role} {given!r} is no class of the model; its class names are: {known}")
        return names.index(given)
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or not 0 <= given < classes:
        raise ValueError(f"{role} must be a class name or a number from 0 to {classes - 1}, got {given!r}")
    return int(given)


def choose_classes(model: Any, logits: np.ndarray, target: Any, contrast: Any) -> tuple[int, int, dict[str, Any]]:
    """Numbers of the target and contrast class, and their names for reports.

    Args:
      model: whose `class_names`, where it has them, may be given instead of numbers.
      logits: [C], of the whole input.
      target: number or name; None is the class of the largest logit.
      contrast: number, name or None.

    Raises:
      ValueError: no such class, or the same one twice.
    """
    names = tuple(getattr(model, "class_names", ()))
    chosen = int(logits.argmax()) if target is None else _class_index(names, target, len(logits), "target")
    against = 0 if contrast is None else _class_index(names, contrast, len(logits), "contrast")
    if contrast is not None and against == chosen:
        raise ValueError(f"contrast and target are the same class, {chosen}; give another contrast")
    shown = names or tuple(map(str, range(len(logits))))
    return chosen, against, {"target": shown[chosen], "contrast": None if contrast is None else shown[against]}


def watched(logits: jax.Array, value: str, target: jax.Array, contrast: jax.Array) -> jax.Array:
    """Values float32 [B] of class logits [B, C]: of the target class y, "logit" z_y, "margin" z_y - logsumexp of the
    others, "logprob" log softmax, or "logit_diff" z_y - z_contrast.
    """
    logits = logits.astype(jnp.float32)
    chosen = logits[:, target]
    if value == "logit":
        return chosen
    if value == "logit_diff":
        return chosen - logits[:, contrast]
    # From the logits, never from log_softmax: there log p rounds to 0 from a gap of about 17 and the margin becomes
    # infinite.
    others = jnp.where(jnp.arange(logits.shape[1]) == target, -jnp.inf, logits)
    margin = chosen - jax.nn.logsumexp(others, axis=1)
    return margin if value == "margin" else -jax.nn.softplus(-margin)
