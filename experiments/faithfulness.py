"""Faithfulness and its cost: R2 on held-out masks, seconds and terms, by method and budget.

Compares methods of this package and, with --peers (extra: peers), spectralexplain's ProxySPEX and SPEX and shapiq's
ProxySPEX, SPEX, KernelSHAP, KernelSHAPIQ and RegressionFSII. Methods that fit a table get the same uniform masks;
methods that choose their own are run where the value function can be evaluated. Seconds exclude the value function and
compilation. A method that fails has no R2, and the last rank in `leaderboard.py`.

--dataset selects the value functions (Kang et al. 2025, https://arxiv.org/abs/2502.13870, section 6; Butler et al.
2025, https://arxiv.org/abs/2505.17495, section 4):

  games      a folder of tables (--games; games/ beside the folder SPEX_JAX_DATA) and two texts with the shipped model
  sentiment  SPEX's 160 film reviews (--data: sentiment.csv), --each of every length (--group), with --model and
             --head or the shipped model
  hotpotqa   questions with --model, a language model: sentences of their documents
  drop       the same with questions of DROP (--data): words of a passage

With --published, the arrays of the paper's repository, the published tables for the last three stand beside ours.
Outcomes are saved as they are computed, and with --store ablations too: a stopped run continues.

  python experiments/faithfulness.py
  python experiments/faithfulness.py --dataset=sentiment --each=2 --alphas=1,4 --methods=auto,walsh_gp,lasso

Expected: 26 minutes on 2 CPU cores for the default with 19 games, 4 minutes without them.
"""

import os
import pathlib
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cells
import games as games_lib
import model_flags
import numpy as np
import pictures
import published
import questions
import tables
from absl import flags
from compared import CONTENDERS, OWN, PEERS, Contender, Unsuitable
from compared.peers import missing

from spex_jax.analysis.metrics import r2_score
from spex_jax.core.spectrum import Spectrum, exact_spectrum
from spex_jax.lenses.text_parts.removal import REMOVALS
from spex_jax.runtime import define_path, run_program, seed

DATASETS = ("games", "sentiment", "hotpotqa", "drop")

_DATASET = flags.DEFINE_enum("dataset", "games", DATASETS, "The value functions to explain.")
_GAMES = define_path("games", None, "Folder of tables. Default: games/ beside the folder SPEX_JAX_DATA; 'none': none.")
_CONTAINS = flags.DEFINE_string("contains", "", "Only games whose name contains this.")
_DATA = define_path("data", None, "File of the data set. Default: that of the folder SPEX_JAX_DATA.")
_EACH = flags.DEFINE_integer("each", 2, "Reviews per length; questions of hotpotqa and drop.", lower_bound=1)
_GROUPS = flags.DEFINE_multi_enum(
    "group", list(games_lib.GROUPS), games_lib.GROUPS, "Lengths of the reviews, in words; may be repeated."
)
_DOCUMENTS = flags.DEFINE_integer("documents", 10, "Documents per context of hotpotqa.", lower_bound=1)
_REMOVAL = flags.DEFINE_enum(
    "removal", "delete", [r for r in REMOVALS if r != "replace"], "How a part of a hotpotqa or drop context is removed."
)
_ALPHAS = flags.DEFINE_list("alphas", ["0.5", "1", "2", "4", "8"], "Budgets in units of n log2 n.")
_METHODS = flags.DEFINE_list(
    "methods",
    [contender.name for contender in OWN if contender.name != "mlp"],
    "Methods to compare. There are also mlp, which takes as long as all others together, and with --peers "
    f"{', '.join(contender.name for contender in PEERS)}.",
)
_PEERS = flags.DEFINE_bool("peers", False, "Run all methods of other packages too.")
_PUBLISHED = define_path(
    "published", None, "published_results.npz of the papers. Default: that of the folder SPEX_JAX_DATA."
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 1, "Runs of every method; seconds are those of the fastest. From 2 on, CPU seconds are reported too.", 1
)
_STORE = flags.DEFINE_string("store", None, "Folder for stores of ablations.")
_OUT = flags.DEFINE_string("out", "results/faithfulness.json", "File for the result; the picture is written beside it.")

_LARGEST = 200  # coefficients whose intervals are checked
_IN_PICTURE = 12  # panels: the mean over games, and the first games


def contenders() -> list[Contender]:
    """Returns the methods of --methods and --peers.

    Raises:
      ValueError: a method is unknown, or its package is not installed.
    """
    names = list(_METHODS.value) + [contender.name for contender in PEERS if _PEERS.value]
    if unknown := sorted(set(names) - set(CONTENDERS)):
        raise ValueError(f"unknown methods {', '.join(unknown)}; expected some of {', '.join(CONTENDERS)}")
    chosen = [CONTENDERS[name] for name in dict.fromkeys(names)]
    if absent := missing(chosen):
        raise ValueError(f"the packages {', '.join(absent)} are not installed; pip install -e '.[peers]', or leave out")
    return chosen


def data_file(given: str | None, *parts: str) -> str | None:
    """Returns the path that a flag gives, or else that of a file in the folder SPEX_JAX_DATA, if there is one."""
    folder = os.environ.get("SPEX_JAX_DATA")
    if given is not None or not folder:
        return given
    path = pathlib.Path(folder).joinpath(*parts)
    return str(path) if path.exists() else None


def all_games(largest: float) -> Iterator[games_lib.Game | str]:
    """Yields the games of the data set, and for each game that is left out the reason, as a string."""
    if _DATASET.value == "games":
        if (folder := games_lib.folder_of(_GAMES.value)) is not None:
            yield from games_lib.load(folder, _CONTAINS.value)
        yield from games_lib.of_the_shipped_model(_CONTAINS.value, largest, _STORE.value)
        return
    model, tokenizer = model_flags.load_model()
    if _DATASET.value == "sentiment":
        path = data_file(_DATA.value, "spex_reference", "data", "sentiment.csv")
        if path is None:
            raise ValueError("give --data, sentiment.csv of the paper's repository, or set SPEX_JAX_DATA")
        yield from games_lib.of_reviews(path, model, tokenizer, _EACH.value, largest, _STORE.value, _GROUPS.value)
        return
    if not model_flags.given():
        raise ValueError(f"give --model, the directory of a language model, for --dataset={_DATASET.value}")
    of_drop = _DATASET.value == "drop"
    asking = questions.Asking(
        documents=_DOCUMENTS.value, units="word" if of_drop else "sentence", removal=_REMOVAL.value, value="logprob"
    )
    chosen = (questions.drop if of_drop else questions.hotpotqa)(_DATA.value, _EACH.value)
    for number, question in enumerate(chosen):
        name = f"question {number + 1}"
        try:
            if of_drop:
                value_fn = questions.value_function_of_drop(model, tokenizer, question, asking)
            else:
                value_fn, _ = questions.value_function(model, tokenizer, question, asking)
        except ValueError as error:
            yield f"{name}: {error}"
            continue
        group = next(g for g in reversed(games_lib.GROUPS) if value_fn.n >= int(g.split("-")[0]) or g == "8-15")
        yield games_lib.of_value_function(name, value_fn, largest, _STORE.value, group=group)


def coverage(spectrum: Spectrum, truth: Spectrum) -> float | None:
    """Returns the share of the 200 largest coefficients whose 90% interval holds the truth; None without intervals."""
    if spectrum.variances is None:
        return None
    rows = np.argsort(-np.abs(spectrum.coefficients))[:_LARGEST]
    true = truth.coefficients_at(spectrum.support[rows])
    half = 1.645 * np.sqrt(spectrum.variances[rows])
    return float(np.mean(np.abs(spectrum.coefficients[rows] - true) <= half))


def measure(game: games_lib.Game, budget: int, contender: Contender, truth: Spectrum | None) -> dict[str, Any]:
    """Scores one method on one game with one budget; returns the reason where it is unsuitable or fails."""
    spent, on_cpu = [], []
    try:
        for _ in range(_ROUNDS.value):
            start = time.process_time()
            answer = contender.run(game, budget, seed())
            on_cpu.append(time.process_time() - start)
            spent.append(answer)
    except Unsuitable as error:
        return {"unsuitable": str(error)}
    except Exception as error:  # any exception counts as a failure of the method
        traceback.print_exc()
        return {"r2": None, "failure": f"{type(error).__name__}: {error}"[:300]}
    *_, test, answers = game.split(budget)
    if not contender.same_masks:
        unseen = games_lib.unseen(test, answer.masks)
        test, answers = test[unseen], answers[unseen]
    r2 = float(r2_score(answers, answer.predict(test)))
    return {
        "r2": r2,
        "terms": answer.terms,
        "asked": len(answer.masks),
        "seconds": min(each.seconds for each in spent),
        "compile": spent[0].compile,
        **({"cpu_seconds": min(on_cpu[1:])} if len(on_cpu) > 1 else {}),  # the first run compiles
        "coverage": None if truth is None or answer.spectrum is None else coverage(answer.spectrum, truth),
        **({} if np.isfinite(r2) else {"failure": "R2 is not finite"}),
    }


def rows_of(game: games_lib.Game, chosen: Sequence[Contender], known: cells.Cells) -> Iterator[dict[str, Any]]:
    """Yields a row for each budget and method."""
    truth = exact_spectrum(game.masks, game.values) if game.complete else None
    for alpha in games_lib.alphas_of(_ALPHAS.value):
        budget = game.budget(alpha)
        if budget is None or budget < game.n + 1:
            continue
        what = {"game": game.name, "n": game.n, "alpha": alpha, "budget": budget}
        if game.group is not None:
            what["group"] = game.group
        for name, prefix in (("ProxySPEX (recorded)", "proxyspex"), ("LightGBM (recorded)", "lightgbm")):
            found = game.reference.get(alpha, {})
            if found.get(f"{prefix}_r2") is not None:
                recorded = {"terms": found.get(f"{prefix}_terms"), "seconds": found.get(f"{prefix}_s")}
                yield {**what, "method": name, "r2": found[f"{prefix}_r2"], **recorded}
        for contender in chosen:
            key = {"content": game.content, "budget": budget, "method": contender.name, "seed": seed()}
            key |= {"rounds": _ROUNDS.value} if _ROUNDS.value > 1 else {}
            outcome = known.get(key, measure, game, budget, contender, truth)
            yield {**what, "method": contender.name, **outcome}


def means(rows: Iterable[dict[str, Any]], by: Sequence[str] = ("method", "alpha")) -> list[dict[str, Any]]:
    """Returns mean R2, seconds and terms over the cells with the same values of `by`; failures are counted apart."""
    parts: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if "unsuitable" not in row:
            parts.setdefault(tuple(row.get(name) for name in by), []).append(row)
    result = []
    for key, part in parts.items():
        fine = [row for row in part if not row.get("failure")]
        line: dict[str, Any] = dict(zip(by, key, strict=True))
        line |= {"cells": len(part), "failures": len(part) - len(fine)}
        for name in ("r2", "seconds", "terms", "coverage"):
            values = [row[name] for row in fine if row.get(name) is not None]
            line[name] = float(np.mean(values)) if values else None
        result.append(line)
    return result


def draw(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws R2 over alpha: means over all games for the methods that fit the same masks and have all of them, then
    single games.
    """
    order = [name for name in CONTENDERS if any(row["method"] == name and row.get("r2") is not None for row in rows)]
    names = list(dict.fromkeys(row["game"] for row in rows))

    def lines(part: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, float | None]]]:
        found = means(part)
        most = {
            line["alpha"]: max(other["cells"] for other in found if other["alpha"] == line["alpha"]) for line in found
        }
        found = [line for line in found if line["r2"] is not None and line["cells"] == most[line["alpha"]]]
        return {name: sorted((line["alpha"], line["r2"]) for line in found if line["method"] == name) for name in order}

    of_all = [row for row in rows if row["method"] in CONTENDERS and CONTENDERS[row["method"]].same_masks]
    panels = {f"mean of {len(names)} games, same masks": lines(of_all)}
    panels |= {name: lines([row for row in rows if row["game"] == name]) for name in names[: _IN_PICTURE - 1]}
    pictures.draw_lines(path, panels, x="budget in units of n log2 n", y="R2 on held-out masks", lowest=-0.1)


def main() -> None:
    """Runs every game and writes the result after each."""
    chosen, out = contenders(), pathlib.Path(_OUT.value).expanduser()
    if _STORE.value:
        pathlib.Path(_STORE.value).expanduser().mkdir(parents=True, exist_ok=True)
    path = data_file(_PUBLISHED.value, "spex_reference", "published_results.npz")
    beside = [] if path is None or _DATASET.value == "games" else published.faithfulness(path, _DATASET.value)
    known, rows, left_out = cells.Cells(out), list[dict[str, Any]](), list[str]()

    def result() -> dict[str, Any]:
        return {
            "dataset": _DATASET.value,
            "summary": means(rows),
            **({"by_group": means(rows, ("group", "method", "alpha")), "published": beside} if beside else {}),
            "left_out": left_out,
            "rows": rows,
        }

    largest = max(games_lib.alphas_of(_ALPHAS.value))
    for game in all_games(largest):
        if isinstance(game, str):
            left_out.append(game)
            print(f"left out: {game}", flush=True)
            continue
        found = list(rows_of(game, chosen, known))
        rows += found
        print(f"\n{game.name}, n = {game.n}")
        print(tables.markdown(_wide(found)), flush=True)
        known.save(result())
    if not rows:
        raise ValueError("there is nothing to compare: no game is large enough for any of the budgets")
    print(f"\nmean R2 by alpha over all cells of a method\n\n{tables.markdown(_wide(means(rows)))}")
    print(f"mean seconds\n\n{tables.markdown(_wide(means(rows), 'seconds'), digits=2)}")
    if beside:
        print(f"by length, alpha {largest:g}\n\n{tables.markdown(by_length(rows, beside))}")
    known.save(result())
    draw(rows, out.with_suffix(".png"))
    print(f"result: {out}")


def by_length(rows: Sequence[dict[str, Any]], beside: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each length: our R2 with the largest budget, and the published R2 with the most samples."""
    largest = max(row["alpha"] for row in rows)
    ours = [row for row in means(rows, ("group", "method", "alpha")) if row["alpha"] == largest]
    most = {row["group"]: max(r["b"] for r in beside if r["group"] == row["group"]) for row in beside}
    lines = []
    for group in dict.fromkeys([*games_lib.GROUPS, *(row["group"] for row in beside)]):
        line: dict[str, Any] = {"units": group}
        line |= {row["method"]: row["r2"] for row in ours if row["group"] == group}
        line |= {
            f"{row['method']}, published": row["r2"]
            for row in beside
            if row["group"] == group and row["b"] == most[group] and row["r2"] is not None
        }
        if len(line) > 1:
            lines.append(line)
    return lines


def _wide(rows: Iterable[dict[str, Any]], what: str = "r2") -> list[dict[str, Any]]:
    """Returns a row for each method with a column for each alpha."""
    wide: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.get(what) is not None:
            wide.setdefault(row["method"], {"method": row["method"]})[f"alpha {row['alpha']:g}"] = row[what]
    return list(wide.values())


if __name__ == "__main__":
    run_program(main)
