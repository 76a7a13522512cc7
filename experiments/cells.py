"""Results that are kept as they come, so that a run that was stopped continues where it was.

Each cell, the outcome of one computation, is one line of JSON in a file beside the result, with what it was made with.
A cell is used again where its key and the revision, versions and device are the same, so that a result holds numbers of
one revision; none of a revision with changes on top is, which may be others each time. --reuse=any takes them all, and
the result says with what else its cells were made.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from spex_jax.runtime import first_process, provenance, save_result, spare_memory_maps, without_nan

_REUSE = flags.DEFINE_enum(
    "reuse",
    "same",
    ["none", "same", "any"],
    "Which results of an earlier run with the same --out are used again: none, those of the same revision, versions "
    "and device, or any.",
)


class Cells:
    """Outcomes by key, in `PATH.cells.jsonl` for the result PATH."""

    def __init__(self, result: str | pathlib.Path):
        """Reads what is there; a line that a stopped run left incomplete counts for nothing."""
        self._result = pathlib.Path(result).expanduser()
        self._path = self._result.with_name(f"{self._result.name}.cells.jsonl")
        self._made_with = provenance()
        self._known: dict[str, tuple[dict[str, Any], Any]] = {}
        self._others: list[dict[str, Any]] = []
        if _REUSE.value == "none" or not self._path.exists():
            return
        changed = self._made_with["revision"].endswith("-dirty")
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                cell = json.loads(line)
                key, made_with, outcome = cell["key"], cell["made_with"], cell["outcome"]
            except (ValueError, KeyError, TypeError):
                continue
            if _REUSE.value == "any" or (made_with == self._made_with and not changed):
                self._known[key] = made_with, outcome

    def get(self, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The outcome of `compute`, JSON-like, or what it was before for the same key."""
        name = json.dumps(key, sort_keys=True)
        if name in self._known:
            made_with, outcome = self._known[name]
            if made_with != self._made_with and made_with not in self._others:
                self._others.append(made_with)
            return outcome
        outcome = json.loads(json.dumps(without_nan(compute()), allow_nan=False))
        self._known[name] = self._made_with, outcome
        spare_memory_maps()  # hundreds of computations of other shapes compile thousands of programs
        if first_process():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"key": name, "made_with": self._made_with, "outcome": outcome}, allow_nan=False)
            torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" * torn + line + "\n")
        return outcome

    def save(self, result: Mapping[str, Any]) -> None:
        """Writes the result, and with what else the cells in it were made."""
        save_result(self._result, {**({"other_cells_made_with": self._others} if self._others else {}), **result})
