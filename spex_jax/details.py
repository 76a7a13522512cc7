"""The fields of an explanation's details that reports read: what each of them must be."""

import re
import reprlib
from collections.abc import Callable
from typing import Any

__all__ = ["check_details"]

_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]*={0,2}")
_LISTS = (list, tuple)


def check_details(details: Any, n: int) -> None:
    """Checks what a lens, or a file, tells of the input. Fields that are not listed here may hold anything.

    Args:
      details: of an `Explanation` or a `ValueFunction`.
      n: number of features.

    Raises:
      ValueError: details that are no dictionary, or a field that reports read and that is not what they expect.
    """
    if not isinstance(details, dict) or not all(isinstance(name, str) for name in details):
        raise ValueError(f"details must be a dictionary with names, got {reprlib.repr(details)}")
    for name, (fits, expected) in _FIELDS.items():
        if name in details and not fits(details[name], n):
            raise ValueError(
                f"details[{name!r}] must be {expected.format(n=n)}, got {reprlib.repr(details[name])}; leave it out or "
                "mend it"
            )
    if "text" in details and not _spans(details.get("spans"), n, len(details["text"])):
        raise ValueError(
            f"details['spans'] must be {n} pairs (start, end) within the {len(details['text'])} characters of "
            f"details['text'], got {reprlib.repr(details.get('spans'))}"
        )
    pictures, point = details.get("pictures"), details.get("test_point")
    if pictures is not None and point is not None and not _whole(point, 0, len(pictures["tests"]) - 1):
        raise ValueError(
            f"details['test_point'] must be a number of one of the {len(pictures['tests'])} pictures of test points, "
            f"got {reprlib.repr(point)}"
        )


def _whole(given: Any, least: int = 0, most: int = 2**53) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and least <= given <= most


def _scalar(given: Any, n: int = 0) -> bool:
    return given is None or isinstance(given, str | int | float | bool)


def _label(given: Any, n: int = 0) -> bool:
    return _scalar(given) or (isinstance(given, _LISTS) and all(map(_scalar, given)))


def _text(given: Any, n: int = 0) -> bool:
    return isinstance(given, str)


def _spans(given: Any, n: int, length: int) -> bool:
    return (
        isinstance(given, _LISTS)
        and len(given) == n
        and all(isinstance(span, _LISTS) and len(span) == 2 and all(map(_whole, span)) for span in given)
        and all(start <= end <= length for start, end in given)
    )


def _layers(given: Any, n: int) -> bool:
    if given is None:
        return True
    if not isinstance(given, _LISTS) or len(given) != n or not all(isinstance(of, _LISTS) for of in given):
        return False
    layers = [layer for of in given for layer in of]
    return all(map(_whole, layers)) or all(map(_text, layers))  # they are put in order


def _columns(given: Any, n: int) -> bool:
    return given is None or (isinstance(given, _LISTS) and len(given) == n and all(map(_text, given)))


def _pictures(given: Any, n: int) -> bool:
    if given is None:
        return True
    if not isinstance(given, dict) or set(given) != {"units", "tests"}:
        return False
    units, tests = given["units"], given["tests"]
    if not isinstance(units, _LISTS) or len(units) != n or not isinstance(tests, _LISTS):
        return False
    return all(isinstance(of, _LISTS) and all(map(_picture, of)) for of in (*units, tests))


def _picture(given: Any) -> bool:
    return isinstance(given, str) and _PICTURE.fullmatch(given) is not None


def _noise(given: Any, n: int) -> bool:
    if given is None:
        return True
    numbers = isinstance(given, dict) and set(given) == {"deviation", "share", "seeds"} and _whole(given["seeds"], 1)
    return numbers and all(
        isinstance(given[name], int | float) and abs(given[name]) < float("inf") for name in ("deviation", "share")
    )


_FIELDS: dict[str, tuple[Callable[[Any, int], bool], str]] = {
    "text": (_text, "a string"),
    "units": (_text, "a string"),
    "removal": (_scalar, "a string or number"),
    "value": (_scalar, "a string or number"),
    "target": (_label, "a string, a number or a list of them"),
    "contrast": (_label, "a string, a number or a list of them"),
    "prompts": (lambda given, n: _whole(given), "a whole number"),
    "test_point": (_scalar, "a number or a name"),
    "layers": (_layers, "{n} lists of numbers, or of names, of layers"),
    "columns": (_columns, "{n} strings"),
    "pictures": (_pictures, "'units', {n} lists, and 'tests', a list, of data:image URIs of PNG, JPEG, GIF or WebP"),
    "seed_noise": (_noise, "numbers 'deviation', 'share' and 'seeds'"),
}
