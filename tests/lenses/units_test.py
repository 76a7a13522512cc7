"""Cutting texts of many languages into sentences and words."""

import itertools
import pathlib

import pytest

from spex_jax.lenses.text_parts.units import find_units


def table():
    """What is cut, the language, the text and its units, for every text of segmented.txt."""
    kind = language = None
    for line in (pathlib.Path(__file__).parent / "segmented.txt").read_text(encoding="utf-8").splitlines()[2:]:
        if line.startswith("  "):
            marked = line[2:].replace("\u23ce", "\n").replace("\u240d", "\r")
            yield kind.removesuffix("s"), language, marked.replace("\u2016", ""), marked.split("\u2016")
        elif line:
            kind, language = line.split(": ")


TABLE = [(kind, language, text, [unit.strip() for unit in units]) for kind, language, text, units in table()]


def cut(text, units):
    return [text[start:end] for start, end in find_units(text, units, [], [(0, len(text))])]


def test_the_table_holds_what_it_should():
    sentences = [language for kind, language, *_ in TABLE if kind == "sentence"]
    assert len(sentences) >= 150
    assert {"English", "German", "Chinese", "Japanese", "Korean", "Thai", "Hindi", "Urdu", "Arabic"} <= set(sentences)


@pytest.mark.parametrize(("kind", "language", "text", "expected"), TABLE, ids=itertools.count())
def test_units_are_those_of_a_reader(kind, language, text, expected):
    assert cut(text, kind) == expected


@pytest.mark.parametrize("units", ["word", "sentence"])
def test_units_cover_all_but_white_space(units):
    for kind in ("sentence", "word"):
        text = "\n".join(text for of, _, text, _ in TABLE if of == kind)
        spans = find_units(text, units, [], [(0, len(text))])
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
        covered = "".join(text[start:end] for start, end in spans)
        assert "".join(covered.split()) == "".join(text.split())
