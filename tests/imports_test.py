"""`import spex_jax` is quick: libraries that take more than 20 ms to import are imported where they are used, unless
every fit needs them (chex and scipy.linalg).
"""

import json
import subprocess
import sys

LIBRARIES = {
    *("flax", "IPython", "matplotlib", "optax", "orbax", "pandas", "PIL", "pytest", "rich", "shapiq", "sklearn"),
    *("torch", "transformers", "yaml"),
}
OF_SCIPY = {
    *("cluster", "constants", "differentiate", "fft", "integrate", "interpolate", "io", "ndimage", "odr", "optimize"),
    *("signal", "sparse", "spatial", "special", "stats"),
}
PROGRAM = """
import json, sys

import jax

def imported_since(before):
    return sorted({".".join(name.split(".")[:2]) for name in sys.modules.keys() - before})

before = set(sys.modules)
import spex_jax

first = imported_since(before)
spex_jax.explain(lambda masks: masks[:, 0] + 2.0 * masks[:, 1] * masks[:, 2], n=12, budget=400, progress=False)
print(json.dumps([first, imported_since(before)]))
"""


def test_heavy_libraries_are_imported_where_they_are_used():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    by_package, by_explain = map(set, json.loads(run.stdout.splitlines()[-1]))
    of_scipy = {f"scipy.{name}" for name in OF_SCIPY}
    assert not by_package & (LIBRARIES | of_scipy)
    assert not by_explain & LIBRARIES  # it draws masks and bootstraps with scipy.stats
    assert {"scipy.linalg", "spex_jax.core"} <= by_package  # the names are those of modules
