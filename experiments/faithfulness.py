"""Faithfulness of the proxies on real value functions: R2 on masks that no fit saw, next to published ProxySPEX.

With no flags on two texts and the shipped model; --games reads a folder of tables (NAME.npz with packed masks, n and
values; reference.json with published results on the same rows). Where spectralexplain is installed, --published runs
its ProxySPEX on the same rows; otherwise the reference is taken, if there is one. Where all 2^n values of a game are
known, the 200 largest coefficients are compared with the true ones: coverage of the 90% intervals.

  python experiments/faithfulness.py
  python experiments/faithfulness.py --games=FOLDER --proxies=auto,walsh_gp,trees,mlp,linear

Expected: 3 minutes with no flags; half an hour for each proxy over 72 tables on 2 CPU cores.
"""

import time
from typing import Any

import games as games_lib
import numpy as np
from absl import flags

from spex_jax import proxyspex
from spex_jax.metrics import r2_score
from spex_jax.runtime import run_program, save_result, seed
from spex_jax.spectrum import Spectrum, exact_spectrum

_GAMES = flags.DEFINE_string("games", "", "Folder of tables; empty for those of the shipped model.")
_CONTAINS = flags.DEFINE_string("contains", "", "Only games whose name contains this.")
_ALPHAS = flags.DEFINE_list("alphas", ["1", "2", "4", "8"], "Budgets in units of n log2 n.")
_PROXIES = flags.DEFINE_list("proxies", ["auto", "walsh_gp", "trees"], "Proxies.")
_MAX_TERMS = flags.DEFINE_integer("max_terms", None, "Terms kept; the default is 99.9% of the energy.", lower_bound=1)
_PUBLISHED = flags.DEFINE_bool("published", False, "Run ProxySPEX of spectralexplain too (extra: peers).")
_OUT = flags.DEFINE_string("out", "results/faithfulness.json", "File for the result.")

_LARGEST = 200
_SMALLEST_UNEXPLAINED = 0.01  # one near-exact table must not carry a mean of logarithms


def coverage(spectrum: Spectrum, truth: Spectrum) -> float | None:
    """Share of the 200 largest coefficients whose 90% interval holds the true one; None without intervals."""
    if spectrum.variances is None:
        return None
    rows = np.argsort(-np.abs(spectrum.coefficients))[:_LARGEST]
    true = truth.coefficients_at(spectrum.support[rows])
    half = 1.645 * np.sqrt(spectrum.variances[rows])
    return float(np.mean(np.abs(spectrum.coefficients[rows] - true) <= half))


def published(masks: np.ndarray, values: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, int]:
    """Predictions and number of terms of spectralexplain's ProxySPEX."""
    from spectralexplain.utils import proxy_spex  # of the extra "peers"

    found = proxy_spex((masks.astype(int), values), max_order=5)
    support = np.array([list(map(bool, key)) for key in found])
    return Spectrum(support, np.array([float(np.real(value)) for value in found.values()]))(test), len(found)


def run(game: games_lib.Game, alpha: int, truth: Spectrum | None) -> dict[str, Any] | None:
    """One table: every proxy, and what was published."""
    budget = game.budget(alpha)
    if budget is None:
        return None
    masks, values, test, answers = game.split(budget)
    known = game.reference.get(alpha, {})
    row: dict[str, Any] = {"game": game.name, "alpha": alpha, "n": game.n, "budget": budget, "proxies": {}}
    row["reference"] = {name: known[name] for name in ("proxyspex_r2", "proxyspex_s", "lightgbm_r2") if name in known}
    for proxy in _PROXIES.value:
        start = time.perf_counter()
        spectrum = proxyspex.fit(masks, values, proxy=proxy, max_terms=_MAX_TERMS.value, seed=seed())
        seconds = time.perf_counter() - start
        row["proxies"][proxy] = {
            "r2": float(r2_score(answers, spectrum(test))),
            "terms": len(spectrum),
            "seconds": seconds,
            "coverage": None if truth is None else coverage(spectrum, truth),
        }
    if _PUBLISHED.value:
        start = time.perf_counter()
        predicted, terms = published(masks, values, test)
        seconds = time.perf_counter() - start
        row["published"] = {"r2": float(r2_score(answers, predicted)), "terms": terms, "seconds": seconds}
    return row


def _published_r2(row: dict[str, Any]) -> float | None:
    return row["published"]["r2"] if "published" in row else row["reference"].get("proxyspex_r2")


def _unexplained(r2: float) -> float:
    return max(1 - r2, _SMALLEST_UNEXPLAINED)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By proxy: mean R2, unexplained variance against what was published, cells above it, coverage; and auto against
    the best of the others.
    """
    result: dict[str, Any] = {}
    for proxy in _PROXIES.value:
        found = [(row["proxies"][proxy], _published_r2(row), row["alpha"]) for row in rows]
        pairs = [(own["r2"], peer, alpha) for own, peer, alpha in found if peer is not None]
        logs = np.array([np.log(_unexplained(own) / _unexplained(peer)) for own, peer, _ in pairs])
        covered = [own["coverage"] for own, _, alpha in found if own["coverage"] is not None and alpha >= 4]
        result[proxy] = {
            "mean_r2": float(np.mean([own["r2"] for own, _, _ in found])),
            "unexplained_ratio": float(np.exp(logs.mean())) if pairs else None,
            "ratio_by_alpha": {
                alpha: float(np.exp(np.mean([log for log, pair in zip(logs, pairs, strict=True) if pair[2] == alpha])))
                for alpha in sorted({pair[2] for pair in pairs})
            },
            "above_published": sum(own > peer for own, peer, _ in pairs),
            "compared": len(pairs),
            "coverage": float(np.mean(covered)) if covered else None,
        }
    others = [proxy for proxy in _PROXIES.value if proxy != "auto"]
    if "auto" in _PROXIES.value and others:
        losses = [max(row["proxies"][other]["r2"] for other in others) - row["proxies"]["auto"]["r2"] for row in rows]
        result["auto"]["mean_loss_to_the_best_other"] = float(np.mean(losses))
    return result


def main() -> None:
    """Runs all tables and writes the result."""
    chosen = [int(alpha) for alpha in _ALPHAS.value]
    for proxy in _PROXIES.value:
        proxyspex.check_options(proxy=proxy)
    found = (
        games_lib.load(_GAMES.value, _CONTAINS.value)
        if _GAMES.value
        else games_lib.of_the_shipped_model(_CONTAINS.value, max(chosen))
    )
    rows = []
    for game in found:
        truth = exact_spectrum(game.masks, game.values) if game.complete else None
        for alpha in chosen:
            row = run(game, alpha, truth)
            if row is None:
                continue
            rows.append(row)
            peer = _published_r2(row)
            numbers = "  ".join(
                f"{name} {own['r2']:.3f} ({own['seconds']:.1f} s)" for name, own in row["proxies"].items()
            )
            print(
                f"{game.name:28} alpha {alpha}  {numbers}  published {'-' if peer is None else f'{peer:.3f}'}",
                flush=True,
            )
    result = summary(rows)
    for name, numbers in result.items():
        print(name, numbers)
    save_result(_OUT.value, {"max_terms": _MAX_TERMS.value, "summary": result, "rows": rows})


if __name__ == "__main__":
    run_program(main)
