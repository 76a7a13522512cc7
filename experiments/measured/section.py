"""A section of the page of measurements, and the page as Markdown."""

import dataclasses
import json
import pathlib
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parents[1]  # experiments/, from which results are named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """One group of measurements.

    Attributes:
      title: its heading.
      about: a paragraph before the tables on what was measured and how, without measured numbers.
      results: JSON files, relative to experiments/.
      tables: makes Markdown blocks (tables or sentences) from the contents of these files, in their order.
      pictures: the description and the file, relative to experiments/, of each picture.
    """

    title: str
    about: str
    results: Sequence[str]
    tables: Callable[..., list[str]]
    pictures: Sequence[tuple[str, str]] = ()

    def markdown(self) -> str:
        """Returns the section, with the results, revisions and versions from which it was made."""
        contents = [json.loads((FOLDER / name).read_text(encoding="utf-8")) for name in self.results]
        sources = [
            f"[{pathlib.PurePath(name).name}](../experiments/{name}) (revision {found['revision']}, "
            f"jax {found['versions']['jax']}, {found['device'].split(':')[0]})"
            for name, found in zip(self.results, contents, strict=True)
        ]
        pictures = [f"![{title}](../experiments/{name})" for title, name in self.pictures]
        blocks = [
            f"## {self.title}",
            " ".join(self.about.split()),
            *self.tables(*contents),
            *pictures,
            f"From {', '.join(sources)}.",
        ]
        return "\n\n".join(_wrapped(block.strip("\n")) for block in blocks) + "\n"


def _wrapped(block: str) -> str:
    """Returns a block with the lines of a paragraph wrapped; headings, lists, tables and pictures stay as they are."""
    return block if block[0] in "#*|!" else textwrap.fill(block, 120, break_on_hyphens=False, break_long_words=False)


def page(opening: str, sections: Iterable[Section], closing: str) -> str:
    """Returns the whole page, with a list of its sections after the opening."""
    sections = list(sections)
    links = [f"* [{section.title}](#{anchor(section.title)})" for section in sections]
    parts = [opening, "\n".join(links), *(section.markdown() for section in sections), closing]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def anchor(title: str) -> str:
    """Returns the name by which Markdown links to a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def significant(value: float | None, digits: int = 2) -> str:
    """Returns a number with this many significant digits and no exponent; '-' for None and NaN."""
    if value is None or value != value:
        return "-"
    return f"{float(f'{value:.{digits}g}'):,.10f}".rstrip("0").rstrip(".")


def geometric_mean(values: Iterable[float]) -> float:
    """Returns the geometric mean of positive numbers."""
    return float(np.exp(np.mean(np.log(list(values)))))


def by_alpha(rows: Iterable[dict[str, Any]], keys: Sequence[str], value: str) -> list[dict[str, Any]]:
    """Returns one row for each combination of `keys` with a column "alpha a" for each budget that has a `value`."""
    rows = list(rows)
    columns = {f"alpha {alpha:g}": None for alpha in sorted({row["alpha"] for row in rows})}
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        line = found.setdefault(tuple(row[key] for key in keys), {**{key: row[key] for key in keys}, **columns})
        line[f"alpha {row['alpha']:g}"] = row[value]
    return list(found.values())
