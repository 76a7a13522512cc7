"""Shapley values from permutations of the units."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from spex_jax.baselines.additive import additive_spectrum
from spex_jax.baselines.surrogate import OwnMasks
from spex_jax.core import masks as masks_lib
from spex_jax.core.ablations import Ablations
from spex_jax.core.spectrum import Spectrum

__all__ = ["PermutationShapley", "draw_permutations", "permutation_shapley"]


def draw_permutations(n: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws random permutations, each followed by its reverse (antithetic sampling: Mitchell et al. 2022,
    https://arxiv.org/abs/2104.12199), as many as `count` masks have room for and at most `count`, and returns them with
    the masks that they need. Equal masks are evaluated once.

    A larger count gives the same permutations and further ones.

    Args:
      n: the number of units.
      count: the largest number of masks, at least n + 1.
      seed: the seed of the draw.

    Returns:
      masks: bool [M, n], distinct, M <= count; the full and the empty one first.
      permutations: int [P, n], the unit that comes first, second and so on.
    """
    rng = np.random.default_rng(seed)
    masks = [np.ones((1, n), np.bool_), np.zeros((1, n), np.bool_)]
    permutations: list[np.ndarray] = []
    known: set[bytes] = set()
    while len(permutations) < count:
        forward = rng.permutation(n)
        for order in (forward, forward[::-1]):
            first = _prefixes(order[None])[0, 1:-1]
            keys = list(map(bytes, masks_lib.pack(first)))
            new = [row for row, key in enumerate(keys) if key not in known]
            if 2 + len(known) + len(new) > count:
                return np.concatenate(masks), np.array(permutations)
            known.update(keys)
            masks.append(first[new])
            permutations.append(order)
    return np.concatenate(masks), np.array(permutations)


def permutation_shapley(masks: Any, values: Any, permutations: Any) -> Spectrum:
    """Estimates Shapley values as the mean of what each unit adds to those before it (Castro et al. 2009,
    https://doi.org/10.1016/j.cor.2008.04.004); they sum to f(all) - f(none).

    Args:
      masks: bool [M, n], in any order, with those that the permutations need among them; the values of equal rows are
        averaged.
      values: [M].
      permutations: int [P, n]; each row holds the numbers of all units in the order in which they are added.

    Raises:
      ValueError: no table of ablations, no permutations, or a mask that they need and the table lacks.
    """
    masks = masks_lib.check_masks(masks)
    values = masks_lib.check_values(values, masks)
    n = masks.shape[1]
    orders = np.asarray(permutations)
    whole = np.issubdtype(orders.dtype, np.integer)
    if (
        not (whole and orders.ndim == 2 and len(orders) and orders.shape[1] == n)
        or (np.sort(orders, axis=1) != np.arange(n)).any()
    ):
        raise ValueError(
            f"permutations must be int [P, {n}], each of the units 0 to {n - 1} once in every row, got {orders.dtype} "
            f"{orders.shape}"
        )
    along = look_up(masks, values, _prefixes(orders).reshape(-1, n), "permutation_shapley").reshape(len(orders), n + 1)
    effects = np.zeros(n)
    np.add.at(effects, orders, np.diff(along, axis=1))
    return additive_spectrum(effects / len(orders), float(along[0, -1]))


def look_up(masks: np.ndarray, values: np.ndarray, wanted: np.ndarray, caller: str) -> np.ndarray:
    """Returns the values float64 [W] of masks bool [W, n] in a table bool [M, n], float64 [M]; averages equal rows.

    Raises:
      ValueError: a mask that the table lacks.
    """
    first, group = masks_lib.deduplicate(np.concatenate([masks, wanted]))
    own, found = group[: len(masks)], group[len(masks) :]
    if (lacking := first[found] >= len(masks)).any():
        removed = np.flatnonzero(~wanted[np.argmax(lacking)])
        raise ValueError(
            f"{caller} needs {lacking.sum()} masks that the table lacks; the first removes {len(removed)} of "
            f"{masks.shape[1]} units ({', '.join(map(str, removed[:20])) or 'none'}): evaluate it too"
        )
    means = np.bincount(own, values, len(first)) / np.maximum(np.bincount(own, minlength=len(first)), 1)
    return np.asarray(means[found])


def _prefixes(orders: np.ndarray) -> np.ndarray:
    """Returns the masks of the first 0 to n units of permutations int [P, n], bool [P, n + 1, n]."""
    n = orders.shape[1]
    return np.argsort(orders, axis=1)[:, None, :] < np.arange(n + 1)[:, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PermutationShapley(OwnMasks):
    """The method "permutation_shapley" of `explain`; see `permutation_shapley`. Its masks lie along permutations."""

    name: ClassVar[str] = "permutation_shapley"

    def draw(self, n: int, count: int, seed: int) -> tuple[np.ndarray, Any]:
        """Returns the masks along permutations, and the permutations."""
        return draw_permutations(n, count, seed)

    def fit(self, ablations: Ablations, seed: int) -> Spectrum:
        """Returns the mean effects along the permutations."""
        del seed
        return permutation_shapley(ablations.masks, ablations.values, ablations.design)

    def settings(self, design: Any) -> dict[str, Any]:
        """Returns the number of permutations."""
        return {"permutations": len(design)}
