"""Tables of pandas: columns that keep their types, and rows that fit them."""

from collections.abc import Hashable
from typing import Any

import numpy as np

from spex_jax.lenses.table_parts.columns import Column, check_kinds, exact, is_missing, kind_of
from spex_jax.lenses.table_parts.tables import Table, row_values

__all__ = ["read_frame"]


def read_frame(row: Any, background: Any) -> Table:
    """Reads a row and a background DataFrame.

    Args:
      row: a DataFrame of one row, a Series, a mapping by names, or a list in the order of the columns.
      background: a DataFrame.

    Raises:
      ValueError: the background is not a DataFrame or has no rows, or columns or kinds do not fit.
    """
    import pandas as pd

    if not isinstance(background, pd.DataFrame):
        raise ValueError(f"background must be a DataFrame or an array [K, d], got a {type(background).__name__}")
    if not len(background) or not len(background.columns):
        raise ValueError(f"background must have at least one row and one column, got the shape {background.shape}")
    labels = background.columns
    values = row_values(row, tuple(labels), len(labels))
    given = dict(zip(row.columns, row.dtypes, strict=True)) if isinstance(row, pd.DataFrame) else {}
    columns = []
    for j, value in enumerate(values):
        column = background.iloc[:, j].reset_index(drop=True)
        columns.append(_column(pd, f"column {labels[j]!r}", value, column, given.get(labels[j])))

    def build(parts: list[Any]) -> Any:
        made = pd.DataFrame({j: part.reset_index(drop=True) for j, part in enumerate(parts)})
        made.columns = labels
        return made

    def pair(values: Any, value: Any) -> Any:
        other = pd.Series([value], dtype=object).astype(values.dtype)
        return pd.concat([values.iloc[:1], other], ignore_index=True)

    return Table(tuple(columns), tuple(labels), build, pair, typed=True)


def _kind(pd: Any, column: Any) -> str:
    dtype, types = column.dtype, pd.api.types
    if _of_objects(dtype):
        return kind_of(column.to_numpy())
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    for kind, holds in (
        ("flag", types.is_bool_dtype),
        ("whole", types.is_integer_dtype),
        ("number", types.is_float_dtype),
        ("date", types.is_datetime64_any_dtype),
        ("duration", types.is_timedelta64_dtype),
    ):
        if holds(dtype):
            return kind
    return "text" if types.is_string_dtype(dtype) else "object"


def _of_objects(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind == "O"


def _column(pd: Any, name: str, value: Any, column: Any, own: Any) -> Column:
    """Returns the background's column with the row's value in front.

    It keeps its type where that holds the value; numbers that do not fit make it float64.
    """
    kind = _kind(pd, column)
    check_kinds(name, value, kind)
    if kind == "category":
        column = _with_category(pd, name, value, column, own)
    elif kind in ("flag", "whole") and isinstance(column.dtype, np.dtype) and column.dtype.kind != "O":
        if is_missing(value):  # numpy's types have no missing values
            column = column.astype(object) if kind == "flag" else pd.Series(exact(column.to_numpy(), name))
        elif value != int(value):
            column = pd.Series(exact(column.to_numpy(), name))
    elif kind == "number" and isinstance(column.dtype, np.dtype) and column.dtype.kind == "f":
        # A narrower type of the background would round the value.
        if not is_missing(value) and float(column.dtype.type(value)) != float(value):
            column = column.astype(np.float64)
    elif kind == "whole" and not is_missing(value) and value != int(value):
        exact(column.dropna().to_numpy(np.int64), name)
        column = column.astype("Float64")
    if kind == "date" and not is_missing(value):
        value = _date(pd, name, value, column)
    stacked = pd.concat([_cell(pd, name, value, column.dtype), column], ignore_index=True)
    kind = _kind(pd, stacked)
    if kind == "number" and np.isinf(stacked.to_numpy(np.float64, na_value=np.nan)).any():
        raise ValueError(f"{name} holds infinity; clip it, or mark it as missing")
    return Column(stacked, kind)


def _cell(pd: Any, name: str, value: Any, dtype: Any) -> Any:
    """Returns a Series of one value."""
    if is_missing(value) and not _of_objects(dtype):
        return pd.Series([None], dtype=object).astype(dtype)
    try:
        made = pd.Series([value], dtype=object).astype(dtype)
        same = _of_objects(dtype) or bool(made.iloc[0] == value) or isinstance(value, float | np.floating)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} of the row is {value!r:.60}, which the type {dtype} cannot hold: {error}") from error
    if not same:
        raise ValueError(f"{name} of the row is {value!r:.60}, which the type {dtype} of the background rounds")
    return made


def _with_category(pd: Any, name: str, value: Any, column: Any, own: Any) -> Any:
    """Returns the column with a type that has the row's category: its own, or the row's where that has all of them."""
    known = column.dtype.categories
    hashable = isinstance(value, Hashable)
    if is_missing(value) or (hashable and value in known):
        return column
    if hashable and isinstance(own, pd.CategoricalDtype) and known.isin(own.categories).all():
        return column.astype(own)
    raise ValueError(
        f"{name} of the row is {value!r:.60}, which is none of the background's categories, "
        f"{', '.join(map(repr, known[:8]))}; give both the categorical type that the model was trained with"
    )


def _date(pd: Any, name: str, value: Any, column: Any) -> Any:
    """Returns the row's instant in the time zone of the column."""
    if _of_objects(column.dtype):
        return value
    stamp = pd.Timestamp(value)
    zone = getattr(column.dtype, "tz", None)
    if (zone is None) != (stamp.tzinfo is None):
        has, lacks = ("row", "background") if zone is None else ("background", "row")
        raise ValueError(
            f"{name}: the dates of the {has} have a time zone and those of the {lacks} have none; give both one"
        )
    return stamp if zone is None else stamp.tz_convert(zone)
