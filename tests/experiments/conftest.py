import importlib.util
import pathlib
import sys

import pytest
from absl import flags

import spex_jax.runtime  # noqa: F401 - whose flags are those of all programs, and stay

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def load_program():
    """A program of experiments/ as a module, its flags parsed. They are taken away at the end, since programs share
    names of flags.
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
        if pathlib.Path(getattr(module, "__file__", None) or "/").parent == EXPERIMENTS:
            del sys.modules[name]
