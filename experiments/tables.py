"""Tables of results as Markdown, for terminals, pages and README files."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax.utils.atomic_write import replacing


def shown(value: Any, digits: int = 3) -> str:
    """Formats a number for a table; '-' where it is missing."""
    if value is None or value != value:
        return "-"
    if isinstance(value, float):
        return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.2g}"
    return str(value)


def mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values that are not missing."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, digits: int = 3) -> str:
    """Returns a table with a row for each mapping; numbers align right. Columns are those of all rows, in order."""
    if not rows:
        return "(nothing)\n"
    names = list(dict.fromkeys(name for row in rows for name in row)) if columns is None else list(columns)
    numeric = [all(isinstance(row.get(name), int | float | None) for row in rows) for name in names]
    cells = [[shown(row.get(name), digits).replace("|", "\\|") for name in names] for row in rows]
    widths = [max(len(name), *(len(row[place]) for row in cells)) for place, name in enumerate(names)]

    def line(parts: Sequence[str]) -> str:
        return (
            "| "
            + " | ".join(
                part.rjust(width) if right else part.ljust(width)
                for part, width, right in zip(parts, widths, numeric, strict=True)
            )
            + " |"
        )

    rule = "|" + "|".join("-" * (width + 1) + ("-:"[right]) for width, right in zip(widths, numeric, strict=True)) + "|"
    return "\n".join([line(names), rule, *map(line, cells)]) + "\n"


def print_or_write(path: str | None, text: str) -> None:
    """Writes a text into a file, or prints it for None."""
    if path:
        with replacing(pathlib.Path(path).expanduser(), "w") as file:
            file.write(text)
    else:
        print(text)


def write_between(path: str, marks: tuple[str, str], text: str) -> None:
    """Writes a text between two marks of a file.

    Raises:
      ValueError: the file cannot be read, or does not have the marks.
    """
    file = pathlib.Path(path).expanduser()
    try:
        before, first, rest = file.read_text(encoding="utf-8").partition(marks[0])
    except OSError as error:
        raise ValueError(f"cannot read {path!r}: {error.strerror}") from error
    _, last, after = rest.partition(marks[1])
    if not first or not last:
        raise ValueError(f"{path!r} has no lines {marks[0]} and {marks[1]}; add them where the text should stand")
    with replacing(file, "w") as opened:
        opened.write(f"{before}{first}\n{text}{last}{after}")
