"""Published numbers of the papers, read from the arrays of SPEX's repository (spectral-explain, results/)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from games import GROUPS

# The name of a method in the arrays, and its name here.
_NAMES = {"qsft_soft": "SPEX soft", "qsft_hard": "SPEX hard", "lime": "LIME", "banzhaf": "Banzhaf", "SV": "Shapley"}
_NAMES |= {"shapley": "Shapley", "linear": "Faith-Banzhaf", "faith_banzhaf": "Faith-Banzhaf"}
_NAMES |= {"faith_shapley": "FSII", "FSII": "FSII", "shapley_taylor": "STII", "STII": "STII"}
_FIRST_B = 3  # b of the first column in the arrays on sentiment


def _named(key: str) -> str:
    name, _, order = key.rpartition("_")
    several = name in ("linear", "faith_banzhaf", "faith_shapley", "FSII", "shapley_taylor", "STII")
    return f"{_NAMES[name]} of order {order}" if several else _NAMES[name]


def _arrays(path: str) -> Any:
    try:
        return np.load(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read --published {path!r}: {error}") from error


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def faithfulness(path: str, dataset: str) -> list[dict[str, Any]]:
    """Returns mean R2 (Kang et al. 2025, figures on faithfulness) by length, method and b, the digits of SPEX's bins.

    Args:
      path: published_results.npz.
      dataset: "sentiment" (DistilBERT; with samples and seconds), "hotpotqa" or "drop" (language models).

    Raises:
      ValueError: the file cannot be read.
    """
    return list(_of_sentiment(path) if dataset == "sentiment" else _of_questions(path, dataset))


def _of_sentiment(path: str) -> Iterator[dict[str, Any]]:
    arrays, start = _arrays(path), "sentiment/sentiment_faithfulness|"
    samples = arrays[f"{start}samples"]  # [reviews, b]
    size = len(samples) // len(GROUPS)
    for key in arrays.files:
        if not (key.startswith(f"{start}methods|") and key.endswith("|test_r2")):
            continue
        method = key.split("|")[2]
        r2, seconds = arrays[key], arrays[key.replace("|test_r2", "|time")]
        for place, group in enumerate(GROUPS):
            rows = slice(place * size, (place + 1) * size)
            for column in range(r2.shape[1]):
                if (mean := _mean(r2[rows, column])) is not None and np.any(r2[rows, column]):
                    yield {
                        "group": group,
                        "method": _named(method),
                        "b": column + _FIRST_B,
                        "samples": _mean(samples[rows, column]),
                        "r2": mean,
                        "seconds": _mean(seconds[rows, column]),
                    }


def _of_questions(path: str, dataset: str) -> Iterator[dict[str, Any]]:
    arrays = _arrays(path)
    for key in arrays.files:
        if key.startswith(f"{dataset}_faith_"):
            what, group, method = key.split("|")
            if np.isfinite(r2 := float(arrays[key])):
                yield {"group": group, "method": _named(method), "b": int(what.rpartition("_")[2]), "r2": r2}
