"""Shared by the sections of the HTML page: the ranking, and the notation of names and numbers."""

import dataclasses
import functools
import html
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from spex_jax.analysis.metrics import varies
from spex_jax.engine.details import Details
from spex_jax.report.wording import plural

__all__ = [
    "ROUNDING",
    "ROWS",
    "Ranked",
    "View",
    "bars",
    "constant",
    "counted",
    "escape",
    "look",
    "percent",
    "rounded",
    "shorten",
]

ROWS = 20  # rows of the ranking, overall and of each order

_NAME_WIDTH = 48
ROUNDING = 1e-10  # values below this fraction of the largest are rounding errors of the fit, and not shown

Ranked = list[tuple[tuple[int, ...], float]]


@dataclasses.dataclass(frozen=True)
class View:
    """Holds an explanation as the sections of the page show it.

    Attributes:
      explanation: a `spex_jax.Explanation`.
      interactions: its interactions.
      ranked: (features, value) of all sets that have a value, strongest first.
      digits: decimals of all values on the page; None for exponents.
    """

    explanation: Any
    interactions: Any
    ranked: Ranked
    digits: int | None

    @property
    def details(self) -> Details:
        """The lens's details of the input."""
        found: Details = self.explanation.details
        return found

    @property
    def noun(self) -> str:
        """The noun for one unit: 'word', 'feature'."""
        return self.details.units

    @functools.cached_property
    def first_order(self) -> np.ndarray:
        """The first-order value of each unit in the reported index, float64 [n]."""
        values = np.zeros(self.explanation.n)
        for key, value in self.ranked:
            if len(key) == 1:
                values[key[0]] = value
        return values

    def number(self, value: float, plus: bool = False) -> str:
        """Formats a value; `plus` adds the sign of positive values."""
        sign, kind = "+" if plus else "", "3e" if self.digits is None else f"{self.digits}f"
        return format(value, f"{sign}z.{kind}")

    def name(self, unit: int) -> str:
        """Returns the name as HTML with the index of the unit, since names may repeat."""
        full = self.explanation.names[unit]
        short = shorten(full)
        title = f' title="{escape(full)}"' if short.endswith("...") else ""
        return f"<bdi{title}>{escape(short)}</bdi>" + ("" if short == str(unit) else f"<sub>{unit}</sub>")

    def evaluated(self, kept: bool) -> float | None:
        """Returns the value with everything kept or everything removed; None where that mask was not evaluated."""
        rows = (self.explanation.masks == kept).all(axis=1)
        return float(self.explanation.values[rows][0]) if rows.any() else None


def shorten(name: str) -> str:
    """Returns a name on one line, cut if it is long; a name of only white space is made visible."""
    visible = name.replace("\n", "\u23ce").replace("\t", "\u21e5").replace(" ", "\u2423")
    line = " ".join(name.split()) or visible.strip() or "(empty)"
    return line if len(line) <= _NAME_WIDTH else line[: _NAME_WIDTH - 3] + "..."


def counted(number: int, noun: str) -> str:
    """Returns '1 word', '1,200 words'."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def _digits(scale: float) -> int | None:
    """Returns the decimals for four significant digits of the largest value; None where these would be too long."""
    if not scale:
        return 4
    digits = 3 - math.floor(math.log10(scale))
    return max(digits, 1) if -4 <= digits <= 8 else None


def percent(share: float) -> str:
    """Formats a share as HTML; only a full share becomes 100%."""
    if share >= 1:
        return "100%"
    return "&lt;0.1%" if 0 < share < 5e-4 else f"{min(100 * share, 99.9):.1f}%"


def bars(shares: Iterable[tuple[str, float]]) -> str:
    """Returns bars for labelled shares of a whole, as HTML."""
    rows = "".join(
        f'<span>{label}</span><div><b style="width:{100 * share:.2f}%"></b></div><span>{percent(share)}</span>'
        for label, share in shares
    )
    return f'<div class="sx-energy">{rows}</div>'


def rounded(value: float) -> float:
    """Rounds a value to nine significant digits, the precision of the page's data."""
    return float(f"{value:.9g}")


def constant(explanation: Any) -> bool:
    """Returns whether all evaluated values are the same, up to rounding."""
    return not varies(explanation.values)


def look(explanation: Any) -> View:
    """Ranks the interactions of an explanation and chooses the format of its numbers."""
    interactions = explanation.interactions()
    ranked = [] if constant(explanation) else interactions.top(len(interactions))
    scale = abs(ranked[0][1]) if ranked else float(np.abs(explanation.values).max())
    ranked = [(key, value) for key, value in ranked if abs(value) > ROUNDING * scale]
    return View(explanation, interactions, ranked, _digits(scale))


def escape(value: object) -> str:
    """Escapes text and quoted attributes. A parser would turn a bare carriage return into a newline."""
    return html.escape(str(value)).replace("\r", "&#13;")
