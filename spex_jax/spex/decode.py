"""Values of a design to a spectrum: peeling, then least squares on every ablation."""

import numpy as np
import scipy.linalg

from spex_jax import masks as masks_lib
from spex_jax.spectrum import Spectrum
from spex_jax.spex.design import Design, check_design
from spex_jax.spex.peel import peel
from spex_jax.walsh import subset_characters

__all__ = ["decode"]

_DEVIATIONS = 3.5  # standard errors from which on a refitted coefficient is kept


def _merge(sets: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct sets and their summed coefficients, largest first."""
    sets, sizes = sets[sizes != 0], sizes[sizes != 0]
    first, inverse = masks_lib.deduplicate(sets)
    sizes = np.bincount(inverse, sizes, len(first))
    order = np.argsort(-np.abs(sizes), kind="stable")
    return sets[first][order], sizes[order]


def _refit(masks: np.ndarray, values: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Least squares [K], the Cholesky factor of (X^T X)^-1 and the variance of the residuals."""
    x = subset_characters(masks, support).astype(np.float64)
    gram = x.T @ x + 1e-9 * len(masks) * np.eye(len(support))
    inverse = scipy.linalg.inv(gram, assume_a="pos")
    coefficients = inverse @ (x.T @ values)
    freedom = max(len(masks) - len(support), 1)
    variance = float(np.square(values - x @ coefficients).sum() / freedom)
    return coefficients, scipy.linalg.cholesky(inverse, lower=True), variance


def decode(design: Design, values: object, *, refit: bool = True) -> Spectrum:
    """The sparse spectrum behind the values of a design.

    Args:
      design: of `spex_jax.spex.design`.
      values: [M], the value of every one of `design.masks`.
      refit: whether least squares on all ablations follow the peeling, with standard errors; sets that these do not
        confirm are left out. Without, the coefficients are those of the bins.

    Raises:
      ValueError: values of the wrong length, or not finite.
    """
    answers = check_design(design, values)
    empty = np.zeros((1, design.n), np.bool_)
    largest = float(np.abs(answers).max())
    scaled = answers / largest if largest > 0 else answers
    mean, deviation = float(scaled.mean()), float(scaled.std())
    if deviation <= 4e-15:
        return Spectrum(empty, np.array([float(answers[0])]))
    targets = (scaled - mean) / deviation
    # A bin averages 2^b values: half a standard error of one that holds noise of all the variance is far below any term
    # that the samples can tell from chance.
    floor = 0.5 / np.sqrt(design.rows[0].size)
    found = peel(
        targets.astype(np.float32),
        design.rows,
        design.matrices.astype(np.float32),
        np.float32(floor),
        code=design.code,
        most_terms=design.rows.shape[0] * design.rows.shape[2],
    )
    support, coefficients = _merge(np.asarray(found[0]), np.asarray(found[1], np.float64))
    constant = coefficients[~support.any(axis=1)].sum()
    support, coefficients = support[support.any(axis=1)], coefficients[support.any(axis=1)]
    support = np.concatenate([empty, support[: len(answers) // 2]])
    coefficients = np.concatenate([[constant], coefficients[: len(answers) // 2]])
    scale = deviation * largest
    if not refit:
        return Spectrum(support, scale * coefficients + np.where(support.any(axis=1), 0.0, mean * largest))
    while True:
        coefficients, root, variance = _refit(design.masks, targets, support)
        errors = np.sqrt(variance) * np.linalg.norm(root, axis=1)
        keep = (np.abs(coefficients) > _DEVIATIONS * errors) | ~support.any(axis=1)
        if keep.all():
            break
        support = support[keep]
    coefficients = scale * coefficients + np.where(support.any(axis=1), 0.0, mean * largest)
    if not 1e-150 < scale < 1e150:  # its square is no number
        return Spectrum(support, coefficients)
    factor = scale * np.sqrt(variance) * root
    return Spectrum(support, coefficients, variances=np.square(factor).sum(axis=1), covariance_factor=factor)
