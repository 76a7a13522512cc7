"""Tables of results as Markdown, for terminals, pages and README files."""

from collections.abc import Mapping, Sequence
from typing import Any


def shown(value: Any, digits: int = 3) -> str:
    """A number for a table; '-' for what is not there."""
    if value is None or value != value:
        return "-"
    if isinstance(value, float):
        return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.2g}"
    return str(value)


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, digits: int = 3) -> str:
    """A table with a row for each mapping; numbers stand right. Columns are those of all rows, in their order."""
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
