"""Validation: the interactions that a spectrum claims, measured on the model itself.

An interaction index is an average of discrete derivatives over contexts, subsets of the other features (see
`spex_jax.core.contexts`). The model is evaluated at the 2^|S| corners of each derivative, at contexts drawn for it.
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

_FIRST = 32  # contexts of the first round
_NEGLIGIBLE = 0.1  # part of a prediction that would not have been worth a claim
_STILL = 0.01  # derivatives that differ by less than this part of the prediction tell nothing of rare contexts
_RARE = 256  # contexts after which they are believed
_EARLY = 1.3  # width of an interval over the 95% one, 99%, that ends a measurement before its last look
_NEAR = 0.05  # of a prediction: what is so near is as predicted
_LABEL_WIDTH = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One set of features, measured.

    Attributes:
      members: the set.
      predicted: its index by the explanation.
      measured: its index in the model, estimated; unit of the values, as all of these.
      low, high: 95% interval; both `measured` where every context was taken.
      contexts: how many were taken.
      whole: whether these are all that the index weighs, so that nothing is left to chance.
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
        """'as predicted' where the prediction lies in the interval or within a twentieth of it, else 'smaller' or
        'larger' than predicted.
        """
        near = _NEAR * abs(self.predicted)
        if self.low - near <= self.predicted <= self.high + near:
            return "as predicted"
        return "larger" if self.measured / self.predicted > 1 else "smaller"

    def __str__(self) -> str:
        """'confirmed, as predicted', 'confirmed, smaller', or another verdict alone."""
        return f"{self.verdict}, {self.size}" if self.verdict == "confirmed" else self.verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """Interactions of a spectrum next to the same of the model.

    Attributes:
      index, max_order: what was measured.
      rows: the sets, in the order in which they were given.
      names: one name per feature.
      draws: how contexts were drawn; keys of `spex_jax.core.contexts.DRAWS`.
      asked: ablations that the model was asked for.
      known: ablations that were needed and known before.
      noise: the largest change of a value that the model is known to show when it is asked again, 0 where none is.
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
        """The row of a set of features, in any order.

        Raises:
          KeyError: it was not measured.
        """
        wanted = (members,) if isinstance(members, int | np.integer) else tuple(sorted(members))
        for row in self.rows:
            if row.members == wanted:
                return row
        raise KeyError(f"{members!r} was not measured")

    @property
    def counts(self) -> dict[str, int]:
        """How many sets have each verdict, those that none has left out."""
        found = {verdict: sum(row.verdict == verdict for row in self.rows) for verdict in VERDICTS}
        return {verdict: count for verdict, count in found.items() if count}

    @property
    def summary(self) -> str:
        """One line: '10 sets: 8 confirmed, 2 absent; 1,234 further ablations'."""
        if not self.rows:
            return "nothing to validate: the spectrum holds no interactions"
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items())
        further = f"{self.asked:,} further ablation{'' if self.asked == 1 else 's'}"
        return f"{len(self.rows)} set{'' if len(self.rows) == 1 else 's'}: {counts}; {further}"

    def __str__(self) -> str:
        """A table: names, predicted and measured index, 95% interval, contexts, verdict."""
        sets = f"sets of up to {self.max_order} " if self.max_order > 1 else ""
        title = f"{self.index}, {sets}measured on the model, {self.summary}"
        if not self.rows:
            return title
        # Of any index: labels are made of the names alone.
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
        """Plain numbers, strings and lists, without the names."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del content["names"]
        return {**content, "rows": [dataclasses.asdict(row) for row in self.rows]}

    @classmethod
    def from_json(cls, given: Any, names: Sequence[str]) -> "Validation":
        """What `to_json` gave, with the names of the features.

        Raises:
          ValueError: it is not of this form.
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
    """One row of n features of what `Validation.to_json` gave."""
    members = content.take("members")
    if not isinstance(members, list) or set(map(type, members)) != {int} or sorted(set(members)) != members:
        raise ValueError("'members' of a validation must be sorted numbers of features")
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
        raise ValueError("a row of a validation must predict something, and its interval be in order")
    return found


def validate(
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
    """Measures an index of some sets on the model that a spectrum is of.

    The derivative of a set is taken at contexts drawn as the index weighs them, at 32 first. Their number doubles until
    the half-width of the 95% interval is below half of the prediction and the effect is beyond doubt (the 99% interval
    is clear of zero), until it is below a quarter (which always gives a verdict), or until `contexts` are taken. Where
    there are no more contexts than that, all are taken and nothing is left to chance, but for the noise of a model that
    gives other values when it is asked again: have that measured (`explain(check_invariance=True)`). The same holds of
    what the index weighs at single contexts (Moebius: only the empty one).

    The estimate is the mean over contexts, steadied by regression: the derivatives of the spectrum at the same contexts
    are correlated with those of the model, and their mean over all contexts is known, its index. A spectrum that
    explains nothing leaves the plain mean. The interval is Student's, each set's for itself: one in 20 misses. Where
    few contexts matter it misses more often: over the games of experiments/validation.py it held the index of the model
    92 to 94 times in 100, 83 times for the worst of them.

    Verdicts, for a claimed value p:
      confirmed: the interval excludes zero on the side of p, and the estimate is at least a tenth of p.
      reversed: the same on the other side.
      absent: the interval holds zero, or the estimate is below a tenth of p, and p / 2 and all beyond are excluded on
        both sides. Derivatives that all agree do not show how often others occur: "absent" is said of them after 256
        contexts only (or all, if `contexts` is less), when others at 1.2% of the contexts would have been seen, 19
        times in 20.
      undecided: everything else.
    An interval that comes closer to zero than the noise holds zero, and what is below the noise is not ruled out. The
    noise is the one given, or what 2^|S| values are rounded by in the precision that they have, if that is larger.

    Args:
      ask: masks bool [M, n] -> float64 [M] of the model. All masks of a round go in one call, each once. None will do
        where all that is needed is known.
      spectrum: of n features.
      sets: of at least one and up to max_order features each.
      index, max_order: see `spex_jax.core.interactions.convert`.
      claims: what is claimed of the sets; None takes the index of the spectrum.
      names: of the features.
      masks, values: bool [K, n] and float [K], what is known of the model and need not be asked.
      noise: the largest change of a value that was computed twice; nan where unknown.
      contexts: the most for one set.
      seed: of the contexts. Sets share them.

    Raises:
      ValueError: sets that do not fit, fewer than 2 contexts, a value that is not finite, no `ask` where it is needed,
        or k-SII of a set whose single contexts are more than `contexts`.
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
                f"{given!r} is no set of 1 to {predicted.max_order} features of which an interaction is claimed"
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
    """One set while it is measured."""

    row: Measured

    def __init__(self, derivatives: Derivatives, predicted: float, surrogate: float, noise: float):
        self.derivatives, self._predicted, self._surrogate, self._noise = derivatives, predicted, surrogate, noise
        self.count = min(_FIRST, derivatives.drawn)
        self._still = False

    def answer(self, real: np.ndarray, surrogate: np.ndarray, rounding: float) -> None:
        """Takes the values of the model and of the spectrum at the masks."""
        asked, p = self.derivatives, self._predicted
        measured, half, spread = asked.estimate(real, surrogate, self._surrogate)
        floor = max(self._noise, asked.amplification * 2 ** len(asked.members) * rounding)
        self._half, self._still = half, spread < _STILL * abs(p)
        self.row = Measured(
            members=asked.members,
            predicted=p,
            measured=measured,
            low=measured - half,
            high=measured + half,
            contexts=asked.fixed + self.count,
            whole=not asked.drawn,
            verdict=_verdict(p, measured, half, floor),
        )

    def goes_on(self) -> bool:
        """Whether more contexts are wanted; how many, from now on."""
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
    """See `validate`."""
    along = measured if predicted > 0 else -measured
    effect = abs(along) - half > floor and abs(along) >= _NEGLIGIBLE * abs(predicted)
    if effect:
        return "confirmed" if along > 0 else "reversed"
    return "absent" if abs(along) + max(half, floor) < abs(predicted) / 2 else "undecided"
