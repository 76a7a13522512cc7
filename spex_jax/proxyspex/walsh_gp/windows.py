"""Windows of neighbouring units: the sets within which walsh_gp expects more interactions where units have places.

Effects of pairs fall with the distance of the units (arXiv 2403.13106): words act together within phrases, patches
within neighbourhoods.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spex_jax.utils.array_api import Array

__all__ = ["Windows", "padded", "windows_of", "windows_of_sets"]

_NEIGHBOURS, _EVERY = 8, 4  # units in a window of a sequence, and from one window to the next
_SQUARES = (2, 3)  # sides of the windows of a grid
_BUCKET = 16


class Windows(NamedTuple):
    """W windows of at most k units.

    Attributes:
      units: int32 [W, k], the units of each window.
      inside: bool [W, k], False where a place holds no unit.
    """

    units: Array
    inside: Array


def windows_of(coordinates: np.ndarray) -> Windows | None:
    """Returns the windows of units at coordinates float64 [n, d]; None where one window would hold nearly all.

    Units on a line: 8 neighbours, every 4 units. Units that fill a grid of rows and columns: all squares of 2 x 2 and
    of 3 x 3. Others: one after another, each unit that is not in two windows yet with its 7 nearest neighbours.
    """
    varied = coordinates[:, (coordinates != coordinates[0]).any(axis=0)]
    if varied.shape[1] == 1:
        sets = _of_line(varied[:, 0])
    elif (places := _grid(varied)) is not None:
        sets = _of_grid(places)
    else:
        sets = _of_points(varied)
    return windows_of_sets(sets) if len(sets) > 1 else None


def windows_of_sets(sets: Sequence[np.ndarray]) -> Windows:
    """Returns the windows of sets of units, each int [at most k]."""
    widest = max(map(len, sets))
    units, inside = np.zeros((len(sets), widest), np.int32), np.zeros((len(sets), widest), np.bool_)
    for row, members in enumerate(sets):
        units[row, : len(members)], inside[row, : len(members)] = members, True
    return Windows(units, inside)


def _of_line(places: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(places, kind="stable")
    last = len(order) - _NEIGHBOURS
    starts = sorted({*range(0, last, _EVERY), max(last, 0)})
    return [order[start : start + _NEIGHBOURS] for start in starts]


def _grid(coordinates: np.ndarray) -> np.ndarray | None:
    """Returns the units int [rows, columns] of a grid that they fill, with one unit at each place; None for others."""
    if coordinates.shape[1] != 2:
        return None
    (rows, row), (columns, column) = (np.unique(values, return_inverse=True) for values in coordinates.T)
    places = np.full((len(rows), len(columns)), -1)
    places[row, column] = np.arange(len(coordinates))
    return places if places.size == len(coordinates) and (places >= 0).all() else None


def _of_grid(places: np.ndarray) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    rows, columns = places.shape
    for side in _SQUARES:
        if side < max(rows, columns):
            high, wide = min(side, rows), min(side, columns)
            found += [
                places[top : top + high, left : left + wide].ravel()
                for top in range(rows - high + 1)
                for left in range(columns - wide + 1)
            ]
    return found


def _of_points(coordinates: np.ndarray) -> list[np.ndarray]:
    covered = np.zeros(len(coordinates), np.int64)
    found: dict[tuple[int, ...], None] = {}
    for unit in range(len(coordinates)):
        if covered[unit] < 2:
            distance = np.square(coordinates - coordinates[unit]).sum(axis=1)
            nearest = np.sort(np.argsort(distance, kind="stable")[:_NEIGHBOURS])
            covered[nearest] += 1
            found[tuple(nearest.tolist())] = None
    return [np.array(members) for members in found]


def padded(windows: Windows) -> Windows:
    """Returns the windows with W and k rounded up, so that tables with other windows share programs."""
    count, width = windows.units.shape
    more = ((0, -count % _BUCKET), (0, -width % (_BUCKET // 2)))
    return Windows(np.pad(windows.units, more), np.pad(windows.inside, more))
