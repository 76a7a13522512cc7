"""Units of texts and conversations."""

import re

import pytest
from models.directories import write_word_tokenizer
from transformers import AutoTokenizer

from spex_jax.lenses.text_parts import conversation
from spex_jax.lenses.text_parts.conversation import render
from spex_jax.lenses.text_parts.prompt import read_prompt

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


# As the templates of Gemma, Llama 2, Qwen 3 and others do it, in short.
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ first if loop.first else '' }}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}<start_of_turn>model\n"
)
MOVING = (
    "{% set s = messages | selectattr('role', 'equalto', 'system') | list %}"
    "{% for m in messages if m['role'] != 'system' %}[INST] {% if loop.last and s %}<<SYS>> "
    "{{ s[0]['content'] | trim }} <</SYS>> {% endif %}{{ m['content'] }} [/INST]{% endfor %}"
)
THINKING = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% set c = m['content'] %}"
    "{% if m['role'] == 'assistant' and '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ c }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
PLAIN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
SYSTEM, USER, ASSISTANT = (
    lambda content, role=role: {"role": role, "content": content} for role in ("system", "user", "assistant")
)


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        (  # the words of messages are the template's own too
            GEMMA,
            [SYSTEM("Be brief.\n"), USER("which one?\n"), ASSISTANT("start"), USER("turn")],
            [(0, 20, "Be brief.\n"), (1, 32, "which one?"), (2, 77, "start"), (3, 116, "turn")],
        ),
        (GEMMA, [USER("user"), ASSISTANT("model"), USER(" user ")], ["user", "model", "user"]),
        (GEMMA, [USER("<b>user</b>\n"), ASSISTANT(""), USER("\u00e9")], ["<b>user</b>", (2, "\u00e9")]),
        (MOVING, [SYSTEM("Be brief."), USER("one"), USER("two")], [(1, "one"), (0, "Be brief."), (2, "two")]),
        (MOVING, [SYSTEM(" SYS "), USER(" SYS"), USER("INST ")], [(1, " SYS"), (0, "SYS"), (2, "INST ")]),
        (
            THINKING,
            [USER("You help."), ASSISTANT("<think>\nHm.\n</think>\n\nNo."), USER("Hm.")],
            ["You help.", "No.", "Hm."],
        ),
        (THINKING, [USER("a <think> b"), ASSISTANT("</think>"), USER("im_start")], ["a <think> b", (2, "im_start")]),
        (PLAIN, [USER("same"), USER("same"), USER("same")], ["same", "same", "same"]),
        (
            PLAIN,
            [USER("{{ messages }}"), USER("{% if x %}"), USER("[user]")],
            ["{{ messages }}", "{% if x %}", "[user]"],
        ),
        (PLAIN, [USER("  \n"), USER("a\n"), USER("\tb ")], [(1, "a\n"), (2, "\tb ")]),
        (
            "{% for m in messages %}{{ m['content'] }}{{ '\n' if not loop.last }}{% endfor %}",
            [USER("a"), USER("b")],
            ["a", "b"],
        ),
        ("{% for m in messages %}{{ m['content'] | upper }};{% endfor %}", [USER("a b"), USER("a")], ["A B", "A"]),
        (
            "{% for m in messages %}{{ m['content'] | tojson }}{% endfor %}",
            [USER('say "hi" now')],
            ['say \\"hi\\" now'],
        ),
        ("{% for m in messages[-1:] %}{{ m['content'] }}{% endfor %}", [USER("a"), USER("a")], [(1, "a")]),
        ("{% for m in messages %}{{ m['content'] }}+{{ m['content'] }}{% endfor %}", [USER("a")], [(0, "a"), (0, "a")]),
        (
            "{{ 'x' if messages[0]['content'].startswith('go') else 'y' }}{{ messages[0]['content'] }}",
            [USER("go on")],
            ["go on"],
        ),
    ],
)
def test_messages_are_where_the_template_writes_them(template, messages, expected, tokenizer):
    tokenizer.chat_template = template
    found = render(tokenizer, messages)
    assert found.text == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    places = [(passage.message, passage.span[0], found.text[slice(*passage.span)]) for passage in found.passages]
    for number, (place, wanted) in enumerate(zip(places, expected, strict=True)):
        wanted = (number, wanted) if isinstance(wanted, str) else wanted
        assert place == wanted if len(wanted) == 3 else (place[0], place[2]) == wanted


def test_a_character_that_the_template_looks_for_is_left_as_it_is(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ 'Q: ' if '?' in m['content'] }}{{ m['content'] }}|{% endfor %}"
    found = render(tokenizer, [USER("What?"), USER("Is it so? Yes")])
    assert found.text == "Q: What?|Q: Is it so? Yes|"
    assert [passage.span for passage in found.passages] == [(3, 8), (12, 25)]
    assert found.left_out == ()


def test_long_conversations_have_fewer_marks_than_characters(tokenizer, monkeypatch):
    monkeypatch.setattr(conversation, "_MARKS", 15)
    tokenizer.chat_template = THINKING
    messages = [USER("one two three " * 9), ASSISTANT("<think>four</think>" + "five six " * 9), USER("seven " * 20)]
    found = render(tokenizer, messages)
    shown = [found.text[slice(*passage.span)] for passage in found.passages]
    assert shown == [messages[0]["content"], "five six " * 9, messages[2]["content"]]


def test_what_a_template_leaves_out_is_no_unit_and_is_told(tokenizer):
    tokenizer.chat_template = THINKING
    messages = [USER("a"), ASSISTANT("<think>\nb c\n</think>\n\nd e"), USER("f")]
    prompt = read(tokenizer, messages, units=re.compile("[a-f]"))
    assert prompt.names == ["a", "d", "e", "f"]
    assert prompt.left_out == ("message 1 (assistant): <think>\nb c\n</think>",)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("a \ud83d b", r"the text has a lone surrogate, '\\ud83d' at character 2, .* fix it"),
        ([USER("a"), USER("\udc80")], "the content of message 1 has a lone surrogate"),
        ([{"role": "\udfff", "content": "a"}], "the role of message 0 has a lone surrogate"),
    ],
)
def test_half_characters_are_refused_before_a_tokenizer_sees_them(messages, message):
    with pytest.raises(ValueError, match=message):
        read(None, messages)


def test_a_template_that_cannot_be_followed(tokenizer):
    tokenizer.chat_template = "{{ 'x' if messages[0]['content'] == 'a b' else 'y' }}"
    with pytest.raises(ValueError, match="whenever a character of message 0 changes"):
        read(tokenizer, [USER("a b")])


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
