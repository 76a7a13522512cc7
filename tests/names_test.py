"""Modules of the package are found by their names, and `dir(spex_jax)` lists what is public."""

import importlib
import pkgutil

import pytest

import spex_jax

MODULES = [info.name for info in pkgutil.walk_packages(spex_jax.__path__, "spex_jax.")]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_no_name_of_a_package_hides_its_module(name):
    package, _, module = name.rpartition(".")
    found = importlib.import_module(name)
    assert getattr(importlib.import_module(package), module) is found


def test_dir_lists_the_public_names_only():
    assert dir(spex_jax) == sorted(spex_jax.__all__)
    assert all(hasattr(spex_jax, name) for name in spex_jax.__all__)
