"""Rows of a table and the background that they are compared with: columns that keep their kinds.

A table is an array [K, d] of numbers or of anything else, a structured array, a mapping or a list of columns, or a
DataFrame of pandas (`frames`). The tables that a model gets have the form of the background.
"""

import collections
import dataclasses
import datetime
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from spex_jax.lenses.table_parts.columns import (
    NUMBERS,
    Column,
    check_kinds,
    exact,
    is_missing,
    kind_of,
    numeric,
    plural,
    stand_in,
)

__all__ = ["Table", "read_table", "row_values"]


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds a row and the values that may replace those of its columns.

    Attributes:
      columns: d of them.
      labels: the names of the columns; None where they have none.
      build: columns [B] -> a table of B rows, as a model takes it.
      pair: a column and a value -> a column [2] of that type, the row's value and the other.
      typed: whether each column keeps a type of its own; otherwise all of them are numbers.
    """

    columns: tuple[Column, ...]
    labels: tuple[Any, ...] | None
    build: Callable[[list[Any]], Any]
    pair: Callable[[Any, Any], Any]
    typed: bool

    @property
    def size(self) -> int:
        """The number of rows beside the first."""
        return len(self.columns[0].values) - 1

    def rows(self, chosen: np.ndarray) -> Any:
        """Returns a table whose column j holds the values at the indices chosen[:, j], int [B, d]."""
        return self.build([column.values.take(chosen[:, j]) for j, column in enumerate(self.columns)])

    def replaced(self, removal: str) -> "Table":
        """Returns the table with one row beside the first, the "mean" or "median" of the columns; see `stand_in`."""
        columns = []
        for j, column in enumerate(self.columns):
            value = stand_in(list(column.values[1:]), column.kind, removal, self.name(j), typed=self.typed)
            if self.typed:
                columns.append(dataclasses.replace(column, values=self.pair(column.values, value)))
            else:
                row = exact(column.values[:1], self.name(j))
                columns.append(Column(np.append(row, value), "number"))
        return dataclasses.replace(self, columns=tuple(columns))

    def name(self, column: int) -> str:
        """Returns the name of a column for messages."""
        return f"column {column}" if self.labels is None else f"column {self.labels[column]!r}"

    def numbers(self) -> np.ndarray:
        """Returns the values as float64 [1 + K, d].

        Raises:
          ValueError: a column is of another kind, or holds a whole number that float64 would round.
        """
        found = []
        for j, column in enumerate(self.columns):
            if column.kind not in NUMBERS:
                raise ValueError(
                    f"a device function takes numbers, and {self.name(j)} holds {plural(column.kind)}; encode it, or "
                    "give a host function (on_device=False)"
                )
            values = np.asarray(column.values)
            if values.dtype.kind not in "biuf":
                values = np.array([math.nan if is_missing(value) else value for value in column.values], object)
            found.append(exact(values, self.name(j)))
        return np.stack(found, axis=1)


def read_table(row: Any, background: Any) -> Table:
    """Reads a row and a background of any of the forms.

    Raises:
      ValueError: shapes, columns or kinds do not fit, or a number is infinite.
    """
    if type(background).__module__.split(".")[0] == "pandas":
        from spex_jax.lenses.table_parts.frames import read_frame

        return read_frame(row, background)
    if hasattr(background, "to_pandas"):
        raise ValueError(f"background is a {type(background).__name__}; give background.to_pandas(), or an array")
    if isinstance(background, np.ma.MaskedArray) or isinstance(row, np.ma.MaskedArray):
        raise ValueError(
            "masked arrays are not supported; fill missing values with NaN: array.astype(float).filled(np.nan)"
        )
    if isinstance(background, Mapping):
        labels = tuple(background)
        columns = [_array(background[label]) for label in labels]
        return _of_columns(row, columns, labels, lambda parts: dict(zip(labels, parts, strict=True)))
    if getattr(getattr(background, "dtype", None), "names", None):
        return _structured(row, np.atleast_1d(background))
    if _is_columns(background):
        return _of_columns(row, [_array(column) for column in background], None, list)
    return _matrix(row, background)


def _is_columns(background: Any) -> bool:
    """Returns whether a list holds columns and not rows: arrays of different types, which rows of a table never are."""
    if not isinstance(background, list | tuple) or not all(isinstance(part, np.ndarray) for part in background):
        return False
    return len({part.dtype.kind for part in background}) > 1


def _array(given: Any) -> np.ndarray:
    """Returns a numpy array; the numbers of lists do not become texts and are not rounded."""
    if isinstance(given, np.ndarray):
        return numeric(given)
    if isinstance(given, list | tuple):
        given = [_plain(np.asarray(part)) if hasattr(part, "__array__") else part for part in given]
        return numeric(np.array(given, object))
    return np.asarray(given)


def _plain(part: np.ndarray) -> Any:
    """Returns a part of a list: bfloat16 and similar types as float64, an array without axes as its one value."""
    return (part.astype(np.float64) if part.dtype.kind == "V" and part.dtype.names is None else part)[()]


def _matrix(row: Any, background: Any) -> Table:
    if isinstance(row, Mapping):
        raise ValueError("a row with named columns needs a background with names: a DataFrame, or a mapping of columns")
    labels = None
    if type(row).__module__.split(".")[0] == "pandas":
        index = row.columns if hasattr(row, "columns") else row.index
        if all(isinstance(label, str) for label in index):
            labels = tuple(index)
        row = row.to_numpy()
    kept, others = _array(row), _array(background)
    if kept.ndim == 2 and len(kept) == 1:
        kept = kept[0]
    if kept.ndim != 1 or others.ndim != 2 or others.shape[1] != len(kept) or not others.size:
        raise ValueError(
            f"row must have shape [d] and background [K, d] with at least one row, got {kept.shape} and {others.shape}"
        )
    kinds = {kind_of(array) if array.dtype.kind != "O" else "object" for array in (kept, others)}
    if kinds <= set(NUMBERS):
        whole = all(array.dtype.kind in "biu" for array in (kept, others))
        dtype = np.result_type(kept, others) if whole else np.dtype(np.float64)
        if dtype.kind == "f":
            kept, others = exact(kept, "row"), exact(others.reshape(-1), "background").reshape(others.shape)
        stacked = np.concatenate([kept[None], others]).astype(dtype)
        _check_finite(stacked)
        columns = tuple(Column(values, kind_of(values)) for values in stacked.T)
        return Table(columns, labels, lambda parts: np.stack(parts, axis=1), _pair, typed=False)
    if any(array.dtype.kind == "c" for array in (kept, others)):
        raise ValueError("row and background must be real, got complex numbers; give parts or magnitudes as columns")
    dtype = np.result_type(kept, others) if len(kinds) == 1 and "object" not in kinds else np.dtype(object)

    def build(parts: list[Any]) -> np.ndarray:
        rows = np.empty((len(parts[0]), len(parts)), dtype)
        for j, part in enumerate(parts):
            rows[:, j] = part
        return rows

    table = _of_columns(list(kept), [column.astype(dtype) for column in others.T], None, build)
    return dataclasses.replace(table, labels=labels)


def _structured(row: Any, background: np.ndarray) -> Table:
    labels = tuple(background.dtype.names or ())
    if background.ndim != 1 or any(background.dtype[label].shape for label in labels):
        raise ValueError(f"a structured background must have shape [K] and plain fields, got {background.shape}")

    def build(parts: list[Any]) -> np.ndarray:
        fields = [(label, part.dtype) for label, part in zip(labels, parts, strict=True)]
        rows = np.empty(len(parts[0]), fields)
        for label, part in zip(labels, parts, strict=True):
            rows[label] = part
        return rows

    return _of_columns(row, [background[label] for label in labels], labels, build)


def row_values(row: Any, labels: tuple[Any, ...] | None, count: int) -> list[Any]:
    """Returns the values of a row in the order of the columns; a row with names is ordered by them.

    Raises:
      ValueError: names differ from those of the background or occur twice, the number of values differs, or there are
        several rows.
    """
    if labels is not None and len(set(labels)) < len(labels):
        twice = next(label for label, times in collections.Counter(labels).items() if times > 1)
        raise ValueError(f"the background has the column {twice!r} twice; give its columns different names")
    names: Any = None
    dtype_names = getattr(getattr(row, "dtype", None), "names", None)
    if isinstance(row, Mapping):
        names, values = list(row), list(row.values())
    elif dtype_names:
        names, values = list(dtype_names), list(np.asarray(row).reshape(-1)[0]) if np.size(row) == 1 else []
    elif hasattr(row, "columns") and hasattr(row, "iloc"):  # a DataFrame, whose values keep the types of its columns
        if len(row) != 1:
            raise ValueError(f"row must be one row, got a table of {len(row)}; give table.iloc[[0]]")
        names, values = list(row.columns), [row.iloc[0:1, j].array[0] for j in range(row.shape[1])]
    elif hasattr(row, "index") and hasattr(row, "iloc"):  # a Series
        names, values = list(row.index), list(row.array)
    else:
        array = np.asarray(row, object) if isinstance(row, list | tuple) else np.asarray(row)
        if array.ndim == 2 and len(array) == 1:
            array = array[0]
        values = list(row) if isinstance(row, list | tuple) and array.ndim == 1 else list(array) if array.ndim else []
    if names is not None and len(set(names)) < len(names):
        raise ValueError("the row has a column twice; give its columns different names")
    if names is not None and labels is not None:
        missing = [label for label in labels if label not in names]
        extra = [name for name in names if name not in labels]
        if missing or extra or len(names) != len(labels):
            raise ValueError(
                "row and background must have the same columns; "
                + (f"the row lacks {missing[0]!r}" if missing else f"the background lacks {(extra or names)[0]!r}")
            )
        values = [values[names.index(label)] for label in labels]
    if len(values) != count:
        raise ValueError(
            f"row must be one row of {count} values, one for each column of the background; got {len(values)}"
        )
    return values


def _of_columns(row: Any, background: list[np.ndarray], labels: Any, build: Callable[[list[Any]], Any]) -> Table:
    """Returns a table of numpy columns, each with the row's value in front."""
    lengths = {column.shape for column in background}
    if len(lengths) != 1 or len(background[0].shape) != 1 or not len(background[0]):
        raise ValueError(
            f"the background must hold columns of one length, with at least one row, got the shapes {sorted(lengths)}"
        )
    values = row_values(row, labels, len(background))
    columns = []
    for j, (value, column) in enumerate(zip(values, background, strict=True)):
        name = f"column {j if labels is None else labels[j]!r}"
        kind = kind_of(column)
        check_kinds(name, value, kind)
        stacked = _with(value, column, kind, name)
        columns.append(Column(stacked, kind_of(stacked)))
    for j, made in enumerate(columns):
        floats = made.values if made.values.dtype.kind == "f" else [x for x in made.values if isinstance(x, float)]
        if np.isinf(floats).any():
            name = f"column {j if labels is None else labels[j]!r}"
            raise ValueError(f"{name} holds infinity; clip it, or mark it as missing by NaN")
    return Table(tuple(columns), labels, build, _pair, typed=True)


def _pair(values: np.ndarray, value: Any) -> np.ndarray:
    pair = np.empty(2, values.dtype)
    pair[0], pair[1] = values[0], value
    return pair


def _with(value: Any, column: np.ndarray, kind: str, name: str) -> np.ndarray:
    """Returns a column with a value in front. It keeps its type where that holds the value; else it becomes float64."""
    if column.dtype.kind == "O":
        stacked = np.empty(len(column) + 1, object)
        stacked[0], stacked[1:] = value, column
        return stacked
    if kind in ("date", "duration"):
        if is_missing(value):
            return np.concatenate([np.array(["NaT"], column.dtype), column])
        if getattr(value, "tzinfo", None) is not None:
            raise ValueError(f"{name} of the row has a time zone and the background's dates have none; give both one")
        given = np.array(
            [value], column.dtype.kind + "8" if isinstance(value, datetime.date | datetime.timedelta) else None
        )
        front = given.astype(column.dtype)
        if front[0] != given[0]:
            raise ValueError(
                f"{name} of the row is {value!r}, which {column.dtype} rounds; give the background a finer unit"
            )
        return np.concatenate([front, column])
    if kind == "text":
        if is_missing(value):
            return _with(value, column.astype(object), kind, name)
        return np.concatenate([np.array([value]), column])
    if is_missing(value):
        return np.concatenate([[math.nan], exact(column, name)])
    if kind in ("whole", "flag") and value == int(value):
        front = np.array([int(value)]) if kind == "whole" else np.array([bool(value)])
        if kind == "flag" or np.can_cast(front.dtype, column.dtype) or front[0] == front.astype(column.dtype)[0]:
            return np.concatenate([front.astype(column.dtype), column])
    front = exact(np.array([value], object), name)
    return np.concatenate([front, exact(column, name)])


def _check_finite(stacked: np.ndarray) -> None:
    if stacked.dtype.kind == "f" and np.isinf(stacked).any():
        raise ValueError("row and background must not hold infinity; clip it, or mark it as missing by NaN")
