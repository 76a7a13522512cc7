"""Groups of training examples, which keep the number of units in the hundreds when a data set has millions.

A group is kept or left out of a training as a whole. `by_class`, `by_source`, `by_cluster` and `in_blocks` make them;
`refine` divides those that matter, so that a data set of any size is searched from the top.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax.core.masks import check_whole

__all__ = ["Groups", "by_class", "by_cluster", "by_source", "in_blocks", "refine"]

_SHOWN = 5  # examples that a message names, at most


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Holds a division of N examples into n groups.

    Attributes:
      labels: int32 [N], the group of each example; -1 where it is always kept.
      names: n names.
    """

    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        """The number of groups."""
        return len(self.names)

    @property
    def sizes(self) -> np.ndarray:
        """The number of examples of each group, int64 [n]."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self))

    def means(self, name: str, given: Any) -> np.ndarray:
        """Returns the mean of rows [N, d] over each group, float64 [n, d]; `name` says what they are in errors.

        Raises:
          ValueError: the rows are not finite numbers, or not one for each example.
        """
        rows = np.asarray(given)
        if rows.ndim != 2 or len(rows) != len(self.labels) or rows.dtype.kind not in "biuf":
            raise ValueError(
                f"{name} must be numbers of shape ({len(self.labels)}, d), one row for each example, got {rows.dtype} "
                f"{rows.shape}"
            )
        if not np.isfinite(rows).all():
            raise ValueError(f"{name} must be finite, got {rows[~np.isfinite(rows)][0]}")
        inside = self.labels >= 0
        total = np.zeros((len(self), rows.shape[1]))
        np.add.at(total, self.labels[inside], rows[inside].astype(np.float64))
        return np.asarray(total / np.maximum(self.sizes, 1)[:, None])

    def members(self, group: int) -> np.ndarray:
        """Returns the numbers of the examples of a group, int64, ascending."""
        return np.flatnonzero(self.labels == group)


def as_groups(given: Any, examples: int) -> Groups:
    """Returns `Groups` for groups of any form.

    Args:
      given: None (every example is a unit), `Groups`, one label for each example (numbers below 0: always kept; or
        strings), or a mapping from names to numbers of examples.
      examples: N.

    Raises:
      ValueError: the number of examples differs, or groups overlap, miss examples or are empty.
    """
    if given is None:
        return Groups(np.arange(examples, dtype=np.int32), tuple(map(str, range(examples))))
    if isinstance(given, Mapping):
        return _of_mapping(given, examples)
    found = check_groups(given) if isinstance(given, Groups) else by_source(given)
    if found.labels.shape != (examples,):
        raise ValueError(
            f"groups must have one label for each of the {examples} training examples, got {found.labels.shape}"
        )
    return found


def check_groups(given: Any) -> Groups:
    """Returns groups made by hand, checked.

    Raises:
      ValueError: they are not `Groups`, labels are not whole numbers from -1 to n - 1, or a group has no examples.
    """
    if not isinstance(given, Groups):
        raise ValueError(f"expected Groups, as lenses.groups makes them, got {type(given).__name__}")
    labels, n = np.asarray(given.labels), len(given.names)
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels of Groups must be whole numbers [N], got {labels.dtype} {labels.shape}")
    if labels.min() < -1 or labels.max() >= n:
        raise ValueError(
            f"labels of Groups must be from -1 (always kept) to {n - 1}, the last of {n} names; got {labels.min()} to "
            f"{labels.max()}"
        )
    checked = Groups(labels.astype(np.int32), tuple(map(str, given.names)))
    if not checked.sizes.all():
        raise ValueError(f"group {checked.names[int(np.argmin(checked.sizes))]!r} has no examples; leave its name out")
    return checked


def _of_mapping(given: Mapping[Any, Any], examples: int) -> Groups:
    labels = np.full(examples, -1, np.int32)
    for number, (name, members) in enumerate(given.items()):
        members = np.asarray(members)
        if members.ndim != 1 or not len(members) or not np.issubdtype(members.dtype, np.integer):
            raise ValueError(f"group {name!r} must be a non-empty list of example numbers, got {members!r}")
        if members.min() < 0 or members.max() >= examples:
            raise ValueError(
                f"group {name!r} has examples from {members.min()} to {members.max()}; there are 0 to {examples - 1}"
            )
        twice = members[labels[members] >= 0]
        if len(twice) or len(np.unique(members)) < len(members):
            shown = ", ".join(map(str, twice[:_SHOWN]))
            shown = f"{shown}, in an earlier group too" if shown else "one of its examples twice"
            raise ValueError(f"groups must not overlap: group {name!r} holds {shown}; give each example once")
        labels[members] = number
    missed = np.flatnonzero(labels < 0)
    if len(missed):
        raise ValueError(
            f"groups miss {len(missed)} of {examples} examples ({', '.join(map(str, missed[:_SHOWN]))}, ...): add them "
            "as a group, or give an array of labels, in which -1 means always kept"
        )
    names = tuple(map(str, given))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"groups must have different names, at least one, got {', '.join(names) or 'none'}")
    return Groups(labels, names)


def by_source(sources: Any) -> Groups:
    """Makes groups from one label for each example, such as a file, a site or a user.

    Args:
      sources: [N] whole numbers (below 0: always kept) or strings; groups are in the order of the sorted labels.

    Raises:
      ValueError: there are no labels, or they are of another kind.
    """
    try:
        array = np.asarray(sources)
    except ValueError as error:
        raise ValueError("groups must be one label for each example, or a mapping from names to examples") from error
    mixed = array.dtype.kind in "US" and any(
        not isinstance(label, str | bytes | np.str_ | np.bytes_) for label in sources
    )
    if mixed:
        raise ValueError("labels must be all whole numbers or all strings, got both")
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iuUSb":
        raise ValueError(f"labels must be [N] whole numbers or strings, got {array.dtype} {array.shape}")
    free = np.ones(len(array), np.bool_) if array.dtype.kind in "USb" else array >= 0
    if not free.any():
        raise ValueError("all labels are below 0, so that every example is always kept and there is no unit")
    found, numbers = np.unique(array[free], return_inverse=True)
    labels = np.full(len(array), -1, np.int32)
    labels[free] = numbers
    return Groups(labels, tuple(map(str, found)))


def by_class(y: Any, names: Sequence[str] | None = None) -> Groups:
    """Makes one group for each class that occurs.

    Args:
      y: [N] class numbers.
      names: the names of all classes; None takes the numbers.

    Raises:
      ValueError: the classes are not whole numbers, or one has no name.
    """
    classes = np.asarray(y)
    if classes.ndim != 1 or not len(classes):
        raise ValueError(f"classes must be [N] whole numbers, at least one, got shape {classes.shape}")
    if classes.dtype.kind not in "iu" or (classes.size and classes.min() < 0):
        raise ValueError(f"classes must be whole numbers from 0 on, got {classes.dtype}")
    if names is not None and classes.size and classes.max() >= len(names):
        raise ValueError(f"{len(names)} names for classes up to {classes.max()}; give one for each class")
    groups = by_source(classes)
    return groups if names is None else Groups(groups.labels, tuple(names[int(name)] for name in groups.names))


def in_blocks(examples: int, count: int, *, seed: int = 0) -> Groups:
    """Makes random blocks whose sizes differ by one at most.

    Args:
      examples: N.
      count: the number of blocks.
      seed: the seed of the division.

    Raises:
      ValueError: there is less than one block, or there are more blocks than examples.
    """
    check_whole("examples", examples, 1)
    check_whole("count", count, 1, examples)
    check_whole("seed", seed, 0)
    labels = np.random.default_rng(seed).permutation(examples) * count // examples
    return Groups(labels.astype(np.int32), tuple(f"block {number}" for number in range(count)))


def by_cluster(features: Any, count: int, *, within: Any = None, seed: int = 0) -> Groups:
    """Clusters similar examples by k-means (scipy's, started by k-means++).

    Args:
      features: float [N, ...]: what makes examples similar, an embedding or the inputs themselves.
      count: the number of clusters; with `within`, of each class.
      within: [N] labels, such as classes, that clusters must not cross; None for none.
      seed: the seed of the start.

    Returns:
      At most as many groups: clusters that end up empty are left out.

    Raises:
      ValueError: features are not finite, or there are more clusters than examples.
    """
    points = _points(features)
    classes = Groups(np.zeros(len(points), np.int32), ("",)) if within is None else as_groups(within, len(points))
    check_whole("seed", seed, 0)
    check_whole("count", count, 1)
    if count > classes.sizes.min():
        least = int(np.argmin(classes.sizes))
        whose = "there are examples" if within is None else f"class {classes.names[least]!r} has examples"
        raise ValueError(f"count must be at most {classes.sizes[least]}, as many as {whose}, got {count}")
    labels = np.full(len(points), -1, np.int32)
    names: list[str] = []
    for number, name in enumerate(classes.names):
        members = classes.members(number)
        for index, part in enumerate(_parts(points[members], count, seed)):
            labels[members[part]] = len(names)
            names.append(f"cluster {index}" if within is None else f"{name}, cluster {index}")
    return Groups(labels, tuple(names))


def _points(features: Any) -> np.ndarray:
    """Returns features as float64 [N, d]."""
    points = np.asarray(features)
    if points.ndim < 1 or not len(points) or points.dtype.kind not in "fiub" or not np.isfinite(points).all():
        raise ValueError(f"features must be finite numbers [N, ...], got {points.dtype} {points.shape}")
    return points.astype(np.float64).reshape(len(points), -1)


def _parts(points: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Returns the numbers of the points of each cluster that is not empty, the largest first."""
    from scipy.cluster import vq

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of an empty cluster, or points that are all the same
        _, found = vq.kmeans2(points, count, minit="++", rng=np.random.default_rng(seed))
    parts = [np.flatnonzero(found == cluster) for cluster in range(count)]
    return sorted((part for part in parts if len(part)), key=lambda part: (-len(part), part[0]))


def refine(
    groups: Groups, which: Sequence[int], *, parts: int = 8, features: Any = None, others: str = "whole", seed: int = 0
) -> Groups:
    """Divides some groups further: the next level of a search from the top.

    A data set of N examples in K groups is searched in levels: explain, `refine` the t groups (or the groups of the t
    interactions) that matter, explain again. A level has t (parts - 1) units more than the one before with
    others="whole", and t * parts in all with "kept", whatever N is; log(N / K) / log(parts) levels reach single
    examples: with K = 100, t = 8 and parts = 8, ten thousand million examples take 9 levels of 64 units and some 3,000
    trainings each. It misses a group whose own effect and pairs are small because its parts cancel.

    Args:
      groups: the groups that were explained.
      which: the numbers of the groups to divide.
      parts: the number of parts of each of them, or as many as it has examples.
      features: float [N, ...] for parts by k-means; None divides at random.
      others: "whole": the other groups stay units as they are; "kept": they are always kept.
      seed: the seed of the division.

    Returns:
      The new groups: the others first, then the parts, named "name / 0", "name / 1".

    Raises:
      ValueError: groups are missing or unknown, an option is unknown, or features have another length.
    """
    groups, numbers = check_groups(groups), np.asarray(which)
    chosen = numbers.tolist() if numbers.ndim == 1 and numbers.dtype.kind in "iu" else []
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(len(groups))):
        raise ValueError(f"which must be different numbers of groups from 0 to {len(groups) - 1}, got {which!r}")
    check_whole("parts", parts, 2)
    if others not in ("whole", "kept"):
        raise ValueError(f"unknown others {others!r}; expected 'whole' or 'kept'")
    points = None if features is None else _points(features)
    check_whole("seed", seed, 0)
    if points is not None and len(points) != len(groups.labels):
        raise ValueError(f"features must have a row for each of the {len(groups.labels)} examples, got {len(points)}")
    labels = np.full(len(groups.labels), -1, np.int32)
    names: list[str] = []
    for number, name in enumerate(groups.names):
        if number not in chosen and others == "whole":
            labels[groups.labels == number] = len(names)
            names.append(name)
    rng = np.random.default_rng(seed)
    for number in chosen:
        members = groups.members(number)
        count = min(parts, len(members))
        if points is None:
            divided = [np.sort(part) for part in np.array_split(rng.permutation(len(members)), count)]
        else:
            divided = _parts(points[members], count, seed)
        for index, part in enumerate(divided):
            labels[members[part]] = len(names)
            names.append(f"{groups.names[number]} / {index}")
    return Groups(labels, tuple(names))
