"""Words of a text: runs between white space, cut further at word boundaries of UAX 29 where scripts write no space."""

import functools
import re
from collections.abc import Callable

import budoux
import unicode_segmentation_rs

from spex_jax.lenses.text_parts.sentences import BLOCK_TAG, TAG, ends_before

__all__ = ["word_borders"]

_RUN = re.compile(rf"(?:{TAG}|\S)+", re.IGNORECASE)
_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_THAI = "\u0e01-\u0e4e"
# These write no space between words either; each grapheme cluster is a word, as there is no light dictionary.
_OTHERS = "\u0e81-\u0edf\u1000-\u109f\u1780-\u17d3\u1950-\u19df\u1a20-\u1aad\ua9e0-\ua9fe\uaa60-\uaadf"
_UNSPACED = re.compile(f"[{_HAN}{_KANA}{_THAI}{_OTHERS}]")
_HAS_KANA, _HAS_HAN, _HAS_THAI = (re.compile(f"[{script}]") for script in (_KANA, _HAN, _THAI))
_LATIN_BESIDE_HAN = re.compile(f"(?<=[A-Za-z])(?=[{_HAN}])|(?<=[{_HAN}])(?=[A-Za-z])")
_IN_OTHERS = re.compile(f"(?<=[{_OTHERS}])|(?=[{_OTHERS}])")
# A word ends after a long dash, an ellipsis and the marks of East Asia, and before their opening marks.
_AFTER_MARK = re.compile(
    r"(?<=[\u2014\u2015\u2026\u3001\u3002\uff0c\uff01\uff1f\uff1b\uff1a\u300d\u300f\uff09\u300b\u3011])(?=\w)"
    r"|(?<=\w--)(?=\w)|(?<=\w\.\.\.)(?=\w)|(?<=\w)(?=[\u300c\u300e\uff08\u300a\u3010])"
)
_BLOCK = re.compile(BLOCK_TAG, re.IGNORECASE)
_EMOJI = re.compile(r"[\u2600-\u27bf\u2b50\u2b55\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff]")
_LINE = re.compile(r"[^\n]+")

_Parser = Callable[[str], list[str]]


@functools.cache
def _parser(name: str) -> _Parser:
    parse: _Parser = getattr(budoux, f"load_default_{name}_parser")().parse
    return parse


def _language(line: str) -> str | None:
    """Returns the parser of a line in a script without spaces, or None."""
    if _HAS_KANA.search(line):
        return "japanese"
    if _HAS_HAN.search(line):
        letters = "".join(_HAS_HAN.findall(line))
        simplified, traditional = (len(letters.encode(code, "ignore")) for code in ("gb2312", "big5"))
        return "traditional_chinese" if traditional > simplified else "simplified_chinese"
    return None


def _ends_of(parts: list[str], start: int) -> set[int]:
    ends = set()
    for part in parts:
        start += len(part)
        ends.add(start)
    return ends


def _in_run(run: str, language: str | None) -> set[int]:
    """Returns where a run of characters without white space is cut."""
    cuts = {match.start() for rule in (_AFTER_MARK, _IN_OTHERS) for match in rule.finditer(run)}
    if language is not None and (_HAS_HAN.search(run) or _HAS_KANA.search(run)):
        found = _ends_of(_parser(language)(run), 0)
        cuts |= {cut for cut in found if _UNSPACED.search(run[max(0, cut - 1) : cut + 1])}
        if language != "japanese":
            cuts |= {match.start() for match in _LATIN_BESIDE_HAN.finditer(run)}
    for thai in re.finditer(f"[{_THAI}]+", run):
        cuts |= {thai.start(), *_ends_of(_parser("thai")(thai.group()), thai.start())}
    parts = unicode_segmentation_rs.split_word_bounds(run)
    standard, place = set(), 0
    for part in parts:
        standard |= {place}
        if _EMOJI.search(part):
            cuts |= {place, place + len(part)}
        place += len(part)
    for tag in _BLOCK.finditer(run):
        cuts.add(tag.end() if ends_before(tag.group()) else tag.start())
    return (cuts & standard) - {0, len(run)}


def word_borders(text: str) -> list[tuple[int, int]]:
    """Returns the spans of runs between white space, cut where they hold several words, ascending.

    UAX 29 leaves the words of scripts without spaces to dictionaries. Those of Chinese and Thai and the phrases of
    Japanese (a word with its particles) are found by the models in BudouX, at boundaries that UAX 29 allows.
    """
    spans = []
    for line in _LINE.finditer(text):
        language = _language(line.group())
        for match in _RUN.finditer(text, *line.span()):
            start, run = match.start(), match.group()
            cuts = sorted(_in_run(run, language))
            spans += [(start + a, start + b) for a, b in zip([0, *cuts], [*cuts, len(run)], strict=True)]
    return spans
