"""Outcomes that are saved as they are computed, so that a stopped run continues where it was.

Each cell, the outcome of one computation, is one line of JSON in a file beside the result, with its provenance. A cell
is reused if its key, revision, versions and device are the same, so that a result holds numbers of one revision. Cells
of a revision with uncommitted changes are not reused, since those changes may differ from run to run. --reuse=any
reuses all cells, and the result then lists their other provenances.
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
    "Which cells of an earlier run with the same --out are reused: none, those of the same revision, versions "
    "and device, or any.",
)


class Cells:
    """Stores outcomes by key, in `PATH.cells.jsonl` for the result PATH."""

    def __init__(self, result: str | pathlib.Path):
        """Reads the stored cells; a line that a stopped run left incomplete is skipped."""
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

    def get(self, key: Mapping[str, Any], compute: Callable[..., Any], *arguments: Any) -> Any:
        """Returns the outcome of compute(*arguments), JSON-like, or the stored one for the key."""
        name = json.dumps(key, sort_keys=True)
        if name in self._known:
            made_with, outcome = self._known[name]
            if made_with != self._made_with and made_with not in self._others:
                self._others.append(made_with)
            return outcome
        outcome = json.loads(json.dumps(without_nan(compute(*arguments)), allow_nan=False))
        self._known[name] = self._made_with, outcome
        spare_memory_maps()  # hundreds of computations with different shapes compile thousands of programs
        if first_process():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"key": name, "made_with": self._made_with, "outcome": outcome}, allow_nan=False)
            torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" * torn + line + "\n")
        return outcome

    def save(self, result: Mapping[str, Any]) -> None:
        """Writes the result and the other provenances of its cells."""
        save_result(self._result, {**({"other_cells_made_with": self._others} if self._others else {}), **result})
