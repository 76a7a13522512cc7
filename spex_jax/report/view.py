"""What the sections of the HTML page share: the ranking, and how names and numbers are written."""

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

ROWS = 20  # of the ranking: so many overall, and so many of each order

_NAME_WIDTH = 48
_LOW = 0.5  # of R2: from here on down the answer needs advice
_MISSED = 0.05  # of the deviation of the values: how far a spectrum may be from a value that is known
_ROUNDING = 1e-10  # values below this part of the largest are rounding errors of the fit, and not shown

Ranked = list[tuple[tuple[int, ...], float]]


@dataclasses.dataclass(frozen=True)
class View:
    """What the sections of the page share.

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
        """What the lens tells of the input."""
        return self.explanation.details

    @property
    def noun(self) -> str:
        """What one unit is called: 'word', 'feature'."""
        return self.details.units

    @functools.cached_property
    def first_order(self) -> np.ndarray:
        """Float [n]: the value of each unit alone in the reported index."""
        values = np.zeros(self.explanation.n)
        for key, value in self.ranked:
            if len(key) == 1:
                values[key[0]] = value
        return values

    def number(self, value: float, plus: bool = False) -> str:
        """A value as text; `plus` writes the sign of positive ones."""
        sign, kind = "+" if plus else "", "3e" if self.digits is None else f"{self.digits}f"
        return format(value, f"{sign}z.{kind}")

    def name(self, unit: int) -> str:
        """The name as HTML, with the number of the unit, since names occur twice."""
        full = self.explanation.names[unit]
        short = shorten(full)
        title = f' title="{escape(full)}"' if short.endswith("...") else ""
        return f"<bdi{title}>{escape(short)}</bdi>" + ("" if short == str(unit) else f"<sub>{unit}</sub>")

    def asked(self, kept: bool) -> float | None:
        """The model's value with everything kept or everything removed, None where that mask was not asked."""
        rows = (self.explanation.masks == kept).all(axis=1)
        return float(self.explanation.values[rows][0]) if rows.any() else None


def shorten(name: str) -> str:
    """A name on one line, cut where it is long; white space alone becomes visible."""
    visible = name.replace("\n", "\u23ce").replace("\t", "\u21e5").replace(" ", "\u2423")
    line = " ".join(name.split()) or visible.strip() or "(empty)"
    return line if len(line) <= _NAME_WIDTH else line[: _NAME_WIDTH - 3] + "..."


def counted(number: int, noun: str) -> str:
    """'1 word', '1,200 words'."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def _digits(scale: float) -> int | None:
    """Decimals that give the largest value four significant digits; None where plain decimals would be too long."""
    if not scale:
        return 4
    digits = 3 - math.floor(math.log10(scale))
    return max(digits, 1) if -4 <= digits <= 8 else None


def percent(share: float) -> str:
    """A share as HTML; 100% only where nothing is missing."""
    if share >= 1:
        return "100%"
    return "&lt;0.1%" if 0 < share < 5e-4 else f"{min(100 * share, 99.9):.1f}%"


def bars(shares: Iterable[tuple[str, float]]) -> str:
    """Shares of a whole as HTML, each with its label."""
    rows = "".join(
        f'<span>{label}</span><div><b style="width:{100 * share:.2f}%"></b></div><span>{percent(share)}</span>'
        for label, share in shares
    )
    return f'<div class="sx-energy">{rows}</div>'


def rounded(value: float) -> float:
    """Nine significant digits: what the page carries."""
    return float(f"{value:.9g}")


def constant(explanation: Any) -> bool:
    """Whether all values asked are the same, up to rounding."""
    return not varies(explanation.values)


def look(explanation: Any) -> View:
    """Ranks the interactions of an explanation and chooses how its numbers are written."""
    interactions = explanation.interactions()
    ranked = [] if constant(explanation) else interactions.top(len(interactions))
    scale = abs(ranked[0][1]) if ranked else float(np.abs(explanation.values).max())
    ranked = [(key, value) for key, value in ranked if abs(value) > _ROUNDING * scale]
    return View(explanation, interactions, ranked, _digits(scale))


def noise_warning(explanation: Any, shown: Ranked) -> str:
    """A sentence where asking again changed a value by more than a tenth of the smallest effect shown, else ''."""
    largest = max((abs(value) for _, value in shown), default=0.0)
    smallest = min((abs(value) for _, value in shown if abs(value) > _ROUNDING * largest), default=np.inf)
    if not explanation.noise > 0.1 * smallest:
        return ""
    return (
        f"Values changed by up to {explanation.noise:.3g} when they were asked again in another batch, more than a "
        f"tenth of the smallest effect shown ({smallest:.3g}): see spex_jax.check_batch_invariance."
    )


def low_score(explanation: Any) -> str:
    """Returns a sentence that says what to do where the spectrum may explain less than half of the values, else ''."""
    score, settings, details = explanation.faithfulness, explanation.settings, explanation.details
    if explanation.exact or math.isnan(score.r2) or score.low > _LOW:
        return ""
    count = f"R2 {score.r2:.2f} is low" if score.r2 < _LOW else f"the interval of R2 includes {_LOW}"
    method, n, budget = settings.get("method"), explanation.n, len(explanation.masks)
    advice = [] if method in (None, "proxyspex", "spex") else ["method='proxyspex', which is no surrogate"]
    everything = n < 63 and 2**n <= 8 * budget
    advice.append(f"budget={2**n if everything else 4 * budget}" + (", every mask that there is" if everything else ""))
    advice.append(f"fewer and larger units than {n} {plural(details.units)}")
    if details.removal is not None:
        advice.append(f"another removal than {details.removal!r}")
    return (
        f"{count[:1].upper()}{count[1:]}: the spectrum may explain less than half of the variance of the values, and "
        f"its interactions with it. Try {'; '.join(advice[:-1])}; or {advice[-1]}."
    )


def missed_ends(explanation: Any) -> str:
    """Returns a sentence where the spectrum does not go through the values at the full and the empty mask, else ''."""
    masks, values, missed = explanation.masks, explanation.values, []
    for kept, words in ((True, "kept"), (False, "removed")):
        rows = np.flatnonzero((masks == kept).all(axis=1))
        if len(rows):
            value, predicted = float(values[rows[0]]), float(explanation.spectrum(masks[rows[:1]])[0])
            if abs(value - predicted) > _MISSED * float(np.std(values)):
                missed.append(
                    f"with everything {words} the value is {value:.4g}, and the spectrum predicts {predicted:.4g}"
                )
    return f"{missed[0][:1].upper()}{'; '.join(missed)[1:]}." if missed else ""


def correction_note(explanation: Any) -> str:
    """That interactions hold more than the spectrum, or nothing."""
    if explanation.correction is None or not find_index(explanation.index).shapley_type:
        return ""
    return (
        f"{explanation.index} is that of the spectrum, corrected by what it misses at the masks asked; R2 and "
        "predicted values are of the spectrum alone"
    )


def seed_noise(explanation: Any) -> str:
    """A sentence on what other seeds would change, where that was measured, else ''."""
    noise: ValueNoise | None = explanation.details.seed_noise
    if noise is None:
        return ""
    mean = "" if noise.seeds == 1 else f"; each value is the mean of {noise.seeds} trainings"
    return (
        f"Other seeds change a value by {noise.deviation:.3g} (standard deviation{mean}) and reproduce "
        f"{100 * (1 - noise.share):.0f}% of the variance over masks; more seeds raise that."
    )


def failures(explanation: Any) -> str:
    """A sentence on masks without a finite value, else ''."""
    failed = 0 if explanation.failed is None else len(explanation.failed)
    if not failed:
        return ""
    return f"{counted(failed, 'mask')} gave no finite value and {'is' if failed == 1 else 'are'} left out."


def escape(value: object) -> str:
    """For text and quoted attributes. A parser would turn a bare carriage return into a newline."""
    return html.escape(str(value)).replace("\r", "&#13;")
