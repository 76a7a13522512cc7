"""First-order datamodels: a sparse linear function of the masks."""

import warnings
from typing import Any

import numpy as np

from spex_jax import masks as masks_lib
from spex_jax.baselines.additive import additive_spectrum
from spex_jax.spectrum import Spectrum

__all__ = ["datamodels"]


def datamodels(masks: Any, values: Any, *, folds: int = 5, seed: int = 0) -> Spectrum:
    """LASSO from masks to values, its penalty by cross-validation (Ilyas et al. 2022, https://arxiv.org/abs/2202.00622,
    section 2), with scikit-learn.

    Args:
      masks: bool [M, n].
      values: [M].
      folds: of the cross-validation.
      seed: of the folds.

    Raises:
      ValueError: no table of ablations, fewer rows than folds, or scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LassoCV
        from sklearn.model_selection import KFold
    except ImportError as error:
        raise ValueError("datamodels need scikit-learn: pip install 'spex-jax[data]'") from error
    masks = masks_lib.check_masks(masks)
    values = masks_lib.check_values(values, masks)
    masks_lib.check_whole("folds", folds, 2)
    masks_lib.check_whole("seed", seed, 0, 2**32 - 1)
    if len(masks) < folds:
        raise ValueError(f"a cross-validation in {folds} folds needs at least {folds} ablations, got {len(masks)}")
    if np.ptp(values) == 0:
        return additive_spectrum(np.zeros(masks.shape[1]), float(values[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at the smallest penalties, which are not chosen
        model = LassoCV(cv=KFold(folds, shuffle=True, random_state=seed)).fit(masks.astype(np.float64), values)
    return additive_spectrum(model.coef_, float(model.intercept_ + model.coef_.sum()))
