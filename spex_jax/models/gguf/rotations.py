"""Rotary positions as llama.cpp keeps them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["LLAMA3_FACTORS", "llama3_scaling", "unrotated_rows"]

LLAMA3_FACTORS = "rope_freqs.weight"  # by how much each frequency of Llama 3.1 and later is divided
_LOW, _HIGH = 1.0, 4.0  # of every Llama from 3.1 on
_ORIGINAL = 8192


def unrotated_rows(heads: int, rows: int) -> np.ndarray:
    """Returns for each row of queries or keys, in the order of transformers, its row in a file of llama.cpp, int
    [rows].

    llama.cpp rotates neighbouring rows of a head together, transformers row i and row i + width / 2.
    """
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def llama3_scaling(factors: np.ndarray, theta: float) -> Mapping[str, Any]:
    """Returns the rope_scaling of config.json that gives these factors float64 [width / 2].

    Raises:
      ValueError: they are not those of Llama 3.1 and later.
    """
    factor = float(factors.max())
    waves = 2 * np.pi * theta ** (np.arange(len(factors)) / len(factors))
    # Between the two ends the factors say how long the first contexts were.
    shares = (1 / factors - 1 / factor) / (1 - 1 / factor) if factor > 1 else np.ones(len(factors))
    between = (shares > 1e-3) & (shares < 1 - 1e-3)
    lengths = waves * (_LOW + shares * (_HIGH - _LOW))
    original = round(float(np.median(lengths[between]))) if between.any() else _ORIGINAL
    smooth = np.clip((original / waves - _LOW) / (_HIGH - _LOW), 0, 1)
    if not np.allclose(factors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        raise ValueError(
            f"the file divides the frequencies of its rotary positions by {LLAMA3_FACTORS}, and these are not the "
            "numbers of Llama 3.1 and later; it is a variant that models.load cannot read yet"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": original,
    }
