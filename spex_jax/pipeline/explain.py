"""`explain`: budget -> masks -> values -> spectrum -> Explanation. The model and the mathematics meet only here."""

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import numpy as np

from spex_jax.core.indices import Index
from spex_jax.engine.evaluation import Engine, check_nonfinite
from spex_jax.engine.evaluator import Evaluator
from spex_jax.engine.invariance import check_batch_invariance
from spex_jax.engine.value_function import ValueFunction, as_value_function
from spex_jax.methods import METHODS, Method
from spex_jax.pipeline.adaptive import evaluate_adaptively
from spex_jax.pipeline.explanation import Explanation
from spex_jax.pipeline.fitting import Evaluated, explanations_of
from spex_jax.pipeline.method_options import MethodOptions
from spex_jax.pipeline.plan import Plan, make_plan
from spex_jax.utils.timing import Stopwatch
from spex_jax.utils.version import environment

__all__ = ["evaluate_outputs", "explain"]


def explain(  # noqa: PLR0913
    value_fn: ValueFunction | Callable[[np.ndarray], Any],
    n: int | None = None,
    *,
    budget: int | None = None,
    method: str | Method = "proxyspex",
    index: str | Index = "FSII",
    max_order: int = 2,
    store: str | os.PathLike[str] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    store_key: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    names: Sequence[str] | None = None,
    coordinates: Any = None,
    relevance: Any = None,
    prior: Any = None,
    progress: bool = True,
    check_invariance: bool = False,
    nonfinite: str = "raise",
    **options: Unpack[MethodOptions],
) -> Explanation:
    """Finds which features act together in a value function.

    Evaluates `budget` masks. max(50, 10%) of them, drawn uniformly, are held out of all fits to measure the
    faithfulness. Where 2^n <= budget, all masks are evaluated and the result is exact; a method that fits a surrogate
    then returns its surrogate fitted to all masks, with its R2 on these.

    How the other masks are drawn follows the index (sampling=None): "mixed", by size, for SV, SII, k-SII, STII and
    FSII, "uniform" for the others. Shapley-type interactions from masks drawn by size are corrected for what the proxy
    misses (`spex_jax.analysis.correction`), and are then exact at the empty and the full mask.

    With a store, the same call continues where a stopped one ended, with the same result; another proxy, order or index
    with the same draw evaluates nothing, and a larger budget evaluates only the additional masks (except uniform masks
    that a larger design of SPEX has no room for, and adaptive sampling, whose first part and batches grow with it).

    Args:
      value_fn: a `ValueFunction` from a lens, or any callable masks bool [M, n] -> values [M].
      n: number of features; needed for a bare callable.
      budget: number of ablations, including the held-out ones; None is 8 n log2(n), or the least that the method needs.
      method: "proxyspex" (fits a proxy to random ablations), "spex" (decodes coded ablations), or a baseline, whose
        spectrum is that of its surrogate: "leave_one_out", "lime", "kernel_shap", "lasso", "banzhaf", "faith_banzhaf",
        "faith_shapley", "permutation_shapley" (see `spex_jax.baselines`); or the record of a method with its options,
        such as `spex_jax.ProxySPEX(max_terms=100)`.
      index, max_order: index and order of the interactions in reports; the explanation can give all others too. An
        index is a name or a record of `spex_jax.core.indices`.
      store: path of a store of ablations (created if it does not exist), or of a folder that holds one for each value
        function; see `spex_jax.store`.
      seed: seed of the masks and the fit.
      batch_size, mesh, progress: see `spex_jax.evaluate`.
      store_key: identifies a bare callable, or any value function without an identity, in the store.
      names: n names; None takes those of the lens.
      coordinates: [n, d] or [n], where the features are, see `proxyspex.fit`; None takes those of the lens.
      relevance: [n], how much each feature is expected to matter, see `proxyspex.fit`; the `Relevance` of a value
        function; or "auto", which computes it from a few gradients where the value function has them, and takes their
        cost in forward passes off the budget (the settings of the explanation say how much). It pays for language
        models and small budgets, 2 n log2(n) or less (docs/decisions/66); the gradient is one more program to compile.
      prior: another spectrum or explanation of the same features, see `proxyspex.fit`: of a smaller model, of an
        earlier checkpoint, of another way to remove; or the `CorpusPrior` of explanations of other texts, which says
        what to expect of features with such names and places.
      check_invariance: evaluates some masks again, alone and in another order, beyond the budget (see
        `check_batch_invariance`). Without it a device function is checked where the last batch has free rows.
      nonfinite: what to do with masks whose value is NaN or infinite: "raise" stops at the first; "keep" goes on,
        leaves them out of the fit and the score with a warning, and lists them in `Explanation.failed`.
      **options: options of the method, where it is given by name: `method="proxyspex", max_terms=100` means
        `method=spex_jax.ProxySPEX(max_terms=100)`. "proxyspex": proxy, max_degree, max_terms, sampling, acquisition,
        refits, target_r2, target_width, and solver or extract of the proxy (see `ProxySPEX`); "spex": max_degree,
        residual_of (see `SPEX`); "lime": kernel_width, alpha, sampling; "lasso": alpha, sampling; "kernel_shap":
        sampling; "banzhaf": estimator; "faith_banzhaf": order; "faith_shapley": order, sampling.

    Warns:
      UserWarning: there is only one feature, and so there are no interactions.

    Raises:
      ValueError: options do not fit, the budget is below the least, values are not finite, a table was given in the
        place of a value function, or the store is damaged, in use or belongs to another value function.
      TimeoutError, OSError: see `spex_jax.evaluate`.
    """
    value_fn = as_value_function(value_fn, n, "explain")
    plan = make_plan(
        value_fn,
        budget=budget,
        method=METHODS.record(method, options),
        index=index,
        max_order=max_order,
        seed=seed,
        names=names,
        coordinates=coordinates,
        relevance=relevance,
        prior=prior,
    )
    (evaluated,) = evaluate_outputs(
        value_fn,
        plan,
        store=store,
        batch_size=batch_size,
        store_key=store_key,
        mesh=mesh,
        progress=progress,
        check_invariance=check_invariance,
        nonfinite=nonfinite,
    )
    return explanations_of([evaluated])[0]


def evaluate_outputs(
    value_fn: ValueFunction,
    plan: Plan,
    *,
    batch_size: int | None,
    mesh: jax.sharding.Mesh | None,
    progress: bool,
    check_invariance: bool,
    nonfinite: str,
    store: str | os.PathLike[str] | None = None,
    store_key: str | None = None,
    which: Sequence[int] | None = None,
) -> list[Evaluated]:
    """Evaluates a value function as planned and returns one record per output; see `explain` for the other arguments.

    Args:
      which: indices of the outputs to return; None for all.
    """
    check_nonfinite(nonfinite)
    if value_fn.n == 1:
        warnings.warn(_of_one_feature(value_fn, plan.names[0]), UserWarning, stacklevel=3)
    if nonfinite == "keep" and not plan.method.from_any_masks:
        raise ValueError(f"method {plan.method.name!r} needs the values of all its masks; use nonfinite='raise'")
    if plan.adaptive and value_fn.outputs:
        raise ValueError(
            f"adaptive sampling follows one value, but this value function returns values of shape {value_fn.outputs}; "
            "use another sampling, or one output at a time"
        )
    options: dict[str, Any] = {"batch_size": batch_size, "mesh": mesh, "store": store, "store_key": store_key}
    watch = Stopwatch("model", "fit")
    with Engine(value_fn, **options) as engine:
        run = _Run(engine, watch, progress=progress, nonfinite=nonfinite)
        ablations, spectrum, settings = plan.ablations(run(plan.masks)), None, plan.settings
        if plan.adaptive:
            with watch.phase("fit"):
                found = evaluate_adaptively(plan, plan.adaptive, ablations, run)
            ablations, spectrum, settings = found.ablations, found.spectrum, {**settings, **found.settings}
        noise = run.noise
        if check_invariance:
            with watch.phase("model"):
                noise = check_batch_invariance(
                    value_fn, batch_size=batch_size, mesh=mesh, seed=plan.seed, nonfinite=nonfinite
                ).noise
    plan = dataclasses.replace(plan, settings={**settings, **environment()})
    columns = ablations.values.reshape(len(ablations), -1)
    return [
        Evaluated(
            plan=plan,
            ablations=dataclasses.replace(ablations, values=columns[:, output]),
            spectrum=spectrum,
            place=f"at output {output} of {columns.shape[1]}" if columns.shape[1] > 1 else "",
            seconds=watch.seconds,
            details=value_fn.details.of_output(output, value_fn.n),
            noise=noise,
            stored=run.stored,
            evaluator=Evaluator(value_fn=value_fn, output=output, **options),
        )
        for output in (range(columns.shape[1]) if which is None else which)
    ]


def _of_one_feature(value_fn: ValueFunction, name: str) -> str:
    """Returns the warning that one feature has no interactions, with advice on how to get more features."""
    larger = ("document", "turn", "paragraph", "line", "sentence", "word", "token")
    units = value_fn.details.units
    remedy = "divide it into more features: smaller units, a finer grid, more groups or columns"
    if units in larger[:-1]:
        remedy = "take smaller units: units=" + " or ".join(map(repr, larger[larger.index(units) + 1 :]))
    return (
        f"there is one {units if units in larger else 'feature'}, {name!r:.60}, which alone has an "
        f"effect but no interactions; {remedy}"
    )


class _Run:
    """Calls an engine as a function masks bool [M, n] -> values float64 [M, *outputs], and adds up its calls.

    Attributes:
      stored: number of masks that came out of the store.
      noise: the largest change of a value that was computed twice; nan where none was.
    """

    def __init__(self, engine: Engine, watch: Stopwatch, *, progress: bool, nonfinite: str):
        self._engine, self._watch = engine, watch
        self._progress, self._nonfinite = progress, nonfinite
        self.stored, self.noise = 0, math.nan

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        with self._watch.phase("model"):
            found = self._engine.evaluate(masks, progress=self._progress, nonfinite=self._nonfinite)
        self.stored += found.stored
        self.noise = float(np.fmax(self.noise, found.noise))
        return found.values
