"""Validation: measures the interactions that a spectrum claims on the model itself.

An interaction index is an average of discrete derivatives over contexts, subsets of the other features (see
`spex_jax.core.contexts`). The model is evaluated at the 2^|S| corners of each derivative, in contexts drawn for it.
These masks are independent of those the spectrum was fitted to, so that the index of the model itself is measured.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spex_jax.analysis.derivatives import Derivatives, Values, draw
from spex_jax.core import masks as masks_lib
from spex_jax.core.contexts import DRAWS
from spex_jax.core.indices import INDICES, Index, find_index
from spex_jax.core.interactions import Interactions
from spex_jax.core.spectrum import Spectrum
from spex_jax.utils.untrusted_files import Record

__all__ = ["VERDICTS", "Measured", "Validation", "validate"]

VERDICTS = {
    "confirmed": "the interval lies on the predicted side of zero, and the effect is a tenth of the prediction or more",
    "reversed": "the same on the other side of zero",
    "absent": "the interval holds zero, or the effect is below a tenth of the prediction, and half of it is ruled out",
    "undecided": "none of these: more contexts would tell",
}

_FIRST = 32  # contexts in the first round
_NEGLIGIBLE = 0.1  # share of the prediction below which an effect would not have been claimed
_STILL = 0.01  # derivatives that vary by less than this share of the prediction do not show rare contexts
_RARE = 256  # contexts after which such derivatives are trusted
_EARLY = 1.3  # width of the 99% interval over the 95% one; an effect beyond the former ends a measurement early
_NEAR = 0.05  # share of the prediction: an interval that is this near to it is as predicted
_LABEL_WIDTH = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurement of one set of features.

    Attributes:
      members: the set.
      predicted: its index in the explanation.
      measured: its estimated index in the model, in units of the values, like `predicted`, `low` and `high`.
      low, high: 95% interval; both `measured` where every context was taken.
      contexts: the number of contexts taken.
      whole: whether these are all contexts that the index weighs, so that nothing is left to chance.
      verdict: one of VERDICTS.
    """

    members: tuple[int, ...]
    predicted: float
    measured: float
    low: float
    high: float
    contexts: int
    whole: bool
    verdict: str

    @property
    def size(self) -> str:
        """'as predicted' where the prediction is at most a twentieth of itself outside of the interval, else 'smaller'
        or 'larger'.
        """
        near = _NEAR * abs(self.predicted)
        if self.low - near <= self.predicted <= self.high + near:
            return "as predicted"
        return "larger" if self.measured / self.predicted > 1 else "smaller"

    def __str__(self) -> str:
        """Returns a text such as 'confirmed, as predicted' or 'confirmed, smaller', or another verdict alone."""
        return f"{self.verdict}, {self.size}" if self.verdict == "confirmed" else self.verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """Interactions of a spectrum, each with its measurement on the model.

    Attributes:
      index, max_order: the index that was measured.
      rows: the sets, in the order in which they were given.
      names: one name per feature.
      draws: how contexts were drawn; keys of `spex_jax.core.contexts.DRAWS`.
      asked: the number of ablations that were evaluated.
      known: the number of ablations that were needed and known before.
      noise: the largest known change of a value when the model is evaluated again; 0 where none is known.
    """

    index: str
    max_order: int
    rows: tuple[Measured, ...]
    names: tuple[str, ...]
    draws: tuple[str, ...]
    asked: int
    known: int
    noise: float

    def __getitem__(self, members: Any) -> Measured:
        """Returns the row of a set of features, given in any order.

        Raises:
          KeyError: the set was not measured.
        """
        wanted = (members,) if isinstance(members, int | np.integer) else tuple(sorted(members))
        for row in self.rows:
            if row.members == wanted:
                return row
        raise KeyError(f"{members!r} was not measured")

    @property
    def counts(self) -> dict[str, int]:
        """The number of sets with each verdict; verdicts without a set are left out."""
        found = {verdict: sum(row.verdict == verdict for row in self.rows) for verdict in VERDICTS}
        return {verdict: count for verdict, count in found.items() if count}

    @property
    def summary(self) -> str:
        """One line such as '10 sets: 8 confirmed, 2 absent; 1,234 further ablations'."""
        if not self.rows:
            return "nothing to validate: the spectrum holds no interactions"
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items())
        further = f"{self.asked:,} further ablation{'' if self.asked == 1 else 's'}"
        return f"{len(self.rows)} set{'' if len(self.rows) == 1 else 's'}: {counts}; {further}"

    def __str__(self) -> str:
        """Returns a table: names, predicted and measured index, 95% interval, contexts, verdict."""
        sets = f"sets of up to {self.max_order} " if self.max_order > 1 else ""
        title = f"{self.index}, {sets}measured on the model, {self.summary}"
        if not self.rows:
            return title
        # Any index will do: labels are made from the names alone.
        naming = Interactions([], np.zeros(0), n=len(self.names), index="SV", max_order=1, names=self.names)
        labels = [naming.label(row.members, _LABEL_WIDTH) for row in self.rows]
        width = max(map(len, labels))
        scale = max(abs(row.predicted) for row in self.rows)
        style = "+.4f" if 1e-2 <= scale < 1e5 else "+.3e"
        lines = [title]
        for label, row in zip(labels, self.rows, strict=True):
            numbers = f"{row.predicted:{style}} -> {row.measured:{style}}"
            taken = "one context" if row.contexts == 1 else f"{row.contexts} contexts"
            taken = f"all {taken}" if row.whole and row.contexts > 1 else taken
            interval = "" if row.whole else f"{row.low:{style}} to {row.high:{style}}, "
            lines.append(f"     {label:{width}}  {numbers} ({interval}{taken})  {row}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Returns plain numbers, strings and lists, without the names."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del content["names"]
        return {**content, "rows": [dataclasses.asdict(row) for row in self.rows]}

    @classmethod
    def from_json(cls, given: Any, names: Sequence[str]) -> "Validation":
        """Reads what `to_json` returned, given the names of the features.

        Raises:
          ValueError: `given` is not of this form.
        """
        content = Record(given, "the validation")
        rows, draws = content.take("rows"), content.texts("draws")
        if not isinstance(rows, list) or set(draws) - set(DRAWS):
            raise ValueError("'rows' of a validation must be a list, and 'draws' names of draws")
        found = cls(
            index=content.text("index", INDICES),
            max_order=content.whole("max_order", 1),
            rows=tuple(_measured(Record(row, "a row of a validation"), len(names)) for row in rows),
            names=tuple(names),
            draws=draws,
            asked=content.whole("asked"),
            known=content.whole("known"),
            noise=content.real("noise"),
        )
        content.end()
        return found


def _measured(content: Record, n: int) -> Measured:
    """Reads one row of `Validation.to_json`, with n features."""
    members = content.take("members")
    if not isinstance(members, list) or set(map(type, members)) != {int} or sorted(set(members)) != members:
        raise ValueError("'members' of a validation must be sorted feature numbers")
    if not 0 <= members[0] <= members[-1] < n:
        raise ValueError(f"'members' of a validation must be features from 0 to {n - 1}")
    found = Measured(
        members=tuple(members),
        **{name: content.real(name) for name in ("predicted", "measured", "low", "high")},
        contexts=content.whole("contexts", 1),
        whole=content.flag("whole"),
        verdict=content.text("verdict", tuple(VERDICTS)),
    )
    content.end()
    if not found.predicted or found.low > found.high:
        raise ValueError("a row of a validation must have a prediction other than 0, and its interval must be in order")
    return found


def validate(  # noqa: PLR0913
    ask: Callable[[np.ndarray], np.ndarray] | None,
    spectrum: Spectrum,
    sets: Sequence[tuple[int, ...]],
    *,
    index: str | Index = "FSII",
    max_order: int = 2,
    claims: Interactions | None = None,
    names: Sequence[str] | None = None,
    masks: np.ndarray | None = None,
    values: np.ndarray | None = None,
    noise: float = math.nan,
    contexts: int = 256,
    seed: int = 0,
) -> Validation:
    """Measures an index of some sets on the model that a spectrum was fitted to.

    The derivative of a set is taken in contexts drawn as the index weighs them, 32 at first. Their number doubles until
    the half-width of the 95% interval is below half of the prediction and the effect is beyond doubt (the 99% interval
    is clear of zero), until it is below a quarter (which always gives a verdict), or until `contexts` are taken. Where
    there are no more contexts than that, all are taken and nothing is left to chance, except for the noise of a model
    that returns other values when it is evaluated again: measure that with `explain(check_invariance=True)`. The same
    holds for the contexts that the index weighs one by one (Moebius: only the empty one).

    The estimate is the mean over contexts, with regression on a control variate: the derivatives of the spectrum in the
    same contexts are correlated with those of the model, and their mean over all contexts is known: the index of the
    spectrum. A spectrum that explains nothing leaves the plain mean. The interval is Student's, for each set alone: one
    in 20 misses. Where few contexts matter it misses more often: over the games of experiments/validation.py it held
    the index of the model 92 to 94 times in 100, and 83 times for the worst of them.

    Verdicts, for a claimed value p:
      confirmed: the interval excludes zero on the side of p, and the estimate is at least a tenth of p.
      reversed: the same on the other side.
      absent: the interval holds zero, or the estimate is below a tenth of p, and p / 2 and all beyond are excluded on
        both sides. Derivatives that all agree do not show how often others occur: for them the verdict is "absent" only
        after 256 contexts (or all, if `contexts` is less), when derivatives that differ in 1.2% of the contexts would
        have been seen 19 times in 20.
      undecided: everything else.
    An interval that comes closer to zero than the noise counts as holding zero, and values below the noise are not
    ruled out. The noise is the given one, or the rounding error of 2^|S| values in their precision, if that is larger.

    Args:
      ask: a function from masks bool [M, n] to values float64 [M] of the model. All masks of a round go in one call,
        each once. None is allowed where all values that are needed are known.
      spectrum: a spectrum of n features.
      sets: sets of one to max_order features each.
      index, max_order: see `spex_jax.core.interactions.convert`.
      claims: the claimed interactions; None takes the index of the spectrum.
      names: names of the features.
      masks, values: bool [K, n] and float [K], masks whose values are known, which are not evaluated again.
      noise: the largest change of a value that was computed twice; nan where unknown.
      contexts: the most contexts for one set.
      seed: seed of the contexts, which all sets share.

    Raises:
      ValueError: invalid sets, fewer than 2 contexts, a value that is not finite, no `ask` where it is needed, or k-SII
        of a set whose contexts weighed one by one are more than `contexts`.
    """
    n, index = spectrum.n, find_index(index)
    masks_lib.check_whole("contexts", contexts, 2)
    masks_lib.check_whole("seed", seed, 0, 2**32 - 1)
    own_index = spectrum.interactions(index, max_order, names)
    predicted = own_index if claims is None else claims
    known = np.zeros((0, n), np.bool_) if masks is None else masks_lib.check_masks(masks, n)
    model = Values(ask, known, masks_lib.check_values(np.zeros(0) if values is None else values, known))
    noise = 0.0 if math.isnan(noise) else noise
    drawn = functools.cache(lambda how: draw(how, n, contexts, seed))
    draws = set[str]()
    open_: list[_Question] = []
    for given in sets:
        members = tuple(sorted(given))
        if not 1 <= len(members) <= predicted.max_order or not predicted[members]:
            raise ValueError(
                f"{given!r} is not a set of 1 to {predicted.max_order} features with a claimed interaction"
            )
        plan = index.contexts(len(members), n, predicted.max_order)
        draws.add(plan.draw)
        derivatives = Derivatives(members, n, plan, contexts, drawn)
        open_.append(_Question(derivatives, predicted[members], own_index[members], abs(plan.scale) * noise))
    questions = list(open_)
    while open_:
        wanted = [question.derivatives.masks(question.count) for question in open_]
        first, inverse = masks_lib.deduplicate(joined := np.concatenate(wanted))
        distinct = joined[first]
        real, surrogate = model(distinct)[inverse], spectrum(distinct)[inverse]
        ends = np.cumsum([len(part) for part in wanted])[:-1]
        for question, own, other in zip(open_, np.split(real, ends), np.split(surrogate, ends), strict=True):
            question.answer(own, other, model.rounding)
        open_ = [question for question in open_ if question.goes_on()]
    return Validation(
        index=index.name,
        max_order=predicted.max_order,
        rows=tuple(question.row for question in questions),
        names=predicted.names,
        draws=tuple(how for how in DRAWS if how in draws),
        asked=model.asked,
        known=model.used,
        noise=noise,
    )


class _Question:
    """The state of the measurement of one set."""

    row: Measured

    def __init__(self, derivatives: Derivatives, predicted: float, surrogate: float, noise: float):
        self.derivatives, self._predicted, self._surrogate, self._noise = derivatives, predicted, surrogate, noise
        self.count = min(_FIRST, derivatives.drawn)
        self._still = False

    def answer(self, real: np.ndarray, surrogate: np.ndarray, rounding: float) -> None:
        """Updates the row with the values of the model and of the spectrum at the masks."""
        taken, p = self.derivatives, self._predicted
        measured, half, spread = taken.estimate(real, surrogate, self._surrogate)
        floor = max(self._noise, taken.amplification * 2 ** len(taken.members) * rounding)
        self._half, self._still = half, spread < _STILL * abs(p)
        self.row = Measured(
            members=taken.members,
            predicted=p,
            measured=measured,
            low=measured - half,
            high=measured + half,
            contexts=taken.fixed + self.count,
            whole=not taken.drawn,
            verdict=_verdict(p, measured, half, floor),
        )

    def goes_on(self) -> bool:
        """Returns whether more contexts are needed, and if so raises their number."""
        most, p, verdict = self.derivatives.drawn, abs(self._predicted), self.row.verdict
        if self.count == most:
            return False
        if verdict == "absent" and self._still and self.count < _RARE:
            self.count = min(_RARE, most)
            return True
        clear = verdict in ("confirmed", "reversed") and abs(self.row.measured) > _EARLY * self._half
        if self._half < p / 4 or (self._half < p / 2 and clear):
            return False
        self.count = min(2 * self.count, most)
        return True


def _verdict(predicted: float, measured: float, half: float, floor: float) -> str:
    """Returns the verdict as described in `validate`."""
    along = measured if predicted > 0 else -measured
    effect = abs(along) - half > floor and abs(along) >= _NEGLIGIBLE * abs(predicted)
    if effect:
        return "confirmed" if along > 0 else "reversed"
    return "absent" if abs(along) + max(half, floor) < abs(predicted) / 2 else "undecided"
