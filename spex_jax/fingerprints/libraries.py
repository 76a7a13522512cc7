"""Tells the code of installed libraries, which name and version identify, from a user's own code."""

import functools
import importlib.metadata
import pathlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["library_of", "name_in_library"]

_INSTALLED = {"site-packages", "dist-packages"}


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def _version(package: ModuleType) -> str | None:
    """Returns the version of an installed package; None where it is unknown."""
    found = getattr(package, "__version__", None)
    if isinstance(found, str):
        return found
    names = _distributions().get(package.__name__, [])
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names))) or None


@functools.cache
def _library(top: str) -> str | None:
    if top in sys.stdlib_module_names or top == "builtins":
        return "python {}.{}".format(*sys.version_info[:2])
    package = sys.modules[top]
    file = getattr(package, "__file__", None)
    places = [file] if isinstance(file, str) else list(getattr(package, "__path__", []))
    if not places or not all(_INSTALLED & set(pathlib.Path(place).parts) for place in places):
        return None
    version = _version(package)
    return None if version is None else f"{top} {version}"


def library_of(module: Any) -> str | None:
    """Returns the library and version of a module's name; None for a user's own code and for this package."""
    if not isinstance(module, str):
        return None
    top = module.partition(".")[0]
    if top in ("__main__", "spex_jax") or (top not in sys.modules and top not in sys.stdlib_module_names):
        return None
    return _library(top)


def name_in_library(thing: Any) -> tuple[str, str] | None:
    """Returns the library and the full name of a function, class or constant found there by name, else None."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", getattr(thing, "__name__", None))
    library = library_of(module)
    if library is None or not isinstance(name, str):
        return None
    found: Any = sys.modules.get(str(module))
    for part in name.split("."):
        found = getattr(found, part, None)
    return (library, f"{module}.{name}") if found is thing else None
