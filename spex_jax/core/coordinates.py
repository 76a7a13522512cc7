"""Where the units of an input are: the words of a text, the patches of a picture, the heads of a network."""

from typing import Any

import numpy as np

__all__ = ["check_coordinates"]


def check_coordinates(coordinates: Any, n: int) -> np.ndarray | None:
    """Returns coordinates as float64 [n, d], or None for none.

    Args:
      coordinates: [n, d] or [n], in any unit that all columns share: the place of a word, the row and the column of a
        patch. None says that nothing is known.
      n: number of features.

    Raises:
      ValueError: another number of rows, numbers that are not finite, or all features in one place.
    """
    if coordinates is None:
        return None
    try:
        found = np.asarray(coordinates, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"coordinates must be numbers [{n}, d], got {type(coordinates).__name__} that is not an array of them"
        ) from error
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or len(found) != n or not found.shape[1]:
        raise ValueError(
            f"coordinates must have shape ({n}, d), one row for each feature, got {np.shape(coordinates)}; give such "
            "an array, or None where the features have no places"
        )
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise ValueError(f"coordinates must be finite, got {found[row].tolist()} for feature {row}")
    if n > 1 and (found == found[0]).all():
        raise ValueError(
            f"coordinates put all {n} features in one place, {found[0].tolist()}; leave them out where the features "
            "have no places"
        )
    return found
