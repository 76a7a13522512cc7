"""The tabular lens: which columns of a row act together in a prediction."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.jax_settings import own_settings
from spex_jax.lenses.value_function import ValueFunction

__all__ = ["REMOVALS", "VALUES", "tabular"]

REMOVALS = ("mean", "median", "marginal")
VALUES = ("prediction", "log_odds")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["predict", "row", "replacements", "group"],
    meta_fields=["target", "value", "on_device"],
)
@dataclasses.dataclass(frozen=True)
class _MaskedRow:
    """Masks [B, n] -> values [B]: a pytree, so that rows of one width share a program.

    row [d], replacements [K, d], group int32 [d]: the feature of every column (-1: always kept).
    """

    predict: Callable[[Any], Any]
    row: Any
    replacements: Any
    group: Any
    target: int | None
    value: str
    on_device: bool

    def outputs(self, masks: Any) -> Any:
        """Predictions [B, K, ...] of the row with the columns that are not kept taken from each replacement."""
        xp = jnp if self.on_device else np
        kept = (self.group < 0) | masks[:, xp.maximum(self.group, 0)]  # [B, d]
        rows = xp.where(kept[:, None], self.row, self.replacements)
        found = self.predict(rows.reshape(-1, rows.shape[2]))
        return xp.asarray(found).reshape(*rows.shape[:2], *np.shape(found)[1:])

    def __call__(self, masks: Any) -> Any:
        """Values [B], averaged over the replacements."""
        xp = jnp if self.on_device else np
        found = self.outputs(masks)
        mean = (found if self.target is None else found[..., self.target]).mean(axis=1)
        return mean if self.value == "prediction" else xp.log(mean) - xp.log1p(-mean)


def _groups(groups: Any, names: Sequence[str] | None, columns: int) -> tuple[np.ndarray, list[str] | None]:
    """The feature of every column, and names of the features."""
    if groups is None:
        return np.arange(columns, dtype=np.int32), None if names is None else list(names)
    group = np.full(columns, -1, np.int32)
    for feature, members in enumerate(groups):
        for column in members:
            if not 0 <= column < columns or group[column] >= 0:
                raise ValueError(
                    f"groups must hold each column from 0 to {columns - 1} once at most; {column!r} is not, or twice"
                )
            group[column] = feature
    if not (group >= 0).any():
        raise ValueError("groups must hold at least one column; with none nothing can be removed")
    return group, None if names is None else list(names)


@own_settings()
def tabular(
    predict_fn: Callable[[Any], Any],
    row: Any,
    background: Any,
    *,
    removal: str = "mean",
    value: str = "prediction",
    target: int | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    names: Sequence[str] | None = None,
    on_device: bool | None = None,
) -> ValueFunction:
    """Value function of a row of a table: its columns are kept or replaced, the prediction is the value.

    Args:
      predict_fn: rows float [B, d] -> predictions [B] or [B, classes]; host code (scikit-learn's predict_proba, say),
        or a pure JAX function.
      row: float [d].
      background: float [K, d], rows that say what a column is when it is not known.
      removal: "mean" or "median" of the background's column; "marginal": the prediction averaged over all rows of the
        background (the interventional expectation), at K predictions a mask.
      value: "prediction", or "log_odds" of a prediction that is a probability (averaged first).
      target: column of predictions [B, classes]; None for predictions [B].
      groups: columns that are kept or removed together, a list for each feature; columns in none are always kept.
      names: one for each feature.
      on_device: whether predict_fn is a pure JAX function; None: only where it is a registered pytree.

    Raises:
      ValueError: an unknown option, shapes that do not fit, or numbers that are not finite.
    """
    for name, given, known in (("removal", removal, REMOVALS), ("value", value, VALUES)):
        if given not in known:
            raise ValueError(f"unknown {name} {given!r}; expected one of {', '.join(known)}")
    if not callable(predict_fn):
        raise ValueError(f"predict_fn must be callable (rows -> predictions), got {type(predict_fn).__name__}")
    kept, others = np.asarray(row, np.float64), np.asarray(background, np.float64)
    if kept.ndim != 1 or others.ndim != 2 or others.shape[1] != len(kept) or not len(others):
        raise ValueError(
            f"row must have shape [d] and background [K, d] with at least one row, got {kept.shape} and {others.shape}"
        )
    if not np.isfinite(kept).all() or not np.isfinite(others).all():
        raise ValueError("row and background must be finite; fill in what is missing first")
    group, names = _groups(groups, names, len(kept))
    pytree = not jax.tree_util.all_leaves([predict_fn])
    on_device = pytree if on_device is None else on_device
    if removal != "marginal":
        others = getattr(np, removal)(others, axis=0, keepdims=True)
    place: Callable[[Any], Any] = (lambda array: jnp.asarray(array, jnp.float32)) if on_device else np.asarray
    fn = _MaskedRow(
        predict=predict_fn if pytree else jax.tree_util.Partial(predict_fn),
        row=place(kept),
        replacements=place(others),
        group=jnp.asarray(group) if on_device else group,
        target=target,
        value=value,
        on_device=on_device,
    )
    n = int(group.max()) + 1
    full = np.asarray(fn.outputs(np.ones((1, n), np.bool_)))
    if full.ndim > 3 or (full.ndim == 3) != (target is not None):
        raise ValueError(
            f"predict_fn gave shape {full.shape[:1] + full.shape[2:]} for one row: "
            + ("target= must say which of its columns is watched" if full.ndim == 3 else "leave target= out")
        )
    if target is not None and not 0 <= target < full.shape[2]:
        raise ValueError(f"target must be from 0 to {full.shape[2] - 1}, got {target!r}")
    probability = full if target is None else full[..., target]
    if value == "log_odds" and not ((probability > 0) & (probability < 1)).all():
        raise ValueError(f"value 'log_odds' needs predictions between 0 and 1, got {probability.ravel()[0]:.6g}")
    return ValueFunction(
        fn,
        n,
        names=names,
        on_device=on_device,
        details={"units": "column", "removal": removal, "value": value, "target": target, "background": len(others)},
    )
