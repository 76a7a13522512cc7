"""PackedMasks: a table of masks that stays on disk, one bit for each entry, and is read in blocks of rows.

Tables of retrainings are large: 300,000 models, each trained on a random subset of 50,000 examples (datamodels,
Ilyas et al., 2022, arXiv 2202.00622), take 1.9 GB as bits and 60 GB as float32 signs.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.core.masks import check_whole
from spex_jax.utils.untrusted_files import map_array, refusing

__all__ = ["PackedMasks"]

_BLOCK_BYTES = 2**24  # bytes unpacked at a time


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PackedMasks:
    """A table of M masks of n features, True = kept, which is only read in blocks of rows.

    Attributes:
      bits: uint8 [M, ceil(n / 8)], np.packbits of each row (the first feature is the highest bit of the first byte, and
        the bits past n are 0); or the masks themselves, bool or uint8 of 0 and 1 [M, n]. A numpy array, np.memmap
        included; it is not copied.
      n: the number of features. None takes it from a bool array; a uint8 array needs it.

    The constructor reads the table once, in blocks, to check it.

    Raises:
      ValueError: `bits` is not such an array, n does not match it, bits past n are set, or an unpacked table has
        entries other than 0 and 1; the message states what was expected and what to do.
    """

    bits: np.ndarray
    n: int = None  # type: ignore[assignment]  # an int once __post_init__ has run

    def __post_init__(self) -> None:
        """Determines whether the table is packed, and checks its entries in blocks of rows."""
        bits = self.bits
        kinds = "uint8 [M, ceil(n / 8)] of packed bits, or bool or uint8 of 0 and 1 [M, n]"
        if not isinstance(bits, np.ndarray) or bits.ndim != 2 or bits.dtype not in (np.uint8, np.bool_):
            got = f"{bits.dtype} {bits.shape}" if isinstance(bits, np.ndarray) else type(bits).__name__
            raise ValueError(f"a table of masks must be {kinds}, got {got}; convert with np.packbits(masks, axis=1)")
        width = bits.shape[1]
        got = f"{bits.dtype} [{len(bits)}, {width}]"
        if self.n is not None:
            check_whole("n", self.n, 1)
        if bits.dtype == np.bool_:
            if width == 0 or self.n not in (None, width):
                raise ValueError(
                    f"a bool table has one column for each feature, at least one; got {got} and n = {self.n}; "
                    "leave n out, or pack the table for another"
                )
            object.__setattr__(self, "n", width)
            return
        if self.n is None:
            raise ValueError(
                f"a uint8 table needs its number of features, got {got} without n; give n, which is {width} "
                f"where its entries are 0 and 1, and {max(1, 8 * width - 7)} to {8 * width} where they are packed bits"
            )
        if self.n == 1 and width == 1:
            raise ValueError(f"{got} with n = 1 may be packed or not; give a bool array, table.astype(bool)")
        object.__setattr__(self, "n", int(self.n))
        if width not in (self.n, -(-self.n // 8)):
            raise ValueError(
                f"{self.n} features have {-(-self.n // 8)} bytes of packed bits in a row, or {self.n} entries of 0 and "
                f"1; got {got}; give the n that the table was packed with"
            )
        self._check_entries()

    def _check_entries(self) -> None:
        for start in range(0, len(self), step := self.block_rows()):
            block = self.bits[start : start + step]
            wrong = block[:, -1] & (0xFF >> ((self.n - 1) % 8 + 1)) != 0 if self.is_packed else (block > 1).any(axis=1)
            if not wrong.any():
                continue
            row = start + int(np.flatnonzero(wrong)[0])
            if self.is_packed:
                raise ValueError(
                    f"bits past n = {self.n} must be 0, got {self.bits[row, -1]:#010b} as the last byte of row {row}; "
                    "give the n that the table was packed with (np.packbits with bitorder='big')"
                )
            raise ValueError(
                f"a table of uint8 [M, n] must hold 0 and 1 only, got {int(self.bits[row].max())} in row {row}; "
                f"for packed bits give the n that they were packed with, now {self.n}"
            )

    @classmethod
    def open(cls, path: str | os.PathLike[str], n: int | None = None) -> "PackedMasks":
        """Maps the table of a .npy file into memory, and reads it only for the check.

        Args:
          path: path of a file of np.save, without pickles.
          n: the number of features; may be left out for a bool table only.

        Raises:
          ValueError: the file does not hold such a table.
        """
        with refusing(path, "a .npy file that can be mapped; write one with np.save(path, table)"):
            bits = map_array(path)
        try:
            return cls(bits, n)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)!r}: {error}") from error

    @property
    def is_packed(self) -> bool:
        """Whether the table holds packed bits."""
        return self.bits.dtype == np.uint8 and self.bits.shape[1] != self.n

    @property
    def shape(self) -> tuple[int, int]:
        """(M, n)."""
        return len(self.bits), self.n

    def __len__(self) -> int:
        """Returns the number of masks, M."""
        return len(self.bits)

    def __repr__(self) -> str:
        """Shows the shape, and whether the table is packed or its dtype."""
        form = "bits" if self.is_packed else str(self.bits.dtype)
        return f"<PackedMasks M={len(self)} n={self.n} {form}>"

    def block_rows(self, row_bytes: int | None = None) -> int:
        """Returns the number of rows in a block of 16 MiB, at least one.

        Args:
          row_bytes: bytes of one row; None means n.
        """
        return max(1, _BLOCK_BYTES // max(1, self.n if row_bytes is None else row_bytes))

    def rows(self, rows: slice) -> np.ndarray:
        """Returns a copy of the masks in these rows, bool [m, n]."""
        if self.is_packed:
            return np.unpackbits(np.asarray(self.bits[rows]), axis=1, count=self.n).view(np.bool_)
        return np.array(self.bits[rows], np.bool_)

    def packed_rows(self, rows: slice | np.ndarray, first: int = 0, last: int | None = None) -> np.ndarray:
        """Returns the packed bytes first to last (exclusive) of these rows, uint8 [m, last - first].

        Args:
          rows: a slice, or int [m].
          first: the first of the ceil(n / 8) bytes.
          last: one past the last byte; None for all.
        """
        if self.is_packed:
            return np.asarray(self.bits[rows, first:last])
        return np.packbits(self.bits[rows, 8 * first : None if last is None else 8 * last], axis=1)

    def columns(self, indices: Sequence[int] | np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Returns the columns of some features, bool [M, k].

        Args:
          indices: int [k], features from 0, in any order.
          rows: int [M'], the rows to return; None means all M.

        Raises:
          ValueError: some of the indices are not features.
        """
        wanted: np.ndarray[Any, Any] = np.asarray(indices)
        count = len(self) if rows is None else len(rows)
        if wanted.size == 0:
            return np.zeros((count, 0), np.bool_)
        if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
            raise ValueError(f"indices must be whole numbers [k], got {wanted.dtype} {wanted.shape}")
        if wanted.min() < 0 or wanted.max() >= self.n:
            raise ValueError(
                f"indices must be features from 0 to {self.n - 1}, got {wanted.min()} to {wanted.max()}; count from 0"
            )
        found = np.empty((count, len(wanted)), np.bool_)
        for start in range(0, count, step := self.block_rows(len(wanted) + self.bits.shape[1])):
            part = slice(start, start + step)
            block = self.bits[part if rows is None else rows[part]]
            if self.is_packed:
                found[part] = block[:, wanted // 8] >> (7 - wanted % 8).astype(np.uint8) & 1
            else:
                found[part] = block[:, wanted]
        return found
