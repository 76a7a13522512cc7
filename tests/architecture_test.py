"""The rooms of the house: which folder may import which, and how large files and folders may be."""

import ast
import pathlib

import pytest

import spex_jax

PACKAGE = pathlib.Path(spex_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# What the modules of each folder may import from other folders; `interop` and `runtime` are modules of their own.
ROOMS = {
    "utils": set(),
    "core": {"utils"},
    "fingerprints": {"utils"},
    "models": {"utils"},
    "runtime": {"utils"},
    "store": {"core", "utils"},
    "spex": {"core", "utils"},
    "methods": {"core"},
    "analysis": {"core", "utils"},
    "engine": {"core", "fingerprints", "store", "utils"},
    "proxyspex": {"core", "methods", "spex", "utils"},
    "report": {"analysis", "core", "engine", "utils"},
    "lenses": {"core", "engine", "fingerprints", "models", "utils"},
    "baselines": {"core", "engine", "lenses", "methods", "utils"},
    "pipeline": {
        *{"analysis", "baselines", "core", "engine", "methods", "proxyspex", "report", "store", "utils"},
    },
    "interop": {"core", "methods", "pipeline"},
    "__init__": {
        *{"analysis", "baselines", "core", "engine", "interop", "lenses", "methods", "models", "pipeline", "proxyspex"},
        *{"spex", "utils"},
    },
}
MOST_FLOORS, MOST_FILES, MOST_LINES = 10, 13, 400


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """The rooms that a file imports from, its own left out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("spex_jax.")}
    return found - {room(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_from_the_rooms_below_and_stays_readable(path):
    assert imported(path) <= ROOMS[room(path)]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_table_has_no_arrow_that_nothing_uses():
    used = {name: set() for name in ROOMS}
    for path in FILES:
        used[room(path)] |= imported(path)
    assert used == ROOMS


def test_floors_are_few_and_no_arrow_runs_back_up():
    floors = {}
    while len(floors) < len(ROOMS):
        ready = {name for name, below in ROOMS.items() if name not in floors and below <= floors.keys()}
        assert ready, f"a circle among {ROOMS.keys() - floors.keys()}"
        floors |= {name: 1 + max((floors[below] for below in ROOMS[name]), default=0) for name in ready}
    assert max(floors.values()) <= MOST_FLOORS


def test_folders_hold_few_files():
    for folder in {path.parent for path in FILES}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder.relative_to(PACKAGE)
