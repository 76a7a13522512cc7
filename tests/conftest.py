import os
import pathlib

import jax
import numpy as np
import pytest

import spex_jax


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


@pytest.fixture(scope="module")
def quick_compilation():
    """For programs that run on a few tokens only: compilation with few optimisations takes half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
