"""Conversations as their chat template renders them, and where every character of the messages goes.

The template is rendered again with marks: characters that occur nowhere else take the place of those of the contents. A
mark comes out where its character goes, whatever the template trims, moves, repeats or leaves out; no text is searched
for. A rendering counts only if everything around the marks is unchanged.
"""

import bisect
import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spex_jax.core.masks import check_unicode
from spex_jax.models.protocols import ChatTokenizer, Tokenizer

__all__ = ["Conversation", "Passage", "check_messages", "render"]

_FIRST_MARK, _MARKS = 0xF0000, 0xFFFE  # the first supplementary private use area, without its noncharacters
_RENDERINGS = 300  # at most, to find the characters that a template depends on
_CONTROL = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}")
_SHOWN = 60

Contents = Sequence[str]


@dataclasses.dataclass(frozen=True)
class Passage:
    """Holds a part of a message that is in the prompt in one piece.

    Attributes:
      message: the number of the message.
      first: the number of its first character in the message.
      places: the places in the prompt of each of its characters, and of its end; ascending.
    """

    message: int
    first: int
    places: tuple[int, ...]

    @property
    def span(self) -> tuple[int, int]:
        """The span of the passage in the prompt."""
        return self.places[0], self.places[-1]

    @property
    def last(self) -> int:
        """The number of the character after it in the message."""
        return self.first + len(self.places) - 1


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Holds a rendered conversation.

    Attributes:
      text: the prompt.
      passages: the parts of the messages that are in it, in its order.
      left_out: the parts that the template leaves out, white space aside: number of the message, text.
    """

    text: str
    passages: tuple[Passage, ...]
    left_out: tuple[tuple[int, str], ...]


def check_messages(messages: Sequence[Any]) -> None:
    """Raises ValueError where messages are not [{"role", "content"}] with valid strings as contents."""
    if not messages:
        raise ValueError("the conversation has no messages; give at least one")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(f'message {number} must be {{"role": ..., "content": ...}}, got {message!r:.80}')
        if not isinstance(message["content"], str):
            raise ValueError(
                f"the content of message {number} must be a string, got {type(message['content']).__name__}; "
                "pictures and tool calls are not supported"
            )
        for key in ("role", "content"):
            check_unicode(str(message[key]), f"the {key} of message {number}")


def render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> Conversation:
    """Renders a conversation and finds its messages.

    Raises:
      ImportError: jinja2 is missing.
      ValueError: there is no chat template, it refuses the messages, or it renders them differently whenever their
        characters change, so that these cannot be followed.
    """
    if not isinstance(tokenizer, ChatTokenizer) or not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template; give a text instead of messages")

    def rendered(contents: Contents) -> str:
        given = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
        try:
            found: str = tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
            return found
        except ImportError as error:
            raise ImportError("chat templates need jinja2; pip install 'spex-jax[hf]'") from error
        except Exception as error:  # templates may raise anything
            raise ValueError(f"the chat template refuses these messages: {error}") from error

    contents = [message["content"] for message in messages]
    marking = _Marking(rendered, contents)
    marked = marking.find()
    passages = [*_passages(marking, marked)]
    return Conversation(marking.text, tuple(passages), tuple(_left_out(contents, passages)))


class _Marking:
    """Renders a conversation with marks in the place of characters of its messages."""

    def __init__(self, rendered: Callable[[Contents], str], contents: Contents):
        self._rendered, self.contents = rendered, contents
        self.text = rendered(contents)
        used = set(self.text).union(*contents)
        free = [chr(_FIRST_MARK + number) for plane in (0, 0x10000) for number in range(plane, plane + _MARKS)]
        self._marks = [mark for mark in free if mark not in used]
        self._left = _RENDERINGS

    def places(self, marked: Sequence[tuple[int, int]], *, longer: str = "") -> tuple[dict[int, list[int]], int] | None:
        """Returns where the marks of characters (message, number) are, by position in `marked`; the prompt's length.

        None where anything else in the prompt changes. With `longer`, "first" or "last", the white space at that end
        of each message is one character longer, and the prompt may get longer too.
        """
        letters = [list(content) for content in self.contents]
        for mark, (message, number) in zip(self._marks, marked, strict=False):
            letters[message][number] = mark
        for content in letters if longer else ():
            edge = 0 if longer == "first" else -1
            if content and content[edge].isspace():
                content.insert(0 if longer == "first" else len(content), content[edge])
        try:
            found = self._rendered(["".join(content) for content in letters])
        except ValueError:  # a template that refuses marked contents depends on them
            return None
        numbers = {mark: position for position, mark in enumerate(self._marks[: len(marked)])}
        places: dict[int, list[int]] = {}
        for place, character in enumerate(found):
            if character in numbers:
                places.setdefault(numbers[character], []).append(place)
        if not longer:
            inside = {place for there in places.values() for place in there}
            if len(found) != len(self.text) or any(
                a != b and place not in inside for place, (a, b) in enumerate(zip(found, self.text, strict=True))
            ):
                return None
        return places, len(found)

    def find(self) -> list[tuple[int, int]]:
        """Returns characters that may be marked together.

        Raises:
          ValueError: a message has none of them although it has letters.
        """
        everything = [[*self._candidates(message)] for message in range(len(self.contents))]
        if sum(len(choices[0]) for choices in everything if choices) > len(self._marks):
            # Some characters of tags would have no mark, and the template may look for just these.
            everything = [choices[1:] or choices for choices in everything]
        first = self._thinned([mark for choices in everything for mark in (choices or [[]])[0]])
        if self.places(first) is not None:
            return first
        found = []
        for message, choices in enumerate(everything):
            chosen = next((choice for choice in choices if self.places(self._thinned(choice)) is not None), None)
            if chosen is None and choices:
                chosen = self._search(choices[0])
            # A message of nothing but tags may have none: a template may take them for its own.
            if _CONTROL.sub("", self.contents[message]).strip() and not chosen:
                raise ValueError(self._reason(message))
            found += chosen or []
        found = self._thinned(found)
        if self.places(found) is None:
            raise ValueError(self._reason(None))
        return found

    def _candidates(self, message: int) -> list[list[tuple[int, int]]]:
        """Returns sets of characters to be marked, the largest first: all, those outside of tags, their letters."""
        content = self.contents[message]
        written = [number for number, letter in enumerate(content) if not letter.isspace()]
        tagged = {number for match in _CONTROL.finditer(content) for number in range(*match.span())}
        outside = [number for number in written if number not in tagged]
        plain = [number for number in outside if content[number].isalnum()]
        sets = [[(message, number) for number in numbers] for numbers in (written, outside, plain)]
        return [marks for marks in sets if marks]

    def _thinned(self, marked: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Returns at most as many as there are marks, with those at the ends of messages and of unmarked parts."""
        if len(marked) <= len(self._marks):
            return marked
        ends = {0, len(marked) - 1}
        for i, ((message, left), (other, right)) in enumerate(itertools.pairwise(marked)):
            if message != other or self.contents[message][left + 1 : right].strip():
                ends |= {i, i + 1}
        step = -(-len(marked) // max(1, len(self._marks) - len(ends)))
        kept = sorted(ends.union(range(0, len(marked), step)))
        return [marked[i] for i in kept[: len(self._marks)]]

    def _search(self, marks: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Returns the characters of a message that the template does not depend on, found by halving."""
        if not marks or self._left <= 0:
            return []
        self._left -= 1
        if self.places(marks) is not None:
            return marks
        if len(marks) == 1:
            return []
        middle = len(marks) // 2
        return self._search(marks[:middle]) + self._search(marks[middle:])

    def _reason(self, message: int | None) -> str:
        which = "these messages" if message is None else f"message {message}"
        return (
            f"the chat template renders another text whenever a character of {which} changes, so that the words cannot "
            "be found in the prompt; render the conversation yourself and give the text with within="
        )


def _passages(marking: _Marking, marked: list[tuple[int, int]]) -> list[Passage]:
    """Returns the parts of the messages that are in the prompt, in its order."""
    text, contents = marking.text, marking.contents
    there, _ = marking.places(marked) or ({}, 0)
    found = sorted((place, *marked[position]) for position, places in there.items() for place in places)
    runs: list[tuple[int, int, list[int]]] = []  # message, number of the first character, places
    for place, message, number in found:
        filled = None
        if runs and runs[-1][0] == message:
            _, first, places = runs[-1]
            filled = _between(contents[message][first + len(places) : number], text, places[-1] + 1, place)
        if filled is None:
            runs.append((message, number, [place]))
        else:
            runs[-1][2].extend([*filled, place])
    kept = _white_space(marking, marked, there)
    passages = []
    for message, first, places in runs:
        start, stop = places[0], places[-1] + 1
        before, after = contents[message][:first], contents[message][first + len(places) :]
        left = before if kept["first"][message] else before.lstrip()
        right = after if kept["last"][message] else after.rstrip()
        if left and text[max(0, start - len(left)) : start] == left:
            start, first = start - len(left), first - len(left)
        if right and text[stop : stop + len(right)] == right:
            stop += len(right)
        whole = (*range(start, places[0]), *places, *range(places[-1] + 1, stop + 1))
        passages.append(Passage(message, first, whole))
    return passages


def _between(given: str, text: str, start: int, stop: int) -> list[int] | None:
    """Returns the places of unmarked characters between two marked ones; None where the template writes there."""
    found = text[start:stop]
    if given == found:
        return list(range(start, stop))
    if 0 < len(given) <= 3 and given.strip() and 0 < len(found) <= 8 * len(given) and "\n" not in found:
        return [start + min(i, len(found) - 1) for i in range(len(given))]  # an escaped character
    return None


def _white_space(
    marking: _Marking, marked: list[tuple[int, int]], there: dict[int, list[int]]
) -> dict[str, list[bool]]:
    """Returns whether the white space at the "first" and at the "last" end of each message is in the prompt."""
    kept = {}
    ends = sorted(place for places in there.values() for place in places)
    by_message: dict[int, list[int]] = {}
    for position, (message, _) in enumerate(marked):
        if position in there:
            by_message.setdefault(message, []).append(position)
    for end in ("first", "last"):
        kept[end] = [False] * len(marking.contents)
        edges = [content[:1] if end == "first" else content[-1:] for content in marking.contents]
        if not any(edge.isspace() for edge in edges):
            continue
        moved, length = marking.places(marked, longer=end) or ({}, 0)
        if sorted(moved) != sorted(there):
            continue
        later = sorted(place for places in moved.values() for place in places)
        for message, positions in by_message.items():
            edge = positions[0 if end == "first" else -1]
            place = bisect.bisect_left(ends, there[edge][0])
            if end == "first":
                gaps = [found[place] - (found[place - 1] if place else -1) for found in (ends, later)]
            else:
                borders = ([*ends, len(marking.text)], [*later, length])
                gaps = [found[place + 1] - found[place] for found in borders]
            kept[end][message] = edges[message].isspace() and gaps[1] > gaps[0]
    return kept


def _left_out(contents: Contents, passages: Sequence[Passage]) -> list[tuple[int, str]]:
    """Returns the parts of the messages that are nowhere in the prompt."""
    parts = []
    for message, content in enumerate(contents):
        start = 0
        spans = sorted((passage.first, passage.last) for passage in passages if passage.message == message)
        for first, last in [*spans, (len(content), len(content))]:
            if content[start:first].strip():
                parts.append((message, content[start:first].strip()))
            start = max(start, last)
    return parts
