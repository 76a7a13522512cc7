"""The interface of a method for `explain`."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np

from spex_jax.core.ablations import Ablations
from spex_jax.core.masks import check_whole
from spex_jax.core.spectrum import Spectrum
from spex_jax.methods.registry import Named, Registry

__all__ = ["METHODS", "Adaptive", "CrossFit", "Method", "register"]


class CrossFit(NamedTuple):
    """A fit with its cross-validated predictions.

    Attributes:
      spectrum: the spectrum that was fitted.
      predicted: float64 [M], a prediction for each mask by a fit that did not use its value, for the correction of
        interactions by what the spectrum misses; None where they are not corrected.
    """

    spectrum: Spectrum
    predicted: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptive:
    """How adaptive sampling continues after its first part.

    Attributes:
      acquisition: how the masks of a batch are chosen, one of `sampling.ACQUISITIONS`.
      refits: number of batches.
      target_r2, target_width: the R2 on held-out masks and the widest interval at which it stops; None for never.
    """

    acquisition: str
    refits: int
    target_r2: float | None
    target_width: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(Named, abc.ABC):
    """A method: which masks it evaluates and how it fits a spectrum to their values; its fields are its options.

    Attributes:
      from_any_masks: whether it can fit without some of the masks that it drew.
      exact: whether its fit to all 2^n masks is the function itself, and not a surrogate of it.
    """

    from_any_masks: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    @property
    def uses_known(self) -> bool:
        """Whether its fit uses what is known of the features beside their ablations."""
        return False

    @property
    def adaptive(self) -> Adaptive | None:
        """How further masks are chosen where `draw` returns only the first part; None where it returns all."""
        return None

    def complete(self, index: str) -> Self:
        """Returns the method with the options that follow from the index filled in."""
        del index
        return self

    def check(self, seed: int) -> None:
        """Raises ValueError for options that cannot be used, before any mask is evaluated."""
        check_whole("seed", seed, 0, 2**32 - 1)
        self.check_choices()

    @abc.abstractmethod
    def least(self, n: int) -> int:
        """Returns the fewest masks that can be fitted."""

    @abc.abstractmethod
    def draw(self, n: int, count: int, seed: int) -> tuple[np.ndarray, Any]:
        """Returns up to `count` distinct masks to fit, bool [M, n], and the `design` of their `Ablations`."""

    @abc.abstractmethod
    def fit(self, ablations: Ablations, seed: int) -> Spectrum:
        """Fits a spectrum.

        Args:
          ablations: the masks and values to fit; none of them is held out.
          seed: seed of the fit.
        """

    def cross_fit_many(self, tables: Sequence[Ablations], seed: int) -> list[CrossFit]:
        """Fits many tables, each as `fit` does with this seed."""
        return [CrossFit(self.fit(table, seed)) for table in tables]

    def settings(self, design: Any) -> dict[str, Any]:
        """Returns the settings of the masks that were drawn, for reports."""
        del design
        return {}


METHODS: Registry[Method] = Registry("method", Method)

M = TypeVar("M", bound=Method)


def register(method: type[M]) -> type[M]:
    """Registers a method, so that `method="its name"` means it; used as a decorator of the class.

    Raises:
      ValueError: another method has this name.
    """
    METHODS.register(method)
    return method
