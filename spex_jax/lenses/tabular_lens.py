"""The tabular lens: which columns of a row act together in a prediction."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.engine.details import TabularDetails
from spex_jax.engine.value_function import ValueFunction
from spex_jax.lenses.table_parts.columns import is_missing
from spex_jax.lenses.table_parts.tables import Table, read_table
from spex_jax.utils.jax_settings import own_settings

__all__ = ["REMOVALS", "VALUES", "tabular"]

REMOVALS = ("mean", "median", "marginal")
VALUES = ("prediction", "log_odds")
_CELLS = 2**23  # cells of tables that are in memory at once
# Both are parts of the largest difference between the row's value and others of its column.
_ROUNDING = 1e-3  # the most that rounding to float32 may change
_MERGED = 1e-6  # values that differ by less may become equal


def _wide() -> bool:
    return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]


def _value(found: Any, target: int | None, value: str, xp: Any) -> Any:
    """Returns the values [B] of predictions [B, K, ...], averaged over the replacements."""
    mean = (found if target is None else found[..., target]).mean(axis=1)
    return mean if value == "prediction" else xp.log(mean) - xp.log1p(-mean)


_fields = functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["predict", "row", "replacements", "group"],
    meta_fields=["target", "value", "on_device"],
)


@_fields
@dataclasses.dataclass(frozen=True)
class _MaskedRow:
    """Maps masks [B, n] to values [B] on the device; a pytree, so that rows of one width share a program.

    `row` is [d], `replacements` [K, d], and `group` int32 [d] the feature of every column (-1: always kept).
    """

    identity_name: ClassVar[str] = "spex_jax.MaskedRow"

    predict: Callable[[Any], Any]
    row: Any
    replacements: Any
    group: Any
    target: int | None
    value: str
    on_device: bool

    def __call__(self, masks: jax.Array) -> jax.Array:
        """Returns the values; computes as many rows at once as `_CELLS` allows."""
        at_once = max(1, _CELLS // self.replacements.size)
        if len(masks) <= at_once:
            return self._of(masks)
        filled = jnp.pad(masks, ((0, -len(masks) % at_once), (0, 0)), constant_values=True)
        found: jax.Array = jax.lax.map(self._of, filled.reshape(-1, at_once, masks.shape[1]))
        return found.reshape(-1)[: len(masks)]

    def _of(self, masks: jax.Array) -> jax.Array:
        kept = (self.group < 0) | masks[:, jnp.maximum(self.group, 0)]  # [B, d]
        rows = jnp.where(kept[:, None], self.row, self.replacements)
        found = jnp.asarray(self.predict(rows.reshape(-1, rows.shape[2])))
        found = found.reshape(*rows.shape[:2], *found.shape[1:])
        values: jax.Array = _value(found, self.target, self.value, jnp)
        return values


@_fields
@dataclasses.dataclass(frozen=True)
class _WideMaskedRow(_MaskedRow):
    """Does the same for float64 rows, which a program without jax_enable_x64 would round."""

    def __call__(self, masks: jax.Array) -> jax.Array:
        """Values."""
        if not _wide():
            raise ValueError("the tabular lens was made with jax_enable_x64 and is asked without it; set it for both")
        return super().__call__(masks)


@dataclasses.dataclass(frozen=True)
class _MaskedTable:
    """Maps masks [B, n] to values [B] by host code; `group` is as in `_MaskedRow`."""

    predict: Callable[[Any], Any]
    table: Table
    group: np.ndarray
    target: int | None
    value: str

    def outputs(self, chosen: np.ndarray) -> np.ndarray:
        """Returns the predictions [B, ...] for the rows `chosen`, int [B, d]; see `Table.rows`.

        Raises:
          ValueError: there is not one prediction for each row, or they are not numbers.
        """
        found = np.asarray(self.predict(self.table.rows(chosen)))
        if found.ndim == 0 or len(found) != len(chosen):
            raise ValueError(
                f"predict_fn gave the shape {found.shape} for {len(chosen)} rows; expected one for each row"
            )
        if found.dtype.kind not in "biufO":
            raise ValueError(
                f"predict_fn gave {str(found.reshape(-1)[0])!r:.40}, which is not a number; give probabilities "
                "(predict_proba)"
            )
        return found.astype(np.float64)

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        """Returns the values; computes as many rows at once as `_CELLS` allows."""
        size = self.table.size
        at_once = max(1, _CELLS // (size * len(self.group)))
        values = np.empty(len(masks))
        for start in range(0, len(masks), at_once):
            part = masks[start : start + at_once]
            kept = (self.group < 0) | part[:, np.maximum(self.group, 0)]
            chosen = np.where(kept[:, None], 0, 1 + np.arange(size)[:, None])  # [B, K, d]
            found = self.outputs(chosen.reshape(-1, chosen.shape[2]))
            values[start : start + at_once] = _value(
                found.reshape(len(part), size, *found.shape[1:]), self.target, self.value, np
            )
        return values


def _groups(groups: Any, names: Sequence[str] | None, table: Table) -> tuple[np.ndarray, list[str] | None]:
    """Returns the feature of every column, and the names of the features."""
    columns = len(table.columns)
    labels = None if table.labels is None else list(table.labels)
    if groups is None:
        shown = labels if names is None else names
        return np.arange(columns, dtype=np.int32), None if shown is None else list(map(str, shown))
    group = np.full(columns, -1, np.int32)
    for feature, members in enumerate(groups):
        for member in members:
            column = labels.index(member) if labels is not None and member in labels else member
            known = isinstance(column, int | np.integer) and not isinstance(column, bool) and 0 <= column < columns
            if not known or group[column] >= 0:
                raise ValueError(
                    f"groups must hold each column from 0 to {columns - 1}, by its number or name, at most once; "
                    f"{member!r} is unknown or occurs twice"
                )
            group[column] = feature
    if not (group >= 0).any():
        raise ValueError("groups must hold at least one column; without any, nothing can be removed")
    if names is None and labels is not None:
        features = range(int(group.max()) + 1)
        names = [", ".join(str(labels[j]) for j in np.flatnonzero(group == feature)) for feature in features]
    return group, None if names is None else list(names)


def _check_rounding(numbers: np.ndarray, table: Table) -> None:
    """Raises ValueError where rounding `numbers` float64 [1 + K, d] to float32 changes how the first row differs from
    the others: values become equal, or the rounding is not small beside their differences.
    """
    with np.errstate(over="ignore"):
        rounded = numbers.astype(np.float32).astype(np.float64)
    for j, (exact, found) in enumerate(zip(numbers.T, rounded.T, strict=True)):
        there = ~np.isnan(exact[1:]) & ~np.isnan(exact[0])
        apart = np.abs(exact[0] - exact[1:])[there]
        spread, largest = apart.max(initial=0.0), np.abs(exact[np.isfinite(exact)]).max(initial=0.0)
        wrong = bool(np.isinf(found).any())
        if spread > 1e-12 * largest:  # smaller ones are rounding in float64, as in a mean
            whole = (exact[0] == np.round(exact[0])) & (exact[1:] == np.round(exact[1:]))[there]
            merged = (apart > 0) & (found[1:][there] == found[0]) & (whole | (apart > _MERGED * spread))
            error = np.nanmax(np.abs(found - exact))
            wrong = wrong or bool(merged.any()) or bool(error > _ROUNDING * spread)
        if wrong:
            shown = next(
                (x for x, y in zip(exact[1:], found[1:], strict=True) if y == found[0] and x != exact[0]), exact[1]
            )
            raise ValueError(
                f"a device function computes in float32, which rounds {table.name(j)}: {exact[0]:.17g} becomes "
                f"{found[0]:.17g}, which changes its difference from {shown:.17g}. Subtract a common offset or scale "
                "the column, set jax_enable_x64, or give a host function (on_device=False), which gets float64"
            )


@own_settings()
def tabular(
    predict_fn: Callable[[Any], Any],
    row: Any,
    background: Any,
    *,
    removal: str = "mean",
    value: str = "prediction",
    target: int | None = None,
    groups: Sequence[Sequence[Any]] | None = None,
    names: Sequence[str] | None = None,
    on_device: bool | None = None,
) -> ValueFunction:
    """Returns a value function for a row of a table: its columns are kept or replaced, and the value is the prediction.

    Args:
      predict_fn: rows -> predictions [B] or [B, classes]; host code (such as scikit-learn's predict_proba), or a pure
        JAX function. Rows have the form, the columns and the types of the background: numbers float [B, d], a
        DataFrame, and so on. Host code gets numbers in float64, but whole numbers unchanged where they are drawn from
        the background; a JAX function gets float32, or float64 with jax_enable_x64.
      row: in the form of one row of the background: [d], a DataFrame of one row, a Series or a mapping by column name.
      background: K rows from which removed columns get their values. Numbers [K, d]; or a mixed table: a pandas
        DataFrame, a structured array, a mapping or a list of columns, or an array of objects [K, d]. Missing values
        (NaN, None, NaT, NA) reach the model unchanged.
      removal: "mean" or "median" of the background's column, without missing values. In a mixed table whole numbers
        are rounded to the nearest one, dates take the mean or median instant, and texts, categories, True and False
        the most frequent value. "marginal": the prediction is averaged over all rows of the background (the
        interventional expectation), with K predictions for each mask.
      value: "prediction", or "log_odds" of a prediction that is a probability (averaged first).
      target: the column of predictions [B, classes]; None for predictions [B].
      groups: columns that are kept or removed together, a list of numbers or names for each feature; columns in none
        are always kept.
      names: one for each feature; None takes those of the background.
      on_device: whether predict_fn is a pure JAX function; None means only where it is a registered pytree.

    Raises:
      ValueError: an option is unknown; shapes, columns or kinds do not fit; a number is infinite, or would be rounded
        to another one by the device.
    """
    for name, given, known in (("removal", removal, REMOVALS), ("value", value, VALUES)):
        if given not in known:
            raise ValueError(f"unknown {name} {given!r}; expected one of {', '.join(known)}")
    if not callable(predict_fn):
        raise ValueError(f"predict_fn must be callable (rows -> predictions), got {type(predict_fn).__name__}")
    table = read_table(row, background)
    size = table.size
    group, names = _groups(groups, names, table)
    if removal != "marginal":
        table = table.replaced(removal)
    pytree = not jax.tree_util.all_leaves([predict_fn])
    on_device = pytree if on_device is None else on_device
    if on_device:
        numbers = table.numbers()
        wide = _wide()
        if not wide:
            _check_rounding(numbers, table)
        kept, others = (jnp.array(part, jnp.float64 if wide else jnp.float32) for part in (numbers[0], numbers[1:]))
        predict = predict_fn if pytree else jax.tree_util.Partial(predict_fn)
        fn: Any = (_WideMaskedRow if wide else _MaskedRow)(
            predict, kept, others, jnp.asarray(group), target, value, True
        )
        rows = jnp.stack([kept, jnp.where(group < 0, kept, others[0])])
        probed = np.asarray(jnp.asarray(predict(rows)), np.float64)
    else:
        fn = _MaskedTable(predict_fn, table, group, target, value)
        probed = fn.outputs(np.stack([np.zeros_like(group), group >= 0]).astype(np.intp))
    _check_outputs(probed, target, value, table)
    return ValueFunction(
        fn,
        int(group.max()) + 1,
        names=names,
        on_device=on_device,
        details=TabularDetails(units="column", removal=removal, value=value, target=target, background=size),
    )


def _check_outputs(probed: np.ndarray, target: Any, value: str, table: Table) -> None:
    """Checks the predictions for the row and for the row with its columns replaced, [2] or [2, classes]."""
    if probed.ndim not in (1, 2) or (probed.ndim == 2) != (target is not None):
        raise ValueError(
            f"predict_fn gave shape {(1, *probed.shape[1:])} for one row: "
            + ("target= must choose one of its columns" if probed.ndim > 1 else "leave target= out")
        )
    if target is not None:
        masks_lib.check_whole("target", target, 0, probed.shape[1] - 1)
    watched = probed if target is None else probed[:, target]
    for place, found, what in zip((0, 1), watched, ("the row", "the row with its columns replaced"), strict=True):
        if np.isnan(found):
            values = [next(iter(column.values[place : place + 1])) for column in table.columns]
            missing = next((j for j, one in enumerate(values) if is_missing(one)), None)
            shown = "" if missing is None else f": it has no value in {table.name(missing)}; fill it in"
            raise ValueError(f"predict_fn gave nan for {what}{shown}")
    if value == "log_odds" and not 0 < watched[0] < 1:
        raise ValueError(f"value 'log_odds' needs predictions between 0 and 1, got {watched[0]:.6g}")
