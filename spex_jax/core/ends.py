"""Makes a spectrum take the model's values at the full and at the empty mask, where these were evaluated.

Users know these two values, and do not trust an explanation that contradicts them. Both are equality constraints. Of
all ways to meet them, the one that changes the function least on uniform masks adds the same amount to every
coefficient, up to its sign: K terms remove an error of e at the cost of e^2 / K of variance. A spectrum with few terms
is therefore given further ones before it is moved.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.spectrum import Spectrum

__all__ = ["ends_first", "known_ends", "through_ends", "with_spare_terms"]

_COST = 5e-4  # share of the variance that a move may cost before it is spread over further terms
_MOST_COST = 0.05  # share of the variance above which a move of few terms would spoil the fit at all other masks
_MOST_TERMS = 10_000


def known_ends(masks: np.ndarray) -> np.ndarray:
    """Returns the rows int [at most 2] of the full and the empty mask among distinct masks bool [M, n]."""
    return np.flatnonzero(masks.all(axis=1) | ~masks.any(axis=1))


def ends_first(masks: np.ndarray) -> np.ndarray:
    """Returns an order int [M] of masks bool [M, n] in which the full and the empty mask come first."""
    ends = known_ends(masks)
    return np.concatenate([ends, np.setdiff1d(np.arange(len(masks)), ends)])


def _fill(terms: Spectrum, count: int, max_degree: int) -> np.ndarray:
    """Returns up to `count` sets bool [F, n] that `terms` lacks, smaller ones first: the empty set, single features,
    then sets of the features with the most energy.
    """
    n, wanted = terms.n, count + len(terms)
    strongest = np.argsort(-(np.square(terms.coefficients) @ terms.support), kind="stable")
    every, total = [np.zeros((1, n), np.bool_)], 1
    for degree in range(1, min(max_degree, n) + 1):
        if total >= wanted:
            break
        features = n
        while degree > 1 and features > degree and math.comb(features - 1, degree) >= wanted:
            features -= 1  # the fewest features that have enough sets
        members = np.array(list(itertools.combinations(np.sort(strongest[:features]), degree)))
        sets = np.zeros((len(members), n), np.bool_)
        np.put_along_axis(sets, members, True, axis=1)
        every.append(sets)
        total += len(sets)
    return masks_lib.not_among(np.concatenate(every), terms.support)[:count]


def with_spare_terms(
    terms: Spectrum,
    largest: Callable[[int], Spectrum],
    masks: np.ndarray,
    values: np.ndarray,
    scale: float,
    *,
    max_terms: int | None = None,
    max_degree: int = 2,
) -> Spectrum:
    """Returns the spectrum with as many further terms as `through_ends` needs to move it without harm.

    Args:
      terms: the spectrum.
      largest: returns a spectrum of at most the given number of terms, which begins with `terms`. Where it has fewer,
        sets with the coefficient 0 are added.
      masks: bool [M, n], the masks that were fitted.
      values: float64 [M].
      scale: the standard deviation of the values.
      max_terms: the largest number of terms; None means 10,000.
      max_degree: the largest number of features in an added set.
    """
    ends = known_ends(masks)
    if not len(ends) or not scale > 0:
        return terms
    error = (values[ends] - terms(masks[ends])) / scale
    needed = min(float(np.square(error).sum()) / _COST, _MOST_TERMS)
    if needed <= len(terms) and len(terms) > 1:
        return terms
    count = 2 ** max(1, math.ceil(math.log2(max(needed, 1))))  # a power of 2, so that rounding seldom changes it
    count = min(max(count, len(terms)), _MOST_TERMS if max_terms is None else max_terms)
    if count <= len(terms):
        return terms
    found = largest(count)
    further = _fill(found, count - len(found), max_degree)

    def padded(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else np.concatenate([array, np.zeros((len(further), *array.shape[1:]))])

    return Spectrum(
        np.concatenate([found.support, further]),
        np.concatenate([found.coefficients, np.zeros(len(further))]),
        padded(found.variances),
        padded(found.covariance_factor),
    )


def through_ends(
    spectrum: Spectrum, masks: np.ndarray, values: np.ndarray, scale: float, *, limited: bool = False
) -> Spectrum:
    """Returns the spectrum moved so that it takes the known values at the full and the empty mask.

    The spectrum is returned unchanged where neither mask is known, or where its terms cannot take both values (a
    constant).

    Args:
      spectrum: a spectrum of n features.
      masks: bool [M, n], distinct.
      values: float64 [M].
      scale: the standard deviation of the values.
      limited: whether the number of terms is limited, so that a move is not made if it costs over 5% of the variance.
    """
    ends = known_ends(masks)
    if not len(ends):
        return spectrum
    try:
        moved = spectrum.through(masks[ends], values[ends])
    except ValueError:
        return spectrum
    change = (moved.coefficients - spectrum.coefficients) / (scale if scale > 0 else 1.0)
    return spectrum if limited and np.square(change).sum() > _MOST_COST else moved
