"""Fits evaluated ablations and makes explanations of them. Many tables are fitted together."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spex_jax.analysis.correction import Correction, correction_of
from spex_jax.analysis.metrics import Faithfulness, NearFull, faithfulness, r2_score
from spex_jax.core.ablations import Ablations, last_rows
from spex_jax.core.ends import ends_first
from spex_jax.core.sampling import nearly_full
from spex_jax.core.spectrum import Spectrum, exact_spectrum
from spex_jax.engine.details import Details
from spex_jax.engine.evaluator import Evaluator
from spex_jax.methods import CrossFit
from spex_jax.pipeline.budget_split import held_out_count, too_few_values
from spex_jax.pipeline.explanation import Explanation
from spex_jax.pipeline.plan import Plan
from spex_jax.utils.seeds import Stream, generator
from spex_jax.utils.timing import Stopwatch

__all__ = ["Evaluated", "explanations_of"]

_LEAST_NEAR = 20  # fewer masks near the full one say too little


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Holds one output of a value function, evaluated as planned and not yet fitted.

    Attributes:
      plan: the plan, with the settings for reports.
      ablations: masks and values of this output, including values that are not finite.
      spectrum: the fit, where adaptive sampling already made it.
      place: a note for errors, such as the index of the output.
      seconds: time of the evaluation, by phase.
      details, noise, stored, evaluator: see `Explanation`.
    """

    plan: Plan
    ablations: Ablations
    spectrum: Spectrum | None
    place: str
    seconds: dict[str, float]
    details: Details
    noise: float
    stored: int
    evaluator: Evaluator | None


class _Table(NamedTuple):
    """Holds the finite rows of an output, the masks [F, n] of the others, and whether the spectrum is exact."""

    ablations: Ablations
    failed: np.ndarray
    exact: bool


def _table(evaluated: Evaluated) -> _Table:
    plan, every = evaluated.plan, evaluated.ablations
    finite = np.isfinite(every.values)
    found, failed = every.take(finite), every.masks[~finite]
    complete = plan.complete and not len(failed)
    least = 1 if complete else plan.method.least(every.masks.shape[1])
    if plan.complete and not complete:  # values are missing, so the fit is not exact: hold rows out now
        order = generator(plan.seed, Stream.ROWS_HELD_OUT).permutation(len(found))
        order = order[ends_first(found.masks[order])]  # the fit needs the full and the empty mask
        count = max(0, min(held_out_count(len(found)), len(found) - least))
        found = dataclasses.replace(found.take(order), held_out=last_rows(len(found), count))
    if (~found.held_out).sum() < least:
        error = too_few_values(len(found), len(finite), least)
        if evaluated.place:
            error.add_note(evaluated.place)
        raise error
    return _Table(found, failed, complete and plan.method.exact)


def explanations_of(several: Sequence[Evaluated]) -> list[Explanation]:
    """Returns the explanation of each output; all have the same method, options and seed.

    The tables are fitted together, and each explanation reports an equal share of the time.
    """
    watch = Stopwatch("fit")
    with watch.phase("fit"):
        tables = [_table(evaluated) for evaluated in several]
        fits = _fits(several, tables)
        scores = [_score(*parts) for parts in zip(several, tables, fits, strict=True)]
        nearby = [_near_full(*parts) for parts in zip(several, tables, fits, strict=True)]
        corrections = [_correction(table.ablations, fit) for table, fit in zip(tables, fits, strict=True)]
    return [
        Explanation(
            spectrum=fit.spectrum,
            correction=correction,
            ablations=table.ablations,
            faithfulness=score,
            near_full=near,
            relevance=evaluated.plan.known.relevance,
            exact=table.exact,
            failed=table.failed,
            names=evaluated.plan.names,
            index=evaluated.plan.index,
            max_order=evaluated.plan.max_order,
            timings={
                phase: seconds + watch.seconds.get(phase, 0.0) / len(several)
                for phase, seconds in evaluated.seconds.items()
            },
            settings=evaluated.plan.settings,
            details=evaluated.details,
            noise=evaluated.noise,
            stored=evaluated.stored,
            evaluator=evaluated.evaluator,
        )
        for evaluated, table, fit, score, near, correction in zip(
            several, tables, fits, scores, nearby, corrections, strict=True
        )
    ]


def _fits(several: Sequence[Evaluated], tables: Sequence[_Table]) -> list[CrossFit]:
    found: dict[int, CrossFit] = {}
    for b, (evaluated, table) in enumerate(zip(several, tables, strict=True)):
        if table.exact:
            found[b] = CrossFit(exact_spectrum(table.ablations.masks, table.ablations.values))
        elif evaluated.spectrum is not None:
            found[b] = CrossFit(evaluated.spectrum)
    if missing := [b for b in range(len(tables)) if b not in found]:
        plan = several[missing[0]].plan
        fits = plan.method.cross_fit_many([tables[b].ablations.fitted for b in missing], plan.seed)
        found |= dict(zip(missing, fits, strict=True))
    return [found[b] for b in range(len(tables))]


def _score(evaluated: Evaluated, table: _Table, fit: CrossFit) -> Faithfulness:
    if table.exact:
        return Faithfulness(np.nan, np.nan, np.nan)
    ablations, tested = table.ablations, table.ablations.tested
    if not len(tested):  # all masks were fitted: R2 is known, not estimated
        r2 = float(r2_score(ablations.values, fit.spectrum(ablations.masks)))
        return Faithfulness(r2, r2, r2)
    return faithfulness(tested.values, fit.spectrum(tested.masks), seed=evaluated.plan.seed)


def _near_full(evaluated: Evaluated, table: _Table, fit: CrossFit) -> NearFull:
    """Measures R2 at masks that remove 1 to 4 features: of fits without them, or of the spectrum where they were held
    out.
    """
    if table.exact or fit.predicted is None:
        return NearFull.unknown()
    fitted, tested = table.ablations.fitted, table.ablations.tested
    masks = np.concatenate([fitted.masks, tested.masks])
    values = np.concatenate([fitted.values, tested.values])
    predicted = np.concatenate([fit.predicted, fit.spectrum(tested.masks)])
    chosen = nearly_full(masks) & np.isfinite(predicted)
    if chosen.sum() < _LEAST_NEAR:
        return NearFull.unknown()
    score = faithfulness(values[chosen], predicted[chosen], seed=evaluated.plan.seed)
    return NearFull(score=score, masks=int(chosen.sum()))


def _correction(ablations: Ablations, fit: CrossFit) -> Correction | None:
    if fit.predicted is None:
        return None
    fitted = ablations.fitted
    return correction_of(fit.spectrum, fitted.masks, fitted.values, fit.predicted)
