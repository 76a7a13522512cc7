"""Measurements of what is known of units beside ablations: places, gradients, other explanations, the question."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tables

from measured.section import Section, geometric_mean, significant

Result = dict[str, Any]

_RECORDED = "ProxySPEX (recorded)"
_WAYS = {
    "drawn by size": "drawn by size",
    "uniform": "uniform",
    "information": "adaptive",
    "index": "adaptive, index",
    "ShaplEIG": "ShaplEIG (shapiq)",
}


def _of(rows: Iterable[Result], alpha: float, method: str, column: str) -> dict[str, float]:
    """Returns the column of a method by game, where it is known."""
    return {
        row["game"]: row[column]
        for row in rows
        if (row["alpha"], row["method"]) == (alpha, method) and row.get(column) is not None
    }


def with_and_without_places(result: Result) -> list[Result]:
    """Returns a row for each method: unexplained variance over that of published ProxySPEX, coverage and seconds."""
    found = []
    alphas = sorted({row["alpha"] for row in result["rows"]})
    recorded = {alpha: _of(result["rows"], alpha, _RECORDED, "r2") for alpha in alphas}
    for method in ("auto", "auto, no places", "walsh_gp", "walsh_gp, no places"):
        row: Result = {"method": method}
        for alpha in alphas:
            r2 = _of(result["rows"], alpha, method, "r2")
            row[f"alpha {alpha:g}"] = geometric_mean(
                (1 - r2[game]) / (1 - published) for game, published in recorded[alpha].items() if game in r2
            )
        for alpha in alphas:
            seconds = _of(result["rows"], alpha, method, "seconds")
            row[f"seconds, alpha {alpha:g}"] = significant(geometric_mean(seconds.values()), 3)
        covered = [value for alpha in alphas for value in _of(result["rows"], alpha, method, "coverage").values()]
        row["covered"] = f"{np.mean(covered):.0%}"
        found.append(row)
    return found


def _places(result: Result) -> list[str]:
    return [tables.markdown(with_and_without_places(result), digits=3)]


def _means(rows: list[Result], key: str = "r2") -> list[Result]:
    """Returns a row for each way, with its mean over texts at each alpha."""
    alphas = sorted({row["alpha"] for row in rows})
    found: list[Result] = []
    for way in rows[0][key]:
        line: Result = {"fit": way}
        for alpha in alphas:
            mean = np.mean([row[key][way] for row in rows if row["alpha"] == alpha], axis=0)
            line[f"alpha {alpha:g}"] = " / ".join(f"{value:.3f}" for value in np.atleast_1d(mean))
        found.append(line)
    return found


def index_errors(rows: list[Result]) -> list[Result]:
    """Returns a row for each index and alpha: the geometric mean of the error over games, by the choice of masks."""
    found = []
    for index in dict.fromkeys(row["index"] for row in rows):
        for alpha in sorted({row["alpha"] for row in rows}):
            errors = [row["error"] for row in rows if (row["index"], row["alpha"]) == (index, alpha)]
            if errors:
                line: Result = {"index": index, "alpha": f"{alpha:g}", "games": len(errors)}
                means = {_WAYS[way]: geometric_mean(error[way] for error in errors) for way in errors[0]}
                found.append({**line, **means})
    return found


def _knowledge(result: Result) -> list[str]:
    corpus = result["corpus"]
    texts = len({row["text"] for row in result["relevance"]})
    half = result["texts"] // 2
    needed = corpus["alpha that the second half needs"]
    return [
        f"Gradients at 8 relaxed masks ({texts} texts; at their cost in forward passes, "
        f"{np.mean([row['passes'] for row in result['relevance']]):.0f} more ablations could be asked):",
        tables.markdown(_means(result["relevance"])),
        f"Explanations made before ({result['texts']} texts in order):",
        tables.markdown(_means(corpus["rows"])),
        f"For the mean R² of the first {half} texts at alpha 1 ({corpus['first half at alpha 1']:.3f}, without a "
        f"corpus) the last {half} need alpha {needed['corpus']:.2f}, and {needed['without']:.2f} without a corpus.",
        "The spectrum of the same text with words hidden from attention, as a prior for words replaced by a mask:",
        tables.markdown(_means(result["fidelity"])),
        "Where masks are drawn (uniform masks / masks with 1 to 4 words removed):",
        tables.markdown(_means(result["focus"], "r2_and_near")),
        "Relative squared error of Shapley values (SV) and of pairs (FSII) on functions known at all 2^n masks, by the "
        "choice of masks; adaptive ones are chosen for the whole function or for the index:",
        tables.markdown(index_errors(result["index"]), digits=3),
    ]


def _next_to_shapleig(result: Result) -> list[str]:
    rows = [row for row in result["index"] if row["index"] == "SV"]
    better = [row["error"]["index"] < row["error"]["ShaplEIG"] for row in rows]
    return [
        tables.markdown(index_errors(rows), digits=3),
        f"Masks chosen for the index leave less error than ShaplEIG in {sum(better)} of {len(better)} cells.",
    ]


SECTIONS = (
    Section(
        title="Places of units",
        about="""The unexplained variance (1 - R²) over that of published ProxySPEX, geometric mean over recorded
        tables, where fits know the places of units and where they do not; geometric means of seconds; coverage of 90%
        intervals on functions known at all 2^n masks.""",
        results=("results/faithfulness_places.json",),
        tables=_places,
    ),
    Section(
        title="What else is known of units",
        about="""R² of `auto` on other masks, for reviews that the shipped model reads, at equal numbers of ablations:
        with gradients, with explanations of other texts, with a prior spectrum, with masks near the full one, and with
        masks chosen for an index.""",
        results=("results/knowledge.json",),
        tables=_knowledge,
    ),
    Section(
        title="Masks for Shapley values, next to ShaplEIG",
        about="""Relative squared error of Shapley values on functions known at all 2^n masks (geometric mean over them,
        one seed), at equal numbers of masks. ShaplEIG (arXiv 2606.02247) chooses every mask by its expected information
        gain about the Shapley values.""",
        results=("results/knowledge_peers.json",),
        tables=_next_to_shapleig,
    ),
)
