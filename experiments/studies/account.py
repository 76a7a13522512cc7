"""The parts that all case studies share: how they query a model, and the numbered account that they give.

A study ablates something, makes a claim about what acts together, and checks the claim on the model itself. Its verdict
follows from its criteria, which are numbers of this run.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tables import markdown

from spex_jax import Explanation, ValueFunction, evaluate, explain, explain_many
from spex_jax.runtime import mesh, save_result, without_nan

CORNERS = ("both", "only the first", "only the second", "neither")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Flags of `case_studies.py`; None where a study has a default of its own.

    Attributes:
      data: folder of data sets; None where there is none.
      load_model: loads the model and tokenizer of --model; None without that flag.
      plant: whether behaviours are planted.
      proxy: the proxy of all explanations.
      example: number of the input that is explained in full.
      steps: number of training steps.
      synonyms: the replacements of words.
      texts: number of inputs on which a behaviour is measured.
    """

    out: pathlib.Path
    seed: int
    data: pathlib.Path | None
    load_model: Callable[[], tuple[Any, Any]] | None
    budget: int | None
    example: int
    plant: bool
    proxy: str | None
    steps: int | None
    synonyms: Mapping[str, str]
    texts: int | None

    @property
    def store(self) -> pathlib.Path:
        """The folder in which all ablations are kept."""
        return self.out / "store"

    def holds(self, *parts: str) -> bool:
        """Returns whether the data folder has this file."""
        return self.data is not None and self.data.joinpath(*parts).exists()

    def explain(self, value_fn: ValueFunction, budget: int, **options: Any) -> Explanation:
        """Explains a value function and keeps its ablations; --budget overrides `budget`."""
        return explain(value_fn, **self._options(budget, "auto"), **options)

    def explain_many(self, value_fns: Sequence[ValueFunction], budget: int) -> list[Explanation]:
        """Explains several value functions by a Gaussian process alone, which fits them all at once."""
        return explain_many(value_fns, **self._options(budget, "walsh_gp"))

    def _options(self, budget: int, proxy: str) -> dict[str, Any]:
        chosen = {"budget": self.budget or budget, "proxy": self.proxy or proxy, "seed": self.seed}
        return {**chosen, "store": self.store, "mesh": mesh(), "progress": False}

    def values(self, value_fn: ValueFunction, masks: Any) -> np.ndarray:
        """Returns the values at masks, which are kept too."""
        return evaluate(value_fn, np.asarray(masks, np.bool_), store=self.store, mesh=mesh(), progress=False)

    def corners(self, value_fn: ValueFunction, pair: Sequence[int]) -> dict[str, float]:
        """Returns the values with both units of a pair, each alone and neither, everything else kept, and their joint
        effect "together": both - first - second + neither.
        """
        masks = np.ones((4, value_fn.n), np.bool_)
        masks[[2, 3], pair[0]] = masks[[1, 3], pair[1]] = False
        found = self.values(value_fn, masks)
        together = float(found[0] - found[1] - found[2] + found[3])
        return {**dict(zip(CORNERS, map(float, found), strict=True)), "together": together}


@dataclasses.dataclass
class Account:
    """The numbered steps of a study, printed as they come."""

    name: str
    title: str
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    criteria: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    verdict: str = ""
    started: float = dataclasses.field(default_factory=time.perf_counter)

    def step(self, heading: str, text: str, rows: Sequence[Mapping[str, Any]] = (), **numbers: Any) -> None:
        """Adds and prints a step: its text, a table, and the numbers for the JSON."""
        found = {"heading": heading, "text": text, **({"table": list(rows)} if rows else {}), **numbers}
        self.steps.append(found)
        print(f"\n{len(self.steps)}. {heading}\n{text}", flush=True)
        if rows:
            print(markdown(rows), end="", flush=True)

    def found(self, e: Explanation, what: str, top: int = 8) -> None:
        """Adds the steps of an explanation: what was ablated, at which budget and R2, and the ranked interactions."""
        about, removal = e.details, e.details.removal
        value = about.value if about.target is None else f"{about.value} of {about.target!r}"
        self.step(
            "What is ablated, and the value",
            f"{what} {e.n} features ({_plural(about.units)}), removal {removal!r}; the value is the {value}.",
            n=e.n,
            names=list(e.names),
            value=value,
        )
        self.fidelity(e)
        self.ranked(e, top)

    def fidelity(self, e: Explanation) -> None:
        """Adds the step of the budget and of R2 on held-out masks."""
        score, count, held_out = e.faithfulness, len(e.masks), e.ablations.tested_count
        if e.exact:
            text = f"All 2^{e.n} = {count:,} masks were evaluated: the spectrum is exact, and nothing is estimated."
        else:
            text = (
                f"{count:,} of 2^{e.n} masks were evaluated, and {held_out} of them were held out of every fit. R2 on "
                f"these is {score.r2:.3f}, with a 95% interval of {score.low:.3f} to {score.high:.3f}."
            )
        r2 = None if e.exact else {"r2": score.r2, "low": score.low, "high": score.high, "held_out": held_out}
        self.step("Budget, and how far to trust it", text, masks=count, exact=e.exact, r2=r2)

    def ranked(self, e: Explanation, top: int = 8) -> None:
        """Adds the step of the strongest interactions, `e.index` of orders up to `e.max_order`."""
        found = e.interactions()
        rows = [
            {"rank": place, "what": found.label(members, 60), e.index: float(value)}
            for place, (members, value) in enumerate(found.top(top), start=1)
        ]
        self.step("Ranked interactions", f"{e.index}, sets of up to {e.max_order} features:", rows)

    def checked(self, e: Explanation, top: int) -> Any:
        """Measures the strongest interactions on the model, adds this step, and returns the validation."""
        found = e.validate(top=top)
        rows = [
            {
                "what": e.interactions().label(row.members, 60),
                "predicted": row.predicted,
                "measured": row.measured,
                "low": row.low,
                "high": row.high,
                "verdict": str(row),
            }
            for row in found.rows
        ]
        text = f"{found.index} measured on the model, at masks drawn for this purpose: {found.summary}."
        self.step("The claims, measured on the model", text, rows)
        return found

    def conclude(self, claim: str, criteria: Sequence[tuple[str, bool]]) -> None:
        """Adds the verdict: confirmed where every criterion holds."""
        self.criteria = [{"criterion": text, "holds": bool(holds)} for text, holds in criteria]
        failed = [text for text, holds in criteria if not holds]
        reasons = "; ".join(failed or [text for text, _ in criteria])
        self.verdict = f"NOT confirmed: it does not hold that {reasons}" if failed else f"confirmed: {reasons}"
        listed = "\n".join(f"- [{'x' if holds else ' '}] {text}" for text, holds in criteria)
        self.step("Conclusion", f"Claim: {claim}\n\nCriteria:\n\n{listed}\n\n{self.verdict}")

    def write(self, out: pathlib.Path) -> None:
        """Writes study.md and study.json into the folder `out`."""
        sections = [
            f"## {place}. {step['heading']}\n\n{step['text']}\n"
            + ("\n" + markdown(step["table"]) if "table" in step else "")
            for place, step in enumerate(self.steps, start=1)
        ]
        seconds = round(time.perf_counter() - self.started, 1)
        result = {
            "study": self.name,
            "title": self.title,
            "verdict": self.verdict,
            "confirmed": all(row["holds"] for row in self.criteria),
            "criteria": self.criteria,
            "steps": self.steps,
            "seconds": seconds,
        }
        save_result(out / "study.json", without_nan(plain(result)))
        (out / "study.md").write_text(f"# {self.title}\n\n" + "\n".join(sections), encoding="utf-8")


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("ch", "s")) else f"{noun}s"


def plain(value: Any) -> Any:
    """Returns a value without tuples and NumPy numbers, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def places_of(names: Sequence[str], words: Sequence[str]) -> tuple[int, ...]:
    """Returns the sorted positions of words among names, compared without punctuation and in lower case.

    Raises:
      ValueError: a word is not among the names.
    """
    bare = [name.strip(" .,;:!?'\"()").lower() for name in names]
    if missing := [word for word in words if word.lower() not in bare]:
        raise ValueError(f"the text {' '.join(names)!r} does not have the words {missing}")
    return tuple(sorted(bare.index(word.lower()) for word in words))


def rank_of(e: Explanation, members: Sequence[int]) -> int | None:
    """Returns the rank, from 1, of a set among those of its size by |interaction|; None where that is zero."""
    found = e.interactions()
    value = found[tuple(members)]
    if not value:
        return None
    return 1 + sum(abs(other) > abs(value) for _, other in found.top(10**9, order=len(members)))


def top_of(e: Explanation, order: int = 2) -> tuple[tuple[int, ...], float]:
    """Returns the strongest interaction of sets of this size, ((), 0.0) where there is none."""
    found = e.interactions().top(1, order=order)
    return found[0] if found else ((), 0.0)


def verdict_on(e: Explanation, members: Sequence[int]) -> str:
    """Returns the verdict on a set (see `spex_jax.analysis.validation`), which is measured if it was not before."""
    members, found = tuple(members), e.interactions()
    if not members or not found[members]:
        return "no interaction"
    if e.validation is None or members not in [row.members for row in e.validation.rows]:
        place = 1 + sum(abs(value) > abs(found[members]) for _, value in found.top(10**9))
        e.validate(top=place)
    return str(e.validation[members].verdict) if e.validation else "not measured"


def sign(value: float) -> int:
    """Returns -1, 0 or 1."""
    return 0 if value == 0 else int(math.copysign(1, value))
