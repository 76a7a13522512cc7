"""Imports run one way only; see the diagram in the docstring of spex_jax."""

import ast
import pathlib

import pytest

import spex_jax

PACKAGE = pathlib.Path(spex_jax.__file__).parent
# What each part of the package may import; the leaves import nothing of it.
LEAVES = {"details", "files", "indices", "jax_settings", "memo", "threads", "timing", "untrusted", "version"}
MATHEMATICS = ["walsh", "masks", "interactions", "spectrum", "metrics"]
ALLOWED = {
    **{name: set() for name in LEAVES},
    "precision": {"jax_settings"},
    "walsh": set(),
    "masks": set(),
    "packed": {"masks", "untrusted"},
    "exchange": {"indices", "untrusted"},
    "interactions": {"walsh", "masks", "exchange", *LEAVES},
    "spectrum": {"walsh", "masks", "interactions", *LEAVES},
    "metrics": {"walsh", "masks", "interactions", "spectrum", "untrusted"},
    "ends": {"masks", "spectrum"},
    "subset_program": {"masks"},
    "optimize": {"walsh", "masks", "spectrum", "subset_program"},
    "spex": {"walsh", "masks", "spectrum", "jax_settings", "precision", "threads"},
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
        "threads",
        "spex",
        "sampling",
        "methods",
    },
    "sampling": {"masks", "indices"},
    "methods": {"masks", "spectrum"},
    "options": {"sampling", "methods", "proxyspex", "baselines"},
    "contexts": {"indices"},
    "derivatives": {"masks", "contexts"},
    "validation": {"masks", "contexts", "derivatives", "indices", "interactions", "spectrum", "untrusted"},
    "asking": {"masks", "evaluate"},
    "correction": {"masks", "contexts", "indices", "interactions", "spectrum", "untrusted"},
    "explanation": {
        *{"masks", "details", "indices", "interactions", "metrics", "spectrum", "untrusted", "correction", "files"},
        *{"report", "validation", "asking", "evaluate"},
    },
    "report": {"details", "files", "indices", "interactions", "spectrum", "metrics", "contexts", "validation"},
    "store": {"masks", "files", "version"},
    "engine": {"masks", "jax_settings", "memo", "identity"},
    "identity": {"jax_settings", "memo"},
    "evaluate": {"masks", "store", "engine", "identity"},
    "invariance": {"masks", "evaluate"},
    "models": {"jax_settings", "untrusted"},
    "lenses": {"masks", "interactions", "jax_settings", "engine", "evaluate", "identity", "models"},
    "baselines": {
        *{"walsh", "masks", "spectrum", "jax_settings", "precision", "evaluate", "lenses"},
        *{"sampling", "methods"},
    },
    "question": {"masks", "packed", "indices", "methods", "evaluate", "lenses"},
    "adaptive": {"masks", "methods", "metrics", "spectrum", "proxyspex", "question"},
    "estimate": {"evaluate", "lenses", "methods", "options", "question"},
    "reading": {"metrics", "spectrum", "ends", "correction", "question", "adaptive", "asking", "explanation", "timing"},
    "explain": {
        *{*LEAVES, "question", "adaptive", "reading", "explanation"},
        *{"asking", "evaluate", "invariance", "lenses", "methods", "options"},
    },
    "corpus": {
        "methods",
        "options",
        "explain",
        "explanation",
        "reading",
        "evaluate",
        "engine",
        "lenses",
        "store",
        "version",
    },
    "interop": {"masks", "indices", "methods", "explanation", "explain"},
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
        "evaluate",
        "invariance",
        "estimate",
        "explain",
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
