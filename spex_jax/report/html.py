"""Builds one self-contained HTML page: the text coloured by effect, ranked interactions, and the evidence for them.

The page fetches nothing. No string of the explanation reaches it unescaped: text and attributes go through `escape`,
the JSON for the script through `_json`, and the script itself writes text nodes only. If a string slips through
nevertheless, the content security policy allows only the one script and the two style sheets whose hashes it names.
"""

import base64
import collections
import functools
import hashlib
import importlib.resources
import json
import math
import os
import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from spex_jax.core.indices import find_index
from spex_jax.report.faithfulness_section import show_energy, show_score, show_settings
from spex_jax.report.layers_section import layer_map, layer_tables
from spex_jax.report.pictures_section import gallery
from spex_jax.report.validation_section import checks
from spex_jax.report.view import (
    ROWS,
    View,
    constant,
    counted,
    escape,
    look,
    percent,
    rounded,
    shorten,
)
from spex_jax.report.wording import VALUE_NAMES, plural
from spex_jax.utils.atomic_write import replacing

__all__ = ["save_html", "to_html"]

_PARTNERS = 4  # interactions shown for the unit in focus
_CHIPS = 400  # units shown where there is no text, the strongest
_TERMS, _TERM_CHARACTERS = 2000, 200_000  # limits on the part of the spectrum in the page
# Style attributes hold only numbers, and are needed where scripts do not run (in an untrusted notebook).
_POLICY = (
    "default-src 'none'; script-src {script}; style-src 'unsafe-inline'; style-src-elem {style} {body}; "
    "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'"
)


def to_html(explanation: Any, page: bool = True) -> str:
    """Returns the report as HTML; the same explanation always gives the same string.

    Args:
      explanation: a `spex_jax.Explanation`.
      page: True for a whole document, False for a fragment for notebooks, whose styles and script change nothing else.
    """
    view = look(explanation)
    terms = _embedded_terms(explanation.spectrum)
    headline, noun = escape(_headline(view)), escape(view.noun)
    fragment = _template("fragment.html").substitute(
        style=_asset("page.css"),
        script=_asset("page.js"),
        data=_json(_data(view, terms)),
        headline=headline,
        noun=noun,
        Noun=noun.capitalize(),
        facts=_facts(view),
        tiles=_tiles(view),
        legend=_legend(view) if view.first_order.any() else "",
        units=_units(view),
        source=_source(view, terms),
        track=_track(view),
        filters=_filters(view),
        index=escape(view.interactions.index),
        meaning=escape(find_index(view.interactions.index).meaning),
        ranking=_ranking(view) if view.ranked else _nothing(view),
        validation=checks(view),
        layers=layer_tables(view),
        gallery=gallery(view),
        score=show_score(view),
        energy=show_energy(view),
        settings=show_settings(view),
    )
    if not page:
        return fragment
    assets = {"script": "page.js", "style": "page.css", "body": "body.css"}
    policy = _POLICY.format(**{name: _hash_source(_asset(file)) for name, file in assets.items()})
    return _template("page.html").substitute(
        headline=headline, fragment=fragment, body=_asset("body.css"), policy=policy
    )


def save_html(explanation: Any, path: str | os.PathLike[str]) -> None:
    """Writes the page atomically, so that a failure leaves no partial file.

    Raises:
      ValueError: the folder does not exist.
    """
    with replacing(path) as file:
        file.write(to_html(explanation).encode("utf-8", "replace"))  # UTF-8 cannot encode a lone surrogate


@functools.cache
def _asset(name: str) -> str:
    return importlib.resources.files("spex_jax.report").joinpath(name).read_text(encoding="utf-8")


def _hash_source(content: str) -> str:
    """Returns the source expression by which a policy allows an element with this content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _template(name: str) -> string.Template:
    return string.Template(_asset(name))


def _json(content: object) -> str:
    """Returns JSON that cannot end a script element, whatever it contains; json.dumps escapes non-ASCII characters."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _headline(view: View) -> str:
    details = view.details
    value = str(details.value)
    value = VALUE_NAMES.get(value, value)
    if details.prompts is not None:
        return f"{value[:1].upper()}{value[1:]} over {counted(details.prompts, 'prompt')}"
    if details.target is None:
        return f"Interactions of {counted(view.explanation.n, view.noun)}"
    against = "" if details.contrast is None else f" against \u201c{details.contrast}\u201d"
    return f"{value[:1].upper()}{value[1:]} of \u201c{details.target}\u201d{against}"


def _facts(view: View) -> str:
    details, index = view.details, view.interactions
    facts = [counted(view.explanation.n, view.noun)]
    if details.test_point is not None:
        facts.append(f"test point {details.test_point}")
    if details.removal is not None:
        facts.append(f"removal: {details.removal}")
    facts += [f"left out by the chat template: {part}" for part in details.left_out]
    facts.append(f"index: {index.index}, " + ("order 1" if index.max_order == 1 else f"up to order {index.max_order}"))
    return escape(" \u00b7 ".join(facts))


def _tiles(view: View) -> str:
    """Shows the values at both ends, the faithfulness and the number of ablations, and defines their terms."""
    e, score = view.explanation, view.explanation.faithfulness
    whole = "value with everything kept" if view.details.text is None else "value of the whole text"
    notes = [f"An ablation evaluates the model without some {escape(plural(view.noun))}; its mask says which are kept."]
    if e.ablations.held_out.any():
        notes.append("Held-out masks are those that were not used to fit the spectrum.")
    tiles = []
    for kept, title in ((True, whole), (False, "value with everything removed")):
        value = view.evaluated(kept)
        if value is None:
            value = float(e.spectrum(np.full((1, e.n), kept))[0])
            title = f"{title} (predicted, not evaluated)"
        tiles.append((view.number(value), title))
    if e.exact:
        tiles.append(("exact", "every mask was evaluated"))
    elif math.isnan(score.r2):
        tiles.append(("&ndash;", "R<sup>2</sup> not defined"))
    else:
        interval = f"95% interval {score.low:.3f} to {score.high:.3f}"
        masks = "held-out" if e.ablations.held_out.any() else "all"
        tiles.append((f"{score.r2:.3f}", f"R<sup>2</sup> on {masks} masks, {interval}"))
        notes.append("R<sup>2</sup> is the share of the variance of the values that the spectrum predicts (1: all).")
    tiles.append((f"{len(e.masks):,}", "ablations" if len(e.masks) > 1 else "ablation"))
    drawn = "".join(f'<div class="sx-tile"><b>{value}</b><span>{title}</span></div>' for value, title in tiles)
    return f'<div class="sx-tiles">{drawn}</div><p class="sx-note sx-below">{" ".join(notes)}</p>'


def _unit(view: View, unit: int, shown: str, numbered: bool) -> str:
    value = view.first_order[unit]
    strength = abs(value) / (np.abs(view.first_order).max() or 1.0)
    sign = " sx-pos" if value > 0 else " sx-neg" if value < 0 else ""
    number = f' data-d="{unit}"' if numbered else ""
    label = escape(f"{shorten(view.explanation.names[unit])}, {view.noun} {unit}, {view.number(value, plus=True)}")
    return (
        f'<span class="sx-u{sign}" role="button" tabindex="0" aria-pressed="false" aria-label="{label}" '
        f'data-i="{unit}"{number} style="--a:{strength:.3f}">{escape(shown)}</span>'
    )


def _units(view: View) -> str:
    """Returns the text with its units, the map of a network, or a row of chips where there is neither."""
    e, text = view.explanation, view.details.text
    if (drawn := layer_map(view, lambda unit, shown: _unit(view, unit, shown, False))) is not None:
        return drawn
    if text is None:
        shown = np.sort(np.argsort(-np.abs(view.first_order), kind="stable")[:_CHIPS])
        chips = [_unit(view, unit, shorten(e.names[unit]), e.names[unit] != str(unit)) for unit in shown.tolist()]
        strongest = f"Only the {_CHIPS} strongest of {e.n:,} {escape(plural(view.noun))} are shown."
        rest = f'<p class="sx-note sx-below">{strongest}</p>' if len(shown) < e.n else ""
        return f'<div class="sx-chips">{"".join(chips)}</div>{rest}'
    cursor, pieces = 0, list[str]()
    names = collections.Counter(map(shorten, e.names))
    for unit, (start, end) in enumerate(view.details.spans):
        start, end = (
            max(start, cursor),
            max(end, cursor),
        )  # tokens may share the span of one character: the first shows it
        pieces.append(escape(text[cursor:start]))
        pieces.append(_unit(view, unit, text[start:end], names[shorten(e.names[unit])] > 1))
        cursor = end
    return f'<div class="sx-text" dir="auto">{"".join(pieces)}{escape(text[cursor:])}</div>'


def _legend(view: View) -> str:
    largest = float(np.abs(view.first_order).max())
    low, high = "lowers", "raises"
    if find_index(view.interactions.index).positive_lowers:
        low, high = high, low
    return (
        f'<div class="sx-legend"><span>{low} {view.number(-largest)}</span><span class="sx-ramp"></span>'
        f"<span>{view.number(largest, plus=True)} {high}</span></div>"
    )


def _track(view: View) -> str:
    """Draws the range of the evaluated values, with ticks at both ends and a marker that the script moves."""
    low, high = _range(view)
    if not high > low:
        return ""
    ends = [value for value in (view.evaluated(True), view.evaluated(False)) if value is not None]
    ticks = "".join(f'<i style="left:{100 * (value - low) / (high - low):.2f}%"></i>' for value in ends)
    return (
        f'<div class="sx-track">{ticks}<b></b></div><div class="sx-ends"><span>{view.number(low)}</span>'
        f"<span>range of the evaluated values</span><span>{view.number(high)}</span></div>"
    )


def _range(view: View) -> tuple[float, float]:
    return float(view.explanation.values.min()), float(view.explanation.values.max())


def _source(view: View, terms: Any) -> str:
    """Explains where the predicted value comes from."""
    e, spectrum = view.explanation, view.explanation.spectrum
    if e.exact:
        source = "The predicted value comes from the spectrum, which is exact: every mask was evaluated."
    else:
        score = "" if math.isnan(e.faithfulness.r2) else f" (R<sup>2</sup> {e.faithfulness.r2:.3f})"
        source = f"The predicted value comes from the fitted spectrum{score}; the model is not evaluated again."
    if len(terms) == len(spectrum):
        return f"{source} The page holds the whole spectrum, {counted(len(spectrum), 'term')}."
    energy, kept = (s.energy_by_degree()[1:].sum() for s in (spectrum, terms))
    return (
        f"{source} The page holds its {len(terms):,} largest terms of {len(spectrum):,}, with "
        f"{percent(kept / energy)} of its energy; the omitted terms change a prediction by "
        f"{math.sqrt(max(energy - kept, 0.0)):.2g} (root mean square)."
    )


def _row(view: View, rank: int, key: Sequence[int], value: float, limit: float, errors: Any) -> str:
    names = " + ".join(f'<span class="sx-name">{view.name(unit)}</span>' for unit in key)
    width, sign = 50 * abs(value) / limit, "pos" if value > 0 else "neg"
    bar = f'<b style="left:{50 if value > 0 else 50 - width:.2f}%;width:{width:.2f}%"></b>'
    error = ""
    if errors is not None:
        spread = 1.96 * errors[key] / limit
        bar += f'<i style="left:{50 * (1 + value / limit - spread):.2f}%;width:{100 * spread:.2f}%"></i>'
        error = f'<td class="sx-error">&plusmn; {errors[key]:.2g}</td>'
    members, top = " ".join(map(str, key)), "data-top" if rank <= ROWS else "hidden"
    return (
        f'<tr data-order="{len(key)}" data-members="{members}" data-sign="{sign}" {top}><td class="sx-rank">{rank}</td>'
        f'<td>{names}</td><td class="sx-order">{len(key)}</td>'
        f'<td class="sx-bar"><div class="sx-axis sx-{sign}">{bar}</div></td>'
        f'<td class="sx-value">{view.number(value, plus=True)}</td>{error}</tr>\n'
    )


def _filters(view: View) -> str:
    orders = collections.Counter(len(key) for key, _ in view.ranked)
    if not orders:
        return ""
    return '<button type="button" data-order="" aria-pressed="true">All</button>' + "".join(
        f'<button type="button" data-order="{order}" aria-pressed="false">Order {order} ({count:,})</button>'
        for order, count in sorted(orders.items())
    )


def _ranking(view: View) -> str:
    """Returns the table: the strongest sets overall and, hidden until their filter is chosen, those of each order."""
    seen: collections.Counter[int] = collections.Counter()
    chosen = []
    for rank, (key, value) in enumerate(view.ranked, 1):
        seen[len(key)] += 1
        if rank <= ROWS or seen[len(key)] <= ROWS:
            chosen.append((rank, key, value))
    errors, nouns = view.interactions.std_errors, escape(plural(view.noun))
    limit = max(abs(value) + (0.0 if errors is None else 1.96 * errors[key]) for _, key, value in chosen)
    rows = "".join(_row(view, rank, key, value, limit, errors) for rank, key, value in chosen)
    error = "" if errors is None else '<th class="sx-error">std. error</th>'
    sets = counted(len(view.ranked), "set")
    limited = f"; the {ROWS} strongest are shown, overall or of one order" if len(view.ranked) > ROWS else ""
    whiskers = "" if errors is None else " Thin lines are 95% intervals."
    return (
        f'<table><thead><tr><th class="sx-rank">Rank</th><th>{nouns.capitalize()}</th><th class="sx-order">Order</th>'
        f'<th class="sx-bar"></th><th class="sx-value">{escape(view.interactions.index)}</th>{error}</tr></thead>'
        f'<tbody>\n{rows}</tbody></table>\n<p class="sx-note sx-below">{sets}, ranked by absolute value{limited}. '
        f"Small numbers identify the {nouns}, counted from 0.{whiskers}</p>"
    )


def _nothing(view: View) -> str:
    e = view.explanation
    if constant(e):
        text = (
            f"The value is {view.number(float(e.values[0]))} at each of the {len(e.masks):,} evaluated masks: no "
            f"{escape(view.noun)} has an effect, and there are no interactions."
        )
    else:
        text = "There are no interactions: the values vary, but the spectrum holds no effect of this index."
    return f'<p class="sx-below">{text}</p>'


def _embedded_terms(spectrum: Any) -> Any:
    """Returns the largest terms, as many as the page may hold, through the values at the full and the empty mask."""
    largest = spectrum.truncate(_TERMS)
    sizes = np.cumsum([len(_json(term)) for term in _terms(largest)])
    kept = largest.truncate(max(1, int((sizes <= _TERM_CHARACTERS).sum())))
    ends = np.stack([np.ones(spectrum.n, np.bool_), np.zeros(spectrum.n, np.bool_)])
    return kept if len(kept) in (1, len(spectrum)) else kept.through(ends, spectrum(ends))


def _terms(spectrum: Any) -> list[list[float]]:
    """Returns [coefficient, features...] for each term."""
    return [
        [rounded(coefficient), *np.flatnonzero(row).tolist()]
        for coefficient, row in zip(spectrum.coefficients.tolist(), spectrum.support, strict=True)
    ]


def _partners(ranked: Iterable[tuple[tuple[int, ...], float]]) -> dict[int, list[list[float]]]:
    """Returns [value, features...] of the strongest interactions of each unit."""
    found: dict[int, list[list[float]]] = {}
    for key, value in ranked:
        for unit in key if len(key) > 1 else ():
            rows = found.setdefault(unit, [])
            if len(rows) < _PARTNERS:
                rows.append([rounded(value), *key])
    return found


def _data(view: View, terms: Any) -> dict[str, Any]:
    """Returns the script's data; f(x) = sum_k terms[k][0] * (-1)^(how many of the features terms[k][1:] are kept)."""
    return {
        "index": view.interactions.index,
        "digits": view.digits,
        "names": [shorten(name) for name in view.explanation.names],
        "values": [rounded(value) for value in view.first_order.tolist()],
        "partners": _partners(view.ranked),
        "range": _range(view),
        "terms": _terms(terms),
    }
