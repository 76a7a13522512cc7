"""Cuts a text into the units that are kept or removed, as character spans."""

import bisect
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from spex_jax.lenses.text_parts.sentences import TAG, ends_before, sentence_borders
from spex_jax.lenses.text_parts.words import word_borders

__all__ = ["UNITS", "Span", "assign_tokens", "check_spans", "find_units"]

Span = tuple[int, int]
UNITS = ("token", "word", "sentence", "line", "paragraph", "turn", "document")

_TAG = re.compile(TAG, re.IGNORECASE)


def _only_punctuation(piece: str) -> bool:
    return all(unicodedata.category(character)[0] in "PCZ" for character in _TAG.sub("", piece))


def _opens(piece: str) -> bool:
    """Returns whether punctuation belongs to the text after it."""
    tag = _TAG.match(piece)
    if tag:
        return not ends_before(tag.group())
    return all(unicodedata.category(character) in ("Ps", "Pi") for character in piece)


def _joined(text: str, pieces: Iterable[Span]) -> list[Span]:
    """Returns pieces without the white space around them. Those of punctuation alone join the piece before them, or
    the one after them where there is none before, or where they open text that they touch.
    """
    spans: list[Span] = []
    leading: int | None = None
    for start, end in pieces:
        piece = text[start:end].strip()
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end = start + len(piece)
        if not piece:
            continue
        if _only_punctuation(piece):
            touches = end < len(text) and not text[end].isspace()
            if spans and leading is None and not (touches and _opens(piece)):
                spans[-1] = (spans[-1][0], end)
            elif leading is None:
                leading = start
            continue
        spans.append((start if leading is None else leading, end))
        leading = None
    if leading is not None and spans:
        spans[-1] = (spans[-1][0], len(text.rstrip()))
    return spans


def _words(text: str) -> list[Span]:
    return _joined(text, word_borders(text))


def _sentences(text: str) -> list[Span]:
    borders = sentence_borders(text)
    return _joined(text, zip([0, *borders], [*borders, len(text)], strict=True))


def _pieces(text: str, separator: str) -> list[Span]:
    """Returns the pieces between separators that are not empty, without the white space around them."""
    spans, start = [], 0
    for match in [*re.finditer(separator, text), None]:
        end = len(text) if match is None else match.start()
        piece = text[start:end]
        if piece.strip():
            spans.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
        start = end if match is None else match.end()
    return spans


_FINDERS: dict[str, Callable[[str], list[Span]]] = {
    "word": _words,
    "sentence": _sentences,
    "line": lambda text: _pieces(text, r"\n|\r\n?"),
    "paragraph": lambda text: _pieces(text, r"(?:\r\n?|\n)[^\S\n\r]*(?:\r\n?|\n)\s*"),
}


def check_spans(spans: Any, length: int, what: str) -> list[Span]:
    """Returns spans (start, end) in a text of `length` characters, sorted.

    Raises:
      ValueError: a span is not a pair of whole numbers, is empty, leaves the text or overlaps another.
    """
    found: list[Span] = []
    for span in spans:
        if len(span) != 2 or not all(isinstance(place, int | np.integer) for place in span):
            raise ValueError(f"{what} must be pairs (start, end) of whole numbers, got {span!r}")
        start, end = map(int, span)
        if not 0 <= start < end <= length:
            raise ValueError(
                f"the span {(start, end)} of {what} is empty or leaves the text, which has {length} characters"
            )
        found.append((start, end))
    found.sort()
    for left, right in itertools.pairwise(found):
        if left[1] > right[0]:
            raise ValueError(f"the spans {left} and {right} of {what} overlap")
    return found


def find_units(text: str, units: Any, offsets: Sequence[Span], ranges: Sequence[Span]) -> list[Span]:
    """Returns the spans of the units of a text, in order.

    Args:
      text: the text.
      units: "token" (one of the model's tokens), "word" (see `words.word_borders`; with its punctuation), "sentence",
        "line", "paragraph" (between empty lines), "turn" or "document" (each of `ranges`); or a compiled regular
        expression, every match of which is one.
      offsets: spans of the tokens, (0, 0) for special ones; "token" takes its spans from them.
      ranges: where units may be; none crosses their borders.

    Raises:
      ValueError: the units are unknown.
    """
    if units == "token":
        inside = [(start, end) for start, end in offsets if end > start]
        # Several tokens may share the bytes of one character.
        return sorted({span for span in inside if any(a <= span[0] and span[1] <= b for a, b in ranges)})
    if units in ("turn", "document"):
        return [span for span in ranges if text[slice(*span)].strip()]
    if isinstance(units, re.Pattern):
        found = [m.span() for start, end in ranges for m in units.finditer(text, start, end)]
        return [span for span in found if span[1] > span[0]]
    if units not in _FINDERS:
        raise ValueError(f"unknown units {units!r}; expected one of {', '.join(UNITS)}, a compiled regex or spans")
    return [(start + left, start + right) for start, end in ranges for left, right in _FINDERS[units](text[start:end])]


def assign_tokens(offsets: Sequence[Span], spans: Sequence[Span]) -> np.ndarray:
    """Returns the unit of each token, int [L]: the one it overlaps most, -1 where it overlaps none (special tokens).

    `spans` are sorted and do not overlap.
    """
    units, ends = np.full(len(offsets), -1, np.int32), [end for _, end in spans]
    for token, (start, end) in enumerate(offsets):
        most = 0
        for unit in range(bisect.bisect_right(ends, start), len(spans)):
            if spans[unit][0] >= end:
                break
            overlap = min(end, spans[unit][1]) - max(start, spans[unit][0])
            if overlap > most:
                most, units[token] = overlap, unit
    return units
