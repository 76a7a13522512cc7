"""Games: value functions as tables of ablations, read from a folder or made with the shipped model."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from spex_jax import ValueFunction, evaluate, lenses, masks, models

TEXTS = {
    "negation": "Her acting never fails to impress , but the plot is thin and nobody will miss the sequel .",
    "review": "The trailer promised a clever thriller, and for twenty minutes the film keeps that promise. "
    "Then the plot gives up, and not even a brilliant cast can save it from being a dull mess.",
}
SENTENCE = "Her acting never fails to impress , but the plot is thin ."
TEST_ROWS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Game:
    """A table of distinct ablations in random order.

    masks: bool [M, n]; values: float64 [M]; reference: published results on the same rows by alpha, may be empty.
    """

    name: str
    masks: np.ndarray
    values: np.ndarray
    reference: dict[int, dict[str, Any]]

    @property
    def n(self) -> int:
        """The number of features."""
        return self.masks.shape[1]

    @property
    def complete(self) -> bool:
        """Whether all 2^n values are known."""
        return self.n < 30 and len(self.masks) == 2**self.n

    def budget(self, alpha: int) -> int | None:
        """alpha n log2 n rows, None where the table does not leave 1,000 to test on.

        A table that is a little too short for alpha = 8 gives all but the last 1,000.
        """
        budget, most = int(alpha * self.n * np.log2(self.n)), len(self.masks) - TEST_ROWS
        if budget <= most:
            return budget
        return most if alpha == 8 and most >= 6 * self.n * np.log2(self.n) - 2 else None

    def table(self) -> np.ndarray:
        """The values float64 [2^n] of a complete game in the order of `masks.all_masks`."""
        found = np.empty(2**self.n)
        found[self.masks @ (1 << np.arange(self.n))] = self.values
        return found

    def value_fn(self) -> ValueFunction:
        """A complete game as a function that can be asked any mask."""
        table, weights = self.table(), 1 << np.arange(self.n)
        return ValueFunction(lambda asked: table[asked @ weights], self.n)

    def split(self, budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Masks and values to fit, masks and values to test: the last 1,000 rows, or all others of a large table."""
        test = slice(-TEST_ROWS, None) if len(self.masks) < 2**13 else slice(budget, None)
        return self.masks[:budget], self.values[:budget], self.masks[test], self.values[test]


def load(folder: str, contains: str = "") -> list[Game]:
    """Games of a folder: NAME.npz with packed masks, n and values, and reference.json with "NAME|alpha" keys."""
    path = pathlib.Path(folder)
    reference = path / "reference.json"
    known = json.loads(reference.read_text(encoding="utf-8")) if reference.exists() else {}
    games = []
    for file in sorted(path.glob("*.npz")):
        if contains not in file.stem:
            continue
        table = np.load(file)
        n = int(table["n"])
        games.append(
            Game(
                name=file.stem,
                masks=masks.unpack(table["masks"], n),
                values=table["values"].astype(np.float64),
                reference={a: known[f"{file.stem}|{a}"] for a in (1, 2, 4, 8) if f"{file.stem}|{a}" in known},
            )
        )
    if not games:
        raise ValueError(f"no NAME.npz in {folder!r} has {contains!r} in its name")
    return games


def of_the_shipped_model(contains: str = "", alpha: int = 8) -> list[Game]:
    """Games of the shipped sentiment model, one for each text, with rows for budgets up to alpha."""
    model, tokenizer = models.tiny()
    games = []
    for name, text in TEXTS.items():
        if contains not in name:
            continue
        value_fn = lenses.text(model, tokenizer, text, value="margin")
        rows = int(alpha * value_fn.n * np.log2(value_fn.n)) + TEST_ROWS
        asked = masks.uniform(value_fn.n, rows, np.random.default_rng(0))
        values = evaluate(value_fn, asked, progress=False)
        games.append(Game(name=name, masks=asked, values=values, reference={}))
    return games


def complete(folder: str, contains: str = "") -> list[Game]:
    """Games of which all 2^n values are known: a sentence read by the shipped model, and those of a folder."""
    found = []
    if contains in "shipped model":
        value_fn = lenses.text(*models.tiny(), SENTENCE, value="margin", target="positive")
        every = np.random.default_rng(0).permutation(masks.all_masks(value_fn.n))
        values = evaluate(value_fn, every, progress=False)
        found.append(Game(name="shipped model", masks=every, values=values, reference={}))
    return found + [game for game in (load(folder, contains) if folder else []) if game.complete]
