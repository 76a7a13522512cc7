"""What a page shows of units that lie in the layers of a network: a map with arcs, and what acts within and across."""

from collections.abc import Callable

import numpy as np

from spex_jax.analysis.metrics import energy_by_group
from spex_jax.report.view import Ranked, View, bars, escape
from spex_jax.report.wording import plural

__all__ = ["layer_map", "layer_tables"]

_ARCS, _WEAK = 12, 0.02  # the strongest pairs, but for those that are far weaker than the first
_CELLS = 2000  # of a map
_TOP, _BOTTOM = 16 / 48, 46 / 48  # edges of a cell in its row, by page.css
_LISTED = 5  # pairs of each kind


def _places(view: View) -> tuple[list[int | str], list[str], list[tuple[int, int]]] | None:
    """Layers, names of the columns, and row and column of each unit; None where units have no such places."""
    layers, columns = view.details.layers, view.details.columns
    if layers is None or columns is None or any(len(of) != 1 for of in layers):
        return None
    rows = sorted({of[0] for of in layers})
    # In the order in which they first occur: H0, H1, ..., whatever the numbers are called.
    names = list(dict.fromkeys(columns))
    places = [(rows.index(of[0]), names.index(column)) for of, column in zip(layers, columns, strict=True)]
    if len(set(places)) < len(places) or len(rows) * len(names) > _CELLS:
        return None
    return rows, names, places


def layer_map(view: View, cell: Callable[[int, str], str]) -> str | None:
    """Rows are layers, columns heads (or what there is), with arcs for the strongest pairs; None where it does not fit.

    Args:
      view: of a page.
      cell: the HTML of a unit, of its number and what is written on it.
    """
    found = _places(view)
    if found is None:
        return None
    rows, names, places = found
    at = {place: unit for unit, place in enumerate(places)}
    pairs = [(key, value) for key, value in view.ranked if len(key) == 2][:_ARCS]
    pairs = [(key, value) for key, value in pairs if abs(value) > _WEAK * abs(pairs[0][1])]
    cells = []
    for row, layer in enumerate(rows):
        cells.append(f'<span class="sx-layer">L{escape(layer)}</span>')
        cells += [
            cell(at[row, column], name) if (row, column) in at else "<span></span>" for column, name in enumerate(names)
        ]
    largest = max((abs(value) for _, value in pairs), default=1.0)
    arcs = "".join(_arc([places[unit] for unit in key], value, abs(value) / largest) for key, value in reversed(pairs))
    note = (
        f'<p class="sx-note sx-below">Rows are layers, from the first. Lines join the {len(pairs)} strongest pairs: '
        "whole lines where they do more together than alone (synergy), dashed ones where less (redundancy).</p>"
    )
    return (
        f'<div class="sx-map" style="--columns:{len(names)}"><div class="sx-grid">{"".join(cells)}</div>'
        f'<svg viewBox="0 0 {len(names)} {len(rows)}" preserveAspectRatio="none" aria-hidden="true">{arcs}</svg></div>'
        f"{note if pairs else ''}"
    )


def _arc(ends: list[tuple[int, int]], value: float, strength: float) -> str:
    """A curve between two cells: in the gap above them in one row, else from the lower edge of one to the upper of the
    other.
    """
    (row, left), (below, right) = sorted(ends)
    x1, x2 = left + 0.5, right + 0.5
    if row == below:
        y1 = y2 = row + _TOP
        x, y = (x1 + x2) / 2, row + _TOP - 0.25 - 0.35 * min(1.0, abs(x2 - x1) / 12)
    else:
        y1, y2 = row + _BOTTOM, below + _TOP
        x, y = (x1 + x2) / 2 + (0.5 if below - row > 1 else 0.0), (y1 + y2) / 2  # beside the cells between them
    dash = "" if value > 0 else ' stroke-dasharray="5 4"'
    return (
        f'<path d="M{x1:.2f} {y1:.2f}Q{x:.2f} {y:.2f} {x2:.2f} {y2:.2f}" class="sx-{"pos" if value > 0 else "neg"}" '
        f'stroke-width="{1.2 + 3 * strength:.2f}" stroke-opacity="{0.35 + 0.55 * strength:.2f}"{dash}/>'
    )


def layer_tables(view: View) -> str:
    """A section on what acts within a layer and across layers; empty where units have no layer of their own."""
    layers = view.details.layers
    if layers is None or any(len(of) != 1 for of in layers) or not view.ranked:
        return ""
    of = np.array([unit[0] for unit in layers])
    shares = energy_by_group(view.explanation.spectrum, of)
    names = {"linear": f"single {escape(plural(view.noun))}", "within": "within one layer", "across": "across layers"}
    drawn = bars((names[part], share) for part, share in shares.items())
    pairs: Ranked = [(key, value) for key, value in view.ranked if len(key) == 2]
    within = [(key, value) for key, value in pairs if of[key[0]] == of[key[1]]]
    across = [(key, value) for key, value in pairs if of[key[0]] != of[key[1]]]
    lists = "".join(
        f"<div><h3>Strongest pairs {where}</h3>{_listed(view, chosen)}</div>"
        for where, chosen in (("within a layer", within), ("across layers", across))
    )
    return (
        '<section class="sx-card"><h2>Within and across layers</h2>'
        f'{drawn}<p class="sx-note">Share of the variance over random masks.</p>'
        f'<div class="sx-pairs">{lists}</div>{_matrix(view, of, pairs)}</section>'
    )


def _listed(view: View, pairs: Ranked) -> str:
    if not pairs:
        return '<p class="sx-note">None.</p>'
    rows = "".join(
        f"<li>{' + '.join(view.name(unit) for unit in key)} <b>{view.number(value, plus=True)}</b></li>"
        for key, value in pairs[:_LISTED]
    )
    return f"<ol>{rows}</ol>"


def _matrix(view: View, of: np.ndarray, pairs: Ranked) -> str:
    """Sums of the pairs' sizes by the layers of their two units."""
    rows = sorted(set(of.tolist()))
    if len(rows) < 2 or len(rows) > 40 or not pairs:
        return ""
    sums = np.zeros((len(rows), len(rows)))
    for key, value in pairs:
        first, second = sorted(rows.index(of[unit]) for unit in key)
        sums[first, second] += abs(value)
    largest = sums.max()
    head = "".join(f"<th>L{escape(layer)}</th>" for layer in rows)
    body = ""
    for first, layer in enumerate(rows):
        cells = "".join(
            "<td></td>"
            if second < first
            else f'<td style="--a:{sums[first, second] / largest:.3f}">{view.number(sums[first, second])}</td>'
            for second in range(len(rows))
        )
        body += f"<tr><th>L{escape(layer)}</th>{cells}</tr>"
    index = escape(view.interactions.index)
    return (
        f'<p class="sx-note sx-below">Sum of |{index}| over the pairs of two layers (on the diagonal: of one).</p>'
        f'<div class="sx-scroll"><table class="sx-matrix"><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody class="sx-still">{body}</tbody></table></div>'
    )
