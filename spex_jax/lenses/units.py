"""Cutting a text into the units that are kept or removed, as character spans."""

import bisect
import itertools
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["UNITS", "Span", "assign_tokens", "check_spans", "find_units"]

Span = tuple[int, int]
UNITS = ("token", "word", "sentence", "line", "paragraph", "turn", "document")

_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f]+[\"'\u201d\u2019)\]]*(?=\s|$)|\n+")
_NO_END = re.compile(r"(?:\b(?:mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|no|jr|sr)|\b[a-z])\.$", re.IGNORECASE)


def _only_punctuation(piece: str) -> bool:
    return all(unicodedata.category(character)[0] in "PCZ" for character in piece)


def _words(text: str) -> list[Span]:
    """Runs of characters that are no white space; a run of punctuation alone belongs to the word before it, or else
    after it.
    """
    spans: list[Span] = []
    leading: int | None = None
    for match in re.finditer(r"\S+", text):
        start, end = match.span()
        if _only_punctuation(match.group()):
            if spans:
                spans[-1] = (spans[-1][0], end)
            elif leading is None:
                leading = start
            continue
        spans.append((start if leading is None else leading, end))
        leading = None
    return spans


def _sentences(text: str) -> list[Span]:
    """Ends at . ! ? and at line breaks, but not after initials and common abbreviations."""
    spans: list[Span] = []
    start = 0
    for match in [*_SENTENCE_END.finditer(text), None]:
        end = len(text) if match is None else match.end()
        if match is not None and "\n" not in match.group() and _NO_END.search(text[start : match.end()]):
            continue
        piece = text[start:end]
        if piece.strip() and not _only_punctuation(piece.strip()):
            left = start + len(piece) - len(piece.lstrip())
            spans.append((left, start + len(piece.rstrip())))
        elif piece.strip() and spans:
            spans[-1] = (spans[-1][0], start + len(piece.rstrip()))
        start = end
    return spans


def _pieces(text: str, separator: str) -> list[Span]:
    """What stands between separators, without the white space around it; what is empty is left out."""
    spans, start = [], 0
    for match in [*re.finditer(separator, text), None]:
        end = len(text) if match is None else match.start()
        piece = text[start:end]
        if piece.strip():
            spans.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
        start = end if match is None else match.end()
    return spans


_FINDERS = {
    "word": _words,
    "sentence": _sentences,
    "line": lambda text: _pieces(text, r"\n|\r\n?"),
    "paragraph": lambda text: _pieces(text, r"(?:\r\n?|\n)[^\S\n\r]*(?:\r\n?|\n)\s*"),
}


def check_spans(spans: Any, length: int, what: str) -> list[Span]:
    """Sorted spans (start, end) in a text of `length` characters.

    Raises:
      ValueError: a span is no pair of whole numbers, is empty, leaves the text or overlaps another.
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
    """Spans of the units of a text, in order.

    Args:
      text: the text.
      units: "token" (one of the model's tokens), "word" (a run between white space, with its punctuation), "sentence",
        "line", "paragraph" (between empty lines), "turn" or "document" (each of `ranges`); or a compiled regular
        expression, every match of which is one.
      offsets: spans of the tokens, (0, 0) for special ones; "token" takes its spans from them.
      ranges: where units may be; none crosses their borders.

    Raises:
      ValueError: unknown units.
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
    """The unit of each token, int [L]: the one that it overlaps most, -1 where it overlaps none (special tokens).

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
