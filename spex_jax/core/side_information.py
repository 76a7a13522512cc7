"""What is known of units before any of them is removed: where they are, which matter, and another spectrum of them."""

import dataclasses
from typing import Any

import numpy as np

from spex_jax.core.spectrum import Spectrum

__all__ = ["NOTHING", "SideInformation", "check_coordinates", "side_information"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SideInformation:
    """What is known of n features beside their ablations; None for what is not.

    Attributes:
      coordinates: float64 [n, d], where they are.
      relevance: float64 [n], how much each is expected to matter, not negative, in any unit.
      prior: another spectrum of the same features.
    """

    coordinates: np.ndarray | None = None
    relevance: np.ndarray | None = None
    prior: Spectrum | None = None


NOTHING = SideInformation()


def side_information(n: int, *, coordinates: Any = None, relevance: Any = None, prior: Any = None) -> SideInformation:
    """Returns what is known of n features, checked.

    Args:
      n: number of features.
      coordinates, relevance, prior: see `proxyspex.fit`.

    Raises:
      ValueError: what is given cannot be used, or belongs to another number of features.
    """
    return SideInformation(
        coordinates=check_coordinates(coordinates, n),
        relevance=_check_relevance(relevance, n),
        prior=_check_prior(prior, n),
    )


def _check_relevance(relevance: Any, n: int) -> np.ndarray | None:
    if relevance is None:
        return None
    try:
        found = np.asarray(getattr(relevance, "values", relevance), np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"relevance must be {n} numbers, got {type(relevance).__name__} that is not an array of them"
        ) from error
    if found.shape != (n,):
        raise ValueError(f"relevance must have shape ({n},), one number for each feature, got {found.shape}")
    wrong = np.flatnonzero(~np.isfinite(found) | (found < 0))
    if len(wrong):
        raise ValueError(
            f"relevance must be finite and not negative, got {found[wrong[0]]} for feature {wrong[0]}; give the size "
            "of what is expected, such as np.abs of an attribution"
        )
    if not found.any():
        raise ValueError("relevance is 0 for all features, which says nothing about them; leave it out")
    return found


def _check_prior(prior: Any, n: int) -> Spectrum | None:
    if prior is None:
        return None
    found = getattr(prior, "spectrum", prior)
    if not isinstance(found, Spectrum):
        raise ValueError(f"prior must be a Spectrum, or an Explanation, which has one, got {type(prior).__name__}")
    if found.n != n:
        raise ValueError(
            f"prior has {found.n} features and the function has {n}; give a spectrum of the same features in the same "
            "order"
        )
    return found


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
