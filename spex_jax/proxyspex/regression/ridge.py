"""Refits the coefficients of a given support to the values of a table, by ridge regression with prior variances."""

import numpy as np
import scipy.linalg

from spex_jax.core.walsh import subset_characters

__all__ = ["refit"]

_NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def refit(masks: np.ndarray, values: np.ndarray, support: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns coefficients that minimise |values - sum_k c_k chi_k|^2 / noise + sum_k c_k^2 / prior_k, with the noise
    chosen by leave-one-out errors.

    The leave-one-out errors have a closed form (Allen's PRESS, 1974), on the smaller side of the N x K problem, in
    float64.

    Args:
      masks: bool [N, n].
      values: float64 [N], of mean 0 and variance 1.
      support: bool [K, n].
      prior: float64 [K], positive: prior variances of the coefficients.

    Returns:
      coefficients float64 [K] and the noise variance chosen.
    """
    scale = np.sqrt(prior)
    features = subset_characters(masks, support) * scale
    tall = features.shape[0] >= features.shape[1]
    gram = features.T @ features if tall else features @ features.T
    best, chosen, chosen_noise = np.inf, np.zeros(len(support)), _NOISES[-1]
    for noise in _NOISES:
        inverse = scipy.linalg.inv(gram + noise * np.eye(len(gram)), assume_a="pos")
        if tall:
            coefficients = inverse @ (features.T @ values)
            leverage = ((features @ inverse) * features).sum(axis=1)
            left_out = (values - features @ coefficients) / np.maximum(1 - leverage, 1e-9)
        else:
            alpha = inverse @ values
            coefficients = features.T @ alpha
            left_out = alpha / np.diag(inverse)
        error = float(np.mean(left_out**2))
        if error < best:
            best, chosen, chosen_noise = error, coefficients * scale, noise
    return chosen, chosen_noise
