"""Times and memory of fits, conversions and evaluation on planted tables, with compilation stated apart.

Four parts: every proxy at n = 64, N = 3,072; walsh_gp over N and n, with the exponents of a power law; a sparse
function of 1,000 features; a spectrum of 2,000 features, converted to every index and evaluated.

  python experiments/benchmarks/fit_cost.py --out=experiments/benchmarks/results/fit_cost.json
  python experiments/benchmarks/fit_cost.py --parts=proxies,conversion

Expected: 20 minutes on 2 CPU cores, most of it the 1,000 features.
"""

import functools
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from spex_jax import Spectrum, proxyspex
from spex_jax.analysis.metrics import r2_score
from spex_jax.core import masks
from spex_jax.core.indices import INDICES
from spex_jax.runtime import run_parts, run_program, seed

_PARTS = flags.DEFINE_list("parts", ["proxies", "cost", "planted", "conversion"], "Parts to run.")
_PROXIES = flags.DEFINE_list("proxies", list(proxyspex.PROXIES), "Proxies of the first part.")
_PLANTED = flags.DEFINE_list("planted", ["linear", "auto"], "Proxies of the sparse function.")
_FEATURES = flags.DEFINE_integer("features", 1000, "Features of the sparse function.", lower_bound=4)
_ROWS = flags.DEFINE_integer("rows", 20_000, "Ablations of the sparse function.", lower_bound=10)
_TERMS = flags.DEFINE_integer("terms", 200, "Terms of the sparse function.", lower_bound=1)
_LIGHTGBM = flags.DEFINE_bool("lightgbm", False, "Also time LightGBM with the published grid (extra: peers).")
_OUT = flags.DEFINE_string("out", "results/fit_cost.json", "File for the result.")

_TEST_ROWS = 2000


def planted(
    n: int, rows: int, terms: int, *, noise_ratio: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Plants `terms` random sets of one to three features with normal coefficients; returns masks, their noisy values,
    test masks and their true values.
    """
    rng = np.random.default_rng(seed())
    support = np.zeros((terms, n), np.bool_)
    for row in support:
        row[rng.choice(n, rng.integers(1, 4), replace=False)] = True
    support = support[masks.deduplicate(support)[0]]
    spectrum = Spectrum(support, rng.normal(size=len(support)))
    drawn = masks.uniform(n, rows + _TEST_ROWS, rng)
    values = spectrum(drawn)
    deviation = np.sqrt(noise_ratio * np.square(spectrum.coefficients).sum())
    noisy = values[:rows] + deviation * rng.normal(size=rows)
    return drawn[:rows], noisy, drawn[rows:], values[rows:]


def twice(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Returns the answer, the seconds of the second call, and the excess of the first, which is compilation."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - start)
    return answer, seconds[1], max(0.0, seconds[0] - seconds[1])


def proxies() -> list[dict[str, Any]]:
    """Times every proxy on one table of 64 features and 3,072 ablations whose noise keeps auto from stopping early."""
    table = planted(64, 3072, 100, noise_ratio=0.3)
    rows = []
    for proxy in _PROXIES.value:
        spectrum, seconds, compilation = twice(functools.partial(proxyspex.fit, *table[:2], proxy=proxy))
        r2 = float(r2_score(table[3], spectrum(table[2])))
        rows.append({"proxy": proxy, "seconds": seconds, "compile": compilation, "r2": r2})
    if _LIGHTGBM.value:
        rows.append({"proxy": "lightgbm, published grid", **lightgbm_grid(*table)})
    return rows


def lightgbm_grid(masks: np.ndarray, values: np.ndarray, test: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Times the grid search of published ProxySPEX, without reading a spectrum."""
    import lightgbm  # of the extra "peers"
    from sklearn.model_selection import GridSearchCV

    grid = {"max_depth": [3, 5], "n_estimators": [500, 1000, 5000], "learning_rate": [0.01, 0.1]}
    start = time.perf_counter()
    search = GridSearchCV(lightgbm.LGBMRegressor(verbose=-1, n_jobs=-1), grid, scoring="r2", cv=5)
    search.fit(masks.astype(np.float64), values)
    seconds = time.perf_counter() - start
    predicted = np.asarray(search.predict(test.astype(np.float64)))
    return {"seconds": seconds, "compile": 0.0, "r2": float(r2_score(truth, predicted))}


def cost() -> dict[str, Any]:
    """Times walsh_gp over N at n = 64 and over n at N = 2,048, with the exponents of the last doubling."""
    result: dict[str, Any] = {"rows": [], "features": []}
    for name, sizes in {"rows": (512, 1024, 2048, 4096, 8192), "features": (16, 32, 64, 128, 256)}.items():
        for size in sizes:
            n, rows = (64, size) if name == "rows" else (size, 2048)
            table = planted(n, rows, 60, noise_ratio=0.3)
            _, seconds, compilation = twice(functools.partial(proxyspex.fit, *table[:2], proxy="walsh_gp"))
            result[name].append({"size": size, "seconds": seconds, "compile": compilation})
            print(f"walsh_gp n {n} N {rows}: {seconds:.2f} s, compilation {compilation:.2f} s", flush=True)
        last = [row["seconds"] for row in result[name][-2:]]
        result[f"exponent_of_{name}"] = float(np.log2(last[1] / last[0]))
    return result


def sparse() -> list[dict[str, Any]]:
    """Fits a sparse function of many features without a hierarchy, SNR 10: 200 terms of degree up to 3."""
    table = planted(_FEATURES.value, _ROWS.value, _TERMS.value, noise_ratio=0.1)
    rows = []
    for proxy in _PLANTED.value:
        start = time.perf_counter()
        spectrum = proxyspex.fit(*table[:2], proxy=proxy)
        seconds = time.perf_counter() - start  # includes compilation, which is a small part
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        r2 = float(r2_score(table[3], spectrum(table[2])))
        rows.append({"proxy": proxy, "seconds": seconds, "peak_gib": peak, "r2": r2, "terms": len(spectrum)})
        print(rows[-1], flush=True)
    return rows


def conversion() -> dict[str, float]:
    """Times every index of 5,000 terms of degree up to 6 at n = 2,000, order 3, and the values at 10^5 masks."""
    rng = np.random.default_rng(0)
    support = np.zeros((5000, 2000), np.bool_)
    for row in support:
        row[rng.choice(2000, rng.integers(1, 7), replace=False)] = True
    support = support[masks.deduplicate(support)[0]]
    spectrum = Spectrum(support, rng.normal(size=len(support)))
    result = {}
    for index in INDICES:
        start = time.perf_counter()
        spectrum.interactions(index, max_order=3)
        result[index] = time.perf_counter() - start
    drawn = rng.integers(0, 2, (100_000, 2000), dtype=np.uint8).astype(bool)
    start = time.perf_counter()
    spectrum(drawn)
    return {**result, "100,000 masks": time.perf_counter() - start}


def main() -> None:
    """Runs the parts and writes the result."""
    parts = {"proxies": proxies, "cost": cost, "planted": sparse, "conversion": conversion}
    run_parts(parts, _PARTS.value, _OUT.value)


if __name__ == "__main__":
    run_program(main, cold=True)
