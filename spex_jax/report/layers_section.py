"""The sections of a page for units in the layers of a network: a map with arcs, and tables within and across layers."""

from collections.abc import Callable

import numpy as np

from spex_jax.analysis.metrics import energy_by_group
from spex_jax.report.view import Ranked, View, bars, escape
from spex_jax.report.wording import plural

__all__ = ["layer_map", "layer_tables"]

_ARCS, _WEAK = 12, 0.02  # most arcs; pairs below this fraction of the strongest get none
_CELLS = 2000  # most cells of a map
_TOP, _BOTTOM = 16 / 48, 46 / 48  # edges of a cell in its row, as page.css sets them
_LISTED = 5  # pairs listed of each kind


def _places(view: View) -> tuple[list[int | str], list[str], list[tuple[int, int]]] | None:
    """Returns the layers, the column names, and the row and column of each unit; None where units have no place."""
    layers, columns = view.details.layers, view.details.columns
    if layers is None or columns is None or any(len(own) != 1 for own in layers):
        return None
    rows = sorted({own[0] for own in layers})
    # By first occurrence, since sorting would put H10 before H2.
    names = list(dict.fromkeys(columns))
    places = [(rows.index(own[0]), names.index(column)) for own, column in zip(layers, columns, strict=True)]
    if len(set(places)) < len(places) or len(rows) * len(names) > _CELLS:
        return None
    return rows, names, places


def layer_map(view: View, cell: Callable[[int, str], str]) -> str | None:
    """Draws layers as rows and heads or the like as columns, with arcs for the strongest pairs; None without places.

    Args:
      view: the view of the page.
      cell: returns the HTML of a unit from its index and its label.
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
        f'<p class="sx-note sx-below">Rows are layers, starting with the first. Lines join the {len(pairs)} strongest '
        "pairs: solid where the two do more together than alone (synergy), dashed where less (redundancy).</p>"
    )
    return (
        f'<div class="sx-map" style="--columns:{len(names)}"><div class="sx-grid">{"".join(cells)}</div>'
        f'<svg viewBox="0 0 {len(names)} {len(rows)}" preserveAspectRatio="none" aria-hidden="true">{arcs}</svg></div>'
        f"{note if pairs else ''}"
    )


def _arc(ends: list[tuple[int, int]], value: float, strength: float) -> str:
    """Draws a curve between two cells, in the gap above them where they share a row."""
    (row, left), (below, right) = sorted(ends)
    x1, x2 = left + 0.5, right + 0.5
    if row == below:
        y1 = y2 = row + _TOP
        x, y = (x1 + x2) / 2, row + _TOP - 0.25 - 0.35 * min(1.0, abs(x2 - x1) / 12)
    else:
        y1, y2 = row + _BOTTOM, below + _TOP
        x, y = (x1 + x2) / 2 + (0.5 if below - row > 1 else 0.0), (y1 + y2) / 2  # passes beside the cells in between
    dash = "" if value > 0 else ' stroke-dasharray="5 4"'
    return (
        f'<path d="M{x1:.2f} {y1:.2f}Q{x:.2f} {y:.2f} {x2:.2f} {y2:.2f}" class="sx-{"pos" if value > 0 else "neg"}" '
        f'stroke-width="{1.2 + 3 * strength:.2f}" stroke-opacity="{0.35 + 0.55 * strength:.2f}"{dash}/>'
    )


def layer_tables(view: View) -> str:
    """Returns a section on effects within and across layers; '' where some unit is not in exactly one layer."""
    layers = view.details.layers
    if layers is None or any(len(own) != 1 for own in layers) or not view.ranked:
        return ""
    layer_of = np.array([own[0] for own in layers])
    shares = energy_by_group(view.explanation.spectrum, layer_of)
    names = {"linear": f"single {escape(plural(view.noun))}", "within": "within one layer", "across": "across layers"}
    drawn = bars((names[part], share) for part, share in shares.items())
    pairs: Ranked = [(key, value) for key, value in view.ranked if len(key) == 2]
    within = [(key, value) for key, value in pairs if layer_of[key[0]] == layer_of[key[1]]]
    across = [(key, value) for key, value in pairs if layer_of[key[0]] != layer_of[key[1]]]
    lists = "".join(
        f"<div><h3>Strongest pairs {where}</h3>{_listed(view, chosen)}</div>"
        for where, chosen in (("within a layer", within), ("across layers", across))
    )
    return (
        '<section class="sx-card"><h2>Within and across layers</h2>'
        f'{drawn}<p class="sx-note">Share of the variance of the spectrum over random masks.</p>'
        f'<div class="sx-pairs">{lists}</div>{_matrix(view, layer_of, pairs)}</section>'
    )


def _listed(view: View, pairs: Ranked) -> str:
    if not pairs:
        return '<p class="sx-note">None.</p>'
    rows = "".join(
        f"<li>{' + '.join(view.name(unit) for unit in key)} <b>{view.number(value, plus=True)}</b></li>"
        for key, value in pairs[:_LISTED]
    )
    return f"<ol>{rows}</ol>"


def _matrix(view: View, layer_of: np.ndarray, pairs: Ranked) -> str:
    """Returns a table of the summed absolute values of the pairs, by the layers of their two units."""
    rows = sorted(set(layer_of.tolist()))
    if len(rows) < 2 or len(rows) > 40 or not pairs:
        return ""
    sums = np.zeros((len(rows), len(rows)))
    for key, value in pairs:
        first, second = sorted(rows.index(layer_of[unit]) for unit in key)
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
        f'<p class="sx-note sx-below">Sum of |{index}| over the pairs between two layers (diagonal: within one).</p>'
        f'<div class="sx-scroll"><table class="sx-matrix"><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody class="sx-still">{body}</tbody></table></div>'
    )
