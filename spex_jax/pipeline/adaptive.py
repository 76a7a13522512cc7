"""Adaptive sampling: uniform masks first, then batches chosen with the fit so far, until a target or the budget."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from spex_jax.analysis.metrics import r2_score
from spex_jax.core import masks as masks_lib
from spex_jax.core import sampling
from spex_jax.core.ablations import Ablations, last_rows
from spex_jax.core.spectrum import Spectrum
from spex_jax.methods import Adaptive
from spex_jax.pipeline.budget_split import too_few_values
from spex_jax.pipeline.plan import Plan
from spex_jax.proxyspex.walsh_gp.acquisition import corners, most_informative, uncertain_sets
from spex_jax.utils.seeds import Stream, generator

__all__ = ["AdaptiveRun", "evaluate_adaptively"]

_POOL = 4096  # candidate masks for a batch
_SETS = 10  # sets whose corners are candidates, and sets whose intervals determine the width
_CORNERS_PER_CHOICE = 4  # candidates at corners for each mask of a batch
_95 = 1.96


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptiveRun:
    """Holds the result of adaptive sampling.

    Attributes:
      ablations: all ablations, the held-out ones included.
      spectrum: the fit to all rows that are not held out, where it was already made.
      settings: entries for the settings in reports.
    """

    ablations: Ablations
    spectrum: Spectrum | None
    settings: dict[str, Any]


def evaluate_adaptively(
    plan: Plan, adaptive: Adaptive, ablations: Ablations, evaluate: Callable[[np.ndarray], np.ndarray]
) -> AdaptiveRun:
    """Evaluates batch after batch until the budget is spent or a target is reached.

    Args:
      plan: the plan, whose masks are the first part and the held-out masks.
      adaptive: how the other masks are chosen, and when sampling stops.
      ablations: the evaluated masks of the plan; rows whose value is not finite are left out of all fits.
      evaluate: masks bool [B, n] -> values float64 [B].

    Warns:
      UserWarning: a target was not reached within the budget.
    """
    first, held = ablations.fitted, ablations.tested
    masks, values = first.masks, first.values
    room = plan.budget - len(held)
    batch = math.ceil((room - len(first)) / adaptive.refits)
    aims = adaptive.target_r2 is not None or adaptive.target_width is not None
    least = plan.method.least(masks.shape[1])
    turn, reached, spectrum = 0, None, None
    while True:
        known = np.isfinite(values)
        if known.sum() < least:
            raise too_few_values(known.sum(), len(masks), least)
        finite = Ablations.to_fit(masks[known], values[known], known=plan.known)
        if aims or (adaptive.acquisition == "interactions" and len(masks) < room):
            spectrum = plan.method.fit(finite, plan.seed)
            reached = _reached(plan, adaptive, spectrum, held)
        if reached or len(masks) >= room:
            break
        seen = np.concatenate([masks, held.masks])
        new = _choose(plan, adaptive.acquisition, finite, seen, min(batch, room - len(masks)), turn, spectrum)
        masks, values = np.concatenate([masks, new]), np.concatenate([values, evaluate(new)])
        spectrum, turn = None, turn + 1
    if aims and not reached:
        targets = {"target_r2": adaptive.target_r2, "target_width": adaptive.target_width}
        wanted = [f"{name} = {target:g}" for name, target in targets.items() if target is not None]
        warnings.warn(
            f"{' and '.join(wanted)} was not reached within the budget of {plan.budget} ablations; the explanation "
            "uses all of them",
            stacklevel=4,
        )
    return AdaptiveRun(
        ablations=Ablations(
            masks=np.concatenate([masks, held.masks]),
            values=np.concatenate([values, held.values]),
            held_out=last_rows(len(masks) + len(held), len(held)),
            known=plan.known,
        ),
        spectrum=spectrum,
        settings={"asked": len(masks) + len(held), "stopped": reached or "budget spent"},
    )


def _widest_interval(plan: Plan, spectrum: Spectrum) -> float:
    """Returns the widest 95% interval of the ten strongest interactions: 0 without any, inf without variances."""
    found = spectrum.interactions(plan.index, plan.max_order)
    strongest = [key for key, _ in found.top(_SETS)]
    errors = found.std_errors
    if errors is None:
        return math.inf if strongest else 0.0
    return 2 * _95 * max((errors[key] for key in strongest), default=0.0)


def _reached(plan: Plan, adaptive: Adaptive, spectrum: Spectrum, held: Ablations) -> str | None:
    """Returns in words which target the spectrum has reached, measured on the held-out masks; None for none."""
    known = np.isfinite(held.values)
    if adaptive.target_r2 is not None and known.any():  # R2 needs a value
        r2 = float(r2_score(held.values[known], spectrum(held.masks[known])))
        if r2 >= adaptive.target_r2:
            return f"R2 {r2:.3f} reached"
    if adaptive.target_width is not None:
        width = _widest_interval(plan, spectrum)
        if width <= adaptive.target_width:
            return f"interval width {width:.3g} reached"
    return None


def _with_sizes(pool: np.ndarray, given: np.ndarray, plan: Plan, turn: int) -> np.ndarray:
    """Returns candidates, of which half are replaced by masks of all sizes where the index weighs all sizes."""
    n = pool.shape[1]
    how = sampling.for_index(plan.index)
    if how == "uniform":
        return pool
    wanted = len(pool) // 2 + 2 * len(given)
    drawn = sampling.draw(how, n, wanted if n >= 63 else min(wanted, 2**n), plan.seed + 7919 * (turn + 1))
    return masks_lib.not_among(np.concatenate([drawn, pool]), given)


def _choose(
    plan: Plan,
    acquisition: str,
    known: Ablations,
    seen: np.ndarray,
    count: int,
    turn: int,
    spectrum: Spectrum | None,
) -> np.ndarray:
    """Chooses the next `count` masks, none of them among `seen`."""
    rng, n = generator(plan.seed, Stream.ADAPTIVE, turn), seen.shape[1]
    if acquisition == "uniform":
        return masks_lib.uniform(n, len(seen) + count, rng, given=seen)[len(seen) :]
    chosen = seen[:0]
    options: dict[str, Any] = {"seed": plan.seed, "known": plan.known}
    if acquisition == "index":
        options["index"] = (plan.index, plan.max_order)
    if acquisition == "interactions":
        assert spectrum is not None
        found = spectrum.interactions(plan.index, max(2, plan.max_order))
        if sets := uncertain_sets(found, _SETS):
            made = corners(sets, n, _CORNERS_PER_CHOICE * count, rng)
            new = masks_lib.not_among(made, seen)
            chosen = most_informative(known.masks, known.values, new, min(count, len(new)), **options)
    if len(chosen) < count:
        given, missing = np.concatenate([seen, chosen]), count - len(chosen)
        every = len(seen) + _POOL if n >= 63 else min(len(seen) + _POOL, 2**n)
        pool = masks_lib.uniform(n, max(every, len(given) + missing), rng, given=given)[len(given) :]
        if acquisition == "index" and n > 1:
            pool = _with_sizes(pool, given, plan, turn)
        chosen = np.concatenate([chosen, most_informative(known.masks, known.values, pool, missing, **options)])
    return chosen
