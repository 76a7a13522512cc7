"""What the explanations of some texts say about the units of the next: which of them are likely to matter.

Explanations of one model are alike: the same words matter, and gradients are right or wrong in the same way. A unit is
described by its name, its place, its length and, where it is known, its relevance. A linear mixed model learns from
earlier explanations how these go with the size of its effects; the name has a random effect, drawn to zero where few
explanations hold it (an extension of this project).
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from spex_jax.core.spectrum import Spectrum

__all__ = ["CorpusPrior", "Example", "learn_corpus"]

_RIDGE = 1.0  # weight of the prior of the weights, in examples
_LEAST = 1e-3  # of the largest, so that logarithms are finite
_WORD = re.compile(r"\w+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One explanation to learn from.

    Attributes:
      names: names of its n units.
      spectrum: its spectrum.
      relevance: float64 [n], how much each unit was expected to matter; None where that was not known.
    """

    names: Sequence[str]
    spectrum: Spectrum
    relevance: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusPrior:
    """What earlier explanations say of units; `explain(prior=...)` takes it. Made by `learn_corpus`.

    Attributes:
      weights: float64 [d], of the columns of `_features`.
      effects: the effect of each name.
      examples: the number of explanations that it was learned from.
    """

    weights: np.ndarray
    effects: Mapping[str, float]
    examples: int

    def relevance(self, names: Sequence[str], own: np.ndarray | None = None) -> np.ndarray:
        """Returns how much each of n units is expected to matter, float64 [n], 1 for the largest.

        Args:
          names: names of the units.
          own: [n], what else is known of it, such as gradients; None where nothing is.
        """
        by_name = np.array([self.effects.get(name, 0.0) for name in _plain(names)])
        logs = _features(names, own) @ self.weights + by_name
        return np.asarray(np.exp(logs - logs.max()))


def _plain(names: Sequence[str]) -> list[str]:
    """Returns names in lower case without punctuation; those that have nothing else as they are."""
    return ["".join(_WORD.findall(name.lower())) or name.strip() for name in names]


def _logs(sizes: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(sizes / sizes.max(), _LEAST)))


def _features(names: Sequence[str], relevance: np.ndarray | None) -> np.ndarray:
    """Returns what describes units, float64 [n, d], each column of mean 0 over the units: place and its square, length
    of the name, whether it is a word, and the relevance.
    """
    n = len(names)
    place = np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
    length = np.array([np.log1p(len(name)) for name in _plain(names)])
    words = np.array([bool(_WORD.search(name)) for name in names], np.float64)
    logs = np.zeros(n) if relevance is None else _logs(np.asarray(relevance, np.float64))
    columns = np.stack([place, place**2, length, words, logs], axis=1)
    return np.asarray(columns - columns.mean(axis=0))


def learn_corpus(examples: Sequence[Example]) -> CorpusPrior | None:
    """Learns from explanations; None where none of them has an effect.

    The weights are those of ridge regression; the effect of a name that was seen m times is the sum of what they leave
    there times s / (1 + m s), with s the ratio of the variances between and within names (the best linear prediction,
    Robinson, Statistical Science 1991).
    """
    features, targets, names = [], [], []
    for example in examples:
        sizes = np.sqrt(np.square(example.spectrum.coefficients) @ example.spectrum.support)
        if sizes.any():
            features.append(_features(example.names, example.relevance))
            logs = _logs(sizes)
            targets.append(logs - logs.mean())
            names += _plain(example.names)
    if not features:
        return None
    rows, sought = np.concatenate(features), np.concatenate(targets)
    penalty = _RIDGE * np.diag(np.maximum(np.square(rows).mean(axis=0), 1e-12))
    weights = np.linalg.solve(rows.T @ rows + penalty, rows.T @ sought)
    left: dict[str, list[float]] = {}
    for name, number in zip(names, sought - rows @ weights, strict=True):
        left.setdefault(name, []).append(float(number))
    share = _between_within(list(left.values()))
    effects = {name: sum(numbers) * share / (1 + len(numbers) * share) for name, numbers in left.items()}
    return CorpusPrior(weights=weights, effects=effects, examples=len(features))


def _between_within(groups: Sequence[Sequence[float]]) -> float:
    """Returns the ratio of the variances between and within groups; 0 where no group has two numbers."""
    repeated = [group for group in groups if len(group) > 1]
    if not repeated:
        return 0.0
    within = sum(np.var(group) * len(group) for group in repeated) / sum(len(group) - 1 for group in repeated)
    between = max(float(np.var(np.concatenate(groups))) - within, 0.0)
    return float(between / max(within, 1e-12))
