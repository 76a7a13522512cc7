"""Measures the ablation engine: its overhead, the compilation cache, several devices, and killed runs.

  overhead   evaluate() against a bare jitted loop over the same masks, for device functions of about 10 and 100 ms a
             batch, with and without a store; the project's bounds are 3% and 1%
  cache      the compilation of the main job in a second process with a warm cache over the cold one; the bound is 1/4
  scaling    masks a second on 1, 2 and 4 CPU devices of this machine
  faults     runs killed by SIGKILL at random moments and continued: wrong answers, acknowledged ablations that were
             lost, ablations that were evaluated twice

  python experiments/benchmarks/engine.py --out=experiments/benchmarks/results/engine.json
  python experiments/benchmarks/engine.py --parts=overhead,scaling

Expected: 8 minutes on 2 CPU cores, most of it the killed runs.
"""

import functools
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import spex_jax
from spex_jax import Explanation, ValueFunction, evaluate
from spex_jax.core import masks as masks_lib
from spex_jax.runtime import run_parts, run_program, seed
from spex_jax.store import Store, read

PROGRAM = pathlib.Path(__file__).parents[1] / "feature_attribution.py"

_PARTS = flags.DEFINE_list("parts", ["overhead", "cache", "scaling", "faults"], "Parts to run.")
_MILLISECONDS = flags.DEFINE_list("milliseconds", ["10", "100"], "Overhead: milliseconds of a batch.")
_SECONDS = flags.DEFINE_float("seconds", 3.0, "Overhead and scaling: seconds of one loop.", lower_bound=0.05)
_REPEATS = flags.DEFINE_integer("repeats", 9, "Overhead: pairs of loops.", lower_bound=1)
_KILLED = flags.DEFINE_integer("killed", 200, "Faults: runs to kill.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "results/engine.json", "File for the result.")

_BATCH, _N, _SIZE = 256, 64, 128
_FEATURES, _PAUSE = 10, 0.002  # features of a run to kill, and seconds of one of its calls


def chain(products: Any, weights: jax.Array, masks: jax.Array) -> jax.Array:
    """Returns values [B] after the given number of matrix products."""
    x = jnp.pad(masks.astype(jnp.float32), ((0, 0), (0, _SIZE - masks.shape[1])))
    return jax.lax.fori_loop(0, products, lambda _, y: jnp.tanh(y @ weights), x).sum(axis=1)


def value_function(products: int) -> ValueFunction:
    """Returns a device function that takes the time of its matrix products; their number is not compiled in."""
    weights = jax.random.normal(jax.random.key(0), (_SIZE, _SIZE)) / _SIZE**0.5
    return ValueFunction(
        jax.tree_util.Partial(chain, jnp.asarray(products), weights), _N, on_device=True, identity=f"chain {products}"
    )


def batch_seconds(products: int) -> float:
    """Returns the seconds of one batch, the least of five."""
    fn, masks = value_function(products).fn, np.ones((_BATCH, _N), np.bool_)
    program, seconds = jax.jit(lambda f, m: f(m)), []
    program(fn, masks).block_until_ready()
    for _ in range(5):
        start = time.perf_counter()
        program(fn, masks).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def overhead() -> list[dict[str, float]]:
    """Measures the engine's time over that of a bare loop, less 1: medians over pairs that run one after the other."""
    rows = []
    for wanted in map(float, _MILLISECONDS.value):
        products = 16
        for _ in range(3):  # each estimate is better than the last
            products = max(1, round(products * wanted / 1e3 / batch_seconds(products)))
        batches = max(2, round(_SECONDS.value / wanted * 1e3))
        value_fn = value_function(products)
        masks = masks_lib.uniform(_N, batches * _BATCH, np.random.default_rng(seed()))
        program = jax.jit(lambda f, m: f(m))

        def bare(program: Any = program, value_fn: ValueFunction = value_fn, masks: np.ndarray = masks) -> None:
            found = [program(value_fn.fn, masks[i : i + _BATCH]) for i in range(0, len(masks), _BATCH)]
            jax.device_get(found)

        def engine(store: str | None = None, value_fn: ValueFunction = value_fn, masks: np.ndarray = masks) -> None:
            evaluate(value_fn, masks, batch_size=_BATCH, store=store, progress=False)

        def stored(engine: Any = engine) -> None:
            with tempfile.TemporaryDirectory() as folder:
                engine(str(pathlib.Path(folder) / "store"))

        ratios: dict[str, list[float]] = {"engine": [], "engine with a store": [], "bare loop again": []}
        seconds = []
        for repeat in range(_REPEATS.value + 1):
            for name, call in (("engine", engine), ("engine with a store", stored), ("bare loop again", bare)):
                spent = []
                for which in (bare, call):
                    start = time.perf_counter()
                    which()
                    spent.append(time.perf_counter() - start)
                if repeat:  # the first of all compiles
                    ratios[name].append(spent[1] / spent[0])
                    seconds.append(spent[0])
        milliseconds = 1e3 * float(np.median(seconds)) / batches
        row = {"batch_ms": milliseconds, "batches": batches}
        row |= {name: float(np.median(found)) - 1 for name, found in ratios.items()}
        rows.append(row)
        print("overhead", {name: round(value, 4) for name, value in row.items()}, flush=True)
    return rows


def cache() -> dict[str, float]:
    """Measures the seconds that the main job compiles, in a first and in later processes."""
    compile_seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(4):
            out = pathlib.Path(folder) / f"out{run}"
            command = [sys.executable, str(PROGRAM), f"--out={out}", f"--compilation_cache={folder}/programs"]
            subprocess.run(command, check=True, capture_output=True)
            compile_seconds.append(Explanation.load(out / "explanation").timings["compile"])
        stored = sum(file.stat().st_size for file in pathlib.Path(folder, "programs").iterdir())
    warm = float(np.median(compile_seconds[1:]))
    return {"cold": compile_seconds[0], "warm": warm, "share": warm / compile_seconds[0], "cache_bytes": stored}


SCALING = """
import json, sys, time
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import numpy as np
import spex_jax
from spex_jax.core import masks as masks_lib

text = ("The trailer promised a clever thriller, and for twenty minutes the film never fails to keep that promise. "
        "Then the plot gives up, and not even a brilliant cast can save it from being a dull, lifeless mess.")
value_fn = spex_jax.lenses.text(*spex_jax.models.tiny(), text, value="margin")
masks = masks_lib.uniform(value_fn.n, int(sys.argv[2]), np.random.default_rng(0))
seconds = []
for _ in range(6):
    start = time.perf_counter()
    values = spex_jax.evaluate(value_fn, masks, progress=False)
    seconds.append(time.perf_counter() - start)
print(json.dumps({"seconds": min(seconds[1:]), "values": values.tolist()}))
"""


def scaling(of: tuple[int, ...] = (1, 2, 4)) -> list[dict[str, float]]:
    """Measures masks a second of the shipped model on devices that share this machine's cores."""
    rows: list[dict[str, float]] = []
    first: np.ndarray | None = None
    count = max(_BATCH, int(_SECONDS.value * 1000) // _BATCH * _BATCH)
    for devices in of:
        command = [sys.executable, "-c", SCALING, str(devices), str(count)]
        environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        found = json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)
        values = np.array(found["values"])
        first = values if first is None else first
        rows.append(
            {
                "devices": devices,
                "masks_per_s": count / found["seconds"],
                "largest_difference": float(np.abs(values - first).max()),
            }
        )
        rows[-1]["speedup"] = rows[-1]["masks_per_s"] / rows[0]["masks_per_s"]
        print("scaling", rows[-1], flush=True)
    return rows


class _LoggingStore(Store):
    """A store that logs the masks that it has acknowledged."""

    log = ""

    def append(self, masks: np.ndarray, values: np.ndarray) -> None:
        super().append(masks, values)
        with pathlib.Path(self.log).open("ab", buffering=0) as file:
            file.write(masks_lib.pack(masks).tobytes())


def _numbers(path: pathlib.Path) -> np.ndarray:
    """Reads the masks of a log, each as one number."""
    packed = np.fromfile(path, np.uint8) if path.exists() else np.zeros(0, np.uint8)
    return packed.reshape(-1, 2).astype(np.int64) @ [256, 1]


def _slow_values(masks: np.ndarray, log: str) -> np.ndarray:
    with pathlib.Path(log).open("ab", buffering=0) as file:
        file.write(masks_lib.pack(masks).tobytes())
    time.sleep(_PAUSE)
    return np.sin(masks @ np.arange(1.0, _FEATURES + 1))


def run_to_kill(folder: str, on_device: bool, killed: bool) -> None:
    """Runs `explain` on all 2^10 masks and writes the values into a file; a run to be `killed` marks its start."""
    _LoggingStore.log = str(pathlib.Path(folder) / "acknowledged")
    sys.modules["spex_jax.engine.evaluation"].Store = _LoggingStore  # type: ignore[attr-defined]
    if on_device:
        fn: Any = jax.tree_util.Partial(chain, jnp.asarray(64), jnp.eye(_SIZE))
    else:
        fn = functools.partial(_slow_values, log=str(pathlib.Path(folder) / "asked"))
    value_fn = ValueFunction(fn, _FEATURES, on_device=on_device, identity="killed")
    if killed:
        (pathlib.Path(folder) / "started").touch()
    answer = spex_jax.explain(
        value_fn, budget=2**_FEATURES, store=pathlib.Path(folder) / "store", batch_size=8, progress=False
    )
    np.save(pathlib.Path(folder) / "answer.npy", answer.values)


def faults() -> dict[str, Any]:
    """Kills runs at random moments and continues each of them to its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spex_jax"])
    rng, counts = (
        random.Random(seed()),
        {"killed": 0, "finished before": 0, "lost": 0, "acknowledged asked again": 0, "wrong": 0},
    )
    stored, most_again = [], 0  # ablations in the store at each kill, most that one run evaluated twice
    answers: dict[bool, np.ndarray] = {}
    lengths: dict[bool, float] = {}
    for number in itertools.count(-2):  # the first two, one of each kind, are not killed
        if counts["killed"] == _KILLED.value:
            break
        on_device = bool(number % 2)
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            process = context.Process(target=run_to_kill, args=(folder, on_device, True))
            process.start()
            while not (place / "started").exists():
                time.sleep(0.001)
            start = time.perf_counter()
            if number >= 0:
                process.join(rng.uniform(0, 1.05 * lengths[on_device]))
                counts["killed" if process.is_alive() else "finished before"] += 1
                process.kill()
            process.join()
            if number < 0:
                lengths[on_device] = time.perf_counter() - start
                answers[on_device] = np.load(place / "answer.npy")
                continue
            acknowledged = _numbers(place / "acknowledged")
            contents = read(place / "store") if (place / "store").exists() else None
            kept: set[Any] = set()
            if contents is not None and contents.header is not None:  # else the run was killed before
                kept = set(contents.packed.astype(np.int64) @ [256, 1])
            counts["lost"] += len(set(acknowledged) - kept)
            stored.append(len(kept))
            before = len(_numbers(place / "asked"))
            (place / "answer.npy").unlink(missing_ok=True)
            process = context.Process(target=run_to_kill, args=(folder, on_device, False))
            process.start()
            process.join()
            counts["wrong"] += not np.array_equal(np.load(place / "answer.npy"), answers[on_device])
            asked = _numbers(place / "asked")
            counts["acknowledged asked again"] += len(set(asked[before:]) & set(acknowledged))
            most_again = max(most_again, len(asked) - len(set(asked)))
        if number % 20 == 19:
            print("faults", number + 1, counts, flush=True)
    return {
        **counts,
        "most asked twice in one run, batch of 8": most_again,
        "stored when killed, quartiles": np.percentile(stored, [0, 25, 50, 75, 100]).tolist(),
        "run_seconds": {"host": lengths[False], "device": lengths[True]},
    }


def main() -> None:
    """Runs the parts and writes the result."""
    parts = {"overhead": overhead, "cache": cache, "scaling": scaling, "faults": faults}
    run_parts(parts, _PARTS.value, _OUT.value)


if __name__ == "__main__":
    run_program(main, cold=True)
