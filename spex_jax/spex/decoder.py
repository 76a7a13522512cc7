"""Decodes the values of a design into a spectrum: peeling, then least squares on all ablations."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.spectrum import Spectrum
from spex_jax.core.walsh import subset_characters
from spex_jax.spex.bch import BCH
from spex_jax.spex.designs import Design, check_design
from spex_jax.spex.peeling import KEPT, peel
from spex_jax.utils.jax_settings import in_float32

__all__ = ["Peeling", "decode", "finish", "in_order", "peeling", "search", "standardise", "tried"]

_TERMS_PER_BIN = 6  # sets that the search has room for, per bin
_MOST_TERMS = 8192
_UNIFORM = 4096  # uniform masks that the search uses; the refit uses all of them
_ROWS_AT_ONCE = 2**14  # rows of the least squares at a time
_MOST_TRIED = 2**22  # most elements in the array of all sets of the degrees searched, for each to be tried


def _thresholds(design: Design) -> np.ndarray:
    """Returns the standard errors [t + 1] at which a coefficient stands out among all sets of its degree: a tenth above
    the expected largest of as many normal variables (Donoho and Johnstone, Biometrika 1994), and at least 3.
    """
    from scipy import special

    n, t = design.n, min(design.plan.t, design.n)
    counts = [special.gammaln(n + 1) - special.gammaln([d + 1, n - d + 1]).sum() for d in range(1, t + 1)]
    return np.array([0.0, *np.maximum(1.1 * np.sqrt(2 * np.maximum(counts, 0)), 3.0)])


def _refit(
    masks: np.ndarray, values: np.ndarray, support: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits least squares on all rows, and drops the terms that it does not confirm. Returns the terms that stay, int
    [K], their coefficients, and F [K, K] with the covariance F F^T.
    """
    x = subset_characters(masks, support)
    parts = [slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(masks), _ROWS_AT_ONCE)]
    gram, moments = np.zeros((len(support), len(support))), np.zeros(len(support))
    for part in parts:
        block = x[part].astype(np.float32)
        gram += block.T @ block  # sums of whole numbers, and so exact in float32
        moments += block.T.astype(np.float64) @ values[part]
    kept = np.arange(len(support))
    while True:
        inverse = np.linalg.inv(gram[np.ix_(kept, kept)] + 1e-9 * len(masks) * np.eye(len(kept)))
        coefficients = inverse @ moments[kept]
        every = np.zeros(len(support))
        every[kept] = coefficients
        left = np.concatenate([values[part] - x[part] @ every for part in parts])
        variance = float(left @ left) / max(len(masks) - len(kept), 1)
        confirmed = np.abs(coefficients) >= thresholds[kept] * np.sqrt(variance * inverse.diagonal())
        if confirmed.all():
            return kept, coefficients, np.sqrt(variance) * np.linalg.cholesky(inverse)
        kept = kept[confirmed]


class Peeling(NamedTuple):
    """The arguments of `peel`: arrays, the sets that are tried, and the static arguments."""

    arrays: tuple[np.ndarray, ...]
    every: np.ndarray
    code: BCH
    most_terms: int


def peeling(design: Design, targets: np.ndarray | jax.Array) -> Peeling:
    """Returns the arguments of `peel` for values [M] of a design, of mean 0 and variance 1."""
    coded = int(design.rows.max()) + 1
    uniform = design.masks[coded : coded + _UNIFORM]
    values = np.asarray(targets, np.float32)[: coded + len(uniform)]
    thresholds = _thresholds(design).astype(np.float32)
    most_terms = min(_TERMS_PER_BIN * design.rows.shape[2], _MOST_TERMS)
    arrays = (values, design.rows, design.matrices, uniform, thresholds)
    return Peeling(arrays, tried(design.n, design.plan.t), design.code, most_terms)


@functools.lru_cache(maxsize=4)
def tried(n: int, degree: int) -> np.ndarray:
    """Returns all sets of 1 to `degree` of n features, bool [Q, n]; none where there are too many to try each."""
    few = n * masks_lib.number_of_sets(n, degree) <= _MOST_TRIED
    return masks_lib.sets_up_to(n, degree)[1:] if few else np.zeros((0, n), np.bool_)


def in_order(sets: np.ndarray | jax.Array, coefficients: np.ndarray | jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sets and coefficients of `peel` without its empty rows: () first, then the largest coefficients."""
    coefficients = np.asarray(coefficients, np.float64)
    order = np.concatenate([[0], 1 + np.argsort(-np.abs(coefficients[1:]), kind="stable")])
    order = order[: 1 + int(np.count_nonzero(coefficients[1:]))]
    return np.asarray(sets)[order], coefficients[order]


@in_float32()
def search(design: Design, targets: np.ndarray | jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Finds the sets that stand out in values [M] of a design, of mean 0 and variance 1, with least squares.

    Returns:
      support bool [K, n], () first and then by absolute coefficient, and coefficients float64 [K].
    """
    given = peeling(design, targets)
    arrays = map(jnp.asarray, (*given.arrays, given.every))
    return in_order(*peel(*arrays, code=given.code, most_terms=given.most_terms))


def standardise(design: Design, values: np.ndarray) -> tuple[np.ndarray, float, float] | Spectrum:
    """Returns targets [M] of mean 0 and variance 1, with the former mean and standard deviation; or the spectrum of a
    constant.
    """
    scaled = masks_lib.standardise(values)
    if isinstance(scaled, float):  # this mean may have a rounding error, which values[0] does not have
        return Spectrum(np.zeros((1, design.n), np.bool_), np.array([float(values[0])]))
    return scaled


def decode(design: Design, values: object, *, refit: bool = True) -> Spectrum:
    """Decodes the values of a design into a sparse spectrum.

    Args:
      design: the result of `spex_jax.spex.design`.
      values: [M], the value at each of `design.masks`.
      refit: whether least squares on all ablations follow the peeling, with standard errors; sets that these do not
        confirm are left out. Without a refit, the coefficients are those of the bins.

    Raises:
      ValueError: values of the wrong length, or not finite.
    """
    standardised = standardise(design, check_design(design, values))
    if isinstance(standardised, Spectrum):
        return standardised
    targets, mean, scale = standardised
    return finish(design, targets, mean, scale, search(design, targets), refit=refit)


def finish(
    design: Design,
    targets: np.ndarray,
    mean: float,
    scale: float,
    found: tuple[np.ndarray, np.ndarray],
    *,
    refit: bool,
) -> Spectrum:
    """Returns the spectrum of the sets that a search found in the targets of `standardise`."""
    support, coefficients = found[0][: len(targets) // 2], found[1][: len(targets) // 2]
    if not refit:
        return Spectrum(support, scale * coefficients + np.where(support.any(axis=1), 0.0, mean))
    least = KEPT * _thresholds(design)[support.sum(axis=1)]
    kept, coefficients, factor = _refit(design.masks, targets, support, least)
    support = support[kept]
    coefficients = scale * coefficients + np.where(support.any(axis=1), 0.0, mean)
    if not 1e-150 < scale < 1e150:  # its square would under- or overflow
        return Spectrum(support, coefficients)
    factor = scale * factor
    return Spectrum(support, coefficients, variances=np.square(factor).sum(axis=1), covariance_factor=factor)
