"""Values of a classifier: one number computed from its logits."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.models.protocols import class_names_of

__all__ = [
    "VALUES",
    "ChosenClasses",
    "check_value",
    "choose_classes",
    "logit_and_margin",
    "value_of_answers",
    "watched",
]

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
            raise ValueError(f"{role} {given!r} is not a class of the model; its class names are: {known}")
        return names.index(given)
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or not 0 <= given < classes:
        raise ValueError(f"{role} must be a class name or a number from 0 to {classes - 1}, got {given!r}")
    return int(given)


class ChosenClasses(NamedTuple):
    """Holds the numbers of the target and contrast class (0 where there is none), and their names for reports."""

    target: int
    contrast: int
    target_name: str
    contrast_name: str | None


def choose_classes(model: Any, logits: np.ndarray, value: str, target: Any, contrast: Any) -> ChosenClasses:
    """Chooses the target and contrast class.

    Args:
      model: the classifier; where it has `class_names`, these may be given in place of numbers.
      logits: [C], for the whole input.
      value: one of VALUES.
      target: a number or a name; None chooses the class with the largest logit.
      contrast: a number, a name or None.

    Raises:
      ValueError: a class is unknown or given twice, or the model has one output and the value needs more.
    """
    names = class_names_of(model)
    if len(logits) == 1 and value != "logit":
        raise ValueError(f"the model has one output, and value {value!r} needs at least two; use value='logit'")
    chosen = int(logits.argmax()) if target is None else _class_index(names, target, len(logits), "target")
    against = 0 if contrast is None else _class_index(names, contrast, len(logits), "contrast")
    if contrast is not None and against == chosen:
        raise ValueError(f"contrast and target are the same class, {chosen}; give another contrast")
    shown = names or tuple(map(str, range(len(logits))))
    return ChosenClasses(chosen, against, shown[chosen], None if contrast is None else shown[against])


def watched(logits: jax.Array, value: str, target: jax.Array, contrast: jax.Array) -> jax.Array:
    """Returns the values float32 [...] of class logits [..., C] for the target class y: "logit" z_y, "margin" z_y -
    logsumexp of the others, "logprob" log softmax, or "logit_diff" z_y - z_contrast.
    """
    logits = logits.astype(jnp.float32)
    if value == "logit_diff":
        return logits[..., target] - logits[..., contrast]
    logit, margin = logit_and_margin(logits, jnp.broadcast_to(target, logits.shape[:-1]))
    if value == "logit":
        return logit
    return margin if value == "margin" else -jax.nn.softplus(-margin)


def logit_and_margin(logits: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of logits [..., C] and targets int32 [...]: z_y, and z_y - logsumexp of the others, float32 [...].

    From the logits, never from log_softmax: there log p rounds to 0 from a gap of about 17 and the margin becomes
    infinite.
    """
    logits = logits.astype(jnp.float32)
    is_target = jnp.arange(logits.shape[-1]) == target[..., None]
    logit = jnp.where(is_target, logits, 0.0).sum(axis=-1)
    return logit, logit - jax.nn.logsumexp(jnp.where(is_target, -jnp.inf, logits), axis=-1)


def value_of_answers(value: str, logit: jax.Array, margin: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns the values [...] of answers with several tokens.

    Args:
      value: "logprob", the log-probability of the target's tokens in turn; "margin", log p - log(1 - p) of the same p
        (ContextCite's, Cohen-Wang et al. 2024, https://arxiv.org/abs/2409.00729, section 3); "logit", the sum of the
        tokens' logits; "logit_diff", the log-probability of the target minus that of the contrast, which for one token
        each is the difference of their logits.
      logit, margin: float32 [..., K], for each token.
      weight: float32 [K], 1 for tokens of the target, -1 for those of the contrast, 0 for padding.
    """
    if value == "logit":
        return (weight * logit).sum(axis=-1)
    total = -(weight * jax.nn.softplus(-margin)).sum(axis=-1)
    if value != "margin":
        return total
    # 1 - p = 1 - product(1 - q), where q is the probability that a token is another one. Where all q are tiny this is
    # their sum, whose logarithm does not underflow.
    tiny = jax.nn.logsumexp(jnp.where(weight > 0, -jax.nn.softplus(margin), -jnp.inf), axis=-1)
    other = jnp.where(total > -1e-6, tiny, jnp.log(-jnp.expm1(jnp.minimum(total, -1e-7))))
    return total - other
