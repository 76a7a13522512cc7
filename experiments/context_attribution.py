"""Which sentences or documents of a retrieved context made a language model answer as it did.

Questions are HotpotQA's (Yang et al. 2018, https://arxiv.org/abs/1809.09600), whose supporting facts name the
sentences that an answer needs: mostly two, in two documents, that help together. The context is ablated; the value is
the log-odds log p - log(1 - p) of the whole answer, as in ContextCite (Cohen-Wang et al. 2024,
https://arxiv.org/abs/2409.00729). The measures are ContextCite's too: LDS, the rank correlation of predicted and
measured values on held-out masks, and the drop of the answer's log-probability when the k parts with the largest
Shapley values are removed. Also reported: held-out R2, and the recall of the supporting facts among as many top parts.
"lasso" is ContextCite's own method, a first-order LASSO on the same ablations. Questions that do not fit into the
model's context are left out and counted.

  python experiments/context_attribution.py --model=DIR --data=hotpotqa_distractor_50.json --questions=20
  python experiments/context_attribution.py --model=DIR --units=document --answers=gold --budget=512 --pages=3

Ablations are kept in OUT/store: a stopped run continues, and other methods reuse them.
"""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import model_flags
import numpy as np
import questions
from absl import flags
from questions import Asking
from scipy import stats

from spex_jax import evaluate, explain, proxyspex
from spex_jax.analysis.metrics import lds, r2_score
from spex_jax.core import masks as masks_lib
from spex_jax.lenses.text_parts.removal import REMOVALS
from spex_jax.runtime import define_path, mesh, run_program, save_result, seed, without_nan

METHODS: dict[str, dict[str, Any]] = {
    "proxyspex": {"proxy": "auto"},
    "lasso": {"proxy": "linear", "max_degree": 1, "solver": "lasso"},
}
KS = (1, 3, 5)

_DATA = define_path(
    "data", None, "HotpotQA JSON. Default: hotpotqa/hotpotqa_distractor_50.json in the folder SPEX_JAX_DATA."
)
_QUESTIONS = flags.DEFINE_integer("questions", 10, "Number of questions, from the first.", lower_bound=1)
_DOCUMENTS = flags.DEFINE_integer(
    "documents", 10, "Documents per context; those with supporting facts are always included.", lower_bound=1
)
_UNITS = flags.DEFINE_enum("units", "sentence", questions.UNITS, "The unit that is kept or removed as a whole.")
_REMOVAL = flags.DEFINE_enum("removal", "delete", [r for r in REMOVALS if r != "replace"], "How a part is removed.")
_ANSWERS = flags.DEFINE_enum(
    "answers", "own", ["own", "gold"], "The answer that is explained: the model's or the data set's."
)
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 32, "Token limit of the model's own answer.", lower_bound=1)
_BUDGET = flags.DEFINE_integer("budget", 256, "Ablations to fit.", lower_bound=16)
_HELD_OUT = flags.DEFINE_integer("held_out", 64, "Held-out ablations, for LDS and R2.", lower_bound=8)
_PAGES = flags.DEFINE_integer("pages", 0, "Number of questions with an HTML report.", lower_bound=0)
_OUT = flags.DEFINE_string("out", "results/context_attribution", "Folder for the result, the store and the pages.")


def asking() -> Asking:
    """Returns the question settings of the flags."""
    return Asking(
        documents=_DOCUMENTS.value,
        units=_UNITS.value,
        removal=_REMOVAL.value,
        own=_ANSWERS.value == "own",
        max_new_tokens=_MAX_NEW_TOKENS.value,
    )


def log_probability(margin: np.ndarray) -> np.ndarray:
    """Returns log p of log-odds."""
    return -np.logaddexp(0.0, -margin)


def measures(spectrum: Any, held: np.ndarray, truth: np.ndarray, supporting: np.ndarray, drop: Any) -> dict[str, float]:
    """Returns the measures of one method on one question; `drop` evaluates masks bool [M, n]."""
    predicted, n = spectrum(held), len(supporting)
    shapley = spectrum.interactions("SV", max_order=1)
    order = sorted(range(n), key=lambda unit: -shapley[(unit,)])
    removed = np.ones((len(KS), n), np.bool_)
    for row, k in zip(removed, KS, strict=True):
        row[order[:k]] = False
    facts = int(supporting.sum())
    found: dict[str, float] = {
        "lds": lds(truth, predicted).mean,
        "r2": float(r2_score(truth, predicted)),
        "recall": float(supporting[order[:facts]].mean()) if facts else float("nan"),
    }
    return found | {f"drop_{k}": float(value) for k, value in zip(KS, drop(removed), strict=True)}


def one_question(model: Any, tokenizer: Any, question: Mapping[str, Any], out: pathlib.Path) -> dict[str, Any]:
    """Ablates one context and scores every method on the same ablations."""
    value_fn, supporting = questions.value_function(model, tokenizer, question, asking())
    n = value_fn.n
    store, start = out / "store", time.perf_counter()
    settings: dict[str, Any] = {"store": store, "mesh": mesh(), "progress": False}
    rng = np.random.default_rng(seed())
    masks = masks_lib.uniform(n, min(_BUDGET.value + _HELD_OUT.value, 2**n if n < 20 else 2**20), rng)
    values = evaluate(value_fn, masks, **settings)
    seconds = time.perf_counter() - start
    whole = log_probability(evaluate(value_fn, np.ones((1, n), np.bool_), **settings))[0]
    split = len(masks) - min(_HELD_OUT.value, len(masks) // 4)

    def drop(removed: np.ndarray) -> np.ndarray:
        return whole - log_probability(evaluate(value_fn, removed, **settings))

    found: dict[str, Any] = {}
    for method, options in METHODS.items():
        spectrum = proxyspex.fit(masks[:split], values[:split], seed=seed(), **options)
        found[method] = measures(spectrum, masks[split:], values[split:], supporting, drop)
    top = {f"drop_{k}": float(drop(_random_removals(n, k, rng)).mean()) for k in KS}
    found["random"] = {"recall": float(supporting.mean()), **top}
    return {
        "question": question["question"],
        "answer": value_fn.details.target,
        "gold": question["answer"],
        "log_probability": float(whole),
        "n": n,
        "facts": int(supporting.sum()),
        "ablations_per_second": len(masks) / seconds,
        "methods": found,
    }


def _random_removals(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Draws masks bool [10, n] that remove k units each."""
    removed = np.ones((10, n), np.bool_)
    for row in removed:
        row[rng.choice(n, min(k, n), replace=False)] = False
    return removed


def interval(values: Sequence[float]) -> list[float]:
    """Returns the mean and its 95% bootstrap interval over questions."""
    array = np.array([value for value in values if np.isfinite(value)])
    if len(array) < 2 or np.ptp(array) == 0:
        return [float(array.mean())] * 3 if len(array) else [float("nan")] * 3
    found = stats.bootstrap((array,), np.mean, rng=np.random.default_rng(0), method="percentile").confidence_interval
    return [float(array.mean()), float(found.low), float(found.high)]


def table(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Returns means over questions with their intervals, by method and measure."""
    return {
        method: {
            measure: interval([row["methods"][method][measure] for row in rows])
            for measure in rows[0]["methods"][method]
        }
        for method in rows[0]["methods"]
    }


def write_page(model: Any, tokenizer: Any, question: Mapping[str, Any], out: pathlib.Path, number: int) -> None:
    """Writes the report of one question; the stored ablations are reused."""
    value_fn, _ = questions.value_function(model, tokenizer, question, asking())
    explanation = explain(value_fn, budget=_BUDGET.value, seed=seed(), store=out / "store", mesh=mesh(), progress=False)
    explanation.to_html(out / f"question_{number}.html")
    print(explanation)


def main() -> None:
    """Runs the questions and writes the table."""
    if not model_flags.given():
        raise ValueError("give --model, the directory of a language model")
    chosen = questions.hotpotqa(_DATA.value, _QUESTIONS.value)
    out = pathlib.Path(_OUT.value).expanduser()
    (out / "store").mkdir(parents=True, exist_ok=True)  # a folder holds one store for each question
    model, tokenizer = model_flags.load_model()
    rows: list[dict[str, Any]] = []
    for number, question in enumerate(chosen):
        text = questions.prompt_of(question, _DOCUMENTS.value, _UNITS.value)[0]
        if questions.fits(model, tokenizer, text, question["answer"], asking()):
            try:
                rows.append(one_question(model, tokenizer, question, out))
            except ValueError as error:
                error.add_note(f"question {number}: {question['question']}")
                raise
            print(f"{number + 1:4} of {len(chosen)}: {question['question']:.90}", flush=True)
            if number < _PAGES.value:
                write_page(model, tokenizer, question, out, number)
        else:
            print(f"{number + 1:4} of {len(chosen)}: does not fit into the context of {model.max_length} tokens")
        if rows:
            result = {"table": table(rows), "questions": rows, "left_out": number + 1 - len(rows)}
            save_result(out / "result.json", without_nan(result))
    if not rows:
        raise ValueError("no question fits into the model's context; give fewer --documents")
    for method, found in table(rows).items():
        shown = "  ".join(f"{name} {mean:.3f} [{low:.3f}, {high:.3f}]" for name, (mean, low, high) in found.items())
        print(f"{method:10} {shown}")


if __name__ == "__main__":
    run_program(main)
