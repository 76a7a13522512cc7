"""Plans a call of `explain`: checks the arguments and draws the masks, before anything is evaluated."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.analysis.corpus import CorpusPrior
from spex_jax.core import masks as masks_lib
from spex_jax.core.ablations import Ablations, last_rows
from spex_jax.core.indices import Index, find_index
from spex_jax.core.side_information import SideInformation, side_information
from spex_jax.engine.value_function import ValueFunction
from spex_jax.methods import Adaptive, Method
from spex_jax.pipeline.budget_split import check_budget, held_out_count, least_budget
from spex_jax.utils.seeds import Stream, generator

__all__ = ["Plan", "make_plan"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Holds the checked arguments of a call of `explain` and the masks that it evaluates.

    Attributes:
      names: one name per feature.
      masks: bool [M, n]; for adaptive sampling those of the first part.
      held_out, design, known: see `Ablations`.
      complete: whether these are all 2^n masks; for a method that fits a surrogate, the masks that it needs come first.
      method, seed: method and seed of the fit.
      budget: number of ablations.
      index, max_order: index and order of the interactions that reports show.
      settings: entries for the settings in reports.
    """

    names: tuple[str, ...]
    masks: np.ndarray
    held_out: np.ndarray
    design: Any
    known: SideInformation
    complete: bool
    method: Method
    seed: int
    budget: int
    index: str
    max_order: int
    settings: dict[str, Any]

    @property
    def adaptive(self) -> Adaptive | None:
        """How adaptive sampling chooses further masks; None where no further masks follow."""
        return None if self.complete else self.method.adaptive

    def ablations(self, values: np.ndarray) -> Ablations:
        """Returns the masks with their values, float64 [M, *outputs]."""
        return Ablations(
            masks=self.masks,
            values=values,
            held_out=self.held_out,
            design=self.design,
            known=self.known,
        )


def make_plan(
    value_fn: ValueFunction,
    *,
    method: Method,
    budget: int | None,
    index: str | Index,
    max_order: int,
    seed: int,
    names: Sequence[str] | None,
    coordinates: Any = None,
    relevance: Any = None,
    prior: Any = None,
) -> Plan:
    """Checks the arguments, which `explain` documents, and draws the masks; nothing is evaluated yet but the
    gradients of relevance="auto".

    Raises:
      ValueError: the arguments do not fit.
    """
    index = find_index(index).name
    masks_lib.check_whole("max_order", max_order, 1)
    n = value_fn.n
    method = method.complete(index)
    method.check(seed)  # fail before the model is evaluated
    budget, seed = check_budget(budget, n, method), int(seed)
    names = value_fn.names if names is None else masks_lib.check_names(names, n)
    complete = n < 63 and 2**n <= budget
    spare = 0 if complete else budget - least_budget(n, method)
    known, passes, shown = _known(value_fn, method, names, coordinates, relevance, prior, spare, seed)
    budget -= passes
    settings = {"method": method.name, "budget": budget + passes, "seed": seed, **method.short_form(), **shown}

    held_out = 0 if complete else held_out_count(budget)
    design = None
    if complete and method.exact:
        masks = masks_lib.all_masks(n)
    else:
        fitted, design = method.draw(n, 2**n if complete else budget - held_out, seed)
        count = 2**n if complete else len(fitted) + held_out
        masks = masks_lib.uniform(n, count, generator(seed, Stream.HELD_OUT_MASKS), given=fitted)
        settings |= method.settings(design)
    return Plan(
        names=names,
        masks=masks,
        held_out=last_rows(len(masks), held_out),
        design=design,
        known=known,
        complete=complete,
        method=method,
        seed=seed,
        budget=budget,
        index=index,
        max_order=int(max_order),
        settings={name: value for name, value in settings.items() if value is not None},
    )


def _known(
    value_fn: ValueFunction,
    method: Method,
    names: tuple[str, ...],
    coordinates: Any,
    relevance: Any,
    prior: Any,
    most: int,
    seed: int,
) -> tuple[SideInformation, int, dict[str, str]]:
    """Returns what is known of features, the forward passes that it costs, at most `most`, and settings for reports.

    Raises:
      ValueError: what is given cannot be used, or not by this method.
    """
    if not method.uses_known and (relevance is not None or prior is not None):
        raise ValueError(
            "relevance= and prior= are for methods that fit a proxy ('proxyspex', or 'spex' with residual_of), got "
            f"them with method={method.name!r}; leave them out"
        )
    places = value_fn.coordinates if coordinates is None else coordinates
    own, shown = None, {}
    if isinstance(relevance, str):
        if relevance != "auto":
            raise ValueError(f"relevance must be 'auto', an array [n] or None, got {relevance!r}")
        if most > 0 and value_fn.has_relevance:
            own = value_fn.relevance(seed=seed)
        own = None if own is None or own.passes > most else own
        relevance = None if own is None else own.values
        if own is not None:
            shown["relevance"] = f"gradients for {own.passes} of these ablations"
    elif relevance is not None:
        shown["relevance"] = "given"
    corpus, other = (prior, None) if isinstance(prior, CorpusPrior) else (None, prior)
    known = side_information(value_fn.n, coordinates=places, relevance=relevance, prior=other)
    if corpus is not None:
        known = dataclasses.replace(known, relevance=corpus.relevance(names, known.relevance))
        shown["prior"] = f"{corpus.examples} explanations"
    elif other is not None and known.prior is not None:
        shown["prior"] = f"a spectrum of {len(known.prior)} terms"
    return known, 0 if own is None else own.passes, shown
