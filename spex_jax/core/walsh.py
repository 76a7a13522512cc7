"""Conventions of the package: masks, characters and the Walsh-Hadamard transform.

A mask x in {0,1}^n keeps feature i where x_i = 1. Its signs are s_i = 1 - 2 x_i, so a kept feature has sign -1. The
character of a set S is chi_S(x) = (-1)^(sum_{i in S} x_i) = prod_{i in S} s_i, and f(x) = sum_S F(S) chi_S(x) with
F(S) = 2^-n sum_x f(x) chi_S(x) (Kang et al., ICML 2025, section 2; O'Donnell, Analysis of Boolean Functions, 2014).

In shape descriptions M is the number of masks, n the number of features, and K the number of terms of a spectrum.
"""

from typing import Any

import numpy as np

__all__ = ["signs", "subset_characters", "walsh_hadamard"]

_ELEMENTS = 2**25  # elements of a temporary array


def signs(masks: Any, dtype: Any = np.float32) -> Any:
    """Returns the signs 1 - 2x of masks, in numpy or JAX as given.

    Args:
      masks: bool or 0/1, any shape.
      dtype: dtype of the result.
    """
    return 1 - 2 * masks.astype(dtype)


def subset_characters(masks: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Returns the characters chi_S(x) of every set of `support` at every mask.

    Args:
      masks: bool [M, n].
      support: bool [K, n].

    Returns:
      int8 [M, K] of -1 and 1.
    """
    found = np.empty((len(masks), len(support)), np.int8)
    members = support.T.astype(np.float32)
    at_once = max(1, _ELEMENTS // max(1, *members.shape))
    for start in range(0, len(masks), at_once):
        rows = slice(start, start + at_once)
        # A float32 product of 0/1 matrices counts exactly up to 2^24 features and runs on BLAS, which integers do not.
        count = masks[rows].astype(np.float32) @ members
        found[rows] = 1 - 2 * (count.astype(np.int32) & 1)
    return found


def walsh_hadamard(values: Any) -> Any:
    """Returns the unnormalised fast Walsh-Hadamard transform of the last axis, in numpy or JAX as given.

    out[j] = sum_l values[l] (-1)^<j, l>, with <j, l> the inner product of the binary digits; its own inverse up to 2^b.

    Args:
      values: [..., 2^b].

    Returns:
      [..., 2^b], of the same dtype.

    Raises:
      ValueError: the length of the last axis is not a power of two.
    """
    length = values.shape[-1]
    if length < 1 or length & (length - 1):
        raise ValueError(f"the Walsh-Hadamard transform needs a power of two values, got {length}; pad or subsample")
    xp = values.__array_namespace__()
    shape, half = values.shape, 1
    while half < length:
        pairs = values.reshape(*shape[:-1], length // (2 * half), 2, half)
        values = xp.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], axis=-2)
        half *= 2
    return values.reshape(shape)
