"""The spectra of real value functions: energy by degree, sparsity, and whether large terms are hierarchical.

The structural claims of ProxySPEX (Butler et al., NeurIPS 2025, https://arxiv.org/abs/2505.17495): section 3.2 and
figure 3 (direct subset rate), appendix B.2 and figure 11 (staircase and strong hierarchy rate), figures 5 and 12 (about
200 coefficients are enough). There the spectra are SPEX's of language and captioning models, for faithfulness above .9;
here those of --proxy for every table of --games and two texts of the shipped model, where R2 on held-out rows is above
--threshold, and the exact ones where all 2^n values are known.

For each spectrum: the share of the energy (without that of ()) by degree, the fewest terms with 50, 90, 95 and 99% of
it, and over the k largest terms except () (`spex_jax.metrics.hierarchy`):

  DSR  the mean share of a term's direct subsets, one feature fewer, that are among the k (equation 3)
  SCR  the share of terms whose features have an order in which every beginning is among the k (equation 10)
  SHR  the share of terms all of whose subsets are among the k (equation 11)

The paper counts a single feature in full (its subset is ()), and () itself where it is large, which is why a spectrum
of nearly only single features has rates near 1. Here () always counts as large, and the rates are given twice: for all
terms, as published, and ("2+") for terms of two and more features, the only ones that can fail. Next to them stands the
null: as many random sets of each degree, drawn --draws times. Means of the proxy and of the exact spectra are over
different games: the exact ones include those that the proxy does not explain. The last table tests whether a proxy that
expects a hierarchy invents one: its rates and the exact ones of the same games, and the share of the exact k largest
terms that it has.

  python experiments/spectra.py --flagfile=experiments/configs/spectra.cfg

Expected: 5 minutes for 21 tables on 2 CPU cores.
"""

import itertools
import math
import pathlib
from typing import Any

import games as games_lib
import numpy as np
from absl import flags
from cells import Cells
from pictures import draw_lines
from tables import markdown, mean

from spex_jax import Spectrum, proxyspex
from spex_jax.analysis.metrics import hierarchy, r2_score, terms_for_energy
from spex_jax.core.spectrum import exact_spectrum
from spex_jax.runtime import define_path, run_program, seed

_GAMES = define_path("games", None, "Folder of tables; games/ beside the folder SPEX_JAX_DATA if there is one.")
_CONTAINS = flags.DEFINE_string("contains", "", "Only games whose name contains this.")
_ALPHA = flags.DEFINE_integer("alpha", 8, "Rows that the proxy is fitted to, in units of n log2 n.", lower_bound=1)
_PROXY = flags.DEFINE_string("proxy", "auto", "Proxy of the spectra.")
_THRESHOLD = flags.DEFINE_float("threshold", 0.9, "Only spectra with a larger R2 are reported.", upper_bound=1)
_TOPS = flags.DEFINE_list("tops", ["10", "50", "100", "200"], "Numbers k of largest terms.")
_DRAWS = flags.DEFINE_integer("draws", 20, "Draws of random sets.", lower_bound=1)
_OUT = define_path("out", "results/spectra.json", "File for the result; a picture is written beside it.")

SHARES = (0.5, 0.9, 0.95, 0.99)
RATES = {"direct_subset": "DSR", "staircase": "SCR", "strong": "SHR"}
_DEGREES = 5  # degrees with a column of their own
_ENUMERATED = 20_000  # up to so many sets of a degree are listed to draw from; else draws repeat until distinct


def all_games() -> list[games_lib.Game]:
    """Returns the tables of --games and those of the shipped model.

    Raises:
      ValueError: there are none.
    """
    folder = games_lib.folder_of(_GAMES.value)
    found = games_lib.load(folder) if folder else []
    chosen = [game for game in found if _CONTAINS.value in game.name]
    chosen += games_lib.of_the_shipped_model(_CONTAINS.value, _ALPHA.value)
    if not chosen:
        raise ValueError(f"no game has {_CONTAINS.value!r} in its name")
    return chosen


def largest(spectrum: Spectrum, k: int) -> Spectrum:
    """Returns the k largest terms except (), or all where there are fewer."""
    rows = np.flatnonzero(spectrum.support.any(axis=1) & (spectrum.coefficients != 0))
    return spectrum.take(rows[np.argsort(-np.abs(spectrum.coefficients[rows]), kind="stable")][:k])


def random_sets(degrees: np.ndarray, n: int, rng: np.random.Generator) -> Spectrum:
    """Draws distinct sets uniformly, as many of each degree as `degrees` int [K] holds."""
    parts = []
    for degree, count in zip(*np.unique(degrees, return_counts=True), strict=True):
        if math.comb(n, int(degree)) <= _ENUMERATED:
            every = list(itertools.combinations(range(n), int(degree)))
            sets = {every[place] for place in rng.choice(len(every), int(count), replace=False)}
        else:
            sets = set()
            while len(sets) < count:
                sets.add(tuple(sorted(rng.choice(n, int(degree), replace=False).tolist())))
        part = np.zeros((len(sets), n), np.bool_)
        for row, members in zip(part, sorted(sets), strict=True):
            row[list(members)] = True
        parts.append(part)
    support = np.concatenate(parts)
    return Spectrum(support, np.ones(len(support)))


def _rates(spectrum: Spectrum, k: int) -> dict[str, float]:
    """Returns the rates of all terms, and with "2+" those of terms of two and more features."""
    result: dict[str, Any] = {}
    for least_degree, suffix in ((1, ""), (2, " 2+")):
        found = hierarchy(spectrum, k, least_degree=least_degree)
        result |= {f"{short}{suffix}": getattr(found, name) for name, short in RATES.items()}
    return {**result, "terms 2+": found.terms}


def statistics(spectrum: Spectrum) -> dict[str, Any]:
    """Returns all that is reported of one spectrum; the rates by k are None where it has fewer than k terms."""
    own = largest(spectrum, len(spectrum))
    energy = own.energy_by_degree()
    shares = np.concatenate([np.pad(energy, (0, _DEGREES))[1 : _DEGREES + 1], [energy[_DEGREES + 1 :].sum()]])
    rng = np.random.default_rng(seed())
    rates: dict[str, Any] = {}
    for k in map(int, _TOPS.value):
        if len(own) < k:
            rates[str(k)] = None
            continue
        degrees = largest(own, k).support.sum(axis=1)
        drawn = [_rates(random_sets(degrees, own.n, rng), k) for _ in range(_DRAWS.value)]
        null = {name: float(np.mean([each[name] for each in drawn])) for name in drawn[0]}
        rates[str(k)] = {**_rates(own, k), "null": null}
    return {
        "terms": len(own),
        "energy_by_degree": (shares / shares.sum()).tolist() if shares.sum() else None,
        "terms_for": {str(share): terms_for_energy(own, share) for share in SHARES},
        "rates": rates,
    }


def of_game(game: games_lib.Game) -> dict[str, Any]:
    """Describes the proxy's spectrum and, where all values are known, the exact one and the share of terms in both."""
    result: dict[str, Any] = {"proxy": None, "exact": None, "shared": None}
    budget = game.budget(_ALPHA.value)
    if budget is not None:
        masks, values, test, answers = game.split(budget)
        spectrum = proxyspex.fit(masks, values, proxy=_PROXY.value, seed=seed())
        result["proxy"] = {"r2": float(r2_score(answers, spectrum(test))), "budget": budget, **statistics(spectrum)}
    if game.complete:
        exact = exact_spectrum(game.masks, game.values)
        result["exact"] = {"r2": 1.0, "budget": 2**game.n, **statistics(exact)}
    if budget is not None and game.complete:
        sets = {k: [{bytes(row) for row in largest(s, int(k)).support} for s in (spectrum, exact)] for k in _TOPS.value}
        result["shared"] = {k: len(own & true) / len(true) if true else None for k, (own, true) in sets.items()}
    return result


def rates_by_k(spectra: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Returns a row for each k: means over spectra of one kind, and over random sets."""
    rows = []
    for k in _TOPS.value:
        found = [own["rates"][k] for own in spectra if own["rates"][k] is not None]
        row: dict[str, Any] = {"spectra": kind, "k": int(k), "games": len(found)}
        names = [f"{short}{suffix}" for suffix in ("", " 2+") for short in RATES.values()]
        row |= {name: mean([rates[name] for rates in found]) for name in names}
        row |= {f"null {name}": mean([rates["null"][name] for rates in found]) for name in names}
        rows.append(row)
    return rows


def comparison(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the proxy's rates next to the exact ones of the same games, where both have k terms."""
    result = []
    for k in _TOPS.value:
        both = [
            (row["proxy"]["rates"][k], row["exact"]["rates"][k], row["shared"][k])
            for row in rows
            if accepted(row["proxy"]) and row["exact"] and row["proxy"]["rates"][k] and row["exact"]["rates"][k]
        ]
        means = {
            f"{name} 2+, {who}": mean([pair[place][f"{name} 2+"] for pair in both])
            for name in RATES.values()
            for place, who in enumerate((_PROXY.value, "exact"))
        }
        more = sum(
            own["DSR 2+"] > true["DSR 2+"] for own, true, _ in both if None not in (own["DSR 2+"], true["DSR 2+"])
        )
        shared = mean([found for *_, found in both])
        result.append({"k": int(k), "games": len(both), **means, "DSR 2+ above exact": more, "shared terms": shared})
    return result


def accepted(spectrum: dict[str, Any] | None) -> bool:
    """Returns whether a spectrum is faithful enough to be reported."""
    return spectrum is not None and spectrum["r2"] is not None and spectrum["r2"] > _THRESHOLD.value


def energy_table(rows: list[dict[str, Any]]) -> str:
    """Returns Markdown with a line for each spectrum."""
    lines = []
    for row in rows:
        for kind in ("proxy", "exact"):
            own = row[kind]
            if not accepted(own):
                continue
            shares = own["energy_by_degree"] or [None] * (_DEGREES + 1)
            lines.append(
                {
                    **{"game": row["game"], "n": row["n"], "spectrum": _PROXY.value if kind == "proxy" else kind},
                    "R2": own["r2"],
                    **{f"degree {degree + 1}": share for degree, share in enumerate(shares[:-1])},
                    f"{_DEGREES + 1}+": shares[-1],
                    **{f"terms {float(share):.0%}": count for share, count in own["terms_for"].items()},
                }
            )
    return markdown(lines)


def game_table(rows: list[dict[str, Any]], k: str) -> str:
    """Returns Markdown with the rates of each spectrum at one k."""
    lines = []
    for row in rows:
        for kind in ("proxy", "exact"):
            if accepted(row[kind]) and row[kind]["rates"][k] is not None:
                rates = row[kind]["rates"][k]
                names = [name for name in rates if name != "null"]
                null = {f"null {name}": rates["null"][name] for name in names if name.endswith("R 2+")}
                what = _PROXY.value if kind == "proxy" else kind
                lines.append({"game": row["game"], "spectrum": what, **{name: rates[name] for name in names}, **null})
    return markdown(lines)


def main() -> None:
    """Runs all games; prints tables of energy, of rates and of the proxy against the exact spectra."""
    proxyspex.proxy_of(_PROXY.value)
    tops = sorted(map(int, _TOPS.value))
    if not tops or tops[0] < 1:
        raise ValueError(f"--tops={','.join(_TOPS.value)} must be whole numbers above 0, at least one")
    cells, rows = Cells(_OUT.value), []
    for game in all_games():
        setting = {"game": game.name, "table": game.content, "seed": seed(), "tops": _TOPS.value, "draws": _DRAWS.value}
        setting |= {"proxy": _PROXY.value, "alpha": _ALPHA.value}
        rows.append({"game": game.name, "n": game.n, **cells.get(setting, of_game, game)})
        own = rows[-1]["proxy"]
        print(f"{game.name}: {_PROXY.value} R2 {own['r2']:.3f}" if own else f"{game.name}: too few rows", flush=True)
    of_proxy = [row["proxy"] for row in rows if accepted(row["proxy"])]
    exact = [row["exact"] for row in rows if row["exact"]]
    summary = rates_by_k(of_proxy, _PROXY.value) + rates_by_k(exact, "exact")
    compared = comparison(rows)
    k = str(tops[(len(tops) - 1) // 2])
    print(f"\nEnergy by degree and terms for a share of it, spectra with R2 > {_THRESHOLD.value:g}\n")
    print(energy_table(rows))
    print(f"Rates of each spectrum, k = {k}\n\n{game_table(rows, k)}")
    print(f"Means over games with k terms; null: random sets of the same degrees\n\n{markdown(summary)}")
    print(f"{_PROXY.value} and the exact spectrum of the same games\n\n{markdown(compared)}")
    settings = {"alpha": _ALPHA.value, "threshold": _THRESHOLD.value, "draws": _DRAWS.value, "seed": seed()}
    result = {"proxy": _PROXY.value, **settings, "rates": summary, "proxy_and_exact": compared, "games": rows}
    cells.save(result)
    print(f"result: {_OUT.value}")
    panels: dict[str, dict[str, list[tuple[float, float | None]]]] = {}
    for name in ("DSR", "DSR 2+", "SCR 2+", "SHR 2+"):
        panels[f"{name[:3]} of {'two features and more' if name.endswith('+') else 'all terms'}"] = {
            f"{kind}, {what}": [(row["k"], row[f"{before}{name}"]) for row in summary if row["spectra"] == kind]
            for kind in (_PROXY.value, "exact")
            for before, what in (("", "largest terms"), ("null ", "random sets"))
        }
    draw_lines(
        pathlib.Path(_OUT.value).with_suffix(".png"),
        panels,
        x="k largest terms",
        y="rate, mean over games with k terms",
        main=f"{_PROXY.value}, largest terms",
        limits=(0, 1.03),
        columns=2,
    )


if __name__ == "__main__":
    run_program(main)
