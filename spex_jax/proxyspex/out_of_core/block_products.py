"""Passes over a table of masks that stays on disk: blocks of rows are unpacked on the device, multiplied and forgotten.

All results are for features of mean 0 and variance 1, u_i = (s_i - mean_i) / deviation_i, and products of them, since
those are uncorrelated whatever share of the masks keeps a feature (O'Donnell, Analysis of Boolean Functions, 2014,
section 8.4). The device multiplies plain signs; the effect of centring is added afterwards.

Columns of coefficients for several penalties or outputs share a pass: reading and unpacking take most of its time.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core.packed_masks import PackedMasks
from spex_jax.utils.precision import compiled

__all__ = [
    "Design",
    "Members",
    "Sums",
    "Terms",
    "characters",
    "correlations",
    "design",
    "extensions",
    "gradient",
    "gram",
    "on_device",
    "pairs",
    "predictions",
]

BLOCK_BYTES = 2**26  # of the float32 signs in a block
_MOST_ROWS = 8192
_COPIES = 4  # most copies of the terms on a block that exist at a time
_TILE = 2048  # features on a side of a block of pairs
_FAR = 5.0  # standard deviations from a share of a half beyond which features are centred
_TERM_BUCKETS = (1, 64, 256, 1024)

Members = tuple[int, ...]  # the features of a term


class Terms(NamedTuple):
    """Products of features on the device: each of K terms is prod_d (slope_d * s[place_d] + shift_d).

    Attributes:
      place: int32 [K, D], features.
      slope, shift: float32 [K, D]; 0 and 1 where a term has fewer members, 0 and 0 where there is no term.
    """

    place: jax.Array
    slope: jax.Array
    shift: jax.Array


Array = jax.Array | np.ndarray  # from the host into a program


class Sums(NamedTuple):
    """The sums of `gradient` over the blocks of rows, for L columns of coefficients and W row weights.

    Attributes:
      singles: float32 [n', L], X^T (w * r) of plain signs.
      terms: float32 [K, L], X^T (w * r) of terms.
      squares: float32 [W, L], weighted sums of squares of the residuals r.
    """

    singles: jax.Array
    terms: jax.Array
    squares: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """A table and its centring.

    Attributes:
      masks: the table, M rows.
      mean: float64 [n], means of the signs; all 0 where the masks are consistent with a share of a half.
      inverse: float64 [n], 1 / deviation of the signs; 0 for a feature that never changes.
    """

    masks: PackedMasks
    mean: np.ndarray
    inverse: np.ndarray

    @property
    def n(self) -> int:
        """The number of features."""
        return self.masks.n


def _block_rows(count: int, width: int) -> int:
    """Returns the rows in a block of signs of `width` columns: a power of two, no more than `count` rows need."""
    fitting = max(8, min(_MOST_ROWS, BLOCK_BYTES // (4 * width)))
    return min(1 << (fitting.bit_length() - 1), max(8, 1 << (count - 1).bit_length()))


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(array, ((0, rows - len(array)), (0, 0))) if len(array) < rows else np.ascontiguousarray(array)


def _blocks(design: Design, *columns: np.ndarray, terms: int) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Yields rows, with their bits and those rows of float arrays [M, L]; the last block is padded with zeros."""
    count = len(design.masks)
    size = _block_rows(count, max(design.n, _COPIES * terms))
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        parts = [design.masks.packed_rows(rows), *(column[rows].astype(np.float32, copy=False) for column in columns)]
        yield rows, [_padded(part, size) for part in parts]


def _signs(bits: Array) -> jax.Array:
    """Unpacks masks uint8 [m, W] into signs float32 [m, 8 W]."""
    spread = jnp.right_shift(bits[:, :, None], jnp.arange(7, -1, -1, dtype=jnp.uint8)) & 1
    return (1.0 - 2.0 * spread.astype(jnp.float32)).reshape(len(bits), -1)


def _columns(signs: jax.Array, terms: Terms) -> jax.Array:
    """Evaluates the terms on rows, float32 [m, K]."""
    found = jnp.ones((len(signs), terms.place.shape[0]))
    for d in range(terms.place.shape[1]):
        found = found * (signs[:, terms.place[:, d]] * terms.slope[:, d] + terms.shift[:, d])
    return found


def on_device(design: Design, terms: Sequence[Members]) -> Terms:
    """Puts terms on the device, their number and degree padded so that programs are shared."""
    degree = max(2, *map(len, terms)) if terms else 2
    count = next((size for size in _TERM_BUCKETS if size >= len(terms)), -(-len(terms) // 1024) * 1024)
    place = np.zeros((count, degree), np.int32)
    slope, shift = np.zeros((2, count, degree), np.float32)
    for row, members in enumerate(terms):
        chosen = list(members)
        place[row, : len(members)] = chosen
        slope[row, : len(members)] = design.inverse[chosen]
        shift[row] = 1.0
        shift[row, : len(members)] = -design.mean[chosen] * design.inverse[chosen]
    return Terms(jnp.asarray(place), jnp.asarray(slope), jnp.asarray(shift))


def design(masks: PackedMasks) -> Design:
    """Measures the share of masks that keeps each feature, in one pass."""
    count, n = masks.shape
    plain = Design(masks=masks, mean=np.zeros(n), inverse=np.ones(n))
    everything, nothing = np.ones((count, 1)), np.zeros((n + 1, 1))
    mean = gradient(plain, [()], everything, everything, np.zeros(1, int), nothing)[0][:n, 0] / count
    varies = np.abs(mean) < 1 - 0.5 / count
    near_half = np.abs(mean[varies]).max(initial=0.0) < _FAR / np.sqrt(count)
    if near_half and abs(mean[varies].sum()) < _FAR * np.sqrt(max(1, varies.sum()) / count):
        # Centring by a deviation due to chance would spread every term over its subsets.
        return dataclasses.replace(plain, inverse=varies.astype(float))
    deviation = np.sqrt(np.maximum(1 - mean**2, 0.0))
    inverse = np.divide(1.0, deviation, out=np.zeros(n), where=varies)
    return dataclasses.replace(plain, mean=np.where(varies, mean, 0.0), inverse=inverse)


@compiled
def _accumulate(
    sums: Sums,
    bits: Array,
    targets: Array,
    weight: Array,
    which: jax.Array,
    terms: Terms,
    coefficients: tuple[jax.Array, jax.Array],
) -> Sums:
    """Adds a block of rows to the sums."""
    chex.assert_rank([bits, targets, weight, which], [2, 2, 2, 1])
    signs = _signs(bits)
    columns = _columns(signs, terms)
    fitted = jnp.matmul(signs, coefficients[0])
    residual = targets - fitted - jnp.matmul(columns, coefficients[1])
    weighted = (residual * weight[:, which]).T
    return Sums(
        singles=sums.singles + jnp.matmul(weighted, signs).T,
        terms=sums.terms + jnp.matmul(weighted, columns).T,
        squares=sums.squares + jnp.matmul(weight.T, residual**2),
    )


def _plain(design: Design, coefficients: np.ndarray, width: int, count: int) -> tuple[jax.Array, jax.Array]:
    """Converts coefficients [n + K, L] of features of variance 1 to those of plain signs [width, L] and of terms
    [count, L], the first of which is ().
    """
    n = design.n
    singles = coefficients[:n] * design.inverse[:, None]
    others = coefficients[n:].copy()
    others[0] -= design.mean @ singles
    return (
        jnp.asarray(np.pad(singles, ((0, width - n), (0, 0))), jnp.float32),
        jnp.asarray(np.pad(others, ((0, count - len(others)), (0, 0))), jnp.float32),
    )


def gradient(
    design: Design,
    terms: Sequence[Members],
    targets: np.ndarray,
    weight: np.ndarray,
    which: np.ndarray,
    coefficients: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Correlates residuals with every single and every term, in one pass.

    Args:
      design: the table.
      terms: K sets of features; the first is ().
      targets: [M, L], or [M, 1] for the same in all columns.
      weight: [M, W], row weights.
      which: int [L], the row weights that each column uses.
      coefficients: [n + K, L].

    Returns:
      X^T (w * r) float64 [n + K, L] and the weighted sums of squares of r, float64 [W, L], r = targets - X c.
    """
    made = on_device(design, terms)
    n, width, count = design.n, 8 * -(-design.n // 8), made.place.shape[0]
    plain = _plain(design, coefficients, width, count)
    outputs = len(which)
    sums = Sums(*(jnp.zeros((size, outputs)) for size in (width, count, weight.shape[1])))
    columns = jnp.asarray(which, jnp.int32)
    for _, (bits, target, weights) in _blocks(design, targets, weight, terms=count):
        sums = _accumulate(sums, bits, target, weights, columns, made, plain)
    singles, others, squares = (np.asarray(part, np.float64) for part in sums)
    singles = (singles[:n] - design.mean[:, None] * others[0]) * design.inverse[:, None]
    return np.concatenate([singles, others[: len(terms)]]), squares


@compiled
def _predict(bits: Array, terms: Terms, coefficients: tuple[jax.Array, jax.Array]) -> jax.Array:
    signs = _signs(bits)
    fitted = jnp.matmul(signs, coefficients[0])
    return fitted + jnp.matmul(_columns(signs, terms), coefficients[1])


def predictions(design: Design, terms: Sequence[Members], coefficients: np.ndarray) -> np.ndarray:
    """Returns values float64 [M, L] for coefficients [n + K, L] of all singles and the terms, () first."""
    made = on_device(design, terms)
    plain = _plain(design, coefficients, 8 * -(-design.n // 8), made.place.shape[0])
    found = np.empty((len(design.masks), coefficients.shape[1]))
    for rows, (bits,) in _blocks(design, terms=made.place.shape[0]):
        found[rows] = _predict(bits, made, plain)[: rows.stop - rows.start]
    return found


@compiled
def _add_pairs(total: jax.Array, left: Array, right: Array, residual: Array) -> jax.Array:
    """Adds a block to the correlations [T, T] of a residual [m, 1] with the pairs of two groups of features."""
    return total + jnp.matmul((_signs(left) * residual).T, _signs(right))


def pairs(design: Design, residual: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Correlates all pairs with a residual, one block of features against another at a time.

    Args:
      design: the table.
      residual: [M].
      rows: int [m], ascending: the rows to use.

    Yields:
      i, j and float32 [T, T']: sum_rows r u_{i + a} u_{j + b}; 0 where the second feature does not come after the
      first. Every pair is in one block.
    """
    n = design.n
    groups = -(-n // _TILE)
    width = 8 * -(-n // (8 * groups))
    block = _block_rows(len(rows), width)
    weighted = np.zeros((len(design.masks), 1))
    weighted[rows, 0] = residual[rows]
    ones, nothing = np.ones((len(weighted), 1)), np.zeros((n + 1, 1))
    # For plain signs, as the blocks are.
    first = gradient(
        dataclasses.replace(design, mean=np.zeros(n), inverse=np.ones(n)),
        [()],
        weighted,
        ones,
        np.zeros(1, int),
        nothing,
    )[0][:n, 0]
    whole = float(residual[rows].sum())
    for i in range(0, n, width):
        for j in range(i, n, width):
            total = jnp.zeros((width, width))
            for start in range(0, len(rows), block):
                part = rows[start : start + block]
                sides = []
                for side in (i, j):
                    bits = design.masks.packed_rows(part, side // 8, (side + width) // 8)
                    sides.append(np.pad(bits, ((0, block - len(part)), (0, width // 8 - bits.shape[1]))))
                target = _padded(weighted[part].astype(np.float32), block)
                total = _add_pairs(total, sides[0], sides[1], target)
            left, right = slice(i, min(i + width, n)), slice(j, min(j + width, n))
            found = np.asarray(total)[: left.stop - i, : right.stop - j]
            mean, inverse = design.mean, design.inverse
            if mean.any():
                found = found - np.outer(mean[left], first[right]) - np.outer(first[left], mean[right])
                found += whole * np.outer(mean[left], mean[right])
            found = found * np.outer(inverse[left], inverse[right]).astype(np.float32)
            yield i, j, np.triu(found, 1) if i == j else found


@compiled
def _add_extensions(
    carry: tuple[jax.Array, jax.Array], bits: Array, residual: Array, terms: Terms
) -> tuple[jax.Array, jax.Array]:
    signs = _signs(bits)
    weighted = (_columns(signs, terms) * residual).T
    return carry[0] + jnp.matmul(weighted, signs), carry[1] + weighted.sum(axis=1)


def extensions(design: Design, terms: Sequence[Members], residual: np.ndarray) -> np.ndarray:
    """Returns sum_rows r u_T u_i for every term and every feature, float64 [K, n]; residual is [M], 0 on rows to leave
    out.
    """
    made = on_device(design, terms)
    carry = (jnp.zeros((made.place.shape[0], 8 * -(-design.n // 8))), jnp.zeros(made.place.shape[0]))
    for _, (bits, target) in _blocks(design, residual[:, None], terms=made.place.shape[0]):
        carry = _add_extensions(carry, bits, target, made)
    products, sums = (np.asarray(part, np.float64)[: len(terms)] for part in carry)
    return np.asarray((products[:, : design.n] - sums[:, None] * design.mean) * design.inverse)


@compiled
def _add_gram(
    carry: tuple[jax.Array, jax.Array], bits: Array, residual: Array, weight: Array, terms: Terms
) -> tuple[jax.Array, jax.Array]:
    columns = _columns(_signs(bits), terms)
    weighted = columns[None] * weight.T[:, :, None]
    return (
        carry[0] + jnp.matmul(weighted.mT, columns),
        carry[1] + jnp.matmul(weighted.mT, residual)[:, :, 0],
    )


@compiled
def _add_correlations(carry: jax.Array, bits: Array, residual: Array, weight: Array, terms: Terms) -> jax.Array:
    return carry + jnp.matmul((weight * residual).T, _columns(_signs(bits), terms))


def correlations(design: Design, terms: Sequence[Members], residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns X^T (w * r), float64 [W, K], of terms alone, for row weights [M, W] and a residual [M]."""
    made = on_device(design, terms)
    carry = jnp.zeros((weight.shape[1], made.place.shape[0]))
    for _, (bits, target, weights) in _blocks(design, residual[:, None], weight, terms=made.place.shape[0]):
        carry = _add_correlations(carry, bits, target, weights, made)
    return np.asarray(carry, np.float64)[:, : len(terms)]


def gram(
    design: Design, terms: Sequence[Members], residual: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns X^T diag(w) X float64 [W, K, K] and X^T (w * r) float64 [W, K] of terms, for row weights [M, W] and a
    residual [M].
    """
    made = on_device(design, terms)
    count = made.place.shape[0]
    carry = (jnp.zeros((weight.shape[1], count, count)), jnp.zeros((weight.shape[1], count)))
    for _, (bits, target, weights) in _blocks(design, residual[:, None], weight, terms=made.place.shape[0]):
        carry = _add_gram(carry, bits, target, weights, made)
    products, sums = (np.asarray(part, np.float64) for part in carry)
    return products[:, : len(terms), : len(terms)], sums[:, : len(terms)]


def characters(design: Design, terms: Sequence[Members], coefficients: np.ndarray) -> tuple[list[Members], np.ndarray]:
    """Converts coefficients [n + K] of features of variance 1 and of products of them, the first of which is (), to
    sets and coefficients [K'] of characters, () first.
    """
    n, inverse, mean = design.n, design.inverse, design.mean
    found: dict[Members, float] = {(): 0.0}
    for members, coefficient in zip(terms, coefficients[n:], strict=True):
        for size in range(len(members) + 1):
            for part in itertools.combinations(members, size):
                rest = [i for i in members if i not in part]
                amount = coefficient * float(np.prod(inverse[list(members)]) * np.prod(-mean[rest]))
                if amount:
                    found[part] = found.get(part, 0.0) + amount
    singles = coefficients[:n] * inverse
    found[()] -= float(mean @ singles)
    for i in np.flatnonzero(singles):
        found[(int(i),)] = found.get((int(i),), 0.0) + float(singles[i])
    return list(found), np.array(list(found.values()))
