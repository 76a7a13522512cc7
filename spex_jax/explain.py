"""The front door: budget -> masks -> values -> spectrum -> Explanation. The one place where the model side and the
mathematics meet.
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from spex_jax import masks as masks_lib
from spex_jax.evaluate import Engine, check_nonfinite, features_of
from spex_jax.explanation import Explanation
from spex_jax.indices import INDICES
from spex_jax.invariance import check_batch_invariance
from spex_jax.lenses.value_function import ValueFunction
from spex_jax.methods import METHODS, Method
from spex_jax.metrics import Faithfulness, faithfulness
from spex_jax.spectrum import exact_spectrum
from spex_jax.timing import Stopwatch
from spex_jax.version import environment

__all__ = ["Estimate", "default_budget", "estimate", "explain", "explain_outputs", "least_budget"]

_HELD_OUT = 50  # masks at least, or 10% of the budget


def _held_out(budget: int) -> int:
    return max(_HELD_OUT, budget // 10)


def least_budget(n: int, method: str = "proxyspex", **options: Any) -> int:
    """The smallest budget for n features: what the method needs to fit, and the held-out masks."""
    if n < 63 and 2**n <= _HELD_OUT:
        return 2**n
    chosen = METHODS[method]
    fitted = chosen.least(n, {**chosen.defaults, **options})
    least = fitted + _HELD_OUT
    while least - _held_out(least) < fitted:
        least += 1
    return min(2**n, least) if n < 63 else least


def default_budget(n: int, method: str = "proxyspex", **options: Any) -> int:
    """8 n log2(n) ablations, and never fewer than the least."""
    return max(math.ceil(8 * n * math.log2(n)), least_budget(n, method, **options))


def _check_budget(budget: int | None, n: int, method: str, options: dict[str, Any]) -> int:
    if budget is None:
        return default_budget(n, method, **options)
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer):
        raise ValueError(f"budget must be a whole number of ablations, got {budget!r}")
    least = least_budget(n, method, **options)
    if budget < least:
        raise ValueError(
            f"a budget of {budget} is too small for {n} features; the least that would do is {least} "
            f"(the default is {default_budget(n, method, **options)})"
        )
    return int(budget)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Question:
    """What a call of `explain` asks, all of it checked: the masks, and how their values will be read.

    Attributes:
      value_fn: the value function.
      names: of its features.
      masks: bool [M, n]; the last `held_out` of them are for the faithfulness.
      exact: whether they are all masks.
      method, options, seed: of the fit.
      made: what the method knows of its masks.
      settings: for the report.
    """

    value_fn: ValueFunction
    names: tuple[str, ...]
    masks: np.ndarray
    held_out: int
    exact: bool
    method: Method
    options: dict[str, Any]
    seed: int
    made: Any
    settings: dict[str, Any]


def _question(
    value_fn: Any,
    n: int | None,
    *,
    budget: int | None,
    method: str,
    seed: int,
    names: Sequence[str] | None,
    options: dict[str, Any],
    several: bool = False,
) -> _Question:
    """Checks the arguments of `explain` and draws the masks; nothing is asked yet."""
    n = features_of(value_fn, n, "explain", several=several)
    if not isinstance(value_fn, ValueFunction):
        value_fn = ValueFunction(value_fn, n)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    chosen = METHODS[method]
    if unknown := sorted(set(options) - set(chosen.defaults)):
        raise ValueError(f"unknown options {', '.join(unknown)}; {method} takes {', '.join(chosen.defaults)}")
    n = value_fn.n
    options = {**chosen.defaults, **options}
    chosen.check(seed, options)  # now, and not after the model has been paid for
    budget, seed = _check_budget(budget, n, method, options), int(seed)
    names = value_fn.names if names is None else ValueFunction(value_fn.fn, n, names=names).names

    exact = n < 63 and 2**n <= budget
    held_out = 0 if exact else _held_out(budget)
    settings = {"method": method, "budget": budget, "seed": seed, **options}
    made = None
    if exact:
        masks = masks_lib.all_masks(n)
    else:
        fitted, made = chosen.draw(n, budget - held_out, seed, options)
        masks = masks_lib.uniform(n, budget, np.random.default_rng([seed, 1]), given=fitted)
        settings |= chosen.settings(made)
    return _Question(
        value_fn=value_fn,
        names=names,
        masks=masks,
        held_out=held_out,
        exact=exact,
        method=chosen,
        options=options,
        seed=seed,
        made=made,
        settings={name: value for name, value in settings.items() if value is not None},
    )


def _check_report(index: str, max_order: int) -> None:
    if index not in INDICES:
        raise ValueError(f"unknown index {index!r}; expected one of {', '.join(INDICES)}")
    masks_lib.check_whole("max_order", max_order, 1)


def explain(
    value_fn: ValueFunction | Callable[[np.ndarray], Any],
    n: int | None = None,
    *,
    budget: int | None = None,
    method: str = "proxyspex",
    index: str = "FSII",
    max_order: int = 2,
    store: str | os.PathLike[str] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    store_key: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    names: Sequence[str] | None = None,
    progress: bool = True,
    check_invariance: bool = False,
    nonfinite: str = "raise",
    **options: Any,
) -> Explanation:
    """Which features act together in a value function.

    Asks `budget` masks, the full and the empty one among them: uniform ones for "proxyspex", those of a design for
    "spex". max(50, 10%) of them, uniform ones, are held out of every fit and give the faithfulness. Where 2^n <= budget
    every mask is asked and the answer is exact.

    With a store the same call continues where a stopped one ended and comes to the same answer; another proxy, index or
    order asks nothing, and a larger budget asks what it has more (but for uniform masks that a larger design of SPEX
    has no room for).

    Args:
      value_fn: a `ValueFunction` from a lens, or any callable masks bool [M, n] -> values [M].
      n: number of features; needed for a bare callable.
      budget: ablations, held-out ones included; None is 8 n log2(n).
      method: "proxyspex" (a proxy fitted to random ablations) or "spex" (coded ablations, decoded).
      index, max_order: of the interactions that reports show; any other can be had from the same answer.
      store: path of a store of ablations (made where it does not exist), or of a folder that holds one for each value
        function; see `spex_jax.store`.
      seed: of the masks and the fit.
      batch_size, mesh, progress: see `spex_jax.evaluate`.
      store_key: identifies a bare callable, or any value function without an identity, in the store.
      names: n names; None takes the lens's.
      check_invariance: asks some masks again, alone and in another order, beyond the budget (see
        `check_batch_invariance`). Without it a device function is checked where the last batch has free places.
      nonfinite: what becomes of masks whose value is NaN or infinite: "raise" stops at the first; "keep" goes on,
        leaves them out of the fit and the score with a warning, and lists them in `Explanation.failed`.
      **options: of the method. "proxyspex": proxy, max_degree, max_terms, solver, extract (see `proxyspex.fit`).
        "spex": max_degree (see `spex.design`; "auto" by default) and residual_of, a proxy for the smooth part, of which
        SPEX decodes what it leaves (see `proxyspex.fit_and_decode`).

    Raises:
      ValueError: options that do not fit, a budget below the least, values that are not finite, or a store that is
        damaged, in use or of another value function.
      TimeoutError, OSError: see `spex_jax.evaluate`.
    """
    outputs = explain_outputs(
        value_fn,
        n,
        several=False,
        budget=budget,
        method=method,
        index=index,
        max_order=max_order,
        store=store,
        seed=seed,
        batch_size=batch_size,
        store_key=store_key,
        mesh=mesh,
        names=names,
        progress=progress,
        check_invariance=check_invariance,
        nonfinite=nonfinite,
        **options,
    )
    return next(outputs)


def explain_outputs(
    value_fn: ValueFunction | Callable[[np.ndarray], Any],
    n: int | None = None,
    *,
    several: bool = True,
    which: Sequence[int] | None = None,
    budget: int | None = None,
    method: str = "proxyspex",
    index: str = "FSII",
    max_order: int = 2,
    store: str | os.PathLike[str] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    store_key: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    names: Sequence[str] | None = None,
    progress: bool = True,
    check_invariance: bool = False,
    nonfinite: str = "raise",
    **options: Any,
) -> Iterator[Explanation]:
    """Explanations of the outputs of a value function, in turn, from the same ablations; `explain` has the options.

    Args:
      several: whether a value may be more than one number.
      which: numbers of the outputs; None for all.
    """
    _check_report(index, max_order)
    check_nonfinite(nonfinite)
    asked = _question(
        value_fn, n, budget=budget, method=method, seed=seed, names=names, options=options, several=several
    )
    if nonfinite == "keep" and not asked.method.from_any_masks:
        raise ValueError(f"method {method!r} needs the values of all its masks; use nonfinite='raise'")
    masks = asked.masks
    model = Stopwatch("model", "fit")
    with model.phase("model"):
        engine = Engine(
            asked.value_fn, masks.shape[1], batch_size=batch_size, mesh=mesh, store=store, store_key=store_key
        )
        with engine:
            answers = engine.ask(masks, progress=progress, nonfinite=nonfinite)
        noise = answers.noise
        if check_invariance:
            noise = check_batch_invariance(
                asked.value_fn, batch_size=batch_size, mesh=mesh, seed=asked.seed, nonfinite=nonfinite
            ).noise
    columns = answers.values.reshape(len(masks), -1)
    details = dict(asked.value_fn.details)
    of_outputs = details.pop("outputs", None) or [{}] * columns.shape[1]
    for output in range(columns.shape[1]) if which is None else which:
        fit = Stopwatch("model", "fit")
        with fit.phase("fit"):
            try:
                answer = _fitted(asked, columns[:, output])
            except ValueError as error:
                if columns.shape[1] > 1:
                    error.add_note(f"at output {output} of {columns.shape[1]}")
                raise
        yield Explanation(
            **answer,
            names=asked.names,
            index=index,
            max_order=int(max_order),
            timings={phase: model.seconds[phase] + fit.seconds[phase] for phase in fit.seconds},
            settings={**asked.settings, **environment()},
            details={**details, **of_outputs[output]},
            noise=noise,
            stored=answers.stored,
        )


def _fitted(asked: _Question, values: np.ndarray) -> dict[str, Any]:
    """What the values float64 [M] of one output say: the parts of an `Explanation` that depend on them."""
    finite = np.isfinite(values)
    masks, failed, values = asked.masks[finite], asked.masks[~finite], values[finite]
    exact, held_out = asked.exact and not len(failed), int(finite[len(finite) - asked.held_out :].sum())
    least = 1 if exact else asked.method.least(masks.shape[1], asked.options)
    if asked.exact and not exact:  # some of all masks are missing: a part of the others is held out now
        order = np.random.default_rng([asked.seed, 3]).permutation(len(values))
        masks, values = masks[order], values[order]
        held_out = max(0, min(_held_out(len(values)), len(values) - least))
    if len(values) - held_out < least:
        raise ValueError(
            f"{len(values)} of {len(finite)} values are finite, too few: a fit needs {least}; mend the value function"
        )
    tested = np.arange(len(values)) >= len(values) - held_out
    if exact:
        spectrum = exact_spectrum(masks, values)
        score = Faithfulness(np.nan, np.nan, np.nan)
    else:
        spectrum = asked.method.fit(masks[~tested], values[~tested], asked.made, asked.seed, asked.options)
        score = faithfulness(values[tested], spectrum(masks[tested]), seed=asked.seed)
    return {
        "spectrum": spectrum,
        "masks": masks,
        "values": values,
        "held_out": held_out,
        "faithfulness": score,
        "exact": exact,
        "failed": failed,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would take.

    Attributes:
      masks: ablations of the run.
      stored: how many of them the store holds.
      batch_size: of one call.
      devices: that the masks are split over; 0 for host code.
      compile_seconds: before the first call, and what that took more than the second.
      batch_seconds: of one call, once compiled.
      seconds: that the remaining ablations will take; the fit comes on top.
      store_bytes: of the store at the end.
    """

    masks: int
    stored: int
    batch_size: int
    devices: int
    compile_seconds: float
    batch_seconds: float
    seconds: float
    store_bytes: int

    def __str__(self) -> str:
        """One line."""
        if self.stored == self.masks:
            return f"all {self.masks:,} ablations are stored: nothing to ask"
        place = f"{self.devices} device{'s' if self.devices > 1 else ''}" if self.devices else "host code"
        return (
            f"{self.masks:,} ablations, {self.stored:,} of them stored; batches of {self.batch_size} on {place}, "
            f"{self.batch_seconds:.3g} s each: about {self.seconds:.3g} s for the model, {self.compile_seconds:.3g} s "
            f"of compilation before; {self.store_bytes:,} bytes in a store"
        )


def estimate(
    value_fn: ValueFunction | Callable[[np.ndarray], Any],
    n: int | None = None,
    *,
    budget: int | None = None,
    method: str = "proxyspex",
    store: str | os.PathLike[str] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    store_key: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    names: Sequence[str] | None = None,
    index: str = "FSII",
    max_order: int = 2,
    progress: bool = True,
    check_invariance: bool = False,
    nonfinite: str = "raise",
    **options: Any,
) -> Estimate:
    """What `explain` with the same arguments would take: a dry run of two batches, or one call of host code.

    With a store what these two asked is kept and not asked again. Of the arguments, progress and check_invariance
    change nothing here. A value may be several numbers, as for `explain_many`.

    Raises:
      ValueError: as `explain`.
    """
    del progress, check_invariance
    _check_report(index, max_order)
    asked = _question(value_fn, n, budget=budget, method=method, seed=seed, names=names, options=options, several=True)
    masks, count = asked.masks, len(asked.masks)
    engine = Engine(asked.value_fn, masks.shape[1], batch_size=batch_size, mesh=mesh, store=store, store_key=store_key)
    with engine:
        todo = masks[~engine.lookup(masks)[0]]
        size, calls, devices = 0, [0.0], getattr(engine.function, "devices", 0)
        start = time.perf_counter()
        if len(todo):
            size = engine.batch_size(len(todo))
            calls = []
        compiling = time.perf_counter() - start
        for first in range(0, min(len(todo), 2 * size if devices else size), size or 1):
            start = time.perf_counter()
            engine.ask(todo[first : first + size], progress=False, size=size, nonfinite=nonfinite)
            calls.append(time.perf_counter() - start)
    one = calls[-1]
    at_once = getattr(engine.function, "workers", 1)
    return Estimate(
        masks=count,
        stored=count - len(todo),
        batch_size=size,
        devices=devices,
        compile_seconds=compiling + calls[0] - one,
        batch_seconds=one,
        seconds=one * -(-len(todo) // (size * at_once)) if size else 0.0,
        store_bytes=count * (-(-masks.shape[1] // 8) + 8 * math.prod(asked.value_fn.outputs)),
    )
