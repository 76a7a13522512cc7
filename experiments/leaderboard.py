"""Methods x games x budgets: mean R2, rank, seconds outside the value function and failures, from one or more results.

Reads the results of `faithfulness.py` (--results; several files are merged, since the peers need an environment of
their own), or runs it first where there are none. Writes the leaderboard as JSON, Markdown and PNG, and with --page
between the lines `<!-- leaderboard -->` and `<!-- end of leaderboard -->` of that file.

The rank of a method in a cell (a game with a budget) is its place among the methods of a table by R2, 1 the best; ties
share the mean of their places, and a failure is last. There are two tables: all games, for methods that fit the same
masks; and the games of up to 16 features whose value function can be evaluated, for all methods. Times are compared
only within a result.

  python experiments/leaderboard.py
  python experiments/leaderboard.py --results=results/faithfulness.json,results/peers.json --page=docs/leaderboard.md

Expected: seconds; with no results 26 minutes on 2 CPU cores.
"""

import datetime
import json
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import faithfulness
import numpy as np
import pictures
import tables
from absl import flags
from compared import CONTENDERS
from scipy import stats

from spex_jax.runtime import run_program, save_result
from spex_jax.utils.atomic_write import replacing
from spex_jax.utils.threads import cores

_RESULTS = flags.DEFINE_list(
    "results", [], "Results of faithfulness.py. Default: --out of that program, which is run where it does not exist."
)
_BOARD = flags.DEFINE_string("board", "results/leaderboard.json", "File for the result; .md and .png are beside it.")
_WITHOUT = flags.DEFINE_list(
    "without", [], "Parts of names of games that are left out, such as those that only some of the results hold."
)
_PAGE = flags.DEFINE_string("page", None, "File in which the leaderboard is replaced.")

MARKS = ("<!-- leaderboard -->", "<!-- end of leaderboard -->")
MAIN = "auto"
_WORST = -1.0  # least R2 in a mean, so that one bad cell does not decide it; ranks and medians use the raw R2
_MOST_FEATURES = 16  # in the second table: regressions of order 2 are run up to so many


def read(paths: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the rows of all results, and the provenance of each result.

    Raises:
      ValueError: a file is not a result of faithfulness.py, or two results hold the same cell.
    """
    rows, made_with, seen = [], [], set()
    for number, path in enumerate(paths):
        try:
            result = json.loads(pathlib.Path(path).expanduser().read_text(encoding="utf-8"))
            found = result["rows"]
            made_with.append({name: result[name] for name in ("revision", "versions", "device")} | {"file": path})
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"cannot read {path!r} as a result of faithfulness.py: {error!r}") from error
        for row in found:
            key = (row["game"], row["alpha"], row["method"])
            if key in seen and "recorded" not in row["method"]:
                if row["method"] == "lasso":  # deterministic, and in all of them
                    continue
                raise ValueError(f"{path!r} holds {key} again; give results that do not overlap")
            if key not in seen and "unsuitable" not in row:
                rows.append({**row, "result": number})
            seen.add(key)
    return rows, made_with


def kept(rows: Sequence[dict[str, Any]], without: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the rows of the games whose names hold none of the given parts, and the names of the other games.

    Raises:
      ValueError: a part is in no name.
    """
    names = {row["game"] for row in rows}
    for part in without:
        if not any(part in name for name in names):
            raise ValueError(f"--without={part} is in no name of a game; there are {', '.join(sorted(names))}")
    left_out = {name for name in names if any(part in name for part in without)}
    return [row for row in rows if row["game"] not in left_out], sorted(left_out)


def ranks(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, float], dict[str, float]]:
    """Returns the rank of every method, by game and alpha."""
    parts: dict[tuple[str, float], dict[str, float]] = {}
    for row in rows:
        r2 = row["r2"] if row.get("r2") is not None else -np.inf
        parts.setdefault((row["game"], row["alpha"]), {})[row["method"]] = r2
    return {
        cell: dict(zip(found, map(float, stats.rankdata([-r2 for r2 in found.values()])), strict=True))
        for cell, found in parts.items()
    }


def board(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each alpha and method, the best mean rank first.

    Means are over the same games for all methods of an alpha; methods that were not run on all games are left out.
    """
    lines = []
    for alpha in sorted({row["alpha"] for row in rows}):
        at = [row for row in rows if row["alpha"] == alpha]
        games = {row["game"] for row in at}
        methods = [
            method
            for method in dict.fromkeys(row["method"] for row in at)
            if {row["game"] for row in at if row["method"] == method} == games
        ]
        of_all = [row for row in at if row["method"] in methods]
        placed = ranks(of_all)
        part = []
        for method in methods:
            own = [row for row in of_all if row["method"] == method]
            r2 = np.array([row["r2"] for row in own if row.get("r2") is not None])
            spent = [row["seconds"] for row in own if row.get("seconds") is not None]
            part.append(
                {
                    "alpha": alpha,
                    "method": method,
                    "games": len(own),
                    "rank": float(np.mean([placed[row["game"], alpha][method] for row in own])),
                    "mean_r2": float(np.maximum(r2, _WORST).mean()) if len(r2) else None,
                    "median_r2": float(np.median(r2)) if len(r2) else None,
                    "seconds": float(np.mean(spent)) if spent else None,
                    "terms": float(np.mean([row["terms"] for row in own if row.get("terms") is not None] or [0])),
                    "failures": sum(row.get("r2") is None for row in own),
                }
            )
        lines += sorted(part, key=lambda line: line["rank"])
    return lines


def incomplete(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the methods that were run on some of the games only, and so are left out of the table of all games."""
    games = {row["game"] for row in rows}
    have = {
        method: {row["game"] for row in rows if row["method"] == method} for method in {row["method"] for row in rows}
    }
    return sorted(f"{method} ({len(own)} of {len(games)} games)" for method, own in have.items() if own != games)


def against_peers(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns for each alpha the cell in which the main method is furthest below the best method of another package,
    and the number of cells in which it is above all of them.
    """
    cells: dict[tuple[float, str], dict[str, float]] = {}
    for row in rows:
        if row.get("r2") is not None:
            cells.setdefault((row["alpha"], row["game"]), {})[row["method"]] = row["r2"]
    lines = []
    for alpha in sorted({alpha for alpha, _ in cells}):
        gaps = []
        for (at, game), found in cells.items():
            peers = {method: r2 for method, r2 in found.items() if is_peer(method)}
            if at == alpha and MAIN in found and peers:
                best = max(peers, key=lambda method: peers[method])
                gaps.append((found[MAIN] - peers[best], game, best))
        if gaps:
            worst = min(gaps)
            lines.append(
                {
                    "alpha": alpha,
                    "games": len(gaps),
                    "above all peers": sum(gap > 0 for gap, _, _ in gaps),
                    "mean gap": float(np.mean([gap for gap, _, _ in gaps])),
                    "smallest gap": worst[0],
                    "on": worst[1],
                    "to": worst[2],
                }
            )
    return lines


def is_peer(method: str) -> bool:
    """Returns whether a method is of another package."""
    return method not in CONTENDERS or CONTENDERS[method].package is not None


def overhead(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the peers' seconds over ours in the same cells of the same result: the default method against all, and
    SPEX against SPEX. They are CPU seconds where those were measured, since these exclude other work on the machine,
    but not for methods that choose their masks, whose CPU seconds include the value function.
    """
    cells: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row.get("seconds") and row.get("r2") is not None:
            cells.setdefault((row["alpha"], row["game"], row["result"]), {})[row["method"]] = row
    ratios: dict[tuple[str, str], list[float]] = {}
    for found in cells.values():
        for ours in (MAIN, "spex"):
            for method in found:
                both = (ours == MAIN) or "SPEX" in method.split()
                if ours in found and both and is_peer(method) and "recorded" not in method:
                    pair = (found[method], found[ours])
                    of_tables = all(CONTENDERS[row["method"]].same_masks and "cpu_seconds" in row for row in pair)
                    name = "cpu_seconds" if of_tables else "seconds"
                    ratios.setdefault((ours, method), []).append(pair[0][name] / pair[1][name])
    return [
        {
            "ours": ours,
            "peer": method,
            "cells": len(found),
            "times slower (geometric mean)": float(np.exp(np.mean(np.log(found)))),
            "least": min(found),
            "most": max(found),
        }
        for (ours, method), found in sorted(ratios.items())
    ]


def summary_table(lines: Sequence[dict[str, Any]]) -> str:
    """Returns Markdown with a row for each method, its rank and mean R2 at every alpha, best first."""
    alphas = sorted({line["alpha"] for line in lines})
    by = {(line["method"], line["alpha"]): line for line in lines}
    methods = sorted(
        {line["method"] for line in lines},
        key=lambda method: np.mean([by[method, a]["rank"] if (method, a) in by else 99 for a in alphas]),
    )
    rows = []
    for method in methods:
        own = [by[method, alpha] for alpha in alphas if (method, alpha) in by]
        row: dict[str, Any] = {"method": f"**{method}**" if method == MAIN else method}
        for alpha in alphas:
            line = by.get((method, alpha))
            shown = None if line is None else f"{line['rank']:.1f} / {tables.shown(line['mean_r2'])}"
            row[f"alpha {alpha:g}: rank / R²"] = shown
        seconds = [line["seconds"] for line in own if line["seconds"] is not None]
        row["seconds"] = f"{np.mean(seconds):.2g}" if seconds else None
        row["failures"] = sum(line["failures"] for line in own)
        rows.append(row)
    return tables.markdown(rows)


def machine() -> str:
    """Describes the machine in words."""
    return f"{cores()} CPU cores ({platform.machine()}, {platform.system()})" if os.name else ""


def text_of(result: dict[str, Any]) -> str:
    """Returns the leaderboard as Markdown."""
    revisions = ", ".join(dict.fromkeys(made["revision"] for made in result["made_with"]))
    devices = ", ".join(dict.fromkeys(made["device"] for made in result["made_with"]))
    parts = [
        f"{result['date']}, revision {revisions}, {result['machine']}, device {devices}. "
        f"R² below {_WORST:g} counts as {_WORST:g} in means.",
        f"**All {result['games']} games, methods that fit the same uniform masks:**",
        summary_table(result["same_masks"]),
    ]
    if result["without"]:
        parts.append(f"Games that not all methods have run on, and left out: {', '.join(result['without'])}.")
    if result["incomplete"]:
        parts.append(f"Run on some of the games only, and left out: {', '.join(result['incomplete'])}.")
    if result["any_masks"]:
        parts += [
            f"**The {result['games_that_can_be_asked']} games of up to {_MOST_FEATURES} features whose value function "
            "can be evaluated, methods with masks of their own too** (at each alpha those that need no more masks):",
            summary_table(result["any_masks"]),
        ]
    if result["against_peers"]:
        title = f"**`{MAIN}` against the best other package in each cell:**"
        parts += [title, tables.markdown(result["against_peers"])]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
    """Draws mean R2 and mean rank over alpha."""
    panels = {}
    for title, lines in (("all games, same masks", result["same_masks"]), ("can be evaluated", result["any_masks"])):
        for what in ("mean_r2", "rank"):
            panel: dict[str, list[tuple[float, float | None]]] = {}
            for line in lines:
                panel.setdefault(line["method"], []).append((line["alpha"], line[what]))
            if panel:
                panels[f"{'mean R2' if what == 'mean_r2' else 'mean rank (1 is best)'}: {title}"] = panel
    pictures.draw_lines(path, panels, x="budget in units of n log2 n", y="", main=MAIN, columns=2)


def main() -> None:
    """Reads or makes the results, and writes the leaderboard."""
    paths = list(_RESULTS.value)
    if not paths:
        paths = [flags.FLAGS.out]
        if not pathlib.Path(paths[0]).expanduser().exists():
            faithfulness.main()
    rows, made_with = read(paths)
    rows, left_out = kept(rows, _WITHOUT.value)
    known = [row for row in rows if "recorded" not in row["method"]]
    chosen = {name for name, contender in CONTENDERS.items() if not contender.same_masks}
    evaluable = {row["game"] for row in known if row["method"] in chosen and row["n"] <= _MOST_FEATURES}
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "made_with": made_with,
        "games": len({row["game"] for row in known}),
        "without": left_out,
        "games_that_can_be_asked": len(evaluable),
        "incomplete": incomplete([row for row in known if row["method"] not in chosen]),
        "same_masks": board([row for row in known if row["method"] not in chosen]),
        "any_masks": board([row for row in known if row["game"] in evaluable]),
        "against_peers": against_peers(rows),
        "overhead": overhead(rows),
    }
    out = pathlib.Path(_BOARD.value).expanduser()
    save_result(out, result)
    text = text_of(result)
    with replacing(out.with_suffix(".md"), "w") as file:
        file.write(text)
    print(text)
    if result["overhead"]:
        print(tables.markdown(result["overhead"], digits=1))
    draw(result, out.with_suffix(".png"))
    if _PAGE.value:
        tables.write_between(_PAGE.value, MARKS, text)
    print(f"leaderboard: {out}, {out.with_suffix('.md')}")


if __name__ == "__main__":
    run_program(main)
