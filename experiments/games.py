"""Games: value functions as tables of ablations, read from a folder or made with the shipped model."""

import csv
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from spex_jax import ValueFunction, evaluate, lenses, models
from spex_jax.core import masks

TEXTS = {
    "negation": "Her acting never fails to impress , but the plot is thin and nobody will miss the sequel .",
    "review": "The trailer promised a clever thriller, and for twenty minutes the film keeps that promise. "
    "Then the plot gives up, and not even a brilliant cast can save it from being a dull mess.",
}
SENTENCE = "Her acting never fails to impress , but the plot is thin ."
TEST_ROWS = 1000
ALPHAS = (1, 2, 4, 8)  # of the published results
GROUPS = ("8-15", "16-31", "32-63", "64-127", "128-255", "256-511", "512-1023", "1024-")  # lengths of reviews, in words


@dataclasses.dataclass(frozen=True, kw_only=True)
class Game:
    """A table of distinct ablations in random order.

    masks: bool [M, n]; values: float64 [M]; reference: published results on the same rows by alpha, may be empty; live:
    the value function that evaluates any mask, if there is one, and store: the folder of its stored values; group: the
    group of games with which it is averaged; coordinates: float [n, d], where the features are, None where they have no
    places.
    """

    name: str
    masks: np.ndarray
    values: np.ndarray
    reference: dict[float, dict[str, Any]] = dataclasses.field(default_factory=dict)
    live: ValueFunction | None = None
    store: str | None = None
    group: str | None = None
    coordinates: np.ndarray | None = None

    @property
    def n(self) -> int:
        """The number of features."""
        return self.masks.shape[1]

    @property
    def complete(self) -> bool:
        """Whether all 2^n values are known."""
        return self.n < 30 and len(self.masks) == 2**self.n

    @functools.cached_property
    def content(self) -> str:
        """A hash of the table, and of the places of its features."""
        places = b"" if self.coordinates is None else self.coordinates.tobytes()
        return hashlib.sha256(self.masks.tobytes() + self.values.tobytes() + places).hexdigest()[:16]

    def budget(self, alpha: float) -> int | None:
        """Returns alpha n log2 n, or None where the table leaves too few rows to test on: 1,000, or a quarter of a
        complete game with less than 4,000.

        For a table that is a little too short for alpha = 8 the budget is all but the last 1,000 rows.
        """
        tested = min(TEST_ROWS, len(self.masks) // 4) if self.complete else TEST_ROWS
        budget, most = int(alpha * self.n * np.log2(self.n)), len(self.masks) - tested
        if budget <= most:
            return budget
        return most if alpha == 8 and most >= 6 * self.n * np.log2(self.n) - 2 else None

    def table(self) -> np.ndarray:
        """Returns the values float64 [2^n] of a complete game in the order of `masks.all_masks`."""
        found = np.empty(2**self.n)
        found[self.masks @ (1 << np.arange(self.n))] = self.values
        return found

    def value_fn(self) -> ValueFunction | None:
        """Returns the game as a function of any mask, or None where only a table is known."""
        if self.live is not None:
            return self.live
        if not self.complete:
            return None
        table, weights = self.table(), 1 << np.arange(self.n)
        return ValueFunction(lambda rows: table[rows @ weights], self.n)

    def split(self, budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns masks and values to fit, and masks and values to test: the last 1,000 rows, or all others of a large
        or complete table.
        """
        few = len(self.masks) < 2**13 and not self.complete
        test = slice(-TEST_ROWS, None) if few else slice(budget, None)
        return self.masks[:budget], self.values[:budget], self.masks[test], self.values[test]


def load(folder: str, contains: str = "") -> list[Game]:
    """Loads a folder of games: NAME.npz with packed masks, n, values and perhaps coordinates, and reference.json with
    "NAME|alpha" keys.
    """
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
                reference={a: known[f"{file.stem}|{a}"] for a in ALPHAS if f"{file.stem}|{a}" in known},
                coordinates=table["coordinates"] if "coordinates" in table.files else None,
            )
        )
    if not games:
        raise ValueError(f"no NAME.npz in {folder!r} has {contains!r} in its name")
    return games


def folder_of(given: str | None) -> str | None:
    """Returns the folder of a flag; without the flag, games/ beside the folder SPEX_JAX_DATA if there is one. "none"
    gives None.
    """
    if given is not None:
        return None if given == "none" else given
    data = os.environ.get("SPEX_JAX_DATA")
    path = pathlib.Path(data).resolve().parent / "games" if data else None
    return str(path) if path is not None and path.is_dir() else None


def alphas_of(given: list[str]) -> list[float]:
    """Parses the budgets of a flag, in units of n log2 n, the smallest first.

    Raises:
      ValueError: there are none, or one is not a number above 0.
    """
    try:
        found = sorted({float(alpha) for alpha in given})
    except ValueError as error:
        raise ValueError(f"--alphas={','.join(given)} must be numbers") from error
    if not found or found[0] <= 0:
        raise ValueError(f"--alphas={','.join(given)} must be numbers above 0, at least one")
    return found


def unseen(test: np.ndarray, evaluated: np.ndarray) -> np.ndarray:
    """Returns which test masks bool [T, n] are not among the evaluated ones, bool [T]."""
    seen = {row.tobytes() for row in masks.pack(evaluated)}
    return np.array([row.tobytes() not in seen for row in masks.pack(test)], np.bool_)


def of_value_function(name: str, value_fn: ValueFunction, alpha: float, store: str | None = None, **more: Any) -> Game:
    """Makes a game of a value function: uniform masks for budgets up to alpha, or all masks where there are not so
    many.
    """
    rows = int(alpha * value_fn.n * np.log2(value_fn.n)) + TEST_ROWS
    rng = np.random.default_rng(0)
    if value_fn.n < 30 and 2**value_fn.n <= rows:
        drawn = rng.permutation(masks.all_masks(value_fn.n))
    else:
        drawn = masks.uniform(value_fn.n, rows, rng)
    values = evaluate(value_fn, drawn, store=store, progress=False)
    known = {"live": value_fn, "store": store, "coordinates": value_fn.coordinates, **more}
    return Game(name=name, masks=drawn, values=values, **known)


def of_the_shipped_model(contains: str = "", alpha: float = 8, store: str | None = None) -> list[Game]:
    """Makes games of the shipped sentiment model, one for each text, with rows for budgets up to alpha."""
    model, tokenizer = models.tiny()
    return [
        of_value_function(name, lenses.text(model, tokenizer, text, value="margin"), alpha, store)
        for name, text in TEXTS.items()
        if contains in name
    ]


def of_reviews(
    path: str,
    model: Any,
    tokenizer: Any,
    each: int,
    alpha: float,
    store: str | None = None,
    groups: Collection[str] = GROUPS,
) -> Iterator[Game | str]:
    """Yields games of the first reviews of each length of SPEX's sentiment data, or why a model cannot read one.

    Args:
      path: sentiment.csv of the paper's repository: 160 reviews in 8 groups of 20 by their number of words.
      model, tokenizer: a sentiment classifier; words are replaced by its mask token, the value is the margin of the
        class that it gives the whole review.
      each: reviews of each group.
      alpha: the largest budget, in units of n log2 n.
      store: folder for the ablations.
      groups: the groups to yield.

    Raises:
      ValueError: the file cannot be read, or does not have that form.
    """
    try:
        with pathlib.Path(path).open(encoding="utf-8", newline="") as file:
            texts = [row["review"] for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"cannot read --data {path!r}, a table with a column 'review': {error!r}") from error
    size = max(1, len(texts) // len(GROUPS))
    for place, group in enumerate(GROUPS):
        if group not in groups:
            continue
        for number, text in list(enumerate(texts))[place * size : place * size + min(each, size)]:
            name = f"review {number + 1}"
            try:
                value_fn = lenses.text(model, tokenizer, text, value="margin")
            except ValueError as error:
                yield f"{name} ({group} words): {error}"
                continue
            yield of_value_function(name, value_fn, alpha, store, group=group)


def complete(folder: str, contains: str = "") -> list[Game]:
    """Returns games of which all 2^n values are known: a sentence read by the shipped model, and those of a folder."""
    found = []
    if contains in "shipped model":
        value_fn = lenses.text(*models.tiny(), SENTENCE, value="margin", target="positive")
        every = np.random.default_rng(0).permutation(masks.all_masks(value_fn.n))
        values = evaluate(value_fn, every, progress=False)
        places = value_fn.coordinates
        found.append(Game(name="shipped model", masks=every, values=values, live=value_fn, coordinates=places))
    return found + [game for game in (load(folder, contains) if folder else []) if game.complete]
