"""Sparse regression on a table of masks that stays on disk: its time, its memory, and the planted terms that it finds.

The table is written to a folder as bits and fitted in a separate process, whose memory is measured. Planted are strong
singles, small ones on the other features, and pairs; one half of the pairs joins strong singles, and the other half
features that have no effect alone.

  python experiments/benchmarks/packed_table.py --out=experiments/benchmarks/results/packed_table.json
  python experiments/benchmarks/packed_table.py --features=50000 --rows=3000

Expected: 1 minute on 2 CPU cores and 0.7 GiB; the time grows with rows * features^2, the memory does not.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from absl import flags

from spex_jax import PackedMasks, Spectrum, proxyspex
from spex_jax.analysis.metrics import r2_score
from spex_jax.runtime import run_program, save_result, seed

_FEATURES = flags.DEFINE_integer("features", 5000, "Features of the table.", lower_bound=8)
_ROWS = flags.DEFINE_integer("rows", 30_000, "Rows of the table.", lower_bound=10)
_SINGLES = flags.DEFINE_integer("singles", 200, "Strong singles.", lower_bound=2)
_PAIRS = flags.DEFINE_integer("pairs", 40, "Pairs, half of them of features without an effect alone.", lower_bound=2)
_SNR = flags.DEFINE_float("snr", 3.0, "Variance of the function over that of the noise.", lower_bound=1e-6)
_KEEP = flags.DEFINE_float("keep", 0.5, "Share of masks that keep a feature.", lower_bound=0.01, upper_bound=0.99)
_DEGREE = flags.DEFINE_integer("max_degree", 5, "Largest degree of a term.", lower_bound=1)
_SOLVER = flags.DEFINE_enum("solver", "greedy", ["greedy", "lasso"], "Solver of the fit.")
_FIT = flags.DEFINE_string("fit", None, "Only fit the table in this folder; the program passes it to its own process.")
_OUT = flags.DEFINE_string("out", "results/packed_table.json", "File for the result.")

_TEST_ROWS = 2000
_BLOCK = 1000
_SHARES = {"strong": 0.45, "small": 0.1, "pairs": 0.45}  # shares of the variance of the function


def plant(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws coefficients of the singles float64 [n], pairs int [P, 2] of distinct features and their coefficients [P].

    They are for features of mean 0 and variance 1, so that their squares add up to the variance, which is 1.
    """
    n, count = _FEATURES.value, min(_SINGLES.value, _FEATURES.value // 2)
    order = rng.permutation(n)
    strong, others = order[:count], order[count:]
    half = min(_PAIRS.value // 2, len(strong) // 2, len(others) // 2)
    pairs = np.concatenate([strong[: 2 * half].reshape(half, 2), others[: 2 * half].reshape(half, 2)])

    def amounts(count: int, share: str) -> np.ndarray:
        drawn = rng.uniform(0.5, 1.5, count) * rng.choice([-1.0, 1.0], count)
        return drawn * np.sqrt(_SHARES[share] / np.square(drawn).sum())

    singles = np.zeros(n)
    singles[strong] = amounts(count, "strong")
    small = rng.normal(size=len(others) - 2 * half)
    singles[others[2 * half :]] = small * np.sqrt(_SHARES["small"] / max(np.square(small).sum(), 1e-300))
    return singles, np.sort(pairs, axis=1), amounts(2 * half, "pairs")


def write_table(folder: pathlib.Path, rng: np.random.Generator) -> None:
    """Writes masks.npy (bits), values.npy (noisy), truth.npy and pairs.npy; the last 2,000 rows are for testing."""
    n, rows = _FEATURES.value, _ROWS.value + _TEST_ROWS
    singles, pairs, amounts = plant(rng)
    kept = _KEEP.value
    mean, deviation = 1 - 2 * kept, 2 * np.sqrt(kept * (1 - kept))
    bits = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.uint8, (rows, -(-n // 8)))
    truth = np.empty(rows)
    for start in range(0, rows, _BLOCK):
        masks = rng.random((min(_BLOCK, rows - start), n), np.float32) < kept
        bits[start : start + _BLOCK] = np.packbits(masks, axis=1)
        features = ((1 - 2 * masks.astype(np.float32)) - mean) / deviation
        products = features[:, pairs[:, 0]] * features[:, pairs[:, 1]]
        truth[start : start + _BLOCK] = features @ singles + products @ amounts
    bits.flush()
    np.save(folder / "truth.npy", truth)
    np.save(folder / "values.npy", truth + np.sqrt(truth.var() / _SNR.value) * rng.normal(size=rows))
    np.save(folder / "pairs.npy", pairs)


def memory() -> float:
    """Returns the peak memory of this process, GiB."""
    try:  # for this program alone, while getrusage also counts the process that started it
        lines = pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    except (OSError, StopIteration):
        unit = 2**30 if sys.platform == "darwin" else 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def fit(folder: pathlib.Path) -> dict[str, Any]:
    """Fits all rows of a table but the last 2,000, and scores the fit on these."""
    table = PackedMasks.open(folder / "masks.npy", _FEATURES.value)
    values, truth = np.load(folder / "values.npy"), np.load(folder / "truth.npy")
    rows = len(table) - _TEST_ROWS
    before = memory()
    start = time.perf_counter()
    spectrum = proxyspex.fit(
        PackedMasks(table.bits[:rows], table.n),
        values[:rows],
        proxy="linear",
        solver=_SOLVER.value,
        max_degree=_DEGREE.value,
        seed=seed(),
    )
    seconds = time.perf_counter() - start
    peak = memory()
    spectrum.save(folder / "spectrum.npz")
    predicted = spectrum(table.rows(slice(rows, None)))
    return {
        "seconds": seconds,
        "peak_gib": peak,
        "before_gib": before,
        "terms": len(spectrum),
        "r2": float(r2_score(truth[rows:], predicted)),
        "r2_of_noisy_values": float(r2_score(values[rows:], predicted)),
    }


def found(spectrum: Spectrum, pairs: np.ndarray) -> dict[str, Any]:
    """Returns the recall of the pairs [P, 2], whose second half has no effects alone, and the precision of all terms
    larger than a single.
    """
    larger = spectrum.support[spectrum.support.sum(axis=1) > 1]
    sets = {tuple(map(int, np.flatnonzero(row))) for row in larger}
    hit = [tuple(map(int, pair)) in sets for pair in pairs]
    return {
        "planted_pairs": len(hit),
        "recall": float(np.mean(hit)),
        "recall_without_singles": float(np.mean(hit[len(hit) // 2 :])),
        "precision": sum(hit) / max(1, len(sets)),
    }


def main() -> None:
    """Makes the table, has it fitted and writes the result."""
    if _FIT.value is not None:
        print(json.dumps(fit(pathlib.Path(_FIT.value))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_table(folder, np.random.default_rng(seed()))
        shared = ("features", "max_degree", "solver", "seed")
        command = [sys.executable, __file__, f"--fit={folder}", "--compilation_cache="]
        command += [f"--{flag}={flags.FLAGS[flag].value}" for flag in shared]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise ValueError(f"the process that fits failed:\n{run.stderr}")
        result = {
            "features": _FEATURES.value,
            "rows": _ROWS.value,
            "keep": _KEEP.value,
            "snr": _SNR.value,
            "table_bytes": (folder / "masks.npy").stat().st_size,
            **json.loads(run.stdout.splitlines()[-1]),
            **found(Spectrum.load(folder / "spectrum.npz"), np.load(folder / "pairs.npy")),
        }
    print(result, flush=True)
    save_result(_OUT.value, result)


if __name__ == "__main__":
    run_program(main, cold=True)
