"""Sparse linear functions of the masks, fitted by scikit-learn."""

import dataclasses
import importlib.util
import warnings
from typing import Any, ClassVar

import numpy as np

from spex_jax.baselines.additive import additive_spectrum
from spex_jax.baselines.surrogate import ShrunkRegression
from spex_jax.core import masks as masks_lib
from spex_jax.core.ablations import Ablations
from spex_jax.core.sampling import Sampling
from spex_jax.core.spectrum import Spectrum

__all__ = ["LASSO", "check_sklearn", "datamodels", "lasso"]


def check_sklearn(caller: str) -> None:
    """Raises ValueError where scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError(f"{caller} needs scikit-learn: pip install 'spex-jax[data]'")


def datamodels(masks: Any, values: Any, *, folds: int = 5, seed: int = 0) -> Spectrum:
    """Fits LASSO from masks to values with a cross-validated penalty (Ilyas et al. 2022,
    https://arxiv.org/abs/2202.00622, section 2).

    Args:
      masks: bool [M, n].
      values: [M].
      folds: the number of folds of the cross-validation.
      seed: the seed of the folds.

    Raises:
      ValueError: no table of ablations, fewer rows than folds, or scikit-learn is not installed.
    """
    check_sklearn("datamodels")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LassoCV
    from sklearn.model_selection import KFold

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


def lasso(masks: Any, values: Any, *, alpha: float = 0.01) -> Spectrum:
    """Fits LASSO on standardised masks with a fixed penalty, the setting of ContextCite (Cohen-Wang et al. 2024,
    https://arxiv.org/abs/2409.00729).

    ContextCite divides the log-probability of an answer by its number of tokens first: for a sum over T tokens its
    setting is alpha = 0.01 T.

    Args:
      masks: bool [M, n].
      values: [M].
      alpha: the penalty, in units of the values; the objective is half the mean squared error plus alpha times the sum
        of the absolute coefficients of masks that have variance 1.

    Raises:
      ValueError: no table of ablations, an alpha that is no positive number, or scikit-learn is not installed.
    """
    check_sklearn("lasso")
    from sklearn.linear_model import Lasso
    from sklearn.preprocessing import StandardScaler

    masks = masks_lib.check_masks(masks)
    values = masks_lib.check_values(values, masks)
    masks_lib.check_positive("alpha", alpha)
    if not len(masks):
        raise ValueError("lasso needs at least one ablation, got none")
    if np.ptp(values) == 0:
        return additive_spectrum(np.zeros(masks.shape[1]), float(values[0]))
    scaler = StandardScaler()
    model = Lasso(alpha=alpha).fit(scaler.fit_transform(masks.astype(np.float64)), values)
    effects = model.coef_ / scaler.scale_
    return additive_spectrum(effects, float(model.intercept_ + (1 - scaler.mean_) @ effects))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LASSO(ShrunkRegression):
    """The method "lasso" of `explain`; see `lasso`.

    Attributes:
      alpha: the penalty, in units of the values.
      sampling: how masks are drawn (see `sampling.draw`); None is "uniform".
    """

    name: ClassVar[str] = "lasso"
    alpha: float = 0.01
    sampling: Sampling | None = None

    def drawn(self) -> Sampling:
        """Returns how the masks are drawn."""
        return self.sampling or "uniform"

    def check(self, seed: int) -> None:
        """Raises ValueError for options that could not be used, or where scikit-learn is not installed."""
        super().check(seed)
        masks_lib.check_positive("alpha", self.alpha)
        check_sklearn("method 'lasso'")

    def fit(self, ablations: Ablations, seed: int) -> Spectrum:
        """Returns the sparse regression."""
        del seed
        return lasso(ablations.masks, ablations.values, alpha=self.alpha)
