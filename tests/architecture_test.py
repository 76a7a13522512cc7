"""Imports run one way only; see the diagram in the docstring of spex_jax."""

import ast
import pathlib

import pytest

import spex_jax

PACKAGE = pathlib.Path(spex_jax.__file__).parent
# What each part of the package may import; the leaves import nothing of it.
LEAVES = {"contexts", "details", "files", "jax_settings", "memo", "seeds", "threads", "timing", "untrusted", "version"}
MATHEMATICS = ["walsh", "masks", "interactions", "spectrum", "metrics"]
ALLOWED = {
    **{name: set() for name in LEAVES},
    "precision": {"jax_settings"},
    "walsh": set(),
    "masks": set(),
    "packed": {"masks", "untrusted"},
    "indices": {"contexts"},
    "exchange": {"indices", "untrusted"},
    "interactions": {"walsh", "masks", "indices", "exchange", *LEAVES},
    "spectrum": {"walsh", "masks", "indices", "interactions", *LEAVES},
    "metrics": {"walsh", "masks", "interactions", "spectrum", "untrusted"},
    "ends": {"masks", "spectrum"},
    "subset_program": {"masks"},
    "optimize": {"walsh", "masks", "spectrum", "subset_program"},
    "spex": {"walsh", "masks", "spectrum", "jax_settings", "precision", "seeds", "threads"},
    "proxyspex": {
        "walsh",
        "masks",
        "packed",
        "interactions",
        "spectrum",
        "ends",
        "files",
        "jax_settings",
        "precision",
        "seeds",
        "threads",
        "spex",
        "sampling",
        "methods",
    },
    "sampling": {"masks", "indices"},
    "methods": {"masks", "spectrum"},
    "options": {"sampling", "methods", "proxyspex", "baselines"},
    "derivatives": {"masks", "contexts", "seeds"},
    "validation": {"masks", "contexts", "derivatives", "indices", "interactions", "spectrum", "untrusted"},
    "asking": {"masks", "engine", "evaluation"},
    "correction": {"masks", "contexts", "indices", "interactions", "spectrum", "untrusted"},
    "explanation": {
        *{"masks", "details", "indices", "interactions", "metrics", "spectrum", "untrusted", "correction", "files"},
        *{"report", "validation", "asking", "engine"},
    },
    "report": {"details", "files", "indices", "interactions", "spectrum", "metrics", "contexts", "validation"},
    "store": {"masks", "files", "version"},
    "engine": {"masks", "details", "packed", "jax_settings", "memo", "identity"},
    "identity": {"jax_settings", "memo"},
    "evaluation": {"masks", "store", "engine", "identity"},
    "invariance": {"masks", "engine", "evaluation"},
    "models": {"jax_settings", "untrusted"},
    "lenses": {"masks", "details", "jax_settings", "seeds", "engine", "evaluation", "identity", "models"},
    "baselines": {
        "sampling",
        "methods",
        "walsh",
        "masks",
        "spectrum",
        "jax_settings",
        "precision",
        "seeds",
        "evaluation",
        "engine",
        "lenses",
    },
    "question": {"masks", "indices", "seeds", "methods", "engine"},
    "adaptive": {"methods", "masks", "metrics", "spectrum", "seeds", "proxyspex", "question"},
    "dry_run": {"methods", "options", "indices", "evaluation", "engine", "question"},
    "reading": {
        "metrics",
        "details",
        "spectrum",
        "seeds",
        "ends",
        "correction",
        "question",
        "adaptive",
        "asking",
        "explanation",
        "timing",
    },
    "pipeline": {
        *{"methods", "options"},
        *{*LEAVES, "indices", "question", "adaptive", "reading", "explanation"},
        *{"asking", "evaluation", "invariance", "engine"},
    },
    "corpus": {"methods", "options", "pipeline", "explanation", "reading", "evaluation", "engine", "store", "version"},
    "interop": {"masks", "indices", "methods", "explanation", "pipeline"},
    "runtime": LEAVES,
    "__init__": {
        *MATHEMATICS,
        "methods",
        "packed",
        "optimize",
        "spex",
        "proxyspex",
        "models",
        "lenses",
        "baselines",
        "engine",
        "evaluation",
        "invariance",
        "dry_run",
        "pipeline",
        "explanation",
        "corpus",
        "interop",
        "version",
    },
}


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "spex_jax":
            yield from [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("spex_jax.")]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    wrong = set(imported(path)) - ALLOWED[part(path)] - {part(path)}
    assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420
