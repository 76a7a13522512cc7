"""Interaction indices of a sparse Walsh spectrum, without a table over all subsets.

An index is I(T) = sum_{R superset T} gain(|R|, |T|) F(R), with the exact gains of `spex_jax.core.indices`: one pass
over the subsets of the terms of the spectrum.
"""

import functools
import json
import math
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from spex_jax.core import export
from spex_jax.core import masks as masks_lib
from spex_jax.core.indices import EmptySet, Index, find_index
from spex_jax.utils.atomic_write import replacing
from spex_jax.utils.untrusted_files import Allowance, refusing

__all__ = ["Interactions", "convert"]

_LABEL_WIDTH = 60  # most characters of a label in the table


class Interactions(Mapping[tuple[int, ...], float]):
    """Interaction values of one index: a read-only mapping from sorted tuples of features to floats.

    A lookup accepts the features of a set in any order and returns 0.0 for a set that is not stored; iteration, `len`
    and `in` see the stored sets only.

    Attributes:
      index: the name of the index, a key of `spex_jax.core.indices.INDICES`.
      n: number of features.
      max_order: largest size of a set.
      min_order: smallest size of a set.
      names: one name per feature.
      baseline: the value of the empty mask, f(none), or None where unknown.
      estimated: whether the values are estimates; True where unknown.
      budget: the number of ablations behind the estimates, or None where unknown.
    """

    def __init__(  # noqa: PLR0913
        self,
        members: Sequence[tuple[int, ...]],
        values: np.ndarray,
        *,
        n: int,
        index: str | Index,
        max_order: int,
        names: Sequence[str] | None = None,
        std_errors: np.ndarray | None = None,
        min_order: int | None = None,
        baseline: float | None = None,
        estimated: bool = True,
        budget: int | None = None,
    ):
        """Stores distinct sorted tuples `members`, their `values` [T] and, where known, `std_errors` [T]; min_order
        None means the size of the smallest set. Raises ValueError where an argument is not of that form.
        """
        masks_lib.check_whole("n", n, 1)
        masks_lib.check_whole("max_order", max_order, 0)
        self.index, self.n, self.max_order = find_index(index).name, int(n), int(max_order)
        self.names = masks_lib.check_names(names, self.n)
        self._members = list(members)
        masks_lib.check_sets(self._members, self.n)
        if min_order is not None:
            masks_lib.check_whole("min_order", min_order, 0)
        self.min_order = min(map(len, self._members), default=0) if min_order is None else int(min_order)
        self.baseline, self.estimated, self.budget = baseline, estimated, budget
        self._values = masks_lib.check_reals("values", values)
        self._errors = None if std_errors is None else masks_lib.check_reals("std_errors", std_errors)
        for name, array in (("values", self._values), ("std_errors", self._errors)):
            if array is not None and array.shape != (len(self._members),):
                raise ValueError(f"{name} must be {len(self._members)} numbers, one for each set, got {array.shape}")

    @functools.cached_property
    def _position(self) -> dict[tuple[int, ...], int]:
        return {key: position for position, key in enumerate(self._members)}

    def _key(self, key: Any) -> tuple[int, ...]:
        try:
            members = (key,) if isinstance(key, int | np.integer) else tuple(key)
            if any(isinstance(feature, bool) for feature in members):  # operator.index refuses only numpy's bools
                raise TypeError
            ordered = tuple(sorted(map(operator.index, members)))
        except (TypeError, ValueError):
            raise KeyError(
                f"{key!r} is not a set of features; give a tuple of numbers from 0 to {self.n - 1}"
            ) from None
        if len(set(ordered)) != len(ordered) or (ordered and not 0 <= ordered[0] <= ordered[-1] < self.n):
            raise KeyError(f"{key!r} is not a set of features; give distinct numbers from 0 to {self.n - 1}")
        return ordered

    def __getitem__(self, key: Any) -> float:
        """Returns the value of a set of features, given in any order; 0.0 where it is not stored."""
        position = self._position.get(self._key(key))
        return 0.0 if position is None else float(self._values[position])

    def __contains__(self, key: Any) -> bool:
        """Returns whether the set is stored."""
        try:
            return self._key(key) in self._position
        except KeyError:
            return False

    def get(self, key: Any, default: Any = None) -> Any:
        """Returns the stored value of a set, or `default`."""
        position = self._position.get(self._key(key)) if key in self else None
        return default if position is None else float(self._values[position])

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Iterates over the stored sets, by size and then in order."""
        return iter(self._members)

    def __len__(self) -> int:
        """Returns the number of stored sets."""
        return len(self._members)

    def __eq__(self, other: object) -> bool:
        """Returns whether two have the same index, n, max_order and values."""
        if not isinstance(other, Interactions):
            return NotImplemented
        same_kind = (self.index, self.n, self.max_order) == (other.index, other.n, other.max_order)
        return same_kind and dict(self) == dict(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def std_errors(self) -> "Interactions | None":
        """Standard errors as a mapping like this one, or None where the spectrum has no variances."""
        if self._errors is None:
            return None
        return self._replace(np.ones(len(self), np.bool_), self._errors, None, min_order=self.min_order, baseline=None)

    @property
    def _attributes(self) -> dict[str, Any]:
        names = ("index", "n", "max_order", "min_order", "names", "baseline", "estimated", "budget")
        return {name: getattr(self, name) for name in names}

    def _replace(
        self, keep: np.ndarray, values: np.ndarray, errors: np.ndarray | None, **attributes: Any
    ) -> "Interactions":
        return Interactions(
            [key for key, kept in zip(self._members, keep, strict=True) if kept],
            values[keep],
            std_errors=None if errors is None else errors[keep],
            **{**self._attributes, **attributes},
        )

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        return np.fromiter(map(len, self._members), np.int64, len(self._members))

    def order(self, order: int) -> "Interactions":
        """Returns the interactions of sets of exactly this size."""
        return self._replace(self._sizes == order, self._values, self._errors, min_order=None)

    def across(self, sizes: Sequence[int]) -> "Interactions":
        """Returns the interactions of sets with members in more than one part, where parts of `sizes` hold the features
        in turn (`details.lens_sizes` of a joint lens); raises ValueError where `sizes` do not add up to n.
        """
        given = np.asarray(sizes)
        if given.ndim != 1 or given.dtype.kind not in "iu" or (given < 0).any() or given.sum() != self.n:
            raise ValueError(f"sizes must be whole numbers that add up to the {self.n} features, got {sizes!r}")
        part = np.repeat(np.arange(len(given)), given)
        several = np.array([len(set(part[list(key)])) > 1 for key in self._members], np.bool_)
        return self._replace(several, self._values, self._errors, min_order=None)

    def top(self, k: int = 10, order: int | None = None) -> list[tuple[tuple[int, ...], float]]:
        """Returns the k largest by absolute value, without (), ties in the order of the sets.

        Args:
          k: the number of sets; fewer are returned where fewer are stored. Zeros are left out.
          order: only sets of this size; None for all sizes.
        """
        masks_lib.check_whole("k", k, 0)
        wanted = (self._sizes > 0 if order is None else self._sizes == order) & (self._values != 0)
        chosen = np.flatnonzero(wanted)
        ranked = chosen[np.argsort(-np.abs(self._values[chosen]), kind="stable")][:k]
        return [(self._members[position], float(self._values[position])) for position in ranked]

    def label(self, key: Any, width: int | None = None) -> str:
        """Joins the names of a set, as 'never + fails', in one line of at most `width` printable characters."""
        members = self._key(key)
        joined = " + ".join(self.names[feature] for feature in members) if members else "(none)"
        line = "".join(character if character.isprintable() else "\ufffd" for character in " ".join(joined.split()))
        return line if width is None or len(line) <= width else line[: width - 3] + "..."

    def table(self, top: int = 10) -> str:
        """Returns a ranked table of the `top` largest: rank, names, value, standard error where known, features."""
        errors, rows = self.std_errors, self.top(top)
        stored = int((self._sizes > 0).sum())
        lines = [f"{self.index}, sets of up to {self.max_order} of {self.n} features: {len(rows)} largest of {stored}"]
        if not rows:
            return "\n".join([*lines, "no interactions"])
        labels = [self.label(key, _LABEL_WIDTH) for key, _ in rows]
        width = max(map(len, labels))
        style = "+10.4f" if 1e-2 <= abs(rows[0][1]) < 1e5 else "+10.3e"
        for rank, (label, (key, value)) in enumerate(zip(labels, rows, strict=True), 1):
            error = "" if errors is None else f" +- {errors[key]:.2g}"
            lines.append(f"{rank:3}  {label:{width}}  {value:{style}}{error}  {key}")
        return "\n".join(lines)

    def __str__(self) -> str:
        """Returns the ranked table of the ten largest."""
        return self.table()

    def __repr__(self) -> str:
        """Shows the index, n, max_order and the number of stored sets."""
        return f"<Interactions {self.index} n={self.n} max_order={self.max_order} sets={len(self)}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON: members, values, standard errors and the attributes.

        Raises:
          ValueError: the folder does not exist, or a value is not finite, which JSON cannot express.
        """
        for name, array in (("values", self._values), ("std_errors", self._errors)):
            if array is not None and len(wrong := np.flatnonzero(~np.isfinite(array))):
                raise ValueError(f"{name} must be finite to be saved; that of {self._members[wrong[0]]} is not")
        content = {
            **self._attributes,
            "members": self._members,
            "values": self._values.tolist(),
            "std_errors": None if self._errors is None else self._errors.tolist(),
        }
        with replacing(path, "w") as file:
            json.dump(content, file)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_bytes: int | None = None) -> "Interactions":
        """Reads what `save` wrote.

        Args:
          path: path of the file.
          max_bytes: bytes of memory that reading may take; None allows 10 times the size of the file plus 50 MiB.

        Raises:
          ValueError: the file is not JSON of this form, or would take more memory.
        """
        with refusing(path, "a file of Interactions.save"):
            return cls(**export.from_json(path, Allowance([path], max_bytes)))

    def to_shapiq(self, *, estimated: bool | None = None, budget: int | None = None) -> Any:
        """Returns the same values, bit for bit, as `shapiq.InteractionValues`.

        shapiq names every index of order 1 that is the Shapley or the Banzhaf value SV or BV.

        Args:
          estimated, budget: for its `estimated` and `estimation_budget`; None takes the attributes.

        Raises:
          ImportError: shapiq is not installed.
          ValueError: shapiq does not know the index.
        """
        return export.to_shapiq(
            dict(self),
            index=self.index,
            n=self.n,
            max_order=self.max_order,
            min_order=self.min_order,
            baseline=self[()] if self.baseline is None else self.baseline,
            estimated=self.estimated if estimated is None else estimated,
            budget=self.budget if budget is None else budget,
        )

    @classmethod
    def from_shapiq(cls, values: Any, names: Sequence[str] | None = None) -> "Interactions":
        """Returns the values of `shapiq.InteractionValues`, bit for bit; both packages name the indices alike.

        Args:
          values: InteractionValues of an index of both packages, its sets in any order.
          names: n names of the features.

        Raises:
          ValueError: not InteractionValues, another index, values that are not finite, or the wrong number of names.
        """
        return cls(names=names, **export.from_shapiq(values))

    def to_dataframe(self) -> Any:
        """Returns a `pandas.DataFrame` of all stored sets, the largest by absolute value first and the empty set last.

        Its columns are set (tuple), features (their names, joined), order (size of the set), value, and std_error where
        the standard errors are known.

        Raises:
          ImportError: pandas is not installed.
        """
        ranked = np.lexsort((-np.abs(self._values), self._sizes == 0))
        sets = [self._members[position] for position in ranked]
        errors = None if self._errors is None else self._errors[ranked]
        return export.to_dataframe(sets, [self.label(key) for key in sets], self._values[ranked], errors)


def _subsets(support: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns all pairs of a row and a subset of it of size t: rows int [P], degrees int [P], members int [P, t]."""
    degrees = support.sum(axis=1)
    rows, sizes, members = [], [], []
    for degree in np.unique(degrees):
        if degree < t:
            continue
        chosen = np.flatnonzero(degrees == degree)
        features = np.nonzero(support[chosen])[1].reshape(len(chosen), degree)
        choice = np.array(list(combinations(range(degree), t)), np.int64).reshape(math.comb(degree, t), t)
        members.append(features[:, choice].reshape(len(chosen) * len(choice), t))
        rows.append(np.repeat(chosen, len(choice)))
        sizes.append(np.full(len(chosen) * len(choice), degree))
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, t), np.int64)
    return np.concatenate(rows), np.concatenate(sizes), np.concatenate(members)


def convert(
    support: np.ndarray,
    coefficients: np.ndarray,
    *,
    index: str | Index = "FSII",
    max_order: int = 2,
    names: Sequence[str] | None = None,
    variances: np.ndarray | None = None,
    covariance_factor: np.ndarray | None = None,
) -> Interactions:
    """Returns the interactions of the spectrum with these terms.

    Args:
      support: bool [K, n], distinct rows.
      coefficients: float [K].
      index: the name or the record of one of `spex_jax.core.indices.INDICES`.
      max_order: largest size of a set; k of k-SII, l of STII, FSII, FBII. SV and BV ignore it.
      names: n names of the features.
      variances: float [K] or None, the variances of the coefficients.
      covariance_factor: float [K, R] or None; see Spectrum.

    Raises:
      ValueError: an unknown index, a max_order below 1, or the wrong number of names.
    """
    n = support.shape[1]
    index = find_index(index)
    masks_lib.check_whole("max_order", max_order, 1)
    order = min(index.order(int(max_order)), n)
    degrees = support.sum(axis=1)
    keys: list[tuple[int, ...]] = []
    values, errors = [], []
    for t in range(order + 1):
        rows, sizes, members = _subsets(support, t)
        table = np.zeros(int(degrees.max(initial=0)) + 1)
        for degree in np.unique(sizes):
            table[degree] = float(index.gain(int(degree), t, order))
        gains = table[sizes]
        used = gains != 0
        rows, gains = rows[used], gains[used]
        distinct, group = masks_lib.group_sets(members[used], n)
        if t == 0 and not len(distinct):
            distinct = np.zeros((1, 0), np.int64)
        keys.extend(map(tuple, distinct.tolist()))
        values.append(np.bincount(group, gains * coefficients[rows], len(distinct)))
        if variances is not None:
            errors.append(_std_errors(rows, group, gains, len(distinct), variances, covariance_factor))
    return Interactions(
        keys,
        np.concatenate(values),
        n=n,
        index=index,
        max_order=order,
        names=names,
        std_errors=np.concatenate(errors) if errors else None,
        # Where the empty set holds f(none), the baseline is the same number, rounded alike.
        baseline=float(values[0][0]) if index.empty is EmptySet.VALUE else float(coefficients.sum()),
    )


def _std_errors(
    rows: np.ndarray,
    group: np.ndarray,
    gains: np.ndarray,
    groups: int,
    variances: np.ndarray,
    factor: np.ndarray | None,
) -> np.ndarray:
    """Returns the standard errors of the sums of gains * F over groups, where the covariance of F is
    diag(variances - sum(factor^2)) + factor factor^T.
    """
    own = variances if factor is None else variances - (factor**2).sum(axis=1)
    total = np.bincount(group, gains**2 * own[rows], groups)
    for column in () if factor is None else factor.T:
        total += np.bincount(group, gains * column[rows], groups) ** 2
    return np.sqrt(np.maximum(total, 0.0))
