"""Measurements of explanations: how faithful they are, which interactions they find, and whether these are true."""

import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
import tables

from measured.section import Section, by_alpha, geometric_mean, significant

Result = dict[str, Any]

_RECORDED = "ProxySPEX (recorded)"
_PROXIES = ("auto", "walsh_gp", "mlp", "trees", "linear", "lasso")
_SHAPLEY_PEERS = ("KernelSHAP", "LeverageSHAP", "ProxySHAP", "OddSHAP")


def against_published(faithfulness: Result, mlp: Result) -> list[Result]:
    """Returns a row for each proxy: its unexplained variance over that of published ProxySPEX, by alpha."""
    rows_of = [*faithfulness["rows"], *(row for row in mlp["rows"] if row["method"] == "mlp")]
    r2 = {(row["game"], row["alpha"], row["method"]): row.get("r2") for row in rows_of}
    published = {
        (game, alpha): value
        for (game, alpha, method), value in r2.items()
        if method == _RECORDED and value is not None and alpha >= 1
    }
    alphas = sorted({alpha for _, alpha in published})
    both = [cell for cell in published if all((*cell, method) in r2 for method in _PROXIES)]  # games that all have run
    rows = []
    for method in _PROXIES:
        cells = {cell: (r2[*cell, method], published[cell]) for cell in both}

        def ratio(pairs: Iterable[tuple[float, float]]) -> float:
            return geometric_mean((1 - own) / (1 - reference) for own, reference in pairs)

        row: Result = {"method": method}
        for alpha in alphas:
            row[f"alpha {alpha:g}"] = ratio(pair for (_, at), pair in cells.items() if at == alpha)
        row["all"] = ratio(cells.values())
        row["more faithful on"] = f"{sum(own > reference for own, reference in cells.values())} of {len(cells)}"
        rows.append(row)
    return rows


def _against_published(faithfulness: Result, mlp: Result, few_terms: Result) -> list[str]:
    short = few_terms["summary"]["auto"]
    return [
        tables.markdown(against_published(faithfulness, mlp), digits=2),
        f"`auto` with {few_terms['max_terms']} terms only: {short['unexplained_ratio']:.2f}, more faithful on "
        f"{short['above_published']} of {short['compared']}.",
    ]


def _coverage(faithfulness: Result) -> list[str]:
    rows = [row for row in faithfulness["rows"] if row["alpha"] in (4, 8) and row.get("coverage") is not None]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    covered = {method: [row["coverage"] for row in rows if row["method"] == method] for method in methods}
    return [
        tables.markdown(
            [
                {"method": method, "tables": len(found), "covered": f"{np.mean(found):.0%}"}
                for method, found in covered.items()
            ]
        )
    ]


def _leaderboard(board: Result, peers: Result) -> list[str]:
    del peers  # read by leaderboard.py, which made the board
    best = [
        {key: f"{value:g}" if key == "alpha" else value for key, value in row.items()} for row in board["against_peers"]
    ]
    return [
        tables.markdown(best),
        "Ranks, R² and seconds of every method: [leaderboard.md](../experiments/results/leaderboard.md).",
    ]


def _reviews(shipped: Result, minilm: Result) -> list[str]:
    blocks = []
    for model, result in (("The shipped model", shipped), ("MiniLM", minilm)):
        rows = by_alpha(result["by_group"], ["group", "method"], "r2")
        blocks += [f"{model}:", tables.markdown([{"words": row.pop("group"), **row} for row in rows])]
    return blocks


def _recovery(table: Result, thousand: Result, memory: Result) -> list[str]:
    rows = []
    for row in [*table["table"], *thousand["table"]]:
        own = row["spex_jax"]
        line = {key: row[key] for key in ("n", "terms", "snr", "b", "samples")} | {"recall": own["recall"]}
        line |= {f"{name}, recall": row[name]["recall"] if name in row else None for name in ("soft", "hard")}
        line["precision"] = own["precision"]
        line["seconds"] = significant(own["seconds"])
        line |= {
            f"{name}, times slower": significant(row[name]["seconds"] / own["seconds"]) if name in row else None
            for name in ("soft", "hard")
        }
        rows.append(line)
    large = memory["memory"]
    return [
        tables.markdown(rows, digits=2),
        f"n = {large['n']:,}, {large['samples']:,} samples ({large['masks_gib']:.1f} GiB of masks), {large['terms']} "
        f"terms: recall {large['recall']:g} and precision {large['precision']:g} in {large['seconds']:.0f} s and "
        f"{large['peak_gib']:.1f} GiB.",
    ]


def _spex_games(games: Result) -> list[str]:
    methods = ("spex", "public soft", "spex, residual of walsh_gp", "proxyspex, walsh_gp")
    budgets = sorted({row["budget"] for row in games["games"]})
    rows = []
    for method in methods:
        row: Result = {"method": method}
        for budget in budgets:
            found = [game for game in games["games"] if game["budget"] == budget]
            row[f"{budget:,} ablations: R²"] = float(np.mean([game[method]["r2"] for game in found]))
            row[f"{budget:,}: used at most"] = max(game[method]["asked"] for game in found)
        rows.append(row)
    count = len({row["game"] for row in games["games"]})
    return [f"{count} games, mean R²:", tables.markdown(rows)]


def _diagram(diagram: Result) -> list[str]:
    found: dict[tuple[int, float], Result] = {}
    for row in diagram["diagram"]:
        line = found.setdefault(
            (row["terms"], row["snr"]), {"n": row["n"], "terms": row["terms"], "SNR": f"{row['snr']:g}"}
        )
        line[f"{row['samples']:,} samples"] = f"{row['spex_jax']['f1']:.2f} / {row['soft']['f1']:.2f}"
    return [tables.markdown(list(found.values()))]


def _overhead(overhead: Result) -> list[str]:
    return [tables.markdown(overhead["overhead"], digits=1)]


def shapley_errors(shapley: Result) -> list[Result]:
    """Returns a row for each alpha: squared errors of Shapley values, of ours and of shapiq's methods."""
    rows = []
    found = shapley["shapley"]
    for alpha in sorted({row["alpha"] for row in found["rows"]}):
        errors = [row["errors"] for row in found["rows"] if row["alpha"] == alpha]
        own = [error["mixed, corrected"] for error in errors]
        best = [min(error[peer] for peer in _SHAPLEY_PEERS) for error in errors]
        row: Result = {
            "alpha": alpha,
            "games": len(errors),
            "at or below the best": sum(ours <= theirs for ours, theirs in zip(own, best, strict=True)),
            "error over that of the best": geometric_mean(np.divide(own, best)),
            "`walsh_gp`, corrected": significant(geometric_mean(own)),
        }
        row |= {peer: significant(geometric_mean(error[peer] for error in errors)) for peer in _SHAPLEY_PEERS}
        rows.append(row)
    return rows


def _shapley(shapley: Result) -> list[str]:
    return [tables.markdown(shapley_errors(shapley), digits=2)]


def _interactions(interactions: Result) -> list[str]:
    rows = []
    cells = interactions["interactions"]
    for index, alpha in sorted({(row["index"], row["alpha"]) for row in cells}):
        found = [row["singles_and_pairs"] for row in cells if (row["index"], row["alpha"]) == (index, alpha)]
        for method in dict.fromkeys(name for cell in found for name in cell):
            errors = [cell[method] for cell in found if cell.get(method) is not None]
            singles, pairs = (geometric_mean(error[which] for error in errors) for which in (0, 1))
            rows.append(
                {
                    "index": index,
                    "alpha": alpha,
                    "method": method,
                    "games": len(errors),
                    "singles": significant(singles),
                    "pairs": significant(pairs),
                }
            )
    return [tables.markdown(rows)]


def _adaptive(adaptive: Result) -> list[str]:
    rows = adaptive["adaptive"]["rows"]
    alphas = sorted({row["alpha"] for row in rows})
    lines = []
    for method in ("uniform", "information", "interactions"):
        line: Result = {"masks": method}
        for alpha in alphas:
            found = [row["r2_and_recall"][method] for row in rows if row["alpha"] == alpha]
            r2, recall = np.mean(found, axis=0)
            line[f"alpha {alpha:g}: R² / recall"] = f"{r2:.3f} / {recall:.2f}"
        lines.append(line)
    return [f"{len({row['game'] for row in rows})} games:", tables.markdown(lines)]


def _identification(identification: Result) -> list[str]:
    blocks = []
    for label, found in identification["summary"].items():
        blocks += [f"{label}:", tables.markdown(found["recall"], digits=2)]
    return blocks


def _removal(removal: Result) -> list[str]:
    return [
        f"{len({row['game'] for row in removal['removal']})} games:",
        tables.markdown(removal["share_of_the_best_drop"], digits=2),
    ]


def _validation(validation: Result) -> list[str]:
    rows = []
    for row in validation["planted"]:
        false = row["absent"]
        rows.append(
            {
                "noise": "as large as the background" if row["noisy"] else "none",
                "contexts at most": row["contexts"],
                "right": f"{row['right']:.1%}",
                "planted pairs": row["planted"]["claims"],
                "confirmed": f"{row['planted']['confirmed']:.1%}",
                "false claims": false["claims"],
                "confirmed, absent, undecided": ", ".join(
                    f"{false[verdict]:.1%}" for verdict in ("confirmed", "absent", "undecided")
                ),
                "ablations a claim": round(row["ablations_of_a_claim"]),
            }
        )
    return [tables.markdown(rows)]


def _spectra(spectra: Result) -> list[str]:
    rows = []
    for row in spectra["rates"]:
        line = {key: row[key] for key in ("spectra", "k", "games")}
        line |= {f"{rate} (chance)": f"{row[rate]:.2f} ({row[f'null {rate}']:.2f})" for rate in ("DSR", "SCR", "SHR")}
        rows.append(line)
    return [tables.markdown(rows)]


def _synthetic(peak: Result, hierarchy: Result, lightgbm: Result) -> list[str]:
    rows = [
        {"function": row["family"], "method": row["contender"], "alpha": float(alpha), "r2": r2}
        for row in [*peak["summary"], *hierarchy["summary"], *lightgbm["summary"]]
        for alpha, r2 in row["r2"].items()
    ]
    lines = by_alpha(rows, ["function", "method"], "r2")
    order = ("peak", "hierarchy")
    return [tables.markdown(sorted(lines, key=lambda line: order.index(line["function"])), digits=2)]


def _case_studies(*studies: Result) -> list[str]:
    lines = [f"* **{study['title']}**: {study['verdict'].replace('R2', 'R²')}." for study in studies]
    return ["\n".join(textwrap.fill(line, 120, subsequent_indent="  ", break_on_hyphens=False) for line in lines)]


SECTIONS = (
    Section(
        title="Faithfulness against published ProxySPEX",
        about="""The unexplained variance (1 - R²) of a method over that of published ProxySPEX, geometric mean over
        recorded tables of ablations at each alpha; less than 1 is better. Published ProxySPEX is
        spectralexplain with LightGBM on the same masks.""",
        results=("results/faithfulness.json", "results/faithfulness_mlp.json", "results/faithfulness_100_terms.json"),
        tables=_against_published,
    ),
    Section(
        title="Coverage of intervals",
        about="""How often 90% intervals hold the coefficient, for the largest coefficients of functions known at all
        2^n masks, at alpha 4 and 8.""",
        results=("results/faithfulness.json",),
        tables=_coverage,
    ),
    Section(
        title="Against other packages",
        about="""R² of `auto` minus that of the best other package, over the games at each alpha, and the game on
        which the gap is the smallest.""",
        results=("results/leaderboard.json", "results/faithfulness_peers.json"),
        tables=_leaderboard,
        pictures=(("Mean R² and mean rank by budget", "results/leaderboard.png"),),
    ),
    Section(
        title="Film reviews by length",
        about="R² on held-out masks of film reviews, by the number of words.",
        results=("results/faithfulness_sentiment.json", "results/faithfulness_sentiment_minilm.json"),
        tables=_reviews,
        pictures=(
            ("The shipped model", "results/faithfulness_sentiment.png"),
            ("MiniLM", "results/faithfulness_sentiment_minilm.png"),
        ),
    ),
    Section(
        title="SPEX: recovery of planted terms",
        about="""Recall and precision of planted terms of degree up to 4, next to the public soft and hard decoders
        (sparse-transform, one numba thread) on the same samples in the same run. 2^b is the number of bins
        of a group.""",
        results=("results/recovery_table.json", "results/recovery_table_n1000.json", "results/recovery_memory.json"),
        tables=_recovery,
    ),
    Section(
        title="SPEX: terms and samples",
        about="F1 of the support of planted functions: this decoder / the public soft decoder.",
        results=("results/recovery_diagram.json",),
        tables=_diagram,
        pictures=(("F1 of the support, next to the public decoder", "results/recovery_n64_degree4.png"),),
    ),
    Section(
        title="SPEX on real functions",
        about="""Functions known at all 2^n masks. The public decoder's numbers of bins are powers of two, so that it
        leaves part of a budget unused.""",
        results=("results/recovery_games.json",),
        tables=_spex_games,
    ),
    Section(
        title="Overhead",
        about="Seconds outside the value function over those of this package, both on one core in the same process.",
        results=("results/overhead.json",),
        tables=_overhead,
    ),
    Section(
        title="Shapley values",
        about="""Squared error of Shapley values against exact ones: `walsh_gp` from "mixed" masks, corrected by
        residuals, and the methods of shapiq. Geometric means over games; "the best" is the best of the four
        in each game.""",
        results=("results/sampling_shapley.json",),
        tables=_shapley,
    ),
    Section(
        title="Interactions of order 2",
        about="""Relative squared error of singles and pairs against exact ones, geometric means over games; the
        proxy is `walsh_gp`.""",
        results=("results/sampling_interactions.json",),
        tables=_interactions,
    ),
    Section(
        title="Adaptive sampling",
        about="R² on held-out masks, and recall of the strongest pairs, by the choice of masks.",
        results=("results/sampling_adaptive.json",),
        tables=_adaptive,
    ),
    Section(
        title="Finding the largest values",
        about="""Recall of the ten largest Shapley values (SV) and pairs (FSII), against exact ones or a reference
        with many ablations.""",
        results=("results/identification.json",),
        tables=_identification,
        pictures=(("Recall and error by budget", "results/identification.png"),),
    ),
    Section(
        title="Removing the best units",
        about="The drop of the value after k units are removed, as a share of the best possible drop, at alpha 2.",
        results=("results/removal.json",),
        tables=_removal,
        pictures=(("Remaining value by the number of removed units", "results/removal_removal.png"),),
    ),
    Section(
        title="Validation of interactions",
        about="Verdicts of `validate` on planted pairs and on false claims.",
        results=("results/validation.json",),
        tables=_validation,
    ),
    Section(
        title="Hierarchy of real spectra",
        about="""Direct subset rate (DSR), staircase rate (SCR) and strong hierarchy rate (SHR) of the k largest
        terms, and in brackets those of random sets of the same sizes, for spectra of `auto` with R² above
        0.9 and for exact spectra.""",
        results=("results/spectra.json",),
        tables=_spectra,
        pictures=(("Rates by the number of terms", "results/spectra.png"),),
    ),
    Section(
        title="Functions with and without hierarchy",
        about="""R² on functions of ten sets of five features: without hierarchy ("peak": the sets alone) and with a
        complete hierarchy ("hierarchy": every subset of the sets).""",
        results=("results/synthetic_peak.json", "results/synthetic_hierarchy.json", "results/synthetic_lightgbm.json"),
        tables=_synthetic,
        pictures=(
            ("Without hierarchy", "results/synthetic_peak.png"),
            ("With hierarchy", "results/synthetic_hierarchy.png"),
        ),
    ),
    Section(
        title="Case studies",
        about="Each study computes its verdict from criteria that are fixed beforehand.",
        results=tuple(
            f"results/case_{name}.json"
            for name in ("negation", "multi_hop", "backdoor", "biased_pair", "pruning", "resnet_patches", "trolley")
        ),
        tables=_case_studies,
    ),
)
