"""Measures an accelerator in one command: the peak rates of the device, and the share of them that this package
reaches.

Four parts. "ceilings": the fastest matrix products and copies of this device. "forward": masks a second through the
text lens, with the shipped model and with a larger one of random weights, and their share of the ceiling. "fit": every
proxy on a planted table. "decode": SPEX on planted functions. Times are medians after a warm-up. Compilation is stated
apart, as the first call less a later one; it leaves out what was compiled earlier in the same run.

  python experiments/benchmarks/device.py --out=experiments/benchmarks/results/device.json
  python experiments/benchmarks/device.py --toy

Expected: under 10 minutes on an accelerator; 45 seconds with --toy on 2 CPU cores, which are too slow for the other
sizes. The result is written again after every part.
"""

import collections
import functools
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from spex_jax import Spectrum, ValueFunction, lenses, models, proxyspex, spex
from spex_jax.analysis.metrics import r2_score
from spex_jax.core import masks
from spex_jax.models.encoder import one_text_a_row
from spex_jax.models.tiny_classifier import TextClassifier, TinyConfig, TinyEncoder
from spex_jax.runtime import run_program, save_result, seed
from spex_jax.utils.flops import matmul_flops

PARTS = ("ceilings", "forward", "fit", "decode")
TOY = {  # in place of the defaults of the flags
    "matmul": 512,
    "copy_mib": 16,
    "batches": ["16", "64"],
    "large_batches": ["4", "8"],
    "dim": 64,
    "layers": 2,
    "heads": 4,
    "tokens": 32,
    "n": 12,
    "rows": 200,
    "proxies": ["walsh_gp", "trees", "linear", "auto"],  # no size shortens the training of the mlp
    "designs": ["20:1000"],
    "terms": 6,
    "repeats": 3,
    "fits": 1,
}
TEXT = (
    "The trailer promised a clever thriller, and for twenty minutes the film never fails to keep that promise. "
    "Then the plot gives up, and not even a brilliant cast can save it from being a dull, lifeless mess."
)

_TOY = flags.DEFINE_bool("toy", False, "Use sizes for a CPU where the flags of the sizes are not given.")
_PARTS = flags.DEFINE_list("parts", list(PARTS), "Parts to run; forward measures the ceilings too.")
_MATMUL = flags.DEFINE_integer("matmul", 8192, "Rows of the square matrices.", lower_bound=1)
_COPY = flags.DEFINE_integer("copy_mib", 2048, "Size of the copied array, MiB.", lower_bound=1)
_BATCHES = flags.DEFINE_list("batches", ["256", "1024", "4096", "16384"], "Masks in a call of the shipped model.")
_LARGE_BATCHES = flags.DEFINE_list("large_batches", ["64", "256", "1024"], "Masks in a call of the larger model.")
_DIM = flags.DEFINE_integer("dim", 1024, "Width of the larger model; its hidden layers are 4 times as wide.")
_LAYERS = flags.DEFINE_integer("layers", 12, "Layers of the larger model.", lower_bound=1)
_HEADS = flags.DEFINE_integer("heads", 16, "Heads of the larger model.", lower_bound=1)
_TOKENS = flags.DEFINE_integer("tokens", 128, "Tokens of the larger model's text.", lower_bound=4, upper_bound=256)
_PROXIES = flags.DEFINE_list("proxies", list(proxyspex.PROXIES), "Proxies to fit; auto comes after its parts.")
_N = flags.DEFINE_integer("n", 64, "Features of the table.", lower_bound=4)
_ROWS = flags.DEFINE_integer("rows", 3072, "Ablations of the table.", lower_bound=10)
_DESIGNS = flags.DEFINE_list(
    "designs", ["64:3000", "300:12000", "1000:34560"], "Designs to decode, as features:budget."
)
_TERMS = flags.DEFINE_integer("terms", 60, "Planted terms.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements over which the median is taken.", lower_bound=1)
_FITS = flags.DEFINE_integer("fits", 3, "Repeats of fits and decodings, after a first one.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "results/device.json", "File for the result.")

SETTINGS = (_MATMUL, _COPY, _DIM, _LAYERS, _HEADS, _TOKENS, _TERMS, _REPEATS, _FITS)  # flags that no row holds
for _flag in (_BATCHES, _LARGE_BATCHES):
    flags.register_validator(
        _flag, lambda given: all(re.fullmatch(r"[1-9]\d*", text) for text in given), "whole numbers, such as 64,256"
    )
flags.register_validator(
    _DESIGNS, lambda given: all(re.fullmatch(r"\d+:\d+", text) for text in given), "such as 64:3000,300:12000"
)

_RUN = 0.2  # least seconds of a measurement, about; short calls are repeated for as long
_MOST_CALLS = 1000
_IN_FLIGHT = 2  # calls that wait behind the one that runs, as in the engine
_TEST_ROWS = 2000
_SNR = 10
_DEGREE = 4  # largest degree of the terms that SPEX decodes


def _size(flag: flags.FlagHolder) -> Any:
    """Returns the value of a flag, or with --toy that of TOY where the flag was not given."""
    toy = _TOY.value and flags.FLAGS[flag.name].using_default_value
    return TOY[flag.name] if toy else flag.value


def throughput(call: Callable[[], Any]) -> tuple[float, float]:
    """Returns the seconds of one call among many that are dispatched without waiting, and the excess of the first."""

    def run(count: int) -> float:
        start, waiting = time.perf_counter(), collections.deque[Any]()
        for _ in range(count):
            waiting.append(call())
            if len(waiting) > _IN_FLIGHT:
                jax.block_until_ready(waiting.popleft())
        jax.block_until_ready(list(waiting))
        return (time.perf_counter() - start) / count

    first, once = run(1), run(1)
    count = min(_MOST_CALLS, math.ceil(_RUN / once))
    return float(np.median([run(count) for _ in range(_size(_REPEATS))])), max(0.0, first - once)


def latency(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Returns the answer of a call that ends on the host, its seconds, and the excess of the first call."""
    seconds = []
    for _ in range(1 + _size(_FITS)):
        start = time.perf_counter()
        answer = jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    later = float(np.median(seconds[1:]))
    return answer, later, max(0.0, seconds[0] - later)


def ceilings() -> dict[str, float]:
    """Measures the device on large arrays: TFLOP/s of matrix products, and GB/s read and written by a copy."""
    size, result = _size(_MATMUL), {}
    for dtype, precision in ((jnp.float32, "highest"), (jnp.bfloat16, "default")):
        # Random numbers, since zeros take less power, which some devices turn into speed.
        factors = [jax.random.normal(key, (size, size), dtype) for key in jax.random.split(jax.random.key(0))]
        program = jax.jit(functools.partial(jnp.matmul, precision=precision))
        seconds, _ = throughput(functools.partial(program, *factors))
        result[f"{jnp.dtype(dtype).name}_tflops"] = 2 * size**3 / seconds / 1e12
    data = jnp.ones(_size(_COPY) * 2**18, jnp.float32)
    seconds, _ = throughput(functools.partial(jax.jit(lambda x: x + 1), data))
    result["copy_gb_per_s"] = 2 * data.nbytes / seconds / 1e9
    for name, value in result.items():
        print(f"ceilings  {name:18} {value:12.3f}", flush=True)
    return result


def larger_model() -> ValueFunction:
    """Returns a text lens on an encoder with random weights; every word of its text is a token."""
    tokenizer = models.tiny()[1]
    dim, tokens = _size(_DIM), _size(_TOKENS)
    config = TinyConfig(
        vocab_size=len(tokenizer),
        embedding_dim=dim,
        dim=dim,
        hidden_dim=4 * dim,
        num_layers=_size(_LAYERS),
        num_heads=_size(_HEADS),
    )
    example = jnp.zeros((1, tokens), jnp.int32)
    params = jax.jit(TinyEncoder(config).init)(jax.random.key(0), example, *one_text_a_row(example))["params"]
    model = TextClassifier(params=params, config=config, class_names=("0", "1"), max_length=tokens)
    return lenses.text(model, tokenizer, " ".join(["film"] * (tokens - 2)), value="margin")


def forward(ceiling: float) -> list[dict[str, Any]]:
    """Measures masks a second and their share of the ceiling (TFLOP/s in float32) by model and batch."""
    program, rows = jax.jit(lambda fn, masks: fn(masks)), []
    shipped = lenses.text(*models.tiny(), TEXT, value="margin")
    for name, value_fn, flag in (("shipped", shipped, _BATCHES), ("larger", larger_model(), _LARGE_BATCHES)):
        for batch in map(int, _size(flag)):
            drawn = jax.random.bernoulli(jax.random.key(0), 0.5, (batch, value_fn.width))
            seconds, compilation = throughput(functools.partial(program, value_fn.fn, drawn))
            flops = matmul_flops(jax.make_jaxpr(program)(value_fn.fn, drawn).jaxpr)
            rows.append(
                {
                    "model": name,
                    "batch": batch,
                    "masks_per_s": batch / seconds,
                    "tflops": flops / seconds / 1e12,
                    "share_of_ceiling": flops / seconds / 1e12 / ceiling,
                    "gflop_per_mask": flops / batch / 1e9,
                    "compile": compilation,
                }
            )
            print(
                f"forward   {name:8} batch {batch:6}  {batch / seconds:12.0f} masks/s  "
                f"{rows[-1]['share_of_ceiling']:6.1%} of the ceiling  compilation {compilation:.2f} s",
                flush=True,
            )
    return rows


def planted(n: int, max_degree: int) -> Spectrum:
    """Draws random sets with coefficients of .5 to 1.5 and either sign."""
    rng = np.random.default_rng(seed())
    support = np.zeros((_size(_TERMS), n), np.bool_)
    for row in support:
        row[rng.choice(n, rng.integers(1, max_degree + 1), replace=False)] = True
    support = support[masks.deduplicate(support)[0]]
    return Spectrum(support, rng.uniform(0.5, 1.5, len(support)) * rng.choice([-1, 1], len(support)))


def noisy(truth: Spectrum, drawn: np.ndarray) -> np.ndarray:
    """Returns the values of a planted function at masks, with noise."""
    deviation = np.sqrt(np.square(truth.coefficients).sum() / _SNR)
    return truth(drawn) + deviation * np.random.default_rng(1).normal(size=len(drawn))


def fit() -> list[dict[str, Any]]:
    """Measures every proxy on one table of a sparse function of degree 3."""
    n, count, rows = _size(_N), _size(_ROWS), []
    truth = planted(n, 3)
    drawn = masks.uniform(n, count + _TEST_ROWS, np.random.default_rng(0))
    values, test = noisy(truth, drawn[:count]), drawn[count:]
    for proxy in sorted(_size(_PROXIES), key=lambda proxy: proxy == "auto"):
        spectrum, seconds, compilation = latency(functools.partial(proxyspex.fit, drawn[:count], values, proxy=proxy))
        r2 = float(r2_score(truth(test), spectrum(test)))
        rows.append({"proxy": proxy, "seconds": seconds, "compile": compilation, "r2": r2, "n": n, "rows": count})
        print(
            f"fit       {proxy:9} {seconds:8.3f} s  compilation {compilation:6.2f} s  R2 {r2:.3f}",
            flush=True,
        )
    return rows


def designs() -> list[tuple[int, int]]:
    """Returns the features and budgets of the designs to decode."""
    pairs = (given.split(":") for given in _size(_DESIGNS))
    return [(int(n), int(budget)) for n, budget in pairs]


def decode() -> list[dict[str, Any]]:
    """Measures SPEX on sparse functions of degree 4: the whole decoding, and without the least squares on the host."""
    rows = []
    for n, budget in designs():
        truth = planted(n, _DEGREE)
        start = time.perf_counter()
        design = spex.design(n, budget, max_degree=_DEGREE)
        designed = time.perf_counter() - start
        values = noisy(truth, design.masks)
        _, search, compilation = latency(functools.partial(spex.decode, design, values, refit=False))
        spectrum, seconds, _ = latency(functools.partial(spex.decode, design, values))
        found = {row.tobytes() for row in spectrum.support if row.any()}
        hit = len(found & {row.tobytes() for row in truth.support})
        scores = {"recall": hit / len(truth), "precision": hit / max(len(found), 1)}
        times = {"seconds": seconds, "search": search, "compile": compilation, "design": designed}
        rows.append({"n": n, "budget": budget, "bins": 2**design.plan.b, "terms": len(truth), **times, **scores})
        print(
            f"decode    n {n:5} budget {budget:7}  {seconds:8.3f} s, search {search:8.3f} s  "
            f"compilation {compilation:6.2f} s  recall {scores['recall']:.2f}",
            flush=True,
        )
    return rows


def parts() -> Iterator[tuple[str, Any]]:
    """Yields the chosen parts with their results, one after another."""
    limits = ceilings() if {"ceilings", "forward"} & set(_PARTS.value) else {}
    if limits:
        yield "ceilings", limits
    if "forward" in _PARTS.value:
        yield "forward", forward(limits["float32_tflops"])
    for name, part in {"fit": fit, "decode": decode}.items():
        if name in _PARTS.value:
            yield name, part()


def check() -> None:
    """Checks the flags now and not after minutes.

    Raises:
      ValueError: sizes do not fit together, or parts or proxies are unknown.
    """
    for given, known in ((_PARTS, PARTS), (_PROXIES, proxyspex.PROXIES)):
        unknown = set(given.value) - set(known)
        if unknown:
            raise ValueError(f"unknown {given.name} {sorted(unknown)}; expected some of {', '.join(known)}")
    if _size(_DIM) % _size(_HEADS):
        raise ValueError(f"--dim must be a multiple of --heads, got {_size(_DIM)} and {_size(_HEADS)}")
    if 2 ** _size(_N) < _size(_ROWS) + _TEST_ROWS:
        raise ValueError(
            f"{_size(_N)} features have fewer masks than --rows plus {_TEST_ROWS} for a test; give a larger --n"
        )
    if "decode" in _PARTS.value:
        for n, budget in designs():
            spex.plan(n, budget, max_degree=_DEGREE)


def main() -> None:
    """Runs the parts and writes the result."""
    check()
    result: dict[str, Any] = {"toy": _TOY.value, "settings": {flag.name: _size(flag) for flag in SETTINGS}}
    start = time.perf_counter()
    for name, found in parts():
        result[name] = found
        save_result(_OUT.value, {**result, "seconds": time.perf_counter() - start})


if __name__ == "__main__":
    run_program(main, cold=True)
