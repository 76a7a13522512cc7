"""Cutting a text into the units that are kept or removed, as character spans."""

import re
import unicodedata

import numpy as np

__all__ = ["UNITS", "Span", "assign_tokens", "find_units"]

Span = tuple[int, int]
UNITS = ("token", "word", "sentence")

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


def find_units(text: str, units: str, offsets: list[Span]) -> list[Span]:
    """Spans of the units of a text, in order.

    Args:
      text: the text.
      units: "token" (one of the model's tokens), "word" (a run between white space, with its punctuation) or
        "sentence".
      offsets: spans of the tokens, (0, 0) for special ones; "token" takes its spans from them.

    Raises:
      ValueError: unknown units.
    """
    if units == "word":
        return _words(text)
    if units == "sentence":
        return _sentences(text)
    if units == "token":
        return [span for span in offsets if span[1] > span[0]]
    raise ValueError(f"unknown units {units!r}; expected one of {', '.join(UNITS)}")


def assign_tokens(offsets: list[Span], spans: list[Span]) -> np.ndarray:
    """The unit of each token, int [L]: the one that it overlaps most, -1 where it overlaps none (special tokens)."""
    units = np.full(len(offsets), -1, np.int32)
    for token, (start, end) in enumerate(offsets):
        overlaps = [min(end, right) - max(start, left) for left, right in spans]
        if overlaps and max(overlaps) > 0:
            units[token] = int(np.argmax(overlaps))
    return units
