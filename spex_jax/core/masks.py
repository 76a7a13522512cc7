"""Masks and their values: checking, drawing, packing, deduplication and scaling. A mask is a row of a bool [M, n]
array; True keeps the feature.
"""

import itertools
import math
import numbers
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

__all__ = [
    "MUST_BE_FINITE",
    "all_masks",
    "check_masks",
    "check_names",
    "check_not_traced",
    "check_positive",
    "check_reals",
    "check_sets",
    "check_unicode",
    "check_values",
    "check_whole",
    "deduplicate",
    "describe_nonfinite",
    "finite_rows",
    "group_sets",
    "hashes",
    "not_among",
    "number_of_sets",
    "pack",
    "pad_features",
    "sets_up_to",
    "standardise",
    "uniform",
    "unpack",
]

MUST_BE_FINITE = "; the value function must be finite at every mask"
_LARGEST = 1e303  # a hundred thousandth of the largest float64, so that sums and differences stay finite
_DRAWN = 1024  # masks in a block; whole blocks are drawn whatever the count
_HASHED = 2**22  # bytes of packed masks that are hashed or compared at a time


def _concrete(name: str, given: Any) -> Any:
    if isinstance(given, jax.core.Tracer):
        raise ValueError(
            f"{name} are traced by jit, vmap or grad; give arrays: fitting and decoding run on the host, so call them "
            "outside of functions that JAX traces"
        )
    return given


def check_masks(masks: Any, n: int | None = None) -> np.ndarray:
    """Returns masks as a numpy bool [M, n] array.

    Args:
      masks: bool [M, n], or integers that are all 0 or 1; numpy, JAX or nested lists.
      n: the number of features expected; None takes it from the masks.

    Raises:
      ValueError: the number of axes or n is wrong, or entries are neither bool nor 0/1 integers.
    """
    array = np.asarray(_concrete("masks", masks))
    expected = f"[M, {'n' if n is None else n}]"
    if array.ndim != 2:
        raise ValueError(f"masks must have shape {expected}, got {array.shape}; one mask alone is masks[None]")
    if n is not None and array.shape[1] != n:
        raise ValueError(
            f"masks must have shape {expected}, got {array.shape}; one column for each of the {n} features"
        )
    if array.shape[1] == 0:
        raise ValueError(f"masks must have at least one feature, got shape {array.shape}")
    if array.dtype != np.bool_:
        if not np.issubdtype(array.dtype, np.integer) or not np.isin(array, (0, 1)).all():
            raise ValueError(
                f"masks must be bool (True = kept), got dtype {array.dtype}; convert with masks.astype(bool)"
            )
        array = array.astype(np.bool_)
    return array


def check_values(values: Any, masks: np.ndarray, outputs: tuple[int, ...] = (), *, finite: bool = True) -> np.ndarray:
    """Returns values as a numpy float64 [M, *outputs] array.

    Args:
      values: [M, *outputs] real numbers.
      masks: bool [M, n], the masks of these values, named in the error.
      outputs: the shape of one value.
      finite: whether all values must be finite.

    Raises:
      ValueError: the shape is wrong, or values are not real numbers, too large, or NaN or infinite.
    """
    array = np.asarray(_concrete("values", values))
    expected = (len(masks), *outputs)
    if array.shape != expected:
        raise ValueError(
            f"values must have shape {expected}, one of shape {outputs} for each of the {len(masks)} masks, "
            f"got {array.shape}"
        )
    array = check_reals("values", array)
    if (np.abs(array[np.isfinite(array)]) > _LARGEST).any():
        raise ValueError(
            f"values must be at most {_LARGEST:g}, or their sums overflow; the largest is {np.abs(array).max():.4g}: "
            "scale them down first"
        )
    if finite and not finite_rows(array).all():
        raise ValueError(describe_nonfinite(array, masks) + MUST_BE_FINITE)
    return array


def check_reals(name: str, given: Any) -> np.ndarray:
    """Returns real numbers as a numpy float64 array of the same shape, a copy.

    Args:
      name: the name of the numbers in the error.
      given: bools, integers or floats; numpy, JAX or nested lists.

    Raises:
      ValueError: the numbers are complex, strings or objects.
    """
    array = np.asarray(given)
    if array.dtype.kind not in "biuf" and "float" not in array.dtype.name:  # bfloat16 has a kind of its own
        advice = "; take the real part or the magnitude first" if array.dtype.kind == "c" else ""
        raise ValueError(f"{name} must be real numbers, got dtype {array.dtype}{advice}")
    with np.errstate(over="ignore"):  # wider floats may overflow to infinity
        return array.astype(np.float64)


def finite_rows(values: np.ndarray) -> np.ndarray:
    """Returns which values float64 [M, *outputs] are finite in all outputs, bool [M]."""
    return np.asarray(np.isfinite(values.reshape(len(values), math.prod(values.shape[1:]))).all(axis=1))


def describe_nonfinite(values: np.ndarray, masks: np.ndarray, rows: np.ndarray | None = None) -> str:
    """Returns a text: how many values [M, *outputs] are not finite, and the first of them with its mask.

    Args:
      values: float64 [M, *outputs].
      masks: bool [M, n].
      rows: int [M], the numbers of the masks in the text; None counts from 0.
    """
    bad = np.flatnonzero(~finite_rows(values))
    row, removed = bad[0] if rows is None else rows[bad[0]], np.flatnonzero(~masks[bad[0]])
    shown = ", ".join(map(str, removed[:20])) + (", ..." if len(removed) > 20 else "")
    return (
        f"{len(bad)} of {len(masks)} values are not finite; the first is {values[bad[0]]} at mask {row}, "
        f"which removes {len(removed)} of {masks.shape[1]} features ({shown or 'none'})"
    )


def check_not_traced(caller: str) -> None:
    """Raises ValueError inside `jax.jit` or another transformation that stages out every operation."""
    with jax.transfer_guard("allow"):
        staged = isinstance(jax.numpy.zeros(()), jax.core.Tracer)
    if staged:
        raise ValueError(
            f"{caller} works on the host, which cannot be traced; call it outside of jax.jit, and not "
            "within a function traced by scan or another transformation"
        )


def check_unicode(text: str, what: str) -> str:
    """Returns a text unchanged.

    Raises:
      ValueError: the text has a lone surrogate, half of a character, which no file can hold and no tokenizer reads.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} has a lone surrogate, {text[error.start]!r} at character {error.start}, which is half of a "
            "character; fix it where the text is decoded, or with "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from None
    return text


def check_names(names: Sequence[str] | None, n: int) -> tuple[str, ...]:
    """Returns one name per feature; numbers where no names are given.

    Raises:
      ValueError: the number of names is not n, or a name has a lone surrogate.
    """
    if names is None:
        return tuple(map(str, range(n)))
    given = (names,) if isinstance(names, str) else tuple(map(str, names))
    if isinstance(names, str) or len(given) != n:
        raise ValueError(f"names must be {n} strings, one for each feature, got {len(given)}: {given!r:.80}")
    return tuple(check_unicode(name, f"name {number}") for number, name in enumerate(given))


def check_whole(name: str, given: Any, least: int, most: int | None = None) -> None:
    """Raises ValueError where `given` is not a whole number from least to most."""
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if not whole or given < least or (most is not None and given > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {bounds}, got {given!r}")


def check_positive(name: str, given: Any, most: float = math.inf) -> None:
    """Raises ValueError where `given` is not a finite number above 0 and at most `most`."""
    number = isinstance(given, numbers.Real) and not isinstance(given, bool)
    if not number or not (0 < given <= most and math.isfinite(given)):
        bounds = "" if most == math.inf else f" of at most {most:g}"
        raise ValueError(f"{name} must be a positive finite number{bounds}, got {given!r}")


def check_sets(members: Sequence[tuple[int, ...]], n: int) -> None:
    """Raises ValueError where `members` are not distinct, sorted tuples of distinct features below n."""
    sizes = np.fromiter(map(len, members), np.int64, len(members))
    try:
        features = np.fromiter(map(operator.index, itertools.chain.from_iterable(members)), np.int64, int(sizes.sum()))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"members must be tuples of feature numbers: {error}") from None
    ends = np.cumsum(sizes)
    for size in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero(sizes == size)
        sets = features[(ends[rows] - size)[:, None] + np.arange(size)]
        wrong = (sets[:, 0] < 0) | (sets[:, -1] >= n) | (np.diff(sets, axis=1) <= 0).any(axis=1)
        if wrong.any():
            first = members[int(rows[np.flatnonzero(wrong)[0]])]
            raise ValueError(f"members must be sorted, distinct features from 0 to {n - 1}, got {first!r:.80}")
        if len(group_sets(sets, n)[0]) < len(sets):
            raise ValueError(f"a set of {size} features is given twice; add up its values and give it once")
    if (sizes == 0).sum() > 1:
        raise ValueError("the empty set is given twice; add up its values and give it once")


def group_sets(members: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct rows of sorted members int [P, t], in lexicographic order, and the group of each row."""
    t = members.shape[1]
    if t == 0:
        return members[:1], np.zeros(len(members), np.int64)
    if n**t < 2**62:
        code = np.zeros(len(members), np.int64)
        for column in members.T:
            code = code * n + column
        _, first, group = np.unique(code, return_index=True, return_inverse=True)
        return members[first], group
    distinct, group = np.unique(members, axis=0, return_inverse=True)
    return distinct, group.ravel()


def standardise(values: np.ndarray) -> tuple[np.ndarray, float, float] | float:
    """Scales values float64 [N] to mean 0 and variance 1; returns them with their former mean and standard deviation,
    or the single value of a constant.
    """
    # Dividing by the largest value first keeps 1e-300 and 1e+300 away from under- and overflow in the variance.
    largest = float(np.abs(values).max())
    scaled = values / largest if largest > 0 else values
    mean = float(scaled.mean())
    deviation = float(scaled.std())
    if deviation <= 4e-15:  # rounding of a constant
        return float(values.mean()) if largest < 1e300 else mean * largest
    return (scaled - mean) / deviation, mean * largest, deviation * largest


def all_masks(n: int) -> np.ndarray:
    """Returns all masks of n features, bool [2^n, n]; row c keeps feature i where bit i of c is set."""
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.bool_)


def number_of_sets(n: int, degree: int) -> int:
    """Returns the number of sets of at most `degree` of n features, () included."""
    return sum(math.comb(n, size) for size in range(min(degree, n) + 1))


def sets_up_to(n: int, degree: int) -> np.ndarray:
    """Returns all sets of at most `degree` of n features by size, () first, bool [K, n]."""
    support = np.zeros((number_of_sets(n, degree), n), np.bool_)
    row = 1
    for size in range(1, min(degree, n) + 1):
        members = np.array(list(itertools.combinations(range(n), size)))
        support[np.arange(row, row + len(members))[:, None], members] = True
        row += len(members)
    return support


def pack(masks: np.ndarray) -> np.ndarray:
    """Packs masks bool [M, n] into uint8 [M, ceil(n / 8)] (np.packbits of each row)."""
    return np.packbits(masks, axis=1)


def unpack(packed: np.ndarray, n: int) -> np.ndarray:
    """Unpacks uint8 [M, ceil(n / 8)] into bool [M, n]; the inverse of `pack`."""
    return np.unpackbits(packed, axis=1, count=n).astype(np.bool_)


def hashes(packed: np.ndarray) -> np.ndarray:
    """Hashes packed masks uint8 [M, W] to uint64 [M]: different rows rarely have equal hashes, and never up to 8 bytes.

    Eight bytes at a time are multiplied by fixed odd numbers, mixed and added up.
    """
    width = -(-packed.shape[1] // 8)
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 2**63, (2, 1, width), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    found = np.empty(len(packed), np.uint64)
    for part in _parts(packed):
        padded = np.pad(packed[part], ((0, 0), (0, -packed.shape[1] % 8)))
        words = np.ascontiguousarray(padded).view(np.uint64)
        if width == 1:
            found[part] = words[:, 0]
        else:
            mixed = words * factors[0]
            found[part] = ((mixed ^ (mixed >> np.uint64(29))) * factors[1]).sum(axis=1, dtype=np.uint64)
    return found


def _parts(packed: np.ndarray) -> Iterator[slice]:
    """Returns slices of the rows of packed masks, a few megabytes each."""
    step = max(1, _HASHED // max(1, packed.shape[1]))
    return (slice(start, start + step) for start in range(0, len(packed), step))


def deduplicate(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the distinct masks, in the order in which they first appear, and the place of each mask among them.

    Args:
      masks: bool [M, n].

    Returns:
      first: int [D], the rows of `masks` at which each distinct mask first appears.
      inverse: int [M], so that masks[first][inverse] equals masks.
    """
    packed = pack(masks)
    keys = hashes(packed)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    if any((packed[first[inverse[part]]] != packed[part]).any() for part in _parts(packed)):  # two masks with one hash
        _, first, inverse = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        inverse = inverse.reshape(-1)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.sort(first), rank[inverse]


def not_among(masks: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Returns the distinct masks bool [K, n] of [M, n] that are not among those given [G, n], in the order in which
    they first appear.
    """
    both = np.concatenate([given, masks])
    first = deduplicate(both)[0]
    return np.asarray(both[first[first >= len(given)]])


def uniform(n: int, count: int, rng: np.random.Generator, *, given: np.ndarray | None = None) -> np.ndarray:
    """Draws distinct masks, uniform over {0,1}^n: each feature is kept with probability 1/2.

    A larger count returns the same masks and further ones, so that a larger budget includes all masks of a smaller one.

    Args:
      n: number of features.
      count: number of masks to return.
      rng: numpy generator.
      given: bool [G, n], distinct masks that come first and count towards `count`.

    Returns:
      bool [count, n].

    Raises:
      ValueError: fewer than `count` distinct masks exist, or more than `count` are given.
    """
    masks = np.zeros((0, n), np.bool_) if given is None else given
    if len(masks) > count or (n < 63 and count > 2**n):
        raise ValueError(f"cannot draw {count} distinct masks of {n} features with {len(masks)} given; there are 2^{n}")
    if n <= 20:  # few enough to put all masks in a random order
        weight = 1 << np.arange(n)
        order = rng.permutation(2**n)
        free = order[~np.isin(order, masks @ weight)]
        return np.concatenate([masks, (free[: count - len(masks), None] & weight) > 0])
    while len(masks) < count:
        blocks = -(-(count - len(masks)) // _DRAWN)
        drawn = rng.integers(0, 2, (blocks * _DRAWN, n), dtype=np.uint8).astype(np.bool_)
        masks = np.concatenate([masks, drawn])
        first = deduplicate(masks)[0]
        masks = masks if len(first) == len(masks) else masks[first]
    return masks[:count]


def pad_features(masks: np.ndarray, width: int) -> np.ndarray:
    """Pads masks bool [M, n] with columns of True up to `width`."""
    return np.pad(masks, ((0, 0), (0, width - masks.shape[1])), constant_values=True)
