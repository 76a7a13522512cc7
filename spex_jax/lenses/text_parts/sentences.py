"""Sentences of a text: those of UAX 29, with rules for abbreviations, citations, markup and lists, which it lacks."""

import re
import unicodedata

import unicode_segmentation_rs

from spex_jax.lenses.text_parts import abbreviations

__all__ = ["BLOCK_TAG", "TAG", "ends_before", "sentence_borders"]

TAG = r"</?[A-Za-z][A-Za-z0-9-]*(?:\s[^<>]*)?/?>"
_BLOCKS = (
    "address|article|aside|blockquote|body|br|caption|center|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|"
    "form|h[1-6]|head|header|hr|html|legend|li|main|nav|ol|option|p|pre|section|summary|table|tbody|td|tfoot|th|thead|"
    "title|tr|ul"
)
BLOCK_TAG = rf"</?(?:{_BLOCKS})(?:\s[^<>]*)?/?>"
_BLOCK = re.compile(BLOCK_TAG, re.IGNORECASE)
_VOID = re.compile(r"<(?:br|hr)\b", re.IGNORECASE)
_TAGS = re.compile(rf"(?:\s*{TAG})+", re.IGNORECASE)
_ONE_TAG = re.compile(TAG, re.IGNORECASE)

_LINE_END = re.compile(r"[\n\r\v\f\x85\u2028\u2029]+")
_BULLET = re.compile(r"\s(?=[\u2022\u2023\u25cf\u25e6\u25aa]\s)")
# Thai and Lao write a space between sentences and clauses, none between words; not beside a number or another script.
_THAI_SPACE = re.compile(
    r"(?<=[\u0e01-\u0e2e\u0e30-\u0e45\u0e47-\u0e4e\u0e81-\u0edf])\s+(?=[\u0e01-\u0e2e\u0e40-\u0e44\u0e81-\u0ec4])"
)

# Text whose punctuation does not belong to a sentence; as many other characters hide it from the rules of UAX 29.
_ADDRESS = re.compile(
    r"(?:https?://|www\.)[!-~]*[A-Za-z0-9/=_#&-]|[\w.+-]+@[\w-]+(?:\.[\w-]+)+|[\w-]+(?:\.[\w-]+)+/[!-~]*[A-Za-z0-9/=_#&-]",
    re.ASCII,
)
_CASELESS = "\u05d0"
_CITATION = re.compile(
    r"(?<=[.!?\u2026\u3002\uff01\uff1f\u0964\u06d4\u061f\u1362\"\u201d\u2019)])"
    r"(?:(?:\[[^\[\]\n]{1,24}\])+|\(\d{1,3}(?:[,;\u2013-] ?\d{1,3})*\)|<sup\b[^<>]*>[^<>\n]{0,24}</sup>"
    r"|[\u00b9\u00b2\u00b3\u2070-\u2079]+)",
    re.IGNORECASE,
)
_DATE = re.compile(r"\b\d{4}\. ?\d{1,2}\. ?\d{1,2}\.(?=\s+\S)")
_ELLIPSIS = re.compile(r"\u2026(?=[\"\u201d\u2019)\u00bb]*(?:\s|$))")

# Ends that UAX 29 misses: free stops, and stops before the next mark of a list, a number or a lower-case letter.
_FREE_STOP = re.compile(r"(?<=\s)\.[\"'\u201d\u2019)]*\s+(?=\S)")
_NEXT_ITEM = re.compile(
    r"[.!?;]\s+(?=\(?(?:[a-z]|\d{1,2}|[ivx]{1,4})\)\s|[ivx]{2,4}\.\s|[\u00bf\u00a1]|[-\u2013\u2014]\s+[^\W\d_a-z])"
)
_NUMBER = re.compile(r"[^\W\d_]{2}\.[\"'\u201d\u2019)]*\s+(?=\d)")
_LOWER_STOP = re.compile(r"\.[\"'\u201d\u2019)\]]*\s+(?=\S)")

_CLOSING = "\"'\u201d\u2019\u201c\u2018)]}\u00bb\u00ab\u203a\u300d\u300f\uff09\u300b\u3011"
_OPENING = _CLOSING + "([{\u00bf\u00a1\u201e\u300c\u300e\uff08"
_FREE_MARK = re.compile(
    r"(?:[\u2600-\u27bf\u2b50\u2b55\ufe0f\u200d\U0001f1e6-\U0001faff]+\s*)+(?=\s|$)"
    r"|(?<=\s)[\u00bb\u201d\u2019)\]]+(?:\s+|$)"
)
_MARKER = re.compile(r"\W*(?:\d{1,3}|[A-Za-z\u0410-\u044f]|[ivxIVX]{1,5})[.)]+")
_WORD = re.compile(r"[^\W\d_]+")

_TOKEN = re.compile(r"[^\s(\[{\"\u201c\u2018\u201e]+")
_ELISION = re.compile(r"^\w{1,2}['\u2019]")
_NUMBERED = re.compile(r"\d|(?:[IVX]{2,}|[VX]|[A-Z]\d+|[A-H])\b(?!')")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_ARABIC = re.compile(r"[\u0620-\u064a]")
_SPACED = re.compile(
    r"\b(?:z\.\s?b|d\.\s?h|u\.\s?a|i\.\s?d\.\s?r|o\.\s?g|s\.\s?o|v\.\s?a|z\.\s?t|u\.\s?u|i\.\s?a|e\.\s?g|i\.\s?e)\.$",
    re.IGNORECASE,
)
_ORDINAL = re.compile(
    r"\b(?:der|dem|den|des|die|das|zum|zur|beim|im|vom|ins|dieser|diesem|diesen|jeder|jedem|jeden|seine|seinem|seinen|"
    r"ihrem|ihren)\s+\d{1,2}\.$",
    re.IGNORECASE,
)
_MONTH = re.compile(
    r"(?:Januar|J\u00e4nner|Februar|M\u00e4rz|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember|Jahrhundert)"
)
# Words that continue a sentence after a quotation, in scripts where no letter case shows it.
_REPORTED = re.compile(
    r"(?:\u3068|\u3063\u3066|\u3068\u306e|\ub77c|\uc774\ub77c|\ud558\uace0|\uace0\s)"
    r"|[\u4e00-\u9fff]{0,6}?(?:\u8bf4|\u8aaa|\u95ee|\u554f|\u9053|\u558a|\u53eb|\u7b54|\u7b11)"
    r"|\s+(?:\u0909\u0938\u0928\u0947|\u0909\u0928\u094d\u0939\u094b\u0902\u0928\u0947)\s"
)


def ends_before(tag: str) -> bool:
    """Returns whether a tag belongs to the text before it, as closing tags and line breaks do."""
    return tag.startswith("</") or _VOID.match(tag) is not None


def _hidden(text: str) -> str:
    """Returns the text with all that is not punctuation of a sentence covered, character for character."""
    text = text.replace("&nbsp;", " " * 6)
    text = _CITATION.sub(lambda match: ")" * len(match.group()), text)
    text = _ONE_TAG.sub(lambda match: (")" if ends_before(match.group()) else "(") * len(match.group()), text)
    text = _ADDRESS.sub(lambda match: _CASELESS * len(match.group()), text)
    text = _DATE.sub(lambda match: match.group().replace(".", ","), text)
    return _ELLIPSIS.sub(".", text)


def _standard(text: str) -> list[int]:
    """Returns where UAX 29 ends sentences."""
    ends, cursor = [], 0
    for piece in unicode_segmentation_rs.unicode_sentences(text):
        # Pieces without a letter or a digit are left out, so that the next one may begin after the cursor.
        start = text.index(piece, cursor)
        ends += [start, start + len(piece)]
        cursor = start + len(piece)
    return ends


def _hard_borders(text: str) -> set[int]:
    """Returns the ends of lines and blocks of markup, list marks, and spaces of scripts with none within a sentence."""
    borders = {match.end() for pattern in (_LINE_END, _BULLET, _THAI_SPACE) for match in pattern.finditer(text)}
    for run in _TAGS.finditer(text):
        tags = list(_ONE_TAG.finditer(text, *run.span()))
        blocks = [tag for tag in tags if _BLOCK.fullmatch(tag.group())]
        closing = [tag for tag in blocks if ends_before(tag.group())]
        if closing:
            after = [tag for tag in tags if tag.start() >= closing[-1].end() and tag.group().startswith("</")]
            borders.add((after or closing)[-1].end())
        elif blocks:
            borders.add(tags[0].start())
    return borders


def _moved(text: str, hidden: str, border: int) -> int:
    """Returns a border moved before opening marks, or after an emoji or a closing mark that stands alone."""
    free = _FREE_MARK.match(text, border)
    if free and text[:border].strip():
        return free.end()
    place = border
    while place and (hidden[place - 1] == "(" or unicodedata.category(text[place - 1]) in ("Ps", "Pi")):
        place -= 1
    # A mark that opens in one language closes in another, where white space follows it.
    closes = place < border and hidden[border - 1] in "\u201c\u2018\u00ab" and hidden[border : border + 1].isspace()
    return border if closes else place


def _ends(hidden: str, start: int, border: int, caseless: bool) -> bool:
    """Returns whether the sentence from `start` ends at `border`, which the standard or a rule above proposes."""
    before, after = hidden[start:border].rstrip(), hidden[border:].lstrip()
    core = before.rstrip(_CLOSING)
    if not core or not after:
        return True
    closed, spaced = len(core) < len(before), hidden[border - 1].isspace()
    following = after.lstrip(_OPENING)
    if closed:
        continued = following[:1].islower() and not caseless
        return not continued and not _REPORTED.match(hidden, border - spaced)
    if core[-1] in "!?":  # otherwise it is a sign in code or an address
        return spaced or following[:1].isupper() or _is_caseless(following[:1])
    if core[-1] not in ".\uff0e" or core.endswith(".."):
        return True
    if _MARKER.fullmatch(core):
        return False
    if not spaced and len(core.split()[-1]) < 5:
        return False  # ".NET", or letters with stops between them
    return core[-2:-1].isspace() or not _is_abbreviation(core, following)


def _is_caseless(letters: str) -> bool:
    """Returns whether there are letters, all of them of a script without capitals."""
    return any(map(str.isalpha, letters)) and letters.lower() == letters.upper()


def _is_abbreviation(core: str, following: str) -> bool:
    """Returns whether the full stop at the end of `core` is that of an abbreviation, a number or an unfinished name."""
    token = _ELISION.sub("", _TOKEN.findall(core)[-1].removesuffix("."))
    low, digit = token.lower(), following[:1].isdigit()
    match = _WORD.match(following)
    word = match.group().lower() if match else ""
    if _SPACED.search(core) or low in abbreviations.NEVER or (token[:1].isupper() and low in abbreviations.TITLES):
        return True
    if (low in abbreviations.BEFORE_NUMBER and (len(token) > 1 or token.islower())) or low.endswith("str"):
        return bool(_NUMBERED.match(following))
    if token.isdigit():
        return bool(_MONTH.match(following) or _ORDINAL.search(core))
    if low in abbreviations.CLOCK:
        return digit or word in abbreviations.DAYS
    if low in abbreviations.MAY_END or _INITIALS.fullmatch(token):
        return word not in abbreviations.STARTERS
    if "." in token and _is_caseless(token) and len(token) < 10:
        return not any(map(str.isdigit, token))
    if len(token) > 1 or not token.isalpha():
        return False
    if _is_caseless(token):
        return bool(_ARABIC.match(token))
    previous = [word.lower() for word in core.removesuffix(token + ".").split()]
    if previous and previous[-1] in ("is", "was", "are", "were", "be"):  # "the answer is B", and "this is J. Smith"
        lettered = not abbreviations.BEFORE_LETTER.isdisjoint(previous)
    else:
        lettered = bool(previous) and previous[-1] in abbreviations.BEFORE_LETTER
    return (digit or not lettered) and word not in abbreviations.STARTERS


def sentence_borders(text: str) -> list[int]:
    """Returns where the sentences of a text end, ascending, without 0 and the length of the text.

    They are the sentence boundaries of UAX 29 without those after abbreviations, initials, German ordinal numbers and
    list marks, and within reported speech, and with further ones after citations, between blocks of HTML, between the
    items of a list, at the spaces of Thai and Lao, and before lower-case letters in a text that has no capitals.
    """
    hidden, hard = _hidden(text), _hard_borders(text)
    caseless = not any(letter.isupper() for letter in re.sub(r"\bI\b", "", hidden))
    soft = {*_standard(hidden), *(match.end() for rule in (_NEXT_ITEM, _NUMBER) for match in rule.finditer(hidden))}
    soft |= {match.end() for match in _FREE_STOP.finditer(text)}
    if caseless:
        soft |= {match.end() for match in _LOWER_STOP.finditer(hidden)}
    moved = {_moved(text, hidden, border) for border in soft} - hard
    kept, start = [], 0
    for border in sorted((moved | hard) - {0, len(text)}):
        if border in hard or _ends(hidden, start, border, caseless):
            kept.append(border)
            start = border
    return kept
