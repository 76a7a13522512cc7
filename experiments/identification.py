"""Does a method find the units that matter: recall of the top units and pairs, their error, and the value that is left
when the best are removed.

Two parts, after SPEX (Kang et al. 2025, https://arxiv.org/abs/2502.13870, section 6, recovery and feature removal) and
ProxySPEX (Butler et al. 2025, https://arxiv.org/abs/2505.17495, section 5.1):

  values   the 10 largest Shapley values (SV) and pair interactions (FSII of order 2): the share of them that is among
           the 10 largest of a method, and the squared error of all over their square, by budget. The truth is exact
           where all values are known (--games, and a sentence read by the shipped model); for longer texts read by the
           shipped model it is KernelSHAP's, or that of faithful interactions, from --reference ablations.
  removal  the value after the best k units of a method are removed, chosen by integer program (`optimize.select`): its
           drop over that of removing everything. Where all values are known also the best possible drop, by trying all
           sets of k.

The methods: ProxySPEX with the draw of the index and its correction ("auto", "walsh_gp"), the same from uniform masks
and without it ("walsh_gp, uniform"), SPEX, KernelSHAP, faithful Shapley interactions, permutation sampling, and with
--peers (extra: peers) those of shapiq. A method that needs more masks has no number.

  python experiments/identification.py
  python experiments/identification.py --parts=removal --ks=1,2,4,8

Expected: 12 minutes on 2 CPU cores with 11 games of which all values are known, 3 minutes without a folder of games.
"""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cells
import games as games_lib
import numpy as np
import pictures
import tables
from absl import flags
from compared import Unsuitable, asked_of
from compared.indices import of_method, of_proxy, of_shapiq, recall, relative_error, vector
from compared.peers import missing_packages

from spex_jax import Spectrum, evaluate, lenses, models, optimize
from spex_jax.baselines import additive_spectrum
from spex_jax.core.sampling import for_index
from spex_jax.core.spectrum import exact_spectrum
from spex_jax.runtime import define_path, run_program, seed

_PARTS = flags.DEFINE_list("parts", ["values", "removal"], "Parts to run: values, removal.")
_GAMES = define_path("games", None, "Folder of tables. Default: games/ beside the folder SPEX_JAX_DATA; 'none': none.")
_CONTAINS = flags.DEFINE_string("contains", "", "Only games whose name contains this.")
_ALPHAS = flags.DEFINE_list("alphas", ["0.25", "0.5", "1", "2", "4", "8"], "Budgets in units of n log2 n.")
_TOP = flags.DEFINE_integer("top", 10, "How many of the largest values to recall.", lower_bound=1)
_KS = flags.DEFINE_list("ks", ["1", "2", "4", "8"], "Numbers of units to remove.")
_REMOVAL_ALPHA = flags.DEFINE_float("removal_alpha", 2.0, "Budget of the part removal over n log2 n.", lower_bound=0.0)
_REFERENCE = flags.DEFINE_integer("reference", 10_000, "Ablations for the truth of longer texts.", lower_bound=100)
_METHODS = flags.DEFINE_list(
    "methods",
    ["auto", "walsh_gp", "walsh_gp, uniform", "spex", "kernel_shap", "faith_shapley", "permutation_shapley"],
    "Methods to compare.",
)
_PEERS = flags.DEFINE_bool("peers", False, "Run the methods of shapiq too.")
_OUT = flags.DEFINE_string("out", "results/identification.json", "File for the result; pictures are beside it.")

Values = Mapping[tuple[int, ...], float]
_OF_SHAPIQ = {"SV": ("KernelSHAP", "LeverageSHAP", "ProxySHAP", "OddSHAP"), "FSII": ("RegressionFSII", "ProxySHAP")}
_SECONDS = 10.0  # time limit of an integer program
_MOST_SETS = 16  # features up to which shapiq's order 2 is run, and all sets of k are tried


def _proxy(
    game: games_lib.Game, index: str, order: int, budget: int, start: int, *, proxy: str, uniform: bool
) -> Values:
    draw = "uniform" if uniform else for_index(index)
    _, interactions = of_proxy(asked_of(game), game.n, draw, budget, start, proxy)
    return interactions(index, order, not uniform)


def _method(game: games_lib.Game, index: str, order: int, budget: int, start: int, *, method: str) -> Values:
    return of_method(asked_of(game), game.n, method, budget, start).interactions(index, order)


def _additive(game: games_lib.Game, index: str, order: int, budget: int, start: int, *, method: str) -> Values:
    if order > 1:
        raise Unsuitable("gives no pairs")
    return of_method(asked_of(game), game.n, method, budget, start).interactions("BV", 1)


METHODS: dict[str, Callable[..., Values]] = {
    "auto": functools.partial(_proxy, proxy="auto", uniform=False),
    "walsh_gp": functools.partial(_proxy, proxy="walsh_gp", uniform=False),
    "walsh_gp, uniform": functools.partial(_proxy, proxy="walsh_gp", uniform=True),
    "spex": functools.partial(_method, method="spex"),
    "kernel_shap": functools.partial(_additive, method="kernel_shap"),
    "faith_shapley": functools.partial(_method, method="faith_shapley"),
    "permutation_shapley": functools.partial(_additive, method="permutation_shapley"),
}


def all_games() -> Iterator[games_lib.Game]:
    """Yields games of which all values are known, and the longer texts of the shipped model."""
    yield from games_lib.complete(games_lib.folder_of(_GAMES.value) or "", _CONTAINS.value)
    model, tokenizer = models.tiny()
    for name, text in games_lib.TEXTS.items():
        if _CONTAINS.value in name:
            value_fn = lenses.text(model, tokenizer, text, value="margin")
            nothing = np.zeros((0, value_fn.n), np.bool_)
            yield games_lib.Game(name=name, masks=nothing, values=np.zeros(0), live=value_fn)


def sets_of(n: int, order: int) -> list[tuple[int, ...]]:
    """Returns all sets of `order` of n features."""
    return list(itertools.combinations(range(n), order))


def truth_of(game: games_lib.Game, index: str, order: int) -> np.ndarray:
    """Returns the true values of all sets of `order` features, or reference values from many ablations."""
    sets = sets_of(game.n, order)
    if game.complete:
        return vector(exact_spectrum(game.masks, game.values).interactions(index, order), sets)
    value_fn, budget = asked_of(game), min(_REFERENCE.value, 2**game.n)
    if order == 1:
        return vector(of_method(value_fn, game.n, "kernel_shap", budget, 1).interactions("BV", 1), sets)
    return vector(of_method(value_fn, game.n, "faith_shapley", budget, 1).interactions("FSII", 2), sets)


def measured(
    game: games_lib.Game, index: str, order: int, budget: int, name: str, truth: Callable[[], np.ndarray]
) -> dict[str, Any]:
    """Returns the recall of the largest values and the squared error of a method, or why it is unsuitable."""
    try:
        numbers = vector(estimated(game, name, index, order, budget), sets_of(game.n, order))
    except (Unsuitable, ValueError) as error:
        return {"unsuitable": str(error)[:200]}
    return {"recall": recall(numbers, truth(), _TOP.value), "error": relative_error(numbers, truth())}


def run_values(known: cells.Cells) -> list[dict[str, Any]]:
    """Runs the part values; returns a row for each game, index, budget and method."""
    rows = []
    for game in all_games():
        for index, order in (("SV", 1), ("FSII", 2)):
            truth = functools.cache(functools.partial(truth_of, game, index, order))
            for alpha in games_lib.alphas_of(_ALPHAS.value):
                budget = min(int(alpha * game.n * np.log2(game.n)), 2**game.n - 1)
                row = {"game": game.name, "n": game.n, "exact": game.complete, "index": index, "alpha": alpha}
                for name in names(index, game.n):
                    key = {"part": "values", "game": game.name, "index": index, "budget": budget, "method": name}
                    key |= {"top": _TOP.value, "reference": _REFERENCE.value, "seed": seed(), "content": game.content}
                    found = known.get(key, measured, game, index, order, budget, name, truth)
                    rows.append({**row, "budget": budget, "method": name, **found})
            _show(rows, game.name, index)
    return rows


def names(index: str, n: int) -> list[str]:
    """Returns the methods that are run for this index."""
    peers = [f"{name} (shapiq)" for name in _OF_SHAPIQ[index]] if _PEERS.value and n <= _MOST_SETS else []
    return [*_METHODS.value, *peers]


def estimated(game: games_lib.Game, name: str, index: str, order: int, budget: int) -> Values:
    """Returns the interactions that a method finds."""
    if budget < 3:
        raise Unsuitable("needs 3 masks")
    if name in METHODS:
        return METHODS[name](game, index, order, budget, seed())
    return of_shapiq(asked_of(game), game.n, name.removesuffix(" (shapiq)"), index, order, budget, seed())


def _show(rows: list[dict[str, Any]], game: str, index: str) -> None:
    of_game = [row for row in rows if row["game"] == game and row["index"] == index]
    print(
        f"{game}, {index}: recall of the {_TOP.value} largest\n{tables.markdown(_wide(of_game, 'recall'))}", flush=True
    )


def _wide(rows: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Returns a row for each method with a column for each alpha: the mean over games."""
    wide: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        for alpha in sorted({row["alpha"] for row in rows}):
            numbers = [row[what] for row in rows if row["method"] == method and row["alpha"] == alpha and what in row]
            if numbers:
                mean = np.mean(numbers) if what != "error" else np.exp(np.mean(np.log(np.maximum(numbers, 1e-12))))
                wide.setdefault(method, {"method": method})[f"alpha {alpha:g}"] = float(mean)
    return list(wide.values())


def spectrum_of(game: games_lib.Game, name: str, budget: int) -> Spectrum:
    """Returns the spectrum of a method, from masks that suit all sets, or its additive surrogate."""
    if name in ("auto", "walsh_gp"):
        return of_proxy(asked_of(game), game.n, "mixed", budget, seed(), name)[0]
    if name == "walsh_gp, uniform":
        return of_proxy(asked_of(game), game.n, "uniform", budget, seed(), "walsh_gp")[0]
    if name in ("kernel_shap", "permutation_shapley"):
        values = METHODS[name](game, "SV", 1, budget, seed())
        return additive_spectrum(np.array([values[(unit,)] for unit in range(game.n)]), 0.0)
    return of_method(asked_of(game), game.n, name, budget, seed())


def removed(game: games_lib.Game, name: str, budget: int, ks: list[int]) -> dict[str, Any]:
    """Returns the values after the best k units are removed, and the optimality gaps of the integer program."""
    try:
        spectrum = spectrum_of(game, name, budget)
    except (Unsuitable, ValueError) as error:
        return {"unsuitable": str(error)[:200]}
    chosen = [optimize.select(spectrum, remove=k, maximize=False, time_limit=_SECONDS) for k in ks]
    value_fn = game.value_fn()
    assert value_fn is not None  # all_games() yields no others
    left = evaluate(value_fn, np.stack([each.mask for each in chosen]), progress=False)
    return {"left": left.tolist(), "gaps": [each.gap for each in chosen]}


def run_removal(known: cells.Cells) -> list[dict[str, Any]]:
    """Runs the part removal; returns a row for each game and method: the drop by the number of units removed."""
    rows = []
    for game in all_games():
        value_fn = game.value_fn()
        assert value_fn is not None
        ends = evaluate(value_fn, np.array([np.ones(game.n, bool), np.zeros(game.n, bool)]), progress=False)
        ks = [k for k in map(int, _KS.value) if k < game.n]
        budget = min(int(_REMOVAL_ALPHA.value * game.n * np.log2(game.n)), 2**game.n - 1)
        row = {"game": game.name, "n": game.n, "budget": budget, "ks": ks}
        for name in _METHODS.value:
            key = {"part": "removal", "game": game.name, "budget": budget, "method": name, "ks": ks, "seed": seed()}
            key |= {"content": game.content}
            found = known.get(key, removed, game, name, budget, ks)
            rows.append({**row, "method": name, **found})
        if game.complete:
            rows.append({**row, "method": "best of all sets", "left": [best_left(game, k) for k in ks]})
        for row in rows:
            if row["game"] == game.name and "left" in row:
                row["drop"] = [(ends[0] - value) / (abs(ends[0] - ends[1]) or 1.0) for value in row["left"]]
        print(f"{game.name}: drop after removing k\n{tables.markdown(_by_k(rows, game.name))}", flush=True)
    return rows


def best_left(game: games_lib.Game, k: int) -> float:
    """Returns the smallest value of all sets without k features."""
    return float(game.values[game.masks.sum(axis=1) == game.n - k].min())


def _by_k(rows: list[dict[str, Any]], game: str | None = None) -> list[dict[str, Any]]:
    """Returns a row for each method with a column for each k: means over games with more than k units."""
    wide = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and "drop" in row and game in (None, row["game"])]
        line: dict[str, Any] = {"method": method}
        for k in map(int, _KS.value):
            drops = [row["drop"][row["ks"].index(k)] for row in own if k in row["ks"]]
            line[f"k = {k}"] = float(np.mean(drops)) if drops else None
        if own:
            wide.append(line)
    return wide


def of_the_best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of games with known best sets, their drops as shares of the best possible drops."""
    best = {row["game"]: row["drop"] for row in rows if row["method"] == "best of all sets"}
    return [
        {**row, "drop": [drop / most for drop, most in zip(row["drop"], best[row["game"]], strict=True)]}
        for row in rows
        if row["game"] in best and "drop" in row
    ]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns mean recall and geometric mean error of the part values, by index and whether the truth is exact."""
    result = {}
    for index in ("SV", "FSII"):
        for exact in (True, False):
            part = [row for row in rows if row["index"] == index and row["exact"] == exact]
            if part:
                label = f"{index}, {'exact' if exact else f'reference of {_REFERENCE.value} ablations'}"
                result[label] = {what: _wide(part, what) for what in ("recall", "error")}
    return result


def draw(result: dict[str, Any], out: pathlib.Path) -> None:
    """Draws recall and error over the budget, and drops over k."""
    panels = {}
    for label, found in result.get("summary", {}).items():
        for what, lines in found.items():
            panels[f"{label}: {what}"] = {
                line["method"]: [(float(k.split()[1]), v) for k, v in line.items() if k != "method"] for line in lines
            }
    errors = [title for title in panels if title.endswith(": error")]
    pictures.draw_lines(out.with_suffix(".png"), panels, x="budget in units of n log2 n", y="", log_y=errors)
    if "removal" in result:
        lines = _by_k(of_the_best(result["removal"]) or result["removal"])
        panel = {line["method"]: [(float(k[4:]), v) for k, v in line.items() if k != "method"] for line in lines}
        title = {"drop of the value, of the best possible": panel}
        path = out.with_name(f"{out.stem}_removal.png")
        pictures.draw_lines(path, title, x="units removed", y="share of the drop", main="auto")


def main() -> None:
    """Runs the parts."""
    if unknown := sorted(set(_PARTS.value) - {"values", "removal"}):
        raise ValueError(f"unknown parts {', '.join(unknown)}; expected values or removal")
    if unknown := sorted(set(_METHODS.value) - set(METHODS)):
        raise ValueError(f"unknown methods {', '.join(unknown)}; expected some of {', '.join(METHODS)}")
    if _PEERS.value and (absent := missing_packages(["shapiq", "lightgbm"])):
        raise ValueError(f"the packages {', '.join(absent)} are not installed; pip install -e '.[peers]', or leave out")
    games_lib.alphas_of(_ALPHAS.value)
    out = pathlib.Path(_OUT.value).expanduser()
    known, result = cells.Cells(out), dict[str, Any]()
    if "values" in _PARTS.value:
        result["values"] = run_values(known)
        result["summary"] = summary(result["values"])
        for label, found in result["summary"].items():
            print(f"{label}: recall of the {_TOP.value} largest\n{tables.markdown(found['recall'])}")
            print(f"{label}: squared error, geometric mean\n{tables.markdown(found['error'])}")
        known.save(result)
    if "removal" in _PARTS.value:
        result["removal"] = run_removal(known)
        if known_best := of_the_best(result["removal"]):
            result["share_of_the_best_drop"] = _by_k(known_best)
            print(f"share of the best possible drop\n{tables.markdown(result['share_of_the_best_drop'])}")
    known.save(result)
    draw(result, out)
    print(f"result: {out}")


if __name__ == "__main__":
    run_program(main)
