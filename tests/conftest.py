import contextlib
import importlib.util
import os
import pathlib
import sys

import jax
import numpy as np
import pytest
from absl import flags

import spex_jax
import spex_jax.runtime  # whose flags are those of all programs, and stay
from spex_jax.utils import array_api, program_cache

# Nothing is left in a user's folder, and nothing that was is used, also by programs that tests start.
os.environ[program_cache.VARIABLE] = ""
program_cache.keep_programs("")

# Programs of tests run for milliseconds: XLA is told to optimise less, which takes two thirds of the time; the older
# emitters of loops, which a later XLA no longer has, and one piece of code in the place of 32 take half of that.
_XLA_FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jax.version.__version_info__ < (0, 11):
    _XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_XLA_FLAGS))  # read when the first array is made

EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"


# Several devices are further processes, benchmarks run whole programs, and perceptrons are compiled everywhere.
_SLOW = ("multi_device_test.py", "trained_mlp_test.py", "experiments/benchmarks/")


def pytest_collection_modifyitems(items):
    """Marks as slow whole files and folders, and the tests of parameters that train perceptrons."""
    for item in items:
        given = item.callspec.params.values() if hasattr(item, "callspec") else []
        trains = any("mlp" in str(value) or "perceptrons" in str(value) for value in given)
        if trains or any(name in item.nodeid for name in _SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def _few_programs():
    """Drops the compiled programs before there are too many."""
    spex_jax.runtime.spare_memory_maps()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_folder():
    """Real models and data sets, which are not part of the repository."""
    folder = os.environ.get("SPEX_JAX_DATA")
    if not folder:
        pytest.skip("SPEX_JAX_DATA is not set: the folder of real models and data sets")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def tiny():
    return spex_jax.models.tiny()


@pytest.fixture
def on_an_accelerator(monkeypatch):
    """The paths of accelerators, whose programs run on a CPU too."""
    monkeypatch.setattr(array_api, "host_is_best", lambda: False)


@pytest.fixture(scope="module")
def quick_compilation():
    """For programs that run on a few tokens only: compilation with few optimisations takes half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@contextlib.contextmanager
def programs():
    """A function that loads a program of experiments/ as a module, its flags parsed. They are taken away at the end,
    since programs share names of flags.
    """
    before = set(flags.FLAGS)

    def load(name):
        path = EXPERIMENTS / f"{name}.py"
        sys.path.insert(0, str(path.parent))
        try:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        flags.FLAGS([path.name])
        return module

    yield load
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    # What programs share defines flags too, when it is imported for the first time.
    for name, module in list(sys.modules.items()):
        if EXPERIMENTS in pathlib.Path(getattr(module, "__file__", None) or "/").parents:
            del sys.modules[name]


@pytest.fixture(scope="module")
def load_program():
    """See `programs`; for all tests of a module."""
    with programs() as load:
        yield load


@pytest.fixture
def load_one_program():
    """See `programs`; for one test."""
    with programs() as load:
        yield load
