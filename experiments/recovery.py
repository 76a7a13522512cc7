"""Recovery of sparse functions by SPEX, next to the public decoder of the same paper.

Four parts. "table": planted functions at the sizes of the project's table, with recall, precision and the seconds of a
decoding without compilation. "diagram": recovery over the number of terms and of samples, a PNG beside the result for
each n and degree. "games": R2 of explain(method="spex") on functions of which all 2^n values are known (a folder as for
faithfulness.py), with and without a proxy for the smooth part. "memory": seconds and peak memory of a decoding at n =
10,000 and b = 10 (Linux). With --public the decoder of spectralexplain (sparse-transform, extra: peers) gets as many
samples of its own.

  python experiments/recovery.py
  python experiments/recovery.py --parts=table,diagram,games --games=FOLDER --public --out=results/recovery.json

Expected: 1 minute with no flags on 2 CPU cores; half an hour for everything with --public.
"""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import games as games_lib
import numpy as np
from absl import flags
from compared.peers import public_decoder

from spex_jax import Spectrum, explain, spex
from spex_jax.analysis.metrics import r2_score
from spex_jax.core import masks as masks_lib
from spex_jax.runtime import define_path, run_program, save_result
from spex_jax.runtime import seed as first_seed

_PARTS = flags.DEFINE_list("parts", ["diagram"], "Parts to run: table, diagram, games, memory.")
_N = flags.DEFINE_list("n", ["64"], "Features of the diagrams.")
_DEGREES = flags.DEFINE_list("degrees", ["4"], "Largest degrees of the diagrams.")
_TERMS = flags.DEFINE_list("terms", ["15", "30", "60", "120", "240"], "Terms of the diagrams.")
_BS = flags.DEFINE_list("bs", ["3", "4", "5", "6"], "Numbers of digits of the bins in the diagrams.")
_SNRS = flags.DEFINE_list("snrs", ["10", "1"], "Signal-to-noise ratios of the diagrams.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Functions for each cell.", lower_bound=1)
_ROWS = flags.DEFINE_list("rows", [], "Rows of the table, counted from 0; all by default.")
_GAMES = define_path("games", "", "Folder of games with all 2^n values.")
_BUDGETS = flags.DEFINE_list("budgets", ["2000", "8000"], "Budgets of the games.")
_PUBLIC = flags.DEFINE_bool("public", False, "Run the public decoder too (extra: peers).")
_OUT = flags.DEFINE_string("out", "results/recovery.json", "File for the result; diagrams are written beside it.")

TABLE = (  # n, terms, SNR, b; codes correct 4 errors
    *((64, 60, 10, 4), (64, 60, 10, 5), (64, 60, 10, 6), (64, 60, 1, 6)),
    *((300, 60, 10, 4), (300, 60, 10, 5), (300, 60, 10, 6), (300, 60, 1, 6)),
    *((1000, 100, 10, 5), (1000, 100, 10, 6), (1000, 100, 10, 7), (1000, 100, 1, 7), (1000, 100, 10, 8)),
)

ValueFn = Callable[[np.ndarray], np.ndarray]


def planted(n: int, terms: int, max_degree: int, snr: float, seed: int) -> tuple[ValueFn, set[tuple[int, ...]]]:
    """Draws a noisy sum of random characters with coefficients of .5 to 1.5 and either sign; also returns its sets."""
    rng = np.random.default_rng(seed)
    chosen = set[tuple[int, ...]]()
    while len(chosen) < terms:
        chosen.add(tuple(sorted(rng.choice(n, rng.integers(1, max_degree + 1), replace=False).tolist())))
    support = np.zeros((terms, n), np.bool_)
    for row, members in zip(support, sorted(chosen), strict=True):
        row[list(members)] = True
    truth = Spectrum(support, rng.uniform(0.5, 1.5, terms) * rng.choice([-1, 1], terms))
    deviation = np.sqrt(np.square(truth.coefficients).sum() / snr)
    return lambda masks: truth(masks) + deviation * rng.normal(size=len(masks)), chosen


def sets_of(spectrum: Spectrum) -> set[tuple[int, ...]]:
    """Returns the sets of the terms except ()."""
    return {tuple(np.flatnonzero(row).tolist()) for row in spectrum.support if row.any()}


def score(found: set[tuple[int, ...]], truth: set[tuple[int, ...]]) -> dict[str, float]:
    """Returns the recall and precision of a support."""
    hit = len(found & truth)
    return {"recall": hit / len(truth), "precision": hit / max(len(found), 1)}


def with_f1(scores: list[dict[str, float]]) -> dict[str, float]:
    """Returns means over functions, and F1 of the mean recall and precision."""
    mean = {name: float(np.mean([entry[name] for entry in scores])) for name in scores[0]}
    return {**mean, "f1": 2 * mean["recall"] * mean["precision"] / max(mean["recall"] + mean["precision"], 1e-9)}


def cell(n: int, terms: int, degree: int, snr: float, b: int, kinds: list[str]) -> dict[str, Any]:
    """Runs one setting: recall, precision, F1 and the seconds of a decoding, ours and the public decoders'."""
    t = degree
    samples = spex.least_budget(n, max_degree=t) // 2 ** min(3, n) * 2**b
    scores: dict[str, list[dict[str, float]]] = {}
    for seed in range(first_seed(), first_seed() + _SEEDS.value):
        value_fn, truth = planted(n, terms, degree, snr, seed)
        made = spex.design(n, samples, max_degree=t, seed=seed)
        values = value_fn(made.masks)
        seconds = []
        for _ in range(3):  # the first of a shape compiles
            start = time.perf_counter()
            found = spex.decode(made, values)
            seconds.append(time.perf_counter() - start)
        scores.setdefault("spex_jax", []).append({**score(sets_of(found), truth), "seconds": min(seconds)})
        for kind in kinds:
            found, spent = public_decoder(planted(n, terms, degree, snr, seed)[0], n, b, t, kind)
            scores.setdefault(kind, []).append({**score(sets_of(found), truth), "seconds": spent})
    setting = {"n": n, "terms": terms, "degree": degree, "snr": snr, "b": b, "samples": samples}
    return {**setting, **{name: with_f1(entries) for name, entries in scores.items()}}


def show(row: dict[str, Any]) -> None:
    """Prints one line."""
    parts = [
        f"{name} recall {row[name]['recall']:.3f} precision {row[name]['precision']:.3f} {row[name]['seconds']:.3f} s"
        for name in ("spex_jax", "soft", "hard")
        if name in row
    ]
    what = f"n {row['n']} terms {row['terms']} SNR {row['snr']:g} b {row['b']} ({row['samples']} samples)"
    print(f"{what}: {'; '.join(parts)}", flush=True)


def diagram(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Writes a PNG: F1 over terms and samples, a panel for each noise level and decoder."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    decoders = [name for name in ("spex_jax", "soft") if name in rows[0]]
    snrs, terms = (list(dict.fromkeys(row[name] for row in rows)) for name in ("snr", "terms"))
    samples = sorted({row["samples"] for row in rows})
    figure, axes = plt.subplots(
        len(snrs),
        len(decoders),
        figsize=(1.2 + 3.6 * len(decoders), 0.9 + 2.7 * len(snrs)),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for i, snr in enumerate(snrs):
        for j, decoder in enumerate(decoders):
            known = {(row["terms"], row["samples"]): row[decoder]["f1"] for row in rows if row["snr"] == snr}
            values = np.array([[known[k, m] for m in samples] for k in terms])
            image = axes[i, j].imshow(values, origin="lower", vmin=0, vmax=1, cmap="viridis", aspect="auto")
            for (y, x), value in np.ndenumerate(values):
                color = "black" if value > 0.6 else "white"
                label = f"{value:.2f}\n{samples[x] / terms[y]:.0f}"
                axes[i, j].text(x, y, label, ha="center", va="center", color=color, fontsize=7)
            axes[i, j].set_title(f"{'public soft decoder' if decoder == 'soft' else decoder}, SNR {snr:g}", fontsize=9)
            axes[i, j].set_xticks(range(len(samples)), [f"{m:,}" for m in samples])
            axes[i, j].set_yticks(range(len(terms)), map(str, terms))
            if i == len(snrs) - 1:
                axes[i, j].set_xlabel("samples")
            if j == 0:
                axes[i, j].set_ylabel("terms")
    figure.colorbar(image, ax=axes, label="F1 of the support", shrink=0.6)
    first = rows[0]
    figure.suptitle(f"n = {first['n']}, degree 1 to {first['degree']}; below F1: samples per term", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def of_a_game(game: games_lib.Game, budget: int) -> dict[str, Any]:
    """Returns the R2 of every method on all masks of a game that it did not evaluate."""
    powers = 1 << np.arange(game.n)
    table = np.zeros(2**game.n)
    table[game.masks @ powers] = game.values

    def value_fn(masks: np.ndarray) -> np.ndarray:
        evaluated.append(masks @ powers)
        return table[evaluated[-1]]

    row: dict[str, Any] = {"game": game.name, "n": game.n, "budget": budget}
    methods: dict[str, Callable[[], Spectrum]] = {
        name: functools.partial(lambda options: explain(value_fn, game.n, budget=budget, **options).spectrum, options)
        for name, options in (
            ("spex", {"method": "spex"}),
            ("spex, residual of walsh_gp", {"method": "spex", "residual_of": "walsh_gp"}),
            ("proxyspex, walsh_gp", {"proxy": "walsh_gp", "sampling": "uniform"}),
        )
    }
    if _PUBLIC.value:
        b = spex.plan(game.n, budget, max_degree=5).b
        methods["public soft"] = lambda: public_decoder(value_fn, game.n, b, 5, "soft")[0]
    for name, method in methods.items():
        evaluated: list[np.ndarray] = []
        spectrum = method()
        rest = np.ones(2**game.n, np.bool_)
        rest[np.concatenate(evaluated)] = False
        test = masks_lib.all_masks(game.n)[rest]
        r2 = float(r2_score(table[rest], spectrum(test)))
        row[name] = {"r2": r2, "terms": len(spectrum), "asked": int((~rest).sum())}
    return row


def of_many_features(n: int, b: int, terms: int) -> dict[str, Any]:
    """Measures the seconds of a decoding, without compilation, and the peak memory of the process during it, in GiB."""
    made = spex.design(n, spex.least_budget(n) // 8 * 2**b)
    value_fn, truth = planted(n, terms, 4, 10, 0)
    values = value_fn(made.masks)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for _ in range(2):  # the first compiles
        start = time.perf_counter()
        found = spex.decode(made, values)
        seconds = time.perf_counter() - start
    status = pathlib.Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    masks = made.masks.nbytes / 2**30
    row = {"n": n, "b": b, "terms": terms, "samples": len(made.masks), "masks_gib": masks, "peak_gib": peak / 2**20}
    return {**row, "seconds": seconds, **score(sets_of(found), truth)}


def main() -> None:
    """Runs the parts."""
    parts = _PARTS.value
    if unknown := sorted(set(parts) - {"table", "diagram", "games", "memory"}):
        raise ValueError(f"unknown part {', '.join(unknown)}; expected table, diagram, games or memory")
    if "games" in parts and not _GAMES.value:
        raise ValueError("the part games needs --games, a folder of tables")
    out = pathlib.Path(_OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"seeds": _SEEDS.value}
    if "table" in parts:
        result["table"] = []
        for n, terms, snr, b in [TABLE[int(i)] for i in _ROWS.value] or TABLE:
            result["table"].append(cell(n, terms, 4, snr, b, ["soft", "hard"] if _PUBLIC.value and b < 8 else []))
            show(result["table"][-1])
    if "diagram" in parts:
        result["diagram"] = []
        for n in map(int, _N.value):
            for degree in map(int, _DEGREES.value):
                rows = [
                    cell(n, terms, degree, snr, b, ["soft"] if _PUBLIC.value else [])
                    for snr in map(float, _SNRS.value)
                    for terms in map(int, _TERMS.value)
                    for b in map(int, _BS.value)
                ]
                for row in rows:
                    show(row)
                result["diagram"] += rows
                diagram(rows, out.with_name(f"{out.stem}_n{n}_degree{degree}.png"))
    if "games" in parts:
        games = [game for game in games_lib.load(_GAMES.value) if game.complete]
        result["games"] = []
        for game in games:
            for budget in map(int, _BUDGETS.value):
                row = of_a_game(game, budget)
                result["games"].append(row)
                found = ", ".join(f"{name} {entry['r2']:.3f}" for name, entry in row.items() if isinstance(entry, dict))
                print(f"{row['game']:28} {row['budget']:5}  {found}", flush=True)
    if "memory" in parts:
        result["memory"] = of_many_features(10_000, 10, 400)
        print(result["memory"])
    save_result(out, result)
    print(f"result: {out}")


if __name__ == "__main__":
    run_program(main)
