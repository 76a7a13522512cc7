"""The section of a page that shows groups of training examples as pictures, by their effect on a test point."""

import collections
from typing import Any

from spex_jax.report.view import View, escape

__all__ = ["gallery"]

_ROWS = 5  # sets shown of each kind

# Size of the set, whether its value has the good sign, title and meaning.
_KINDS = (
    (1, True, "Most helpful", "training on it makes the value better"),
    (1, False, "Most harmful", "training on it makes the value worse"),
    (2, False, "Redundant", "together they do less good than the sum of the parts, as near-duplicates do"),
    (2, True, "Synergistic", "together they do more good than the sum of the parts: they complement each other"),
)


def _image(uri: Any, description: str) -> str:
    return f'<img src="{escape(uri)}" alt="{escape(description)}">'


def gallery(view: View) -> str:
    """Returns the section, or '' where the lens has no pictures of training examples."""
    details = view.details
    pictures = details.pictures
    if pictures is None:
        return ""
    found: dict[tuple[int, bool], list[str]] = collections.defaultdict(list)
    sign = -1 if details.value == "loss" else 1
    for key, value in view.ranked:
        rows = found[len(key), sign * value > 0]
        if len(key) <= 2 and len(rows) < _ROWS:
            names = [view.explanation.names[unit] for unit in key]
            shown = " <em>&amp;</em> ".join(
                f'<span class="sx-group">{"".join(_image(uri, name) for uri in pictures.units[unit])}'
                f"<small>{view.name(unit)}</small></span>"
                for unit, name in zip(key, names, strict=True)
            )
            rows.append(f'<div class="sx-pictures"><b>{view.number(value, plus=True)}</b>{shown}</div>')
    blocks = [
        f'<div><h3>{title}</h3><p class="sx-note">{meaning}</p>{"".join(found[order, good])}</div>'
        for order, good, title, meaning in _KINDS
        if found[order, good]
    ]
    point = details.test_point
    test = ""
    if isinstance(point, int):
        label = "" if details.target is None else f", class {escape(details.target)}"
        test = (
            f'<div class="sx-pictures"><span class="sx-group">{_image(pictures.tests[point], "test point")}'
            f"<small>test point {escape(point)}{label}</small></span></div>"
        )
    return (
        f'<section class="sx-card"><h2>Training examples as pictures</h2>{test}<div class="sx-two">'
        f'{"".join(blocks)}</div><p class="sx-note">Of each group, the first examples are shown.</p></section>\n\n'
    )
