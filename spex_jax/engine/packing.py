"""Packs several masks into one row of fixed length, so that neither removed tokens nor padding are computed."""

import dataclasses

import numpy as np

__all__ = ["Packing"]


@dataclasses.dataclass(frozen=True, eq=False)
class Packing:
    """Describes how many places the input of each mask takes, and how many a row holds.

    A device function with a packing is called with masks bool [B, slots, width] and used bool [B, slots] (which slots
    hold a mask), and returns [B, slots, *outputs]; its values in unused slots do not matter.

    Attributes:
      capacity: places in a row.
      slots: most masks in a row.
      fixed: places that every mask takes.
      kept, removed: int [n], places that a feature takes where it is kept and where it is removed.
    """

    capacity: int
    slots: int
    fixed: int
    kept: np.ndarray
    removed: np.ndarray

    @property
    def per_row(self) -> int:
        """The number of masks that a row holds where half of the features are kept."""
        middle = self.fixed + float((self.kept + self.removed).sum()) / 2
        return max(1, min(self.slots, round(self.capacity / max(middle, 1))))

    def lengths(self, masks: np.ndarray) -> np.ndarray:
        """Returns the places that each of the masks bool [M, n] takes, int [M]."""
        return np.asarray(self.fixed + self.removed.sum() + masks @ (self.kept - self.removed))

    def rows(self, masks: np.ndarray, most: int | None = None) -> np.ndarray:
        """Returns the numbers of the masks bool [M, n] that share a row, int [rows, slots], -1 in free slots.

        The longest mask goes first, each into the fullest row that has room for it (best fit decreasing: at most 11/9
        of the fewest rows, Johnson et al. 1974).

        Args:
          masks: distinct or not.
          most: most masks in a row, at most `slots`.
        """
        lengths = self.lengths(masks)
        most = self.slots if most is None else min(most, self.slots)
        rows: list[list[int]] = []
        with_room: list[list[int]] = [[] for _ in range(self.capacity + 1)]  # open rows by their number of free places
        which = 0  # bit f is set where some open row has f free places
        for mask in np.argsort(-lengths, kind="stable").tolist():
            length = int(lengths[mask])
            fitting = which >> length
            if fitting:
                free = length + (fitting & -fitting).bit_length() - 1
                row = with_room[free].pop()
                if not with_room[free]:
                    which &= ~(1 << free)
                rows[row].append(mask)
            else:
                free, row = self.capacity, len(rows)
                rows.append([mask])
            if len(rows[row]) < most:
                with_room[free - length].append(row)
                which |= 1 << (free - length)
        table = np.full((len(rows), self.slots), -1, np.int64)
        for places, members in zip(table, rows, strict=True):
            places[: len(members)] = members
        return table
