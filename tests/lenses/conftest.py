"""Small decoders of random weights, each loaded once for a file of tests."""

import dataclasses
import functools

import pytest
from models.directories import write_model

from spex_jax import models


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    def loaded(name):
        if name.endswith("_attention"):
            model = loaded(name.removesuffix("_attention"))
            parts = {"up", "gate", "down", "norm_mlp", "norm_mlp_after"}
            layers = {key: value for key, value in model.params["layers"].items() if key not in parts}
            return dataclasses.replace(model, params={**model.params, "layers": layers})
        return models.load(write_model(tmp_path_factory.mktemp(name), name))[0]

    return functools.cache(loaded)


@pytest.fixture(scope="module")
def llama(load):
    return load("llama3")
