"""Corrects an index that weighs small and large coalitions by the errors of a proxy at the masks that were evaluated.

An index is linear in the function, so that the index of the model is the index of the proxy plus that of its error. The
first order of the error is estimated by a regression on cross-fitted residuals, with the weights of KernelSHAP and as
much shrinkage as the residuals call for; the rest is known exactly at the masks that were fitted (held-out masks serve
R2 alone). The result is the index of the function that has the values of the model at the fitted masks and those of
proxy plus regression elsewhere: exact at the empty and the full mask, and exact for any proxy once every mask was
fitted; a single missing mask can still have a large weight.

For a coalition size with many sets, a few values tell nothing about the others and have hardly any weight. Where all
masks of one feature, or all but one, were evaluated, they have the largest weights in a Shapley value and no error.
"""

import dataclasses
from itertools import combinations

import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.indices import EmptySet, Index, find_index
from spex_jax.core.interactions import Interactions
from spex_jax.core.spectrum import Spectrum
from spex_jax.utils.untrusted_files import Archive

__all__ = ["Correction", "correction_of", "point_weights", "residual_effects"]

_LEAST_SHARE = 1e-4  # share of the masks of a size: where fewer were evaluated, their own errors are ignored
_MOST_SETS = 20_000  # up to this many sets all are corrected; else single features and the sets of the spectrum
_PENALTIES = np.exp(np.linspace(-40.0, 16.0, 113))
_NOTHING = 1e15  # a penalty that shrinks all effects to 0
_ROUNDING = 1e-14  # relative to the largest value
_ELEMENTS = 2**22  # elements of a temporary array


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Correction:
    """A correction that is added to an index of a spectrum.

    Attributes:
      effects: float64 [n], first-order effects in the error of the spectrum.
      masks: bool [A, n], masks whose own errors are corrected.
      errors: float64 [A], values of the model at these masks minus those of the spectrum and the effects.
    """

    effects: np.ndarray
    masks: np.ndarray
    errors: np.ndarray

    def __call__(self, found: Interactions) -> Interactions:
        """Returns the corrected interactions of a spectrum; an index that is not of Shapley type stays unchanged.

        All sets are corrected where there are at most 20,000, else single features and the sets that the spectrum
        holds. Standard errors stay those of the spectrum; a set that it does not hold gets the median of its size. They
        are too wide where most masks with large weights were evaluated, as for Shapley values of few features, and too
        narrow for sets on which the spectrum is wrong.
        """
        index, n, order = find_index(found.index), found.n, found.max_order
        if not index.shapley_type:
            return found
        every = masks_lib.number_of_sets(n, order) - 1 <= _MOST_SETS
        members: list[tuple[int, ...]] = [()]
        values = [np.array([found[()] + self._at_empty(index, order)])]
        for size in range(1, order + 1):
            keys = [key for key in found if len(key) == size]
            if every or size == 1:
                keys = list(combinations(range(n), size))
            sets = np.array(keys, np.int64).reshape(len(keys), size)
            added = self._at(sets, point_weights(index, size, n, order))
            values.append(np.array([found[key] for key in keys]) + added + (self.effects if size == 1 else 0.0))
            members.extend(keys)
        return Interactions(
            members,
            np.concatenate(values),
            n=n,
            index=index,
            max_order=order,
            names=found.names,
            std_errors=_std_errors(members, found.std_errors),
            min_order=found.min_order,
            baseline=None if found.baseline is None else found.baseline + self._at_none(),
            estimated=found.estimated,
            budget=found.budget,
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns arrays to store in a file."""
        masks = masks_lib.pack(self.masks)
        return {"correction_effects": self.effects, "correction_masks": masks, "correction_errors": self.errors}

    @classmethod
    def from_arrays(cls, arrays: Archive, n: int) -> "Correction | None":
        """Reads the correction of n features from a file; None where it holds none.

        Raises:
          ValueError: the correction is not of this form.
        """
        if "correction_effects" not in arrays:
            return None
        masks = arrays.masks("correction_masks", n)
        return cls(
            effects=arrays.floats("correction_effects", (n,)),
            masks=masks,
            errors=arrays.floats("correction_errors", (len(masks),)),
        )

    def _at_none(self) -> float:
        """Returns the error at the empty mask."""
        return float((self.masks.sum(axis=1) == 0) @ self.errors)

    def _at_empty(self, index: Index, order: int) -> float:
        """Returns the correction of the empty set: the error at the empty mask where it holds f(none), else a mean."""
        if index.empty is EmptySet.VALUE:
            return self._at_none()
        weights = index.contexts(0, self.masks.shape[1], order).by_context()
        return float(weights[self.masks.sum(axis=1)] @ self.errors)

    def _at(self, sets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Returns the correction of sets int [Q, t] by the errors, float64 [Q]; `weights` are from `point_weights`."""
        found, sizes = np.zeros(len(sets)), self.masks.sum(axis=1)
        at_once = max(1, _ELEMENTS // max(1, len(self.masks)))
        for start in range(0, len(sets), at_once):
            part = slice(start, start + at_once)
            within = sum(self.masks[:, column].astype(np.int64) for column in sets[part].T)
            found[part] = self.errors @ weights[within, sizes[:, None]]
        return found


def point_weights(index: Index, size: int, n: int, order: int) -> np.ndarray:
    """Returns the weight of the value at a mask x in the index of a set T: float64 [size + 1, n + 1], by |T and x|
    and |x|.

    The mask is one corner of the discrete derivative in the context x without T.

    Args:
      index: an index of Shapley type.
      size: the size of T.
      n: number of features.
      order: the maximal order of the index.
    """
    from scipy import special

    by_size = index.contexts(size, n, order).by_size()
    each = by_size / special.comb(n - size, np.arange(n - size + 1))
    found = np.zeros((size + 1, n + 1))
    for within in range(size + 1):
        found[within, within : within + n - size + 1] = (-1.0) ** (size - within) * each
    return found


def residual_effects(masks: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Fits first-order effects float64 [n], which sum to 0, to residuals float64 [M] at masks bool [M, n].

    The fit is the weighted regression of KernelSHAP (Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874,
    theorem 2) with a ridge penalty, after the means of each size are removed. The penalty has the largest marginal
    likelihood, so that residuals without signal have no effect. Sizes 1 and n - 1 are left out; their values are known.
    """
    n, size = masks.shape[1], masks.sum(axis=1)
    inner = (size > 1) & (size < n - 1) & np.isfinite(residuals)
    if not inner.any():
        return np.zeros(n)
    gram, moments, power = np.zeros((n, n)), np.zeros(n), 0.0
    for kept in np.unique(size[inner]):
        of_size = np.flatnonzero(inner & (size == kept))
        features, targets = masks[of_size].astype(np.float64), residuals[of_size]
        features, targets = features - features.mean(axis=0), targets - targets.mean()
        weight = (n - 1) / (kept * (n - kept)) / len(of_size)
        gram += weight * features.T @ features
        moments += weight * features.T @ targets
        power += weight * float(targets @ targets)
    rows = int(inner.sum())
    total = sum((n - 1) / (kept * (n - kept)) for kept in np.unique(size[inner])) / rows  # the mean weight is 1
    square, vectors = np.linalg.eigh(gram / total)
    known = square > 1e-12 * square.max(initial=0.0)
    scale, right = np.sqrt(square[known]), vectors.T[known]
    along = right @ (moments / total) / scale
    beside = max(power / total - float(along @ along), 0.0)
    best, chosen = np.inf, _NOTHING
    for penalty in (*_PENALTIES, _NOTHING):
        noise = (beside + np.square(along) @ (penalty / (np.square(scale) + penalty))) / rows
        if noise <= 0:  # the effects explain everything
            return np.zeros(n) if not along.any() else right.T @ (along / scale)
        surprise = rows * np.log(noise) + np.log1p(np.square(scale) / penalty).sum()
        if surprise < best:
            best, chosen = surprise, penalty
    effects = right.T @ (scale / (np.square(scale) + chosen) * along)
    return effects if chosen < _NOTHING else np.zeros(n)


def correction_of(
    spectrum: Spectrum, masks: np.ndarray, values: np.ndarray, out_of_fold: np.ndarray
) -> Correction | None:
    """Returns the correction of a spectrum by the masks that it was fitted to; None where nothing is left to correct.

    Args:
      spectrum: the spectrum of a proxy.
      masks: bool [M, n], distinct.
      values: float64 [M].
      out_of_fold: float64 [M], predictions for each mask by the proxy of the other folds; nan where all used the mask.
    """
    from scipy import special

    n, size = spectrum.n, masks.sum(axis=1)
    largest = float(np.abs(values).max())
    left = values - out_of_fold
    if not np.abs(left[np.isfinite(left)]).max(initial=0.0) > _ROUNDING * largest:
        return None  # a constant, or a function that the proxy fits exactly
    effects = largest * residual_effects(masks, left / largest)  # squares of 1e+200 would overflow
    share = np.bincount(size, minlength=n + 1) / special.comb(n, np.arange(n + 1))
    kept = share[size] >= _LEAST_SHARE
    errors = values[kept] - spectrum(masks[kept]) - masks[kept] @ effects
    errors[np.abs(errors) <= _ROUNDING * largest] = 0.0
    return Correction(effects=effects, masks=masks[kept], errors=errors)


def _std_errors(members: list[tuple[int, ...]], known: Interactions | None) -> np.ndarray | None:
    if known is None:
        return None
    usual = [
        float(np.median([error for key, error in known.items() if len(key) == size] or [0.0]))
        for size in range(known.max_order + 1)
    ]
    return np.array([known.get(key, usual[len(key)]) for key in members])
