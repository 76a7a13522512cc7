"""Leave-one-out: every unit removed alone."""

from typing import Any

import numpy as np

from spex_jax.baselines.additive import additive_spectrum
from spex_jax.evaluate import evaluate, features_of
from spex_jax.masks import check_whole
from spex_jax.spectrum import Spectrum

__all__ = ["leave_one_out"]


def leave_one_out(value_fn: Any, n: int | None = None, **options: Any) -> Spectrum | list[Spectrum]:
    """Effects f(all) - f(all but i), in n + 1 ablations; of a network's parts this is activation patching (Vig et al.
    2020, https://arxiv.org/abs/2004.12265).

    It sees no part that another stands in for, and counts an effect that needs several parts once for each of them.

    Args:
      value_fn: a `ValueFunction`, or a callable with n given.
      n: number of units of a callable.
      **options: of `spex_jax.evaluate`.

    Returns:
      One spectrum; where values are several numbers [T], a list of one for each.

    Raises:
      ValueError: see `spex_jax.evaluate`; no n, or a wrong one.
    """
    n = features_of(value_fn, n, "leave_one_out", several=True)
    check_whole("n", n, 1)
    without = ~np.eye(n, dtype=np.bool_)
    values = evaluate(value_fn, np.concatenate([np.ones_like(without[:1]), without]), **options)
    if values.ndim == 1:
        return additive_spectrum(values[0] - values[1:], float(values[0]))
    columns = values.reshape(len(values), -1).T
    return [additive_spectrum(column[0] - column[1:], float(column[0])) for column in columns]
