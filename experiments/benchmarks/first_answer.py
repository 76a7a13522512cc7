"""Times the first answer of five typical uses in a fresh process, and of shapiq beside them.

Each use runs in processes of its own (typical_uses.py): "first answer" with an empty cache of programs, "second answer"
after it in the same process, 10% larger, and "second process" with the cache of a first one. The whole time of a
process is that of two answers with the start of the interpreter and all imports; compilation (tracing and lowering
included), evaluations of the model and fit are stated apart for each answer. The uses: a Python function of 20
features at 600 masks; a film review of 36 words, with its page; 40 words before a decoder of random weights at the
shape of SmolLM2-135M at 120 masks; the 144 heads of random weights at the shape of GPT-2 small at 300 masks; 60 groups
of 10 digits at 600 retrainings. shapiq (1.8, which needs Python 3.12) answers for the Python function with the same
budget. Repeats are interleaved; medians are printed.

  python experiments/benchmarks/first_answer.py --out=experiments/benchmarks/results/first_answer.json

Expected: 6 minutes on 2 CPU cores.
"""

import collections
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from absl import flags
from typical_uses import USES

from spex_jax.runtime import run_program, save_result
from spex_jax.utils import program_cache

_USES = flags.DEFINE_list("uses", list(USES), "Uses to time.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Number of fresh processes of each.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "results/first_answer.json", "File for the result.")


def process(use: str, cache: str) -> dict[str, Any]:
    """Runs a use in a new interpreter, with a folder of compiled programs or none."""
    start = time.perf_counter()
    program = pathlib.Path(__file__).with_name("typical_uses.py")
    environment = {**os.environ, program_cache.VARIABLE: cache}
    done = subprocess.run(
        [sys.executable, program, use], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    first, second = json.loads(done.stdout.splitlines()[-1])
    return {"process": time.perf_counter() - start, "first answer": first, "second answer": second}


def measure(use: str) -> dict[str, Any]:
    """Times one use without a cache, and again with that of a process before it."""
    with tempfile.TemporaryDirectory() as folder:
        cold = process(use, "")
        if use.startswith("shapiq"):
            return {"cold": cold}
        process(use, folder)
        return {"cold": cold, "second process": process(use, folder)}


def median(found: list[Any]) -> Any:
    """Returns the median of numbers, or of each part of records."""
    if isinstance(found[0], dict):
        return {name: median([one[name] for one in found]) for name in found[0]}
    return float(np.median(found))


def main() -> None:
    """Runs all uses in turn, prints the medians and writes the result."""
    if unknown := sorted(set(_USES.value) - set(USES)):
        raise ValueError(f"unknown uses {unknown}; expected some of {', '.join(USES)}")
    uses = [use for use in _USES.value if not use.startswith("shapiq") or importlib.util.find_spec("shapiq")]
    rows = collections.defaultdict(list)
    for _ in range(_REPEATS.value):
        for use in uses:
            rows[use].append(measure(use))
    result = {use: median(found) for use, found in rows.items()}
    for use, found in result.items():
        for kind, times in found.items():
            parts = "; ".join(
                f"{name} " + " ".join(f"{part} {seconds:.2f}" for part, seconds in times[name].items())
                for name in ("first answer", "second answer")
            )
            print(f"{use}, {kind}: process {times['process']:.2f}; {parts}", flush=True)
    save_result(_OUT.value, result)


if __name__ == "__main__":
    run_program(main, cold=True)
