"""LIME: a linear function of the masks, in which masks near the full one weigh more."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from spex_jax.baselines.additive import additive_spectrum
from spex_jax.baselines.surrogate import ShrunkRegression
from spex_jax.core import masks as masks_lib
from spex_jax.core.ablations import Ablations
from spex_jax.core.sampling import Sampling
from spex_jax.core.spectrum import Spectrum

__all__ = ["LIME", "lime"]


def lime(masks: Any, values: Any, *, kernel_width: float = 25.0, alpha: float = 1.0) -> Spectrum:
    """Fits the weighted ridge regression of LIME (Ribeiro et al. 2016, https://arxiv.org/abs/1602.04938, section 3.4)
    as its package does for texts, without a selection of units.

    A mask that keeps s of n units has the weight exp(-d^2 / (2 kernel_width^2)) with d = 100 (1 - sqrt(s / n)), 100
    times its cosine distance to the full mask. The intercept is not shrunk.

    Args:
      masks: bool [M, n].
      values: [M].
      kernel_width: the width of the kernel, in hundredths of the distance.
      alpha: the penalty of the ridge.

    Raises:
      ValueError: no table of ablations, or a width or alpha that is no positive number.
    """
    masks = masks_lib.check_masks(masks)
    values = masks_lib.check_values(values, masks)
    masks_lib.check_positive("kernel_width", kernel_width)
    masks_lib.check_positive("alpha", alpha)
    if not len(masks):
        raise ValueError("lime needs at least one ablation, got none")
    distance = 100 * (1 - np.sqrt(masks.mean(axis=1)))
    weight = np.exp(-((distance / kernel_width) ** 2) / 2)
    if not weight.sum() > 0:
        raise ValueError(f"every mask is too far from the full one for kernel_width {kernel_width}; give a larger one")
    center = weight @ masks / weight.sum()
    design, middle = masks - center, values.min() / 2 + values.max() / 2  # constant values leave exactly 0
    mean = weight @ (values - middle) / weight.sum()
    target = values - middle - mean
    n = masks.shape[1]
    if len(masks) < n:  # the same ridge, with one equation per mask in place of one per unit
        root = np.sqrt(weight)
        rows = design * root[:, None]
        effects = np.linalg.solve(rows @ rows.T + alpha * np.eye(len(rows)), root * target) @ rows
    else:
        gram = (design * weight[:, None]).T @ design
        effects = np.linalg.solve(gram + alpha * np.eye(n), (weight * target) @ design)
    return additive_spectrum(effects, float(middle + mean + (1 - center) @ effects))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LIME(ShrunkRegression):
    """The method "lime" of `explain`; see `lime`.

    The package of LIME draws the number of removed words uniformly, without complements and with repetitions.

    Attributes:
      kernel_width: the width of the kernel, in hundredths of the distance.
      alpha: the penalty of the ridge.
      sampling: how masks are drawn (see `sampling.draw`); None is "size".
    """

    name: ClassVar[str] = "lime"
    kernel_width: float = 25.0
    alpha: float = 1.0
    sampling: Sampling | None = None

    def drawn(self) -> Sampling:
        """Returns how the masks are drawn."""
        return self.sampling or "size"

    def check(self, seed: int) -> None:
        """Raises ValueError for options that could not be used."""
        super().check(seed)
        masks_lib.check_positive("kernel_width", self.kernel_width)
        masks_lib.check_positive("alpha", self.alpha)

    def fit(self, ablations: Ablations, seed: int) -> Spectrum:
        """Returns the weighted ridge regression."""
        del seed
        return lime(ablations.masks, ablations.values, kernel_width=self.kernel_width, alpha=self.alpha)
