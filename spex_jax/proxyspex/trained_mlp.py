"""A trained proxy as an object: evaluate it, read its spectrum, save it and load it."""

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.spectrum import Spectrum
from spex_jax.core.walsh import signs
from spex_jax.proxyspex.extraction import EXTRACTS, in_units
from spex_jax.proxyspex.preprocessing import feature_bucket, prepare, row_bucket
from spex_jax.utils.jax_settings import in_float32

if TYPE_CHECKING:
    from spex_jax.proxyspex import perceptrons

__all__ = ["TrainedMLP", "train_mlp"]

_BATCH = 2**13
_FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainedMLP:
    """An ensemble of perceptrons that stands in for a value function: masks bool [M, n] -> float64 [M].

    Attributes:
      params: parameters of `perceptrons.Perceptron` with a leading axis of members.
      n: number of features.
      mean, scale: the value is mean + scale * mean answer of the members.
    """

    params: "perceptrons.Params"
    n: int
    mean: float
    scale: float

    @in_float32()
    def __call__(self, masks: Any) -> np.ndarray:
        """Returns the values float64 [M] at masks bool [M, n]."""
        from spex_jax.proxyspex import perceptrons

        masks = masks_lib.check_masks(masks, self.n)
        found = np.zeros(len(masks))
        for start in range(0, len(masks), _BATCH):
            part = masks[start : start + _BATCH]
            padded = np.zeros((row_bucket(len(part)), feature_bucket(self.n)), np.float32)
            padded[: len(part), : self.n] = signs(part)
            found[start : start + len(part)] = np.asarray(perceptrons.answers(self.params, jnp.asarray(padded)))[
                : len(part)
            ]
        return self.mean + self.scale * found

    @in_float32()
    def spectrum(
        self, *, max_degree: int = 5, max_terms: int | None = None, seed: int = 0, extract: str = "grow"
    ) -> Spectrum:
        """Returns the spectrum of the network itself, not refitted to any data: from all 2^n answers up to n = 17, else
        by a search on 131,072 answers.

        Args:
          max_degree: largest degree of a term.
          max_terms: number of terms, () included; None is the fewest with 99.9% of the energy, at most 10,000.
          seed: for the masks at which the network is evaluated.
          extract: "grow" (the growing search, random masks) or "spex" (coded masks, decoded).

        Raises:
          ValueError: an unknown extract.
        """
        from spex_jax.proxyspex import perceptrons

        if extract not in EXTRACTS:
            raise ValueError(f"unknown extract {extract!r}; expected one of {', '.join(EXTRACTS)}")
        degree, width = min(max_degree, self.n), feature_bucket(self.n)
        found = perceptrons.read(self.params, self.n, width, max_degree=degree, seed=seed, extract=extract)
        return in_units(Spectrum(*found), self.mean, self.scale, max_terms)

    @in_float32()
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an orbax checkpoint, a folder that must not exist yet.

        Raises:
          ValueError: the path exists, or its parent does not.
        """
        from orbax.checkpoint import v1 as orbax

        target = pathlib.Path(path).absolute()
        if target.exists():
            raise ValueError(f"{str(target)!r} exists; give the path of a new folder")
        if not target.parent.is_dir():
            raise ValueError(f"the folder {str(target.parent)!r} does not exist; create it first")
        about = {"format": _FORMAT, "n": self.n, "mean": self.mean, "scale": self.scale}
        tree = {"params": self.params, "about": about}
        orbax.save(target, jax.tree.map(np.asarray, tree))

    @classmethod
    @in_float32()
    def load(cls, path: str | os.PathLike[str]) -> "TrainedMLP":
        """Reads what `save` wrote.

        Raises:
          ValueError: there is no such checkpoint, or one of another kind.
        """
        from orbax.checkpoint import v1 as orbax

        target = pathlib.Path(path).absolute()
        try:
            if not orbax.is_orbax_checkpoint(target):
                raise ValueError("there is no orbax checkpoint")
            tree = orbax.load(target)
            about = {name: value.item() for name, value in tree["about"].items()}
            if about.pop("format") > _FORMAT:
                raise ValueError("it was written by a newer version; update spex_jax")
            return cls(params=jax.tree.map(jnp.asarray, tree["params"]), **about)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(target)!r} is not a checkpoint of TrainedMLP.save: {error}") from error


def train_mlp(masks: Any, values: Any, *, seed: int = 0) -> TrainedMLP:
    """Trains the ensemble of proxy "mlp" on a table of ablations, with decay and stop chosen by folds.

    Args:
      masks: bool [M, n], True = kept.
      values: [M], finite and not all equal.
      seed: the same table and seed give the same networks.

    Raises:
      ValueError: masks or values that cannot be used, or values that are all equal.
    """
    from spex_jax.proxyspex import perceptrons

    table = prepare(masks, values, seed)
    if isinstance(table, Spectrum):
        raise ValueError(f"the values are all {table.coefficients[0]:g}: there is nothing to learn")
    with in_float32():
        params, _ = perceptrons.train_ensemble(table, seed=seed)
    return TrainedMLP(params=params, n=table.n, mean=table.mean, scale=table.scale)
