"""Texts and conversations as tokens: which of them may be removed, and the names of the units."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.core.masks import check_unicode
from spex_jax.lenses.text_parts.conversation import Passage, check_messages, render
from spex_jax.lenses.text_parts.units import Span, assign_tokens, check_spans, find_units
from spex_jax.models.protocols import Tokenizer

__all__ = ["Prompt", "encode", "read_prompt"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """Holds a text as its model reads it.

    Attributes:
      text: as rendered by the chat template, or as given.
      ids: int32 [L].
      offsets: the span of every token in the text, (0, 0) for added ones.
      unit: int32 [L], the unit of each token, -1 for tokens that are always kept.
      spans, names: one for each unit.
      noun: the word for a unit.
      chat: whether a template rendered it.
      begun: whether a first token was added that the tokenizer itself does not add.
      left_out: the parts of the messages that the chat template leaves out, each with its message.
    """

    text: str
    ids: np.ndarray
    offsets: list[Span]
    unit: np.ndarray
    spans: list[Span]
    names: list[str]
    noun: str
    chat: bool
    begun: bool
    left_out: tuple[str, ...]

    @property
    def n(self) -> int:
        """The number of units."""
        return len(self.spans)


def encode(tokenizer: Tokenizer, text: str, *, special: bool) -> tuple[list[int], list[Span]]:
    """Returns the ids and spans of a text's tokens; `special` adds the tokenizer's special tokens.

    Raises:
      ValueError: the tokenizer gives no offsets.
    """
    options = {} if special else {"add_special_tokens": False}
    try:
        encoded = tokenizer(text, return_offsets_mapping=True, **options)
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"the tokenizer {type(tokenizer).__name__} gives no character offsets; use a fast tokenizer "
            "(transformers.AutoTokenizer with use_fast=True)"
        ) from error
    return list(encoded["input_ids"]), [(int(start), int(end)) for start, end in encoded["offset_mapping"]]


def _in_message(units: Any, content: str, passages: Sequence[Passage]) -> list[Span]:
    """Returns the spans in the prompt of spans in the only message that is not protected."""
    found = []
    for left, right in check_spans(units, len(content), "units="):
        piece = content[left:right]
        first, last = left + len(piece) - len(piece.lstrip()), left + len(piece.rstrip())
        for passage in passages:
            if passage.first <= first < last <= passage.last:
                found.append((passage.places[first - passage.first], passage.places[last - passage.first]))
                break
        else:
            raise ValueError(
                f"the span {(left, right)} of units= is {piece!r:.60}, which the chat template leaves out or cuts; "
                "give spans of text that is in the prompt"
            )
    return found


def _within(text: str, given: Any, ranges: list[Span]) -> list[Span]:
    """Returns the parts of `ranges` in which units may be, given as strings that occur once or as spans."""
    parts = [given] if isinstance(given, str) else list(given)
    if not parts:
        raise ValueError("within= is empty; give the text, or the texts, whose units may be removed")
    if not all(isinstance(part, str) for part in parts):
        return check_spans(parts, len(text), "within=")
    found = []
    for part in parts:
        check_unicode(part, "a part of within=")
        places = [
            start + match.start()
            for start, end in ranges
            for match in (re.finditer(f"(?={re.escape(part)})", text[start:end]) if part.strip() else ())
        ]
        if len(places) != 1:
            raise ValueError(
                f"{part!r:.60} of within= occurs {len(places)} times in the removable text; "
                "give parts that occur once, or spans"
            )
        found.append((places[0], places[0] + len(part)))
    return check_spans(found, len(text), "within=")


def read_prompt(
    tokenizer: Tokenizer,
    text_or_messages: Any,
    *,
    units: Any,
    within: Any,
    protect: Sequence[str],
    begin: int | None,
) -> Prompt:
    """Renders and tokenises a text or a conversation, and finds its units.

    Args:
      tokenizer: a fast tokenizer.
      text_or_messages: a text, or messages [{"role", "content"}].
      units: see `lenses.text`.
      within: the parts of the text in which units may be; everything where None.
      protect: roles of messages that are always kept.
      begin: the token that a text must begin with, which is added where the tokenizer does not add it; or None.

    Raises:
      ValueError: there is no text, no unit or a unit without tokens, or options do not fit.
    """
    chat = not isinstance(text_or_messages, str)
    labels: list[str] = []
    passages: list[Passage] = []
    left_out: list[str] = []
    if chat:
        if not isinstance(text_or_messages, Sequence):
            raise ValueError(
                f"the text lens explains a string or a list of messages, got {type(text_or_messages).__name__}"
            )
        check_messages(text_or_messages)
        roles = [message["role"] for message in text_or_messages]
        conversation = render(tokenizer, text_or_messages)
        text = conversation.text
        passages = [passage for passage in conversation.passages if roles[passage.message] not in protect]
        left_out = [f"message {number} ({roles[number]}): {part}" for number, part in conversation.left_out]
        ranges, labels = [passage.span for passage in passages], [roles[passage.message] for passage in passages]
    else:
        text, ranges = check_unicode(text_or_messages, "the text"), [(0, len(text_or_messages))]
    if within is not None:
        ranges = _within(text, within, ranges)
    elif units == "document":
        raise ValueError("units='document' needs within=, a list with the text of each document")
    if units == "turn" and (not chat or within is not None):
        raise ValueError("units='turn' needs messages, and no within=")
    ids, offsets = encode(tokenizer, text, special=not chat)
    begun = begin is not None and not chat and (not ids or ids[0] != begin)
    if begin is not None and begun:
        ids, offsets = [begin, *ids], [(0, 0), *offsets]

    given = not isinstance(units, str | re.Pattern)
    noun = units if isinstance(units, str) else "phrase"
    if given and chat:
        opened = [message["content"] for message in text_or_messages if message["role"] not in protect]
        if len(opened) != 1 or within is not None:
            raise ValueError(
                "spans count the characters of a text, or of the only message that is not protected; here "
                f"{len(opened)} are not protected: give a regex or within= instead, or protect roles by protect="
            )
        spans = check_spans(_in_message(units, opened[0], passages), len(text), "units=")
    elif given:
        spans = check_spans(units, len(text), "units=")
    else:
        spans = find_units(text, units, offsets, ranges)
    unit = assign_tokens(offsets, spans)
    present = np.unique(unit[unit >= 0])
    if len(present) < len(spans) and (given or noun == "phrase"):
        missing = spans[min(set(range(len(spans))) - set(present.tolist()))]
        raise ValueError(
            f"the unit {text[slice(*missing)]!r:.60} at {missing} has no token of its own: it is part of a token that "
            "belongs to another unit, or invisible to the tokenizer"
        )
    if not len(present):  # units of invisible characters have no token, and so no influence
        raise ValueError(f"the text has no {noun}s to remove: {text!r:.60}")
    unit = np.where(unit >= 0, np.searchsorted(present, unit), -1).astype(np.int32)
    spans = [spans[position] for position in present]
    names = [text[start:end] for start, end in spans]
    if noun == "turn":
        names = [f"{labels[ranges.index(span)]}: {name}" for span, name in zip(spans, names, strict=True)]
    return Prompt(
        text=text,
        ids=np.asarray(ids, np.int32),
        offsets=offsets,
        unit=unit,
        spans=spans,
        names=names,
        noun=noun,
        chat=chat,
        begun=begun,
        left_out=tuple(left_out),
    )
