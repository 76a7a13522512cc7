"""Columns of tables: the kinds of their values, exact float64 numbers, and the values that replace removed ones."""

import collections
import dataclasses
import datetime
import fractions
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

__all__ = [
    "NUMBERS",
    "Column",
    "check_kinds",
    "exact",
    "is_missing",
    "kind_of",
    "numeric",
    "plural",
    "stand_in",
]

_EXACT = 2**53  # all whole numbers up to it are exact in float64
NUMBERS = ("flag", "whole", "number")
_KINDS = {
    "b": "flag",
    "i": "whole",
    "u": "whole",
    "f": "number",
    "M": "date",
    "m": "duration",
    "U": "text",
    "S": "text",
}


@dataclasses.dataclass(frozen=True)
class Column:
    """Holds the values of a row and its background in one column.

    Attributes:
      values: [1 + K], the row's first; a numpy array or a pandas Series.
      kind: "number", "whole" (numbers), "flag", "date", "duration", "text", "category" or "object".
    """

    values: Any
    kind: str


def plural(kind: str) -> str:
    """Returns the plural of a kind, for messages."""
    return {
        "number": "numbers",
        "whole": "whole numbers",
        "flag": "True and False",
        "date": "dates",
        "duration": "durations",
        "text": "texts",
        "category": "categories",
        "object": "objects",
    }.get(kind, kind)


def is_missing(value: Any) -> bool:
    """Returns whether a value is None, NaN, NaT or pandas' NA."""
    if value is None or type(value).__name__ == "NAType":
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return type(value).__name__ == "NaTType" or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def exact(values: np.ndarray, name: str) -> np.ndarray:
    """Returns numbers as float64.

    Raises:
      ValueError: one of them is not a number, or would be rounded.
    """
    found = values.astype(np.float64)
    given = values
    if values.dtype.kind in "iu":  # only large ones can be rounded, and are compared as Python's whole numbers
        large = np.flatnonzero((values > _EXACT) | (values < -_EXACT))
        given, compared = values[large].astype(object), found[large].astype(object)
    elif values.dtype.kind == "O":
        compared = found.astype(object)
    elif values.dtype.itemsize > 8:  # long double
        compared = found.astype(values.dtype)
    else:
        return found
    wrong = [(a, b) for a, b in zip(given, compared, strict=True) if not (a == b or is_missing(a))]
    if wrong:
        raise ValueError(
            f"{name} holds {wrong[0][0]}, which float64 cannot hold ({wrong[0][1]:.0f} is the nearest). Give it as a "
            "text or category, subtract a common offset, or use removal='marginal' with a host function, which keeps "
            "whole numbers as they are"
        )
    return found


def numeric(values: np.ndarray) -> np.ndarray:
    """Returns an array of objects as one of numbers where all are numbers and none is rounded, else unchanged."""
    if values.dtype.kind != "O" or not all(
        isinstance(value, int | float | np.number | np.bool_) and not isinstance(value, complex | np.complexfloating)
        for value in values.flat
    ):
        return values
    try:
        found = np.array(values.tolist())
    except (ValueError, OverflowError):
        return values
    if found.shape != values.shape or found.dtype.kind not in "biuf":
        return values
    same = (found.astype(object) == values) | (values != values)
    return found if same.all() else values


def kind_of(values: Any) -> str:
    """Returns the kind of the values of a numpy column."""
    if values.dtype.kind == "V" and values.dtype.names is None:  # bfloat16 and similar types
        return "number"
    if values.dtype.kind == "T":
        return "text"
    if values.dtype.kind != "O":
        return _KINDS.get(values.dtype.kind, "object")
    kinds = {kind_of_value(value) for value in values if not is_missing(value)}
    if kinds and kinds <= {"whole", "number"}:
        return "number" if "number" in kinds else "whole"
    return kinds.pop() if len(kinds) == 1 else "object" if kinds else "number"


def kind_of_value(value: Any) -> str:
    """Returns the kind of one value that is not missing."""
    if isinstance(value, bool | np.bool_):
        return "flag"
    if isinstance(value, int | np.integer):
        return "whole"
    if isinstance(value, float | np.floating):
        return "number"
    if isinstance(value, str | bytes):
        return "text"
    if isinstance(value, datetime.timedelta | np.timedelta64):
        return "duration"
    return "date" if isinstance(value, datetime.date | np.datetime64) else "object"


def check_kinds(name: str, value: Any, kind: str) -> None:
    """Raises ValueError where a row's value is of another kind than the background's column."""
    if is_missing(value):
        return
    own = kind_of_value(value)
    if own in NUMBERS and kind in NUMBERS:
        if kind == "flag" and own != "flag" and value not in (0, 1):
            own = "whole" if own == "whole" else "number"
        else:
            return
    elif own == kind or kind in ("object", "category"):
        return
    raise ValueError(
        f"{name} of the row is {value!r:.60}, one of {plural(own)}, and the background holds {plural(kind)} there; "
        "row and background must be of the same kinds"
    )


def stand_in(values: Sequence[Any], kind: str, removal: str, name: str, *, typed: bool) -> Any:
    """Returns the value that replaces removed ones: of numbers and dates the mean or median, of all else the most
    frequent value (the first of several). Missing values are left out; where all are missing, it is one of them.

    Args:
      values: K values of the background.
      kind: the kind of the column.
      removal: "mean" or "median".
      name: the name of the column, for messages.
      typed: whether a mean of whole numbers is rounded to the nearest one, so that the column keeps its type.
    """
    known = [value for value in values if not is_missing(value)]
    if not known:
        return values[0]
    if kind in ("date", "duration"):
        zero = known[0] - known[0]
        steps = [value - known[0] for value in known]
        middle = _middle(steps) if removal == "median" else sum(steps, zero) / len(steps)
        return known[0] + middle
    if kind == "number" or (not typed and kind in NUMBERS):
        numbers = np.array([float(value) for value in known])
        return float(np.median(numbers) if removal == "median" else numbers.mean())
    if kind == "whole":
        numbers_ = [fractions.Fraction(int(value)) for value in known]
        return round(_middle(numbers_) if removal == "median" else sum(numbers_) / len(numbers_))
    if not all(isinstance(value, Hashable) for value in known):
        raise ValueError(
            f"{name} holds values of type {type(known[0]).__name__}, which cannot be counted; use removal='marginal', "
            "which draws the background's own values"
        )
    return collections.Counter(known).most_common(1)[0][0]


def _middle(values: list[Any]) -> Any:
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low + (high - low) / 2
