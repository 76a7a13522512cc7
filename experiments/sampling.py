"""Which masks to evaluate: draws for an index, and adaptive sampling against uniform masks, where all values are known.

On games of which all 2^n values are known (a sentence read by the shipped model; with --games a folder of tables as for
faithfulness.py). Parts:

  shapley       squared error of Shapley values over their mean square, by draw, with and without the correction by
                cross-fitted residuals, and with --peers KernelSHAP, LeverageSHAP, ProxySHAP and OddSHAP of shapiq
  interactions  the same for FSII and k-SII of order 2, singles and pairs apart, next to RegressionFSII, KernelSHAPIQ
                and ProxySHAP of shapiq
  adaptive      R2 on all masks not evaluated and recall of the 10 strongest pairs, by acquisition, equal budgets

  python experiments/sampling.py
  python experiments/sampling.py --games=FOLDER --peers --seeds=10 --parts=shapley

Every method evaluates alpha n log2 n masks. In the part adaptive max(50, 10%) of them are held out of every fit.

Expected: 3 minutes with no flags on 2 CPU cores; an hour for each part with a folder of 11 games and 10 seeds.
"""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import games as games_lib
import numpy as np
from absl import flags
from compared import asked_of
from compared.indices import of_proxy, of_shapiq, relative_error, vector

from spex_jax import explain
from spex_jax.analysis.metrics import r2_score
from spex_jax.core import sampling
from spex_jax.core.interactions import Interactions
from spex_jax.core.spectrum import exact_spectrum
from spex_jax.runtime import define_path, run_parts, run_program, without_nan

_PARTS = flags.DEFINE_list("parts", ["shapley", "interactions", "adaptive"], "Parts to run.")
_GAMES = define_path("games", "", "Folder of games; only those with all 2^n values are used.")
_ONLY = flags.DEFINE_string("only", "", "Only games with this in their name.")
_ALPHAS = flags.DEFINE_list("alphas", ["2", "8"], "Budgets over n log2 n.")
_SEEDS = flags.DEFINE_integer("seeds", 2, "Draws of masks for each game and budget.", lower_bound=1)
_PROXY = flags.DEFINE_string("proxy", "walsh_gp", "Proxy of all fits.")
_DRAWS = flags.DEFINE_list("draws", ["uniform", "mixed", "size", "kernel_shap"], "Draws of the first two parts.")
_ACQUISITIONS = flags.DEFINE_list("acquisitions", list(sampling.ACQUISITIONS), "Acquisitions of the part adaptive.")
_PEERS = flags.DEFINE_bool("peers", False, "Run shapiq too (extra: peers).")
_OUT = flags.DEFINE_string("out", "results/sampling.json", "File for the result.")

PEERS = ("KernelSHAP", "LeverageSHAP", "ProxySHAP", "OddSHAP")
PEERS_OF_INDEX = {"FSII": ("RegressionFSII", "ProxySHAP"), "k-SII": ("KernelSHAPIQ", "ProxySHAP")}
_RECALLED = 10


def cells() -> Iterator[tuple[games_lib.Game, int, int]]:
    """Yields games with their budgets: alpha and the number of masks."""
    for game in games_lib.complete(_GAMES.value, _ONLY.value):
        for alpha in map(int, _ALPHAS.value):
            yield game, alpha, min(int(alpha * game.n * np.log2(game.n)), 2**game.n - 1)


def own(game: games_lib.Game, draw: str, budget: int, seed: int) -> Callable[..., Interactions]:
    """Returns a function of index, order and whether to correct: the interactions from one draw of masks."""
    return of_proxy(asked_of(game), game.n, draw, budget, seed, _PROXY.value)[1]


def run_shapley() -> dict[str, Any]:
    """Returns errors of Shapley values by game and budget, and how often the SV draw is at or below the best peer."""
    rows: list[dict[str, Any]] = []
    for game, alpha, budget in cells():
        sets: list[tuple[int, ...]] = [(feature,) for feature in range(game.n)]
        truth = vector(exact_spectrum(game.masks, game.values).interactions("SV", 1), sets)
        errors: dict[str, list[float]] = {}
        for seed in range(_SEEDS.value):
            for draw in _DRAWS.value:
                interactions = own(game, draw, budget, seed)
                for corrected in (False, True):
                    name = f"{draw}, corrected" if corrected else draw
                    found = vector(interactions("SV", 1, corrected), sets)
                    errors.setdefault(name, []).append(relative_error(found, truth))
            for name in PEERS if _PEERS.value else ():
                values = of_shapiq(asked_of(game), game.n, name, "SV", 1, budget, seed)
                errors.setdefault(name, []).append(relative_error(np.array([values[key] for key in sets]), truth))
        rows.append({"game": game.name, "n": game.n, "alpha": alpha, "budget": budget, "errors": _means(errors)})
        print(rows[-1], flush=True)
    chosen = f"{sampling.for_index('SV')}, corrected"
    compared = [row["errors"] for row in rows if _PEERS.value and chosen in row["errors"]]
    best = sum(errors[chosen] <= min(errors[name] for name in PEERS) for errors in compared)
    return {"rows": rows, "at_or_below_the_best_peer": best, "of": len(compared)}


def run_interactions() -> list[dict[str, Any]]:
    """Returns errors of FSII and k-SII of order 2 by game and budget, for singles and pairs."""
    rows = []
    for game, alpha, budget in cells():
        exact = exact_spectrum(game.masks, game.values)
        orders = [list(combinations(range(game.n), size)) for size in (1, 2)]
        errors: dict[str, dict[str, list[list[float]]]] = {index: {} for index in PEERS_OF_INDEX}
        for seed in range(_SEEDS.value):
            drawn = {draw: own(game, draw, budget, seed) for draw in _DRAWS.value}
            for index, peers in PEERS_OF_INDEX.items():
                answers: dict[str, Any] = {}
                for draw, interactions in drawn.items():
                    answers[draw] = interactions(index, 2, False)
                    answers[f"{draw}, corrected"] = interactions(index, 2, True)
                for name in peers if _PEERS.value else ():
                    answers[name] = of_shapiq(asked_of(game), game.n, name, index, 2, budget, seed)
                truth = exact.interactions(index, 2)
                for name, found in answers.items():
                    both = [relative_error(vector(found, sets), vector(truth, sets)) for sets in orders]
                    errors[index].setdefault(name, []).append(both)
        for index, of_index in errors.items():
            means = {name: np.mean(both, axis=0).tolist() for name, both in of_index.items()}
            rows.append({"game": game.name, "n": game.n, "alpha": alpha, "index": index, "singles_and_pairs": means})
            print(rows[-1], flush=True)
    return rows


def run_adaptive() -> dict[str, Any]:
    """Returns R2 on masks not evaluated and recall of the strongest pairs (FBII), by acquisition at equal budgets."""
    rows: list[dict[str, Any]] = []
    for game, alpha, budget in cells():
        value_fn, exact = game.value_fn(), exact_spectrum(game.masks, game.values)
        assert value_fn is not None  # all values are known
        truth = {key for key, _ in exact.interactions("FBII", 2).top(_RECALLED, order=2)}
        scores: dict[str, list[list[float]]] = {}
        for seed in range(_SEEDS.value):
            for acquisition in _ACQUISITIONS.value:
                options: dict[str, Any] = {"acquisition": acquisition, "proxy": _PROXY.value, "seed": seed}
                answer = explain(value_fn, budget=budget, index="FBII", sampling="adaptive", progress=False, **options)
                evaluated = np.zeros(2**game.n, np.bool_)
                evaluated[answer.masks @ (1 << np.arange(game.n))] = True
                rest = ~evaluated[game.masks @ (1 << np.arange(game.n))]
                r2 = float(r2_score(game.values[rest], answer.spectrum(game.masks[rest])))
                found = {key for key, _ in answer.interactions("FBII", 2).top(_RECALLED, order=2)}
                scores.setdefault(acquisition, []).append([r2, len(found & truth) / len(truth)])
        means = {name: np.mean(both, axis=0).tolist() for name, both in scores.items()}
        rows.append({"game": game.name, "n": game.n, "alpha": alpha, "budget": budget, "r2_and_recall": means})
        print(rows[-1], flush=True)
    mean = {
        name: np.mean([row["r2_and_recall"][name] for row in rows], axis=0).tolist() for name in _ACQUISITIONS.value
    }
    return {"rows": rows, "mean_r2_and_recall": without_nan(mean)}


def _means(errors: dict[str, list[float]]) -> dict[str, float]:
    return {name: float(np.mean(each)) for name, each in errors.items()}


def main() -> None:
    """Runs the parts."""
    for draw in _DRAWS.value:
        sampling.check(draw)
    parts: dict[str, Callable[[], Any]] = {
        "shapley": run_shapley,
        "interactions": run_interactions,
        "adaptive": run_adaptive,
    }
    run_parts(parts, _PARTS.value, _OUT.value)


if __name__ == "__main__":
    run_program(main)
