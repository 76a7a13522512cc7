"""What `explain` needs to know of a method."""

import abc
from typing import Any, ClassVar

import numpy as np

from spex_jax.spectrum import Spectrum

__all__ = ["Method", "Options", "Tables"]

Options = dict[str, Any]
Tables = list[np.ndarray]


class Method(abc.ABC):
    """What `explain` needs to know of a method.

    Attributes:
      defaults: its options.
      from_any_masks: whether it can do without some of the masks that it drew.
      exact: whether its answer to all 2^n masks is the function itself, and not a surrogate of it.
    """

    defaults: ClassVar[dict[str, Any]]
    from_any_masks: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def complete(self, options: dict[str, Any], index: str) -> dict[str, Any]:
        """The options with what follows from the index that is asked for."""
        del index
        return options

    @abc.abstractmethod
    def check(self, seed: int, options: dict[str, Any]) -> None:
        """Raises ValueError for options that could not be used."""

    @abc.abstractmethod
    def least(self, n: int, options: dict[str, Any]) -> int:
        """The fewest masks that can be fitted."""

    @abc.abstractmethod
    def draw(self, n: int, count: int, seed: int, options: dict[str, Any]) -> tuple[np.ndarray, Any]:
        """Up to `count` distinct masks to fit, bool [M, n], and what `fit` must know of them."""

    @abc.abstractmethod
    def fit(self, masks: np.ndarray, values: np.ndarray, made: Any, seed: int, options: dict[str, Any]) -> Spectrum:
        """The spectrum."""

    def cross_fit_many(
        self, masks: Tables, values: Tables, made: list[Any], seed: int, options: Options
    ) -> list[tuple[Spectrum, np.ndarray | None]]:
        """`fit` of many tables, each with this seed and these options.

        Returns:
          For each table the spectrum, and where its interactions are to be corrected by what it misses, what was
          predicted for each mask without it, float64 [M].
        """
        return [(self.fit(*table, seed, options), None) for table in zip(masks, values, made, strict=True)]

    def settings(self, made: Any) -> dict[str, Any]:
        """What a report should say of the masks."""
        del made
        return {}
