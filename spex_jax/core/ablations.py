"""Masks, their values, and which of them are held out: one record from the plan to the explanation."""

import dataclasses
from typing import Any

import numpy as np

from spex_jax.core.side_information import NOTHING, SideInformation

__all__ = ["Ablations", "last_rows"]


def last_rows(rows: int, count: int) -> np.ndarray:
    """Returns bool [rows], True for the last `count` of them: which rows are held out where those come last."""
    return np.arange(rows) >= rows - count


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ablations:
    """Masks and the values of a model at these masks.

    Attributes:
      masks: bool [M, n], distinct.
      values: float64 [M].
      held_out: bool [M], the rows that measure how faithful a fit is; no fit uses them.
      design: how the method drew the masks, where its fit needs to know, such as the code of SPEX; None for most.
      known: what is known of the features beside these values.
    """

    masks: np.ndarray
    values: np.ndarray
    held_out: np.ndarray
    design: Any = None
    known: SideInformation = NOTHING

    @classmethod
    def to_fit(
        cls, masks: np.ndarray, values: np.ndarray, design: Any = None, known: SideInformation = NOTHING
    ) -> "Ablations":
        """Returns ablations of which none is held out."""
        held_out = np.zeros(len(masks), np.bool_)
        return cls(masks=masks, values=values, held_out=held_out, design=design, known=known)

    def __len__(self) -> int:
        """Returns the number of masks, M."""
        return len(self.values)

    def take(self, rows: np.ndarray) -> "Ablations":
        """Returns some of the rows, given by their numbers or as bool [M]."""
        return dataclasses.replace(self, masks=self.masks[rows], values=self.values[rows], held_out=self.held_out[rows])

    @property
    def tested_count(self) -> int:
        """The number of rows that are held out."""
        return int(self.held_out.sum())

    @property
    def fitted(self) -> "Ablations":
        """The rows that a fit may use, in their order."""
        return self.take(~self.held_out)

    @property
    def tested(self) -> "Ablations":
        """The rows that are held out, in their order."""
        return self.take(self.held_out)
