"""The section of a page that compares predicted interactions with those measured on the model."""

from spex_jax.analysis.validation import Measured
from spex_jax.core.contexts import DRAWS
from spex_jax.report.view import View, counted, escape
from spex_jax.report.wording import plural

__all__ = ["checks"]

_MARKS = {"confirmed": "\u2713", "reversed": "\u21c4", "absent": "\u2717", "undecided": "?"}
_MEANING = (
    "Confirmed: the model has the effect, with the predicted sign. Reversed: with the opposite sign. Absent: no effect "
    "or less than a tenth of the predicted one, and half of the prediction is ruled out. Undecided: more contexts are "
    "needed."
)


def checks(view: View) -> str:
    """Returns the section, or '' where nothing was validated."""
    found = view.explanation.validation
    if found is None:
        return ""
    title = f'<div class="sx-head"><h2>Measured on the model</h2><span class="sx-note">{escape(found.summary)}</span>'
    if not found.rows:
        return f'<section class="sx-card">{title}</div></section>\n\n'
    limit = max(max(abs(row.predicted), abs(row.low), abs(row.high)) for row in found.rows)
    noun = escape(view.noun)
    drawn = " or ".join(DRAWS[how] for how in found.draws).replace("feature", noun)
    text = (
        f"{escape(found.index)} as this report predicts it and as measured on the model at new masks: what a set does "
        f"beyond its parts, in contexts (which other {plural(noun)} are kept) drawn so that {drawn}, weighted as the "
        "index weights them."
    )
    rows = "".join(_row(view, row, limit) for row in found.rows)
    return (
        f'<section class="sx-card">{title}</div>\n<p class="sx-note">{text}</p>\n<table class="sx-checks"><thead><tr>'
        f'<th>{plural(noun).capitalize()}</th><th class="sx-value">predicted</th><th class="sx-bar"></th>'
        '<th class="sx-value">measured</th><th class="sx-verdict">verdict</th></tr></thead>'
        f'<tbody>\n{rows}</tbody></table>\n<p class="sx-note sx-below">Bars show measured values, thin lines their 95% '
        f"intervals, ticks the predictions. {_MEANING}</p></section>\n\n"
    )


def _row(view: View, row: Measured, limit: float) -> str:
    names = " + ".join(f'<span class="sx-name">{view.name(unit)}</span>' for unit in row.members)
    width, sign = 50 * abs(row.measured) / limit, "pos" if row.measured > 0 else "neg"
    low, high, at = (50 + 50 * value / limit for value in (row.low, row.high, row.predicted))
    bar = (
        f'<b style="left:{50 if row.measured > 0 else 50 - width:.2f}%;width:{width:.2f}%"></b>'
        f'<i style="left:{low:.2f}%;width:{high - low:.2f}%"></i><u style="left:{at:.2f}%"></u>'
    )
    interval = "" if row.whole else f"<small>{view.number(row.low)} to {view.number(row.high)}</small>"
    taken = ("all " if row.whole and row.contexts > 1 else "") + counted(row.contexts, "context")
    small = f"{row.size}, {taken}" if row.verdict == "confirmed" else taken
    return (
        f'<tr data-members="{" ".join(map(str, row.members))}" data-sign="{sign}">'
        f'<td>{names}</td><td class="sx-value" data-what="predicted">{view.number(row.predicted, plus=True)}</td>'
        f'<td class="sx-bar"><div class="sx-axis sx-{sign}">{bar}</div></td>'
        f'<td class="sx-value" data-what="measured">{view.number(row.measured, plus=True)}{interval}</td>'
        f'<td class="sx-verdict sx-{row.verdict}"><span>{_MARKS[row.verdict]}</span> {row.verdict} '
        f"<small>{small}</small></td></tr>\n"
    )
