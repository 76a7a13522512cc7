"""Reads interaction values from files, and converts them to and from the types of other libraries, for `Interactions`.

shapiq (https://github.com/mmschlk/shapiq) and pandas are imported only when they are needed.
"""

import itertools
import math
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax.core.indices import INDICES, EmptySet, Index, find_index
from spex_jax.utils.untrusted_files import Allowance, Record, read_json

__all__ = ["from_json", "from_shapiq", "to_dataframe", "to_shapiq"]


def to_shapiq(
    values: Mapping[tuple[int, ...], float],
    *,
    index: str,
    n: int,
    max_order: int,
    min_order: int,
    baseline: float,
    estimated: bool,
    budget: int | None,
) -> Any:
    """Returns these sets and values, in their order, as `shapiq.InteractionValues`.

    Raises:
      ImportError: shapiq is not installed.
      ValueError: shapiq does not know the index.
    """
    empty = _shared(index).empty
    try:
        from shapiq import InteractionValues
    except ImportError as error:
        raise ImportError("to_shapiq needs the package shapiq: pip install 'spex-jax[shapiq]'") from error
    made = InteractionValues(
        values=dict(values),
        index=index,
        max_order=max_order,
        min_order=min_order,
        n_players=n,
        estimated=estimated,
        estimation_budget=budget,
        baseline_value=baseline,
    )
    made.interactions = dict(values)  # the constructor has put the baseline at the empty set
    if empty is EmptySet.FORMULA:  # at order 1 shapiq renames it SV or BV, whose empty set has another value
        made.index = index
    return made


def from_shapiq(values: Any) -> dict[str, Any]:
    """Returns the arguments of `Interactions` from `shapiq.InteractionValues`, whose sets may be in any order.

    Returns:
      The arguments members, values, index, n, max_order, min_order, baseline, estimated and budget.

    Raises:
      ValueError: not InteractionValues, an index that the two packages do not share, sets that occur twice or hold
        others than the n players, or values that are not finite.
    """
    try:
        index, n, lookup, numbers = values.index, values.n_players, values.interaction_lookup, values.values
        orders = int(values.max_order), int(values.min_order)
        baseline = float(values.baseline_value)
        budget = getattr(values, "estimation_budget", None)
        found = {_members(key, n): float(numbers[position]) for key, position in lookup.items()}
    except (AttributeError, TypeError, IndexError, KeyError) as error:
        raise ValueError(f"expected shapiq.InteractionValues, got {type(values).__name__}: {error}") from error
    index = _shared(index).name
    if len(found) != len(lookup):
        raise ValueError("a set occurs twice, in two orders of its players; give each once")
    wrong = [repr(key) for key, value in found.items() if not math.isfinite(value)]
    if wrong or not math.isfinite(baseline):
        where = wrong[0] if wrong else "baseline_value"
        raise ValueError(f"{len(wrong) or 1} values are not finite, the first at {where}; leave them out or fix them")
    members = sorted(found, key=lambda key: (len(key), key))
    return {
        "members": members,
        "values": [found[key] for key in members],
        "index": index,
        "n": n,
        "max_order": orders[0],
        "min_order": orders[1],
        "baseline": baseline,
        "estimated": bool(getattr(values, "estimated", True)),
        "budget": None if budget is None else int(budget),
    }


def _shared(name: str) -> Index:
    """Returns the index of this name; raises ValueError where shapiq does not share it."""
    if not (index := find_index(name)).in_shapiq:
        raise ValueError(f"the index {name!r} of spex_jax is not an index of shapiq")
    return index


def from_json(path: str | os.PathLike[str], allowance: Allowance) -> dict[str, Any]:
    """Reads a file written by `Interactions.save`.

    Returns:
      The arguments of `Interactions`.

    Raises:
      ValueError: the file is not of this form; see `spex_jax.utils.untrusted_files.refusing` for other errors.
    """
    content = Record(read_json(path, allowance))
    members = content.take("members")
    if not isinstance(members, list) or set(map(type, members)) - {list}:
        raise ValueError("'members' must be a list of lists")
    count = len(members)
    allowance.take(24 * sum(map(len, members)), "its sets")
    if set(map(type, itertools.chain.from_iterable(members))) - {int}:
        raise ValueError("'members' must hold feature numbers")
    for position, key in enumerate(members):  # in place, so that memory never holds all of them twice
        members[position] = tuple(key)
    found = {
        "members": members,
        "values": content.reals("values", count),
        "index": content.text("index", INDICES),
        "n": (n := content.whole("n", 1)),
        "max_order": content.whole("max_order", 0),
        "names": content.texts("names", n),
        "std_errors": None if content.null("std_errors") else content.reals("std_errors", count),
        # Older files lack these.
        "min_order": content.whole("min_order", default=None),
        "baseline": content.real("baseline", default=None),
        "estimated": content.flag("estimated", default=True),
        "budget": content.whole("budget", default=None),
    }
    content.end()
    return found


def _members(key: Any, n: int) -> tuple[int, ...]:
    if any(isinstance(feature, bool | np.bool_) for feature in key):
        raise ValueError(f"{key!r} is not a set of players; it holds a bool, expected numbers from 0 to {n - 1}")
    members = tuple(sorted(map(operator.index, key)))
    if len(set(members)) != len(members) or (members and not 0 <= members[0] <= members[-1] < n):
        raise ValueError(f"{key!r} is not a set of players; expected distinct numbers from 0 to {n - 1}")
    return members


def to_dataframe(
    sets: Sequence[tuple[int, ...]], labels: Sequence[str], values: np.ndarray, errors: np.ndarray | None
) -> Any:
    """Returns a `pandas.DataFrame` with a row for each set: set, features, order, value and, where known, std_error.

    Args:
      sets: T tuples.
      labels: T texts.
      values: float64 [T].
      errors: float64 [T] or None.

    Raises:
      ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_dataframe needs the package pandas: pip install 'spex-jax[pandas]'") from error
    columns = {
        "set": pandas.Series(sets, dtype=object),
        "features": pandas.Series(labels, dtype=str),
        "order": pandas.Series([len(key) for key in sets], dtype=np.int64),
        "value": values,
    }
    return pandas.DataFrame(columns if errors is None else {**columns, "std_error": errors})
