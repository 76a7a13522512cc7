"""Adaptive sampling: a first uniform part, then batches chosen by what was learned, until there is enough."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from spex_jax.analysis.metrics import r2_score
from spex_jax.core import masks as masks_lib
from spex_jax.core.spectrum import Spectrum
from spex_jax.methods import Adaptive
from spex_jax.pipeline.plan import Question, too_few
from spex_jax.proxyspex.walsh_gp.acquisition import corners, most_informative, uncertain_sets
from spex_jax.utils.seeds import Stream, generator

__all__ = ["Asked", "continue_asking"]

_POOL = 4096  # candidates for a batch
_SETS = 10  # whose corners are candidates, and whose intervals count for the width
_CORNERS_PER_CHOICE = 4  # candidates at corners for each place in a batch
_95 = 1.96


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What adaptive sampling asked: masks bool [M, n], the last `held_out` of the question for the faithfulness, their
    values float64 [M], the spectrum if the last of them has been fitted already, and what a report should say.
    """

    masks: np.ndarray
    values: np.ndarray
    spectrum: Spectrum | None
    settings: dict[str, Any]


def _widest_interval(asked: Question, spectrum: Spectrum) -> float:
    """The widest 95% interval of the ten strongest interactions, 0 where there are none; inf without variances."""
    found = spectrum.interactions(asked.index, asked.max_order)
    strongest = [key for key, _ in found.top(_SETS)]
    errors = found.std_errors
    if errors is None:
        return math.inf if strongest else 0.0
    return 2 * _95 * max((errors[key] for key in strongest), default=0.0)


def _reached(asked: Question, plan: Adaptive, spectrum: Spectrum, masks: np.ndarray, values: np.ndarray) -> str | None:
    """Which target the spectrum has reached on the held-out masks, in words."""
    known = np.isfinite(values)
    if plan.target_r2 is not None and known.any():  # no values have no mean
        r2 = float(r2_score(values[known], spectrum(masks[known])))
        if r2 >= plan.target_r2:
            return f"R2 {r2:.3f} reached"
    if plan.target_width is not None:
        width = _widest_interval(asked, spectrum)
        if width <= plan.target_width:
            return f"interval width {width:.3g} reached"
    return None


def _choose(
    asked: Question,
    acquisition: str,
    masks: np.ndarray,
    values: np.ndarray,
    seen: np.ndarray,
    count: int,
    turn: int,
    spectrum: Spectrum | None,
) -> np.ndarray:
    """The next `count` masks, none of them among `seen`."""
    rng, n = generator(asked.seed, Stream.ADAPTIVE, turn), masks.shape[1]
    if acquisition == "uniform":
        return masks_lib.uniform(n, len(seen) + count, rng, given=seen)[len(seen) :]
    chosen = seen[:0]
    if acquisition == "interactions":
        assert spectrum is not None
        found = spectrum.interactions(asked.index, max(2, asked.max_order))
        if sets := uncertain_sets(found, _SETS):
            made = corners(sets, n, _CORNERS_PER_CHOICE * count, rng)
            both = np.concatenate([seen, made])
            first = masks_lib.deduplicate(both)[0]
            new = both[first[first >= len(seen)]]
            chosen = most_informative(masks, values, new, min(count, len(new)), seed=asked.seed)
    if len(chosen) < count:
        given, missing = np.concatenate([seen, chosen]), count - len(chosen)
        every = len(seen) + _POOL if n >= 63 else min(len(seen) + _POOL, 2**n)
        pool = masks_lib.uniform(n, max(every, len(given) + missing), rng, given=given)[len(given) :]
        chosen = np.concatenate([chosen, most_informative(masks, values, pool, missing, seed=asked.seed)])
    return chosen


def continue_asking(
    asked: Question, plan: Adaptive, values: np.ndarray, ask: Callable[[np.ndarray], np.ndarray]
) -> Asked:
    """Asks batch after batch until the budget is spent or a target is reached.

    Args:
      asked: a question whose masks are the first part and those held out.
      plan: how the others are chosen, and when there are enough.
      values: float64 [M] of these masks; what is not finite takes no part in any fit.
      ask: masks bool [B, n] -> values float64 [B].
    """
    split = len(asked.masks) - asked.held_out
    masks, held, answers = asked.masks[:split], asked.masks[split:], values[:split]
    room = asked.budget - asked.held_out
    batch = math.ceil((room - split) / plan.refits)
    aims = plan.target_r2 is not None or plan.target_width is not None
    least = asked.method.least(masks.shape[1])
    turn, reached, spectrum = 0, None, None
    while True:
        known = np.isfinite(answers)
        if known.sum() < least:
            raise too_few(known.sum(), len(masks), least)
        if aims or (plan.acquisition == "interactions" and len(masks) < room):
            spectrum = asked.method.fit(masks[known], answers[known], asked.made, asked.seed)
            reached = _reached(asked, plan, spectrum, held, values[split:])
        if reached or len(masks) >= room:
            break
        seen = np.concatenate([masks, held])
        count = min(batch, room - len(masks))
        new = _choose(asked, plan.acquisition, masks[known], answers[known], seen, count, turn, spectrum)
        masks, answers = np.concatenate([masks, new]), np.concatenate([answers, ask(new)])
        spectrum, turn = None, turn + 1
    if aims and not reached:
        targets = {"target_r2": plan.target_r2, "target_width": plan.target_width}
        wanted = [f"{name} = {target:g}" for name, target in targets.items() if target is not None]
        warnings.warn(
            f"{' and '.join(wanted)} was not reached within the budget of {asked.budget} ablations; the answer uses "
            "all of them",
            stacklevel=4,
        )
    return Asked(
        masks=np.concatenate([masks, held]),
        values=np.concatenate([answers, values[split:]]),
        spectrum=spectrum,
        settings={"asked": len(masks) + len(held), "stopped": reached or "budget spent"},
    )
