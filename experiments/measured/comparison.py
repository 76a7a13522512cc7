"""The comparison of the README with other packages: five rows, from the same results as the page of measurements."""

import json
from typing import Any

import tables

from measured.explanations import against_published, shapley_errors
from measured.section import FOLDER

__all__ = ["comparison"]


def _read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def comparison() -> str:
    """Returns the table as Markdown."""
    published = against_published(_read("results/faithfulness.json"), _read("results/faithfulness_mlp.json"))
    auto = next(row for row in published if row["method"] == "auto")
    alpha_2 = next(row for row in _read("results/leaderboard.json")["against_peers"] if row["alpha"] == 2)
    overhead = {(row["ours"], row["peer"]): row for row in _read("results/overhead.json")["overhead"]}
    proxyspex, spex = overhead["auto", "ProxySPEX (published)"], overhead["spex", "SPEX soft (published)"]
    slower = "times slower (geometric mean)"
    shapley = shapley_errors(_read("results/sampling_shapley.json"))
    networks = _read("benchmarks/results/components.json")["sweep"]["times faster"]
    trainings = _read("benchmarks/results/retraining.json")["rates"]["times_faster"]["torch"]
    return tables.markdown(
        [
            {
                "next to": "published ProxySPEX (LightGBM)",
                "measured": f"leaves {auto['all']:.2f} of its unexplained variance, more faithful on "
                f"{auto['more faithful on']} tables of ablations; takes 1/{proxyspex[slower]:.1f} of its time",
            },
            {
                "next to": "the best of all other packages on each game, at 2 n log2 n evaluations",
                "measured": f"R² higher by {alpha_2['mean gap']:.2f} on average, higher on "
                f"{alpha_2['above all peers']} of {alpha_2['games']} games",
            },
            {
                "next to": "the public SPEX decoder (soft)",
                "measured": f"decodes {spex[slower]:.0f} times as fast, on the games of the leaderboard",
            },
            {
                "next to": "the best of shapiq's KernelSHAP, LeverageSHAP, ProxySHAP and OddSHAP on each game",
                "measured": "squared error of Shapley values "
                + " and ".join(
                    f"{row['error over that of the best']:.2f} of its error at alpha {row['alpha']}" for row in shapley
                ),
            },
            {
                "next to": "loops: TransformerLens over heads, PyTorch over trainings",
                "measured": f"{networks:.1f} and {trainings:.1f} times as fast on the same cores, with equal values",
            },
        ]
    )
