"""Many explanations at once against a loop over them: `proxyspex.fit_many` and `spex.decode_many`.

Three parts: tables of ablations with different masks, outputs at the same masks, and coded designs. Calls take turns
within a run, compilation is stated apart, and the spectra fitted at once are compared with those fitted one by one.

  python experiments/benchmarks/fit_many.py --out=experiments/benchmarks/results/fit_many.json
  python experiments/benchmarks/fit_many.py --count=256 --rounds=1    # on a GPU

Goals: on 2 CPU cores never slower than the loop at n = 32 with 640 and 1,280 rows, and one compilation; on a GPU 10
times the loop's rate with 256 explanations. Expected: an hour on 2 CPU cores; 4 minutes with --parts=tables --alphas=4
--noises=0.02 --proxies=walsh_gp --rounds=1.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from turns import in_turns

from spex_jax import Spectrum, proxyspex, spex
from spex_jax.core import masks
from spex_jax.runtime import run_parts, run_program, seed

_PARTS = flags.DEFINE_list("parts", ["tables", "outputs", "designs"], "Parts to run.")
_COUNT = flags.DEFINE_integer("count", 32, "Number of explanations.", lower_bound=2)
_FEATURES = flags.DEFINE_integer("features", 32, "Features of the tables.", lower_bound=4)
_ALPHAS = flags.DEFINE_list("alphas", ["4", "8"], "Rows of a table, in units of n log2 n.")
_NOISES = flags.DEFINE_list("noises", ["0.02", "0.3"], "Variances of noise: auto stops after walsh_gp, or goes on.")
_PROXIES = flags.DEFINE_list("proxies", ["auto", "walsh_gp"], "Proxies to fit.")
_CODED = flags.DEFINE_integer("coded", 64, "Features of the designs.", lower_bound=4)
_BUDGETS = flags.DEFINE_list("budgets", ["1400", "2800"], "Masks of the designs: 16 and 32 bins at n = 64, degree 4.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds over which the median is taken.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "results/fit_many.json", "File for the result.")

_COMPILATION = "/jax/core/compile/backend_compile_duration"


def planted(n: int, terms: int, rng: np.random.Generator) -> Spectrum:
    """Draws random sets of one to three features with normal coefficients, scaled to variance 1."""
    support = np.zeros((terms, n), np.bool_)
    for row in support:
        row[rng.choice(n, rng.integers(1, 4), replace=False)] = True
    support = support[masks.deduplicate(support)[0]]
    coefficients = rng.normal(size=len(support))
    return Spectrum(support, coefficients / np.sqrt(np.square(coefficients).sum()))


def compare(at_once: Callable[[], Sequence[Spectrum]], one: Callable[[int], Spectrum]) -> dict[str, Any]:
    """Measures the seconds at once and in a loop, compilations of both, and the largest difference of predictions."""
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        del duration_secs
        if event == _COMPILATION:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.perf_counter()
    found = at_once()
    first, compilations = time.perf_counter() - start, len(compiled)
    compiled.clear()
    alone: dict[int, Spectrum] = {}

    def loop() -> None:
        alone.update({b: one(b) for b in range(_COUNT.value)})

    seconds = in_turns({"at once": at_once, "loop": loop}, _ROUNDS.value)
    jax.monitoring.unregister_event_duration_listener(listen)
    rng = np.random.default_rng(seed())
    differences = []
    for b, spectrum in enumerate(found):
        drawn = masks.uniform(spectrum.n, 200, rng)
        values = alone[b](drawn)
        differences.append(float(np.abs(spectrum(drawn) - values).max() / (values.std() or 1.0)))
    return {
        "seconds": seconds["at once"],
        "seconds_of_loop": seconds["loop"],
        "ratio": seconds["loop"] / seconds["at once"],
        "compile": max(0.0, first - seconds["at once"]),
        "compilations": compilations,
        "later_compilations": len(compiled),  # 0 on a CPU, where the loop runs the same programs
        "largest_difference": max(differences),
    }


def one_of(fit: Callable[..., Spectrum], inputs: Sequence[Any], values: Sequence[np.ndarray], b: int) -> Spectrum:
    """Fits one of many tables, or decodes one of many designs."""
    return fit(inputs[b], values[b])


def tables() -> list[dict[str, Any]]:
    """Compares fits of different functions at different masks."""
    rows, n = [], _FEATURES.value
    for alpha in map(float, _ALPHAS.value):
        count = int(alpha * n * np.log2(n))
        for noise in map(float, _NOISES.value):
            rng = np.random.default_rng(seed())
            drawn = [masks.uniform(n, count, rng) for _ in range(_COUNT.value)]
            values = [planted(n, 30, rng)(one) + np.sqrt(noise) * rng.normal(size=count) for one in drawn]
            for proxy in _PROXIES.value:
                found = compare(
                    functools.partial(proxyspex.fit_many, drawn, values, proxy=proxy),
                    functools.partial(one_of, functools.partial(proxyspex.fit, proxy=proxy), drawn, values),
                )
                rows.append({"proxy": proxy, "n": n, "rows": count, "noise": noise, "count": _COUNT.value, **found})
                print(rows[-1], flush=True)
    return rows


def outputs() -> dict[str, Any]:
    """Compares fits of many outputs at the same masks."""
    n, rng = _FEATURES.value, np.random.default_rng(seed())
    drawn = masks.uniform(n, int(float(_ALPHAS.value[0]) * n * np.log2(n)), rng)
    values = np.stack([planted(n, 30, rng)(drawn) for _ in range(_COUNT.value)], axis=1)
    proxy = _PROXIES.value[0]
    found = compare(
        lambda: proxyspex.fit_many(drawn, values, proxy=proxy),
        lambda b: proxyspex.fit(drawn, values[:, b], proxy=proxy),
    )
    return {"proxy": proxy, "n": n, "rows": len(drawn), "count": _COUNT.value, **found}


def designs() -> list[dict[str, Any]]:
    """Compares decodings of designs of different seeds, with noise of about a tenth of the variance."""
    rows = []
    for budget in map(int, _BUDGETS.value):
        made = [spex.design(_CODED.value, budget, max_degree=4, seed=b) for b in range(_COUNT.value)]
        rng = np.random.default_rng(seed())
        values = [planted(_CODED.value, 30, rng)(one.masks) + rng.normal(0, 0.3, len(one.masks)) for one in made]
        found = compare(
            functools.partial(spex.decode_many, made, values), functools.partial(one_of, spex.decode, made, values)
        )
        rows.append({"n": _CODED.value, "b": made[0].plan.b, "rows": budget, "count": _COUNT.value, **found})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Runs the parts and writes the result."""
    run_parts({"tables": tables, "outputs": outputs, "designs": designs}, _PARTS.value, _OUT.value)


if __name__ == "__main__":
    run_program(main, cold=True)
