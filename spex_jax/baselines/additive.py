"""Effects of single units as a spectrum."""

from typing import Any

import numpy as np

from spex_jax.core.spectrum import Spectrum

__all__ = ["additive_spectrum"]


def additive_spectrum(effects: Any, full: float) -> Spectrum:
    """Returns the spectrum of f(x) = full - sum of the effects of the units that x removes.

    Args:
      effects: float [n], one for each unit.
      full: the value with everything kept.

    Raises:
      ValueError: effects of another shape, or not finite.
    """
    effects = np.asarray(effects, np.float64)
    if effects.ndim != 1 or not len(effects) or not np.isfinite(effects).all() or not np.isfinite(full):
        raise ValueError(
            f"effects must be finite numbers [n] and full a finite number, got shape {effects.shape}, {full}"
        )
    n = len(effects)
    support = np.concatenate([np.zeros((1, n), np.bool_), np.eye(n, dtype=np.bool_)])
    return Spectrum(support=support, coefficients=np.concatenate([[full - effects.sum() / 2], -effects / 2]))
