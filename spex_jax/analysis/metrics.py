"""Metrics: the faithfulness of a spectrum with its interval, the shares of its energy, and how hierarchical it is."""

import dataclasses
import warnings
from typing import Any

import numpy as np

from spex_jax.core.spectrum import Spectrum
from spex_jax.utils.untrusted_files import Record

__all__ = [
    "DatamodellingScore",
    "Faithfulness",
    "Hierarchy",
    "energy_by_group",
    "faithfulness",
    "hierarchy",
    "lds",
    "r2_score",
    "terms_for_energy",
    "varies",
]


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """R2 on held-out masks, and its 95% interval; nan where it is not defined."""

    r2: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Returns plain numbers; null where one is not defined."""
        return {name: None if np.isnan(value) else value for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, given: Any) -> "Faithfulness":
        """Reads what `to_json` returned.

        Raises:
          ValueError: `given` is not of this form.
        """
        content = Record(given, "the faithfulness")
        found = cls(*(content.real(name, none=np.nan) for name in ("r2", "low", "high")))
        content.end()
        if found.r2 > 1 or found.low > found.high:
            raise ValueError(f"R2 must be at most 1 and its interval in order, got {found!r}")
        return found

    def __str__(self) -> str:
        """Returns a text such as 'R2 0.953 (95% interval 0.941 to 0.962)'."""
        if np.isnan(self.r2):
            return "R2 not defined"
        digits = 3 if self.r2 < 0.9995 or self.r2 == 1 else 6  # an imperfect R2 must not read 1.000
        return f"R2 {self.r2:.{digits}f} (95% interval {self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearFull:
    """R2 at masks that remove 1 to 4 features, where people read an explanation, and the number of these masks."""

    score: Faithfulness
    masks: int

    @classmethod
    def unknown(cls) -> "NearFull":
        """Returns the record of no masks."""
        return cls(score=Faithfulness(np.nan, np.nan, np.nan), masks=0)

    def to_json(self) -> dict[str, Any]:
        """Returns plain numbers; null where one is not defined."""
        return {"score": self.score.to_json(), "masks": self.masks}

    @classmethod
    def from_json(cls, given: Any) -> "NearFull":
        """Reads what `to_json` returned.

        Raises:
          ValueError: `given` is not of this form.
        """
        content = Record(given, "the faithfulness near the full mask")
        found = cls(score=Faithfulness.from_json(content.take("score")), masks=content.whole("masks", 0))
        content.end()
        return found

    def __str__(self) -> str:
        """Returns a text such as 'R2 0.91 (95% interval 0.88 to 0.93) on 74 masks with 1 to 4 features removed'."""
        return f"{self.score} on {self.masks} masks with 1 to 4 features removed, by fits without them"


def r2_score(truth: np.ndarray, prediction: np.ndarray, axis: int = -1) -> np.ndarray:
    """Returns 1 - sum (truth - prediction)^2 / sum (truth - mean)^2 along an axis; nan where truth is constant."""
    truth, prediction = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    largest = np.maximum(np.abs(truth).max(axis=axis, keepdims=True, initial=0.0), np.finfo(np.float64).tiny)
    truth, prediction = truth / largest, prediction / largest  # squares of 1e-200 or 1e+200 would vanish or overflow
    spread = truth - truth.mean(axis=axis, keepdims=True)
    # Rounding of the mean leaves a tiny spread in constant values, which is not variance to explain.
    floor = np.square(8 * np.finfo(np.float64).eps) * truth.shape[axis]
    total, error = np.square(spread).sum(axis=axis), np.square(truth - prediction).sum(axis=axis)
    return np.where(total > floor, 1 - error / np.where(total > floor, total, 1.0), np.nan)


def faithfulness(truth: np.ndarray, prediction: np.ndarray, *, seed: int = 0) -> Faithfulness:
    """Returns R2 and its 95% interval by the bias-corrected accelerated bootstrap over masks (Efron, 1987).

    Args:
      truth: float [M], values of the model at held-out masks.
      prediction: float [M], values of the spectrum at the same masks.
      seed: seed of the 2,000 resamples.

    Returns:
      The faithfulness; all nan where fewer than 2 masks are held out or the truth is constant.
    """
    from scipy import stats

    if len(truth) < 2 or np.isnan(r2 := float(r2_score(truth, prediction))):
        return Faithfulness(np.nan, np.nan, np.nan)
    scale = np.abs(truth).max()
    truth, prediction = np.asarray(truth) / scale, np.asarray(prediction) / scale
    if np.ptp(truth - prediction) == 0 or 1 - r2 < 1e-12:  # resamples would differ by rounding only
        return Faithfulness(r2, r2, r2)

    def interval(method: str) -> tuple[float, float]:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (truth, prediction),
                r2_score,
                paired=True,
                vectorized=True,
                n_resamples=2000,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        return float(found.low), float(found.high)

    low, high = interval("BCa")
    if np.isnan(low):  # leaving out one mask changes R2 by rounding only, which leaves the acceleration undefined
        low, high = interval("percentile")
    return Faithfulness(r2, low, high)


@dataclasses.dataclass(frozen=True, eq=False)
class DatamodellingScore:
    """Mean rank correlation over test points and its 95% interval; `points` float64 [T] holds that of each point."""

    mean: float
    low: float
    high: float
    points: np.ndarray

    def __str__(self) -> str:
        """Returns a text such as 'LDS 0.612 (95% interval 0.580 to 0.641)'."""
        interval = "" if np.isnan(self.low) else f" (95% interval {self.low:.3f} to {self.high:.3f})"
        return f"LDS {self.mean:.3f}{interval}"


def varies(values: np.ndarray) -> bool:
    """Returns whether values differ by more than rounding."""
    return bool(np.ptp(values) > 8 * np.finfo(np.float64).eps * np.abs(values).max())


def lds(truth: np.ndarray, prediction: np.ndarray, *, seed: int = 0) -> DatamodellingScore:
    """Returns the linear datamodelling score: Spearman's rank correlation of predicted and measured values over
    held-out masks, averaged over test points (Park et al. 2023, https://arxiv.org/abs/2303.14186, section 2). With the
    predictions of a whole spectrum it is the score with interactions.

    Args:
      truth: float [M, T] (or [M]), values at held-out masks.
      prediction: of the same shape. A constant one scores 0; points whose truth is constant are left out, nan.
      seed: seed of the 2,000 resamples of test points.

    Returns:
      The score; its interval is nan for fewer than two points.

    Raises:
      ValueError: shapes that differ, fewer than two masks, or numbers that are not finite.
    """
    from scipy import stats

    truth, prediction = (np.asarray(array, np.float64) for array in (truth, prediction))
    if truth.shape != prediction.shape or truth.ndim not in (1, 2) or len(truth) < 2:
        raise ValueError(
            f"truth and prediction must have the same shape [M, T] with at least 2 masks, got {truth.shape} and "
            f"{prediction.shape}"
        )
    if not np.isfinite(truth).all() or not np.isfinite(prediction).all():
        raise ValueError("truth and prediction must be finite; leave out the masks whose values are not finite")
    truth, prediction = truth.reshape(len(truth), -1), prediction.reshape(len(truth), -1)
    points = np.full(truth.shape[1], np.nan)
    for point, (measured, predicted) in enumerate(zip(truth.T, prediction.T, strict=True)):
        if varies(measured):
            points[point] = stats.spearmanr(measured, predicted).statistic if varies(predicted) else 0.0
    known = points[np.isfinite(points)]
    if not len(known):
        return DatamodellingScore(np.nan, np.nan, np.nan, points)
    mean = float(known.mean())
    if len(known) < 2 or np.ptp(known) == 0:
        return DatamodellingScore(mean, np.nan, np.nan, points)
    interval = stats.bootstrap(
        (known,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(seed)
    ).confidence_interval
    return DatamodellingScore(mean, float(interval.low), float(interval.high), points)


def energy_by_group(spectrum: Spectrum, groups: np.ndarray) -> dict[str, float]:
    """Returns the shares of the energy of terms of one unit, of several units of one group, and of several groups.

    Args:
      spectrum: a spectrum of n units.
      groups: [n], the group of each unit, such as the layer of a head.

    Returns:
      "linear", "within" and "across", which sum to 1; all nan for a constant.

    Raises:
      ValueError: `groups` has another length.
    """
    groups = np.asarray(groups)
    if groups.shape != (spectrum.n,):
        raise ValueError(f"groups must have the shape ({spectrum.n},), one group for each unit, got {groups.shape}")
    degrees = spectrum.support.sum(axis=1)
    members = np.stack([spectrum.support[:, groups == group].any(axis=1) for group in np.unique(groups)]).sum(axis=0)
    energy = np.where(degrees > 0, np.square(spectrum.coefficients), 0.0)
    parts = {"linear": degrees == 1, "within": (degrees > 1) & (members == 1), "across": members > 1}
    total = energy.sum()
    return {name: float(energy[part].sum() / total) if total else float("nan") for name, part in parts.items()}


def terms_for_energy(spectrum: Spectrum, share: float) -> int:
    """Returns the fewest terms that hold this share of the energy, all without (); 0 for a constant.

    Raises:
      ValueError: the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be a number from 0 to 1, got {share!r}")
    energy = _by_size(spectrum).coefficients ** 2
    total = np.cumsum(energy)  # the last entry is the whole energy, up to rounding
    return int(np.searchsorted(total, share * total[-1] * (1 - 1e-12))) + 1 if len(energy) and share else 0


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """How often the subsets of large terms are large too; shares from 0 to 1, nan where no term is counted.

    Attributes:
      direct_subset: the mean share of a term's direct subsets, with one feature fewer, that are among the largest.
      staircase: the share of terms whose features can be ordered so that every prefix is among the largest.
      strong: the share of terms all of whose subsets are among the largest.
      terms: the number of terms that are counted.
    """

    direct_subset: float
    staircase: float
    strong: float
    terms: int


def hierarchy(spectrum: Spectrum, top: int, *, least_degree: int = 1) -> Hierarchy:
    """Returns the rates by which ProxySPEX (Butler et al. 2025, https://arxiv.org/abs/2505.17495) measures hierarchy:
    DSR, equation 3, and SCR and SHR of appendix B.2.

    The rates are over the `top` largest terms without (), which is always taken to be among the largest. The paper
    counts () where the mean of the function is large enough, and then as a term that has all of its subsets: the rates
    differ by less than 1 / top. With the default `least_degree` single features count in full, as in the paper.

    Args:
      spectrum: the spectrum; if it has fewer than `top` terms, all of them are counted.
      top: the number of terms.
      least_degree: terms of fewer features are not counted, but are still among the largest. With 2, only terms that
        could fail are counted.

    Raises:
      ValueError: top or least_degree is below 1.
    """
    if top < 1 or least_degree < 1:
        raise ValueError(f"top and least_degree must be at least 1, got {top} and {least_degree}")
    largest = _by_size(spectrum).support[:top]
    terms = sorted((tuple(np.flatnonzero(row).tolist()) for row in largest), key=len)
    known: dict[tuple[int, ...], tuple[float, bool, bool]] = {(): (1.0, True, True)}
    for term in terms:  # smaller terms first: the rates of a term follow from those of its direct subsets
        below = [known.get(term[:place] + term[place + 1 :], (0.0, False, False)) for place in range(len(term))]
        there = sum(term[:place] + term[place + 1 :] in known for place in range(len(term)))
        known[term] = (there / len(term), any(stairs for _, stairs, _ in below), all(strong for *_, strong in below))
    counted = np.array([known[term] for term in terms if len(term) >= least_degree], np.float64).reshape(-1, 3)
    if not len(counted):
        return Hierarchy(np.nan, np.nan, np.nan, 0)
    direct_subset, staircase, strong = counted.mean(axis=0).tolist()
    return Hierarchy(direct_subset, staircase, strong, len(counted))


def _by_size(spectrum: Spectrum) -> Spectrum:
    """Returns the terms except () and those with coefficient 0, the largest first."""
    rows = np.flatnonzero(spectrum.support.any(axis=1) & (spectrum.coefficients != 0))
    return spectrum.take(rows[np.argsort(-np.abs(spectrum.coefficients[rows]), kind="stable")])
