"""Units of texts and conversations."""

import re

import pytest
from models.directories import write_word_tokenizer
from transformers import AutoTokenizer

from spex_jax.lenses.prompt import read_prompt

POEM = "a b c.\nd e\n\n f g h\r\n\r\ni j.  k\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(write_word_tokenizer(tmp_path_factory.mktemp("words")))


def read(tokenizer, text, **options):
    return read_prompt(
        tokenizer, text, **{"units": "word", "within": None, "protect": ("system",), "begin": None, **options}
    )


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ("line", ["a b c.", "d e", "f g h", "i j.  k"]),
        ("paragraph", ["a b c.\nd e", "f g h", "i j.  k"]),
        ("sentence", ["a b c.", "d e", "f g h", "i j.  k"]),  # "j." may be an initial
        (re.compile(r"[bdg] \w"), ["b c", "d e", "g h"]),
        ([(0, 3), (4, 6)], ["a b", "c."]),
        ([(4, 6), (0, 3)], ["a b", "c."]),
    ],
)
def test_units(units, expected, tokenizer):
    prompt = read(tokenizer, POEM, units=units)
    assert prompt.names == expected
    assert prompt.noun == (units if isinstance(units, str) else "phrase")
    assert [POEM[start:end] for start, end in prompt.spans] == expected
    assert set(prompt.unit[prompt.unit >= 0].tolist()) == set(range(len(expected)))


def test_units_within_parts_of_the_text(tokenizer):
    text = "a b c\nd e f\ng h i j"
    assert read(tokenizer, text, within="d e f").names == ["d", "e", "f"]
    assert read(tokenizer, text, within=["a b", "h i"]).names == ["a", "b", "h", "i"]
    assert read(tokenizer, text, within=[(6, 9)]).names == ["d", "e"]
    assert read(tokenizer, text, within=["g h", "a b c"], units="document").names == ["a b c", "g h"]
    assert read(tokenizer, text, within=["d e f\ng h"], units="line").names == ["d e f", "g h"]


CHAT = [
    {"role": "system", "content": "a b"},
    {"role": "user", "content": "  c d "},
    {"role": "assistant", "content": "e"},
    {"role": "user", "content": "user </s> e"},
]
TEMPLATES = {
    "as it is": "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s>{% endfor %}<assistant> ",
    "stripped": "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] | trim }} </s>{% endfor %}<assistant> ",
    # This one looks into the contents, so that other contents give another template.
    "looking": "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] | trim }} {% if 'c' in m['content'] %}c"
    "{% endif %}</s>{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_turns_of_a_conversation(name, tokenizer):
    tokenizer.chat_template = TEMPLATES[name]
    prompt = read(tokenizer, CHAT, units="turn", protect=("system", "assistant"))
    stripped = [message["content"].strip() for message in CHAT]
    assert [name.split(": ", 1)[0] for name in prompt.names] == ["user", "user"]
    assert [prompt.text[slice(*span)].strip() for span in prompt.spans] == [stripped[1], stripped[3]]
    assert prompt.text[: prompt.spans[1][0]].count("</s>") == 3  # the last turn, not the word in it
    assert prompt.chat
    everyone = read(tokenizer, CHAT, units="turn", protect=())
    assert len(everyone.spans) == 4
    template = [t for t, u in zip(prompt.ids, prompt.unit, strict=True) if u < 0]
    assert tokenizer.convert_tokens_to_ids("<system>") in template


def test_a_template_that_rewrites_the_contents(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(ValueError, match="changes the text of message 0"):
        read(tokenizer, [{"role": "user", "content": "a b"}])


def test_a_first_token_is_added_where_it_is_missing(tokenizer):
    bare = lambda text, **options: tokenizer(text, **{**options, "add_special_tokens": False})  # noqa: E731
    for given in (tokenizer, bare):
        prompt = read(given, "a b", begin=1)
        assert prompt.ids.tolist() == [1, 6, 7]
        assert prompt.unit.tolist() == [-1, 0, 1]
    assert read(bare, "a b").ids.tolist() == [6, 7]


@pytest.mark.parametrize("name", ["as it is", "stripped"])
def test_spans_of_the_only_message(name, tokenizer):
    tokenizer.chat_template = TEMPLATES[name]
    chat = [{"role": "system", "content": "a b"}, {"role": "user", "content": "  c d e "}]
    prompt = read(tokenizer, chat, units=[(2, 3), (4, 7)])
    assert prompt.names == ["c", "d e"]
    with pytest.raises(ValueError, match=r"the span \(6, 12\) of units= is empty or leaves the text"):
        read(tokenizer, chat, units=[(6, 12)])
