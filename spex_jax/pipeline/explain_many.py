"""Explains many value functions, such as those of a corpus of texts, with one store."""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import math
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, NamedTuple, Unpack

import jax

from spex_jax.analysis.corpus import CorpusPrior, Example, learn_corpus
from spex_jax.engine.evaluation import identity_of
from spex_jax.engine.progress import Progress
from spex_jax.engine.value_function import ValueFunction
from spex_jax.methods import METHODS, Method
from spex_jax.pipeline.explain import evaluate_outputs, explain
from spex_jax.pipeline.explanation import Explanation
from spex_jax.pipeline.fitting import Evaluated, explanations_of
from spex_jax.pipeline.method_options import MethodOptions
from spex_jax.pipeline.plan import Plan, make_plan
from spex_jax.store.store import as_path, naming
from spex_jax.utils.version import __version__

__all__ = ["explain_many"]

_TOGETHER = 32  # tables fitted at once
_FIRST = 4  # explanations from which a corpus begins to learn


def explain_many(  # noqa: PLR0913
    value_fns: Iterable[ValueFunction] | ValueFunction,
    *,
    budget: int | None = None,
    method: str | Method = "proxyspex",
    index: str = "FSII",
    max_order: int = 2,
    store: str | os.PathLike[str] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    names: Sequence[str] | None = None,
    relevance: str | None = None,
    prior: CorpusPrior | str | None = None,
    progress: bool = True,
    check_invariance: bool = False,
    nonfinite: str = "raise",
    **options: Unpack[MethodOptions],
) -> list[Explanation]:
    """Explains several value functions with the same options, or every output of one from the same ablations.

    Up to 32 tables of ablations are fitted at once (`proxyspex.fit_many`, `spex.decode_many`).

    With a store the run can be stopped and started again: it then reads ablations from the store, and whole
    explanations of the same value function with the same options by the same version of this package.

    Args:
      value_fns: any iterable; it is read one at a time, so that a generator need not hold all models or texts. A value
        function whose values are several numbers, such as those of all test points, gives one explanation for each
        number. A single value function need not be put in a list.
      store: a folder, created if it does not exist, with FILE.ablations for each value function and FILE-OPTIONS/ for
        each explanation.
      relevance: None, or "auto", see `explain`.
      prior: None; or "corpus", so that each fit knows what the explanations before it say of units with such names and
        places (`analysis.corpus`): with few ablations, and texts that share words, later explanations become more
        faithful; or a `CorpusPrior` that was learned from other explanations.
      progress: whether to show the progress over all value functions, or over the ablations and outputs of a single
        one: a bar on a terminal or in a notebook, else a line a minute.
      budget, method, index, max_order, seed, batch_size, mesh, names, check_invariance, nonfinite, **options: see
        `explain`. There is no `store_key`, since each value function needs an identity of its own
        (`ValueFunction(..., identity=)`).

    Returns:
      The explanations, in the order of the value functions and their outputs. `Explanation.validate` needs value_fn=
      for explanations read from the folder, and where value_fns is an iterator and not a sequence.

    Raises:
      ValueError: as for `explain`; the store is a file; or an item is not a ValueFunction. A note names its position.
    """
    if "store_key" in options:
        raise ValueError(
            "explain_many takes no store_key=, since all value functions would share it; use ValueFunction(identity=)"
        )
    chosen = METHODS.record(method, options)
    if relevance is not None and not (isinstance(relevance, str) and relevance == "auto"):
        raise ValueError(f"relevance must be 'auto' or None, got {relevance!r:.60}; explain takes an array")
    if prior is not None and not isinstance(prior, CorpusPrior) and prior != "corpus":
        raise ValueError(f"prior must be 'corpus', a CorpusPrior or None, got {prior!r:.60}; explain takes a spectrum")
    if prior is not None and not chosen.uses_known:
        raise ValueError(f"prior= is for methods that fit a proxy, got it with method={chosen.name!r}; leave it out")
    make = functools.partial(
        make_plan,
        budget=budget,
        method=chosen,
        index=index,
        max_order=max_order,
        seed=seed,
        names=names,
        relevance=relevance,
    )
    evaluate = functools.partial(
        evaluate_outputs, batch_size=batch_size, mesh=mesh, check_invariance=check_invariance, nonfinite=nonfinite
    )
    # The folder of an explanation is named by the arguments that it depends on and that differ from the defaults.
    arguments = {
        "budget": budget,
        "method": chosen.name,
        "index": index,
        "max_order": max_order,
        "seed": seed,
        "names": None if names is None else list(names),
        "relevance": relevance,
        "check_invariance": check_invariance,
        "nonfinite": nonfinite,
    }
    default = inspect.signature(explain).parameters
    changed = {name: given for name, given in arguments.items() if given != default[name].default}
    changed |= chosen.changed()
    earlier = _Earlier(prior)
    folder = None if store is None else as_path(store)
    if folder is not None:
        with naming(folder):
            if folder.exists() and not folder.is_dir():
                raise ValueError(f"explain_many needs a folder for its store; {str(folder)!r} is a file")
            folder.mkdir(parents=True, exist_ok=True)
    alone = isinstance(value_fns, ValueFunction)
    several: Iterable[ValueFunction] = [value_fns] if isinstance(value_fns, ValueFunction) else value_fns
    total: int | None = len(several) if isinstance(several, Sized) else None
    if isinstance(value_fns, ValueFunction):
        total = math.prod(value_fns.outputs)
    held = alone or isinstance(value_fns, Sequence)  # explanations must not keep alive what a generator lets go
    found: list[Explanation | None] = []
    waiting: dict[int, _Unfitted] = {}  # by position in the returned list
    with Progress(total, shown=progress and jax.process_index() == 0, what="explanations", unit="answer") as shown:
        for position, value_fn in enumerate(several):
            try:
                for answer in _answers(value_fn, folder, make, evaluate, changed | earlier.name, progress and alone):
                    if isinstance(answer, Explanation):
                        found.append(answer)
                        earlier.add(answer)
                        shown.update(1 if alone else 0)
                    else:
                        evaluated = answer.evaluated if held else dataclasses.replace(answer.evaluated, evaluator=None)
                        waiting[len(found)] = answer._replace(evaluated=evaluated)
                        found.append(None)
                    if len(waiting) == earlier.together:
                        _fit(waiting, found, earlier, shown if alone else None)
                if folder is not None:
                    earlier.note(value_fn)
            except BaseException as error:
                if isinstance(error, Exception):  # explain and keep what was already evaluated
                    with contextlib.suppress(Exception):
                        _fit(waiting, found, earlier, shown if alone else None)
                explained = sum(answer is not None for answer in found)
                error.add_note(f"at value function {position} of explain_many, {explained} explained before it")
                raise
            shown.update(0 if alone else 1)
        _fit(waiting, found, earlier, shown if alone else None)
    return [answer for answer in found if answer is not None]


class _Unfitted(NamedTuple):
    """Holds an output that waits to be fitted with others, and the folder for its explanation."""

    evaluated: Evaluated
    saved: pathlib.Path | None


class _Earlier:
    """What the explanations made so far say of units, where `prior` asks for that."""

    def __init__(self, prior: CorpusPrior | str | None):
        """Starts with a prior that was given, or with "corpus" for one that is learned."""
        self._given = prior if isinstance(prior, CorpusPrior) else None
        self._learns = prior == "corpus"
        self._examples: list[Example] = []
        self._before = ""

    @property
    def together(self) -> int:
        """The number of outputs to fit at once: few at first, so that later ones learn from them."""
        return min(_TOGETHER, max(_FIRST, len(self._examples))) if self._learns else _TOGETHER

    @property
    def name(self) -> dict[str, Any]:
        """What names the folder of the next explanation, beside the options."""
        if self._given is not None:
            return {"prior": hashlib.sha256(repr(self._given).encode()).hexdigest()}
        return {"prior": ["corpus", self._before]} if self._learns else {}

    def note(self, value_fn: ValueFunction) -> None:
        """Notes that later explanations depend on this value function."""
        if self._learns:
            known = f"{self._before} {identity_of(value_fn)} {value_fn.names}"
            self._before = hashlib.sha256(known.encode()).hexdigest()

    def add(self, answer: Explanation) -> None:
        """Learns from an explanation."""
        if self._learns:
            known = Example(names=answer.names, spectrum=answer.spectrum, relevance=answer.relevance)
            self._examples.append(known)

    def of(self, evaluated: Evaluated) -> Evaluated:
        """Returns the same with the relevance that the explanations so far predict."""
        learned = learn_corpus(self._examples) if self._learns else self._given
        if learned is None:
            return evaluated
        ablations, plan = evaluated.ablations, evaluated.plan
        relevance = learned.relevance(plan.names, plan.known.relevance)
        known = dataclasses.replace(ablations.known, relevance=relevance)
        settings = {**plan.settings, "prior": f"{learned.examples} explanations"}
        return dataclasses.replace(
            evaluated,
            plan=dataclasses.replace(plan, settings=settings),
            ablations=dataclasses.replace(ablations, known=known),
        )


def _fit(
    waiting: dict[int, _Unfitted], found: list[Explanation | None], earlier: _Earlier, shown: Progress | None
) -> None:
    """Fits all waiting outputs at once and saves the explanations."""
    if not waiting:
        return
    answers = explanations_of([earlier.of(unfitted.evaluated) for unfitted in waiting.values()])
    for (place, unfitted), answer in zip(waiting.items(), answers, strict=True):
        if unfitted.saved is not None:
            answer.save(unfitted.saved)
        found[place] = answer
        earlier.add(answer)
        if shown is not None:
            shown.update(1)
    waiting.clear()


def _saved(folder: pathlib.Path, value_fn: ValueFunction) -> Explanation:
    """Loads the saved explanation of a value function.

    Raises:
      ValueError: the explanation is damaged or belongs to another value function.
    """
    found = Explanation.load(folder)
    if found.n != value_fn.n:
        raise ValueError(f"{str(folder)!r} holds an explanation of {found.n} features, not {value_fn.n}")
    return found


def _answers(
    value_fn: ValueFunction,
    folder: pathlib.Path | None,
    make: Callable[..., Plan],
    evaluate: Callable[..., list[Evaluated]],
    changed: dict[str, Any],
    progress: bool,
) -> Iterator[Explanation | _Unfitted]:
    """Yields for each output of a value function its saved explanation, or its values to be fitted."""
    if not isinstance(value_fn, ValueFunction):
        raise ValueError(f"explain_many needs value functions as spex_jax.ValueFunction, got {type(value_fn).__name__}")
    if folder is None:
        for evaluated in evaluate(value_fn, make(value_fn), progress=progress):
            yield _Unfitted(evaluated, None)
        return
    identity = identity_of(value_fn)
    outputs = range(math.prod(value_fn.outputs))
    known = [__version__, changed, value_fn.names, value_fn.details.to_json()]
    if value_fn.coordinates is not None:
        known.append({"coordinates": value_fn.coordinates.tolist()})
    saved = []
    for output in outputs:
        settings = json.dumps(known + [output] * (len(outputs) > 1), sort_keys=True, default=str)
        saved.append(folder / f"{identity[:32]}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}")
    alone = jax.process_count() == 1  # several processes would have to agree on what is saved
    found: dict[int, Explanation] = {}
    for output in outputs if alone else ():
        if os.path.lexists(saved[output]):
            try:
                found[output] = _saved(saved[output], value_fn)
            except ValueError as error:
                aside = pathlib.Path(tempfile.mkdtemp(dir=folder, prefix=f"{saved[output].name}.damaged-"))
                saved[output].replace(aside / saved[output].name)
                warnings.warn(f"{error}; it is made again, and the old folder is now in {aside.name}", stacklevel=3)
    missing = [output for output in outputs if output not in found]
    several = evaluate(value_fn, make(value_fn), which=missing, progress=progress, store=folder) if missing else []
    rest = iter(several)
    for output in outputs:
        yield found[output] if output in found else _Unfitted(next(rest), saved[output] if alone else None)
