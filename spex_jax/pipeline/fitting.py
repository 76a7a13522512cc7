"""From the values of a model to explanations. Many tables are fitted together."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.analysis.correction import correction_of
from spex_jax.analysis.metrics import Faithfulness, faithfulness, r2_score
from spex_jax.core.ends import ends_first
from spex_jax.core.spectrum import Spectrum, exact_spectrum
from spex_jax.engine.asking import Asker
from spex_jax.engine.details import Details
from spex_jax.pipeline.adaptive import Asked
from spex_jax.pipeline.explanation import Explanation
from spex_jax.pipeline.plan import Question, held_out_of, too_few
from spex_jax.utils.seeds import Stream, generator
from spex_jax.utils.timing import Stopwatch

__all__ = ["Reading", "explanations_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """The values of one output of a value function, to be fitted.

    Attributes:
      asked: the question, with the settings that a report should say.
      answers: masks and values float64 [M] of this output.
      place: what errors should add, such as the number of the output.
      seconds: that asking took, by phase.
      details, noise, stored, ask: see `Explanation`.
    """

    asked: Question
    answers: Asked
    place: str
    seconds: dict[str, float]
    details: Details
    noise: float
    stored: int
    ask: Asker | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Table:
    """The finite values of a reading: those of the first rows are fitted, the last `held_out` are not."""

    masks: np.ndarray
    values: np.ndarray
    failed: np.ndarray
    held_out: int
    exact: bool

    @property
    def fitted(self) -> tuple[np.ndarray, np.ndarray]:
        count = len(self.values) - self.held_out
        return self.masks[:count], self.values[:count]


def _table(reading: Reading) -> _Table:
    asked, values = reading.asked, reading.answers.values
    finite = np.isfinite(values)
    masks, failed, values = reading.answers.masks[finite], reading.answers.masks[~finite], values[finite]
    complete, held_out = asked.complete and not len(failed), int(finite[len(finite) - asked.held_out :].sum())
    exact = complete and asked.method.exact
    least = 1 if complete else asked.method.least(masks.shape[1])
    if asked.complete and not complete:  # some of all masks are missing: a part of the others is held out now
        order = generator(asked.seed, Stream.ROWS_HELD_OUT).permutation(len(values))
        order = order[ends_first(masks[order])]  # the fit needs the full and the empty mask
        masks, values = masks[order], values[order]
        held_out = max(0, min(held_out_of(len(values)), len(values) - least))
    if len(values) - held_out < least:
        error = too_few(len(values), len(finite), least)
        if reading.place:
            error.add_note(reading.place)
        raise error
    return _Table(masks=masks, values=values, failed=failed, held_out=held_out, exact=exact)


def explanations_of(readings: Sequence[Reading]) -> list[Explanation]:
    """The explanation of each reading; all are of one method with the same options and seed.

    Their tables are fitted together, and the time that takes is shared equally among them.
    """
    watch = Stopwatch("fit")
    with watch.phase("fit"):
        tables = [_table(reading) for reading in readings]
        found = _spectra(readings, tables)
        answers = [_answer(*parts) for parts in zip(readings, tables, found, strict=True)]
    return [
        Explanation(
            **answer,
            names=reading.asked.names,
            index=reading.asked.index,
            max_order=reading.asked.max_order,
            timings={
                phase: seconds + watch.seconds.get(phase, 0.0) / len(readings)
                for phase, seconds in reading.seconds.items()
            },
            settings=reading.asked.settings,
            details=reading.details,
            noise=reading.noise,
            stored=reading.stored,
            ask=reading.ask,
        )
        for reading, answer in zip(readings, answers, strict=True)
    ]


def _spectra(readings: Sequence[Reading], tables: Sequence[_Table]) -> list[tuple[Spectrum, np.ndarray | None]]:
    """Spectra, and where they are to be corrected what was predicted for each mask without it."""
    found: dict[int, tuple[Spectrum, np.ndarray | None]] = {}
    for b, (reading, table) in enumerate(zip(readings, tables, strict=True)):
        if table.exact:
            found[b] = exact_spectrum(table.masks, table.values), None
        elif reading.answers.spectrum is not None:
            found[b] = reading.answers.spectrum, None
    if missing := [b for b in range(len(tables)) if b not in found]:
        masks, values = zip(*(tables[b].fitted for b in missing), strict=True)
        asked, made = readings[missing[0]].asked, [readings[b].asked.made for b in missing]
        fits = asked.method.cross_fit_many(list(masks), list(values), made, asked.seed)
        found |= dict(zip(missing, fits, strict=True))
    return [found[b] for b in range(len(tables))]


def _answer(reading: Reading, table: _Table, fit: tuple[Spectrum, np.ndarray | None]) -> dict[str, Any]:
    """The parts of an `Explanation` that depend on the values."""
    spectrum, out_of_fold = fit
    split = len(table.values) - table.held_out
    score = Faithfulness(np.nan, np.nan, np.nan)
    if not table.exact and not table.held_out:  # of every mask that there is: no estimate
        r2 = float(r2_score(table.values, spectrum(table.masks)))
        score = Faithfulness(r2, r2, r2)
    elif not table.exact:
        score = faithfulness(table.values[split:], spectrum(table.masks[split:]), seed=reading.asked.seed)
    return {
        "spectrum": spectrum,
        "correction": None if out_of_fold is None else correction_of(spectrum, *table.fitted, out_of_fold),
        "masks": table.masks,
        "values": table.values,
        "held_out": table.held_out,
        "faithfulness": score,
        "exact": table.exact,
        "failed": table.failed,
    }
