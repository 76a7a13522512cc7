"""Shared by the sections of the HTML page: the ranking, and the notation of names and numbers."""

import dataclasses
import functools
import html
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from spex_jax.analysis.metrics import varies
from spex_jax.core.indices import find_index
from spex_jax.engine.details import Details, ValueNoise
from spex_jax.report.wording import plural

__all__ = [
    "ROWS",
    "View",
    "bars",
    "constant",
    "correction_note",
    "counted",
    "escape",
    "failures",
    "look",
    "low_score",
    "missed_ends",
    "noise_warning",
    "percent",
    "rounded",
    "seed_noise",
    "shorten",
]

ROWS = 20  # rows of the ranking, overall and of each order

_NAME_WIDTH = 48
_LOW = 0.5  # an R2 up to here calls for advice
_MISSED = 0.05  # largest error at a known value without a warning, in standard deviations of the values
_ROUNDING = 1e-10  # values below this fraction of the largest are rounding errors of the fit, and not shown

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
    ranked = [(key, value) for key, value in ranked if abs(value) > _ROUNDING * scale]
    return View(explanation, interactions, ranked, _digits(scale))


def noise_warning(explanation: Any, shown: Ranked) -> str:
    """Returns a warning where values change on reevaluation by over a tenth of the smallest effect shown, else ''."""
    largest = max((abs(value) for _, value in shown), default=0.0)
    smallest = min((abs(value) for _, value in shown if abs(value) > _ROUNDING * largest), default=np.inf)
    if not explanation.noise > 0.1 * smallest:
        return ""
    return (
        f"Values changed by up to {explanation.noise:.3g} when they were evaluated again in another batch, more than a "
        f"tenth of the smallest effect shown ({smallest:.3g}): see spex_jax.check_batch_invariance."
    )


def low_score(explanation: Any) -> str:
    """Returns a warning with advice where the spectrum may explain less than half of the variance, else ''."""
    score, settings, details = explanation.faithfulness, explanation.settings, explanation.details
    if explanation.exact or math.isnan(score.r2) or score.low > _LOW:
        return ""
    count = f"R2 {score.r2:.2f} is low" if score.r2 < _LOW else f"the interval of R2 includes {_LOW}"
    method, n, budget = settings.get("method"), explanation.n, len(explanation.masks)
    advice = [] if method in (None, "proxyspex", "spex") else ["method='proxyspex', which is not a surrogate"]
    everything = n < 63 and 2**n <= 8 * budget
    more = f"budget={2**n}, all masks" if everything else f"budget={4 * budget}, four times as many ablations"
    advice.append(more)
    advice.append(f"fewer and larger units than {n} {plural(details.units)}")
    if details.removal is not None:
        advice.append(f"another removal than {details.removal!r}")
    return (
        f"{count[:1].upper()}{count[1:]}: the spectrum and its interactions may explain less than half of the variance "
        f"of the values. Try {'; '.join(advice[:-1])}; or {advice[-1]}."
    )


def missed_ends(explanation: Any) -> str:
    """Returns a warning where the spectrum misses the value at the full or the empty mask, else ''."""
    masks, values, missed = explanation.masks, explanation.values, []
    for kept, words in ((True, "kept"), (False, "removed")):
        rows = np.flatnonzero((masks == kept).all(axis=1))
        if len(rows):
            value, predicted = float(values[rows[0]]), float(explanation.spectrum(masks[rows[:1]])[0])
            if abs(value - predicted) > _MISSED * float(np.std(values)):
                missed.append(
                    f"with everything {words} the value is {value:.4g}, but the spectrum predicts {predicted:.4g}"
                )
    return f"{missed[0][:1].upper()}{'; '.join(missed)[1:]}." if missed else ""


def correction_note(explanation: Any) -> str:
    """Returns a note where the interactions are corrected for what the spectrum misses, else ''."""
    if explanation.correction is None or not find_index(explanation.index).shapley_type:
        return ""
    return (
        f"{explanation.index} comes from the spectrum, corrected for what it misses at the evaluated masks; R2 and "
        "predicted values come from the spectrum alone"
    )


def seed_noise(explanation: Any) -> str:
    """Returns a note on how values change with the seed, where that was measured, else ''."""
    noise: ValueNoise | None = explanation.details.seed_noise
    if noise is None:
        return ""
    mean = "" if noise.seeds == 1 else f"; each value is the mean of {noise.seeds} trainings"
    return (
        f"Other seeds change a value by {noise.deviation:.3g} (standard deviation{mean}) and reproduce "
        f"{100 * (1 - noise.share):.0f}% of the variance over masks; a mean over more seeds would raise this share."
    )


def failures(explanation: Any) -> str:
    """Returns a warning about masks without a finite value, else ''."""
    failed = 0 if explanation.failed is None else len(explanation.failed)
    if not failed:
        return ""
    return f"{counted(failed, 'mask')} gave no finite value and {'is' if failed == 1 else 'are'} left out."


def escape(value: object) -> str:
    """Escapes text and quoted attributes. A parser would turn a bare carriage return into a newline."""
    return html.escape(str(value)).replace("\r", "&#13;")
