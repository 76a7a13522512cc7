"""Contexts of questions are ablated, scored and shown."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver
from models.directories import write_model

import spex_jax

QUESTIONS = [
    {
        "question": "which x ?",
        "answer": "p q",
        "supporting_facts": {"title": ["T", "V"], "sent_id": [1, 0]},
        "context": {
            "title": ["T", "U", "V", "W"],
            "sentences": [["a b c .", " d e .", " "], ["f g h .", "i ."], ["j k ."], ["l m n o .", "p q ."]],
        },
    },
    {
        "question": "which y ?",
        "answer": "z",
        "supporting_facts": {"title": ["U"], "sent_id": [0]},
        "context": {"title": ["T", "U"], "sentences": [["a b c ."], ["f g h .", "i .", "j ."]]},
    },
    {
        "question": "one that is too long ?",
        "answer": "z",
        "supporting_facts": {"title": ["U"], "sent_id": [0]},
        "context": {"title": ["U"], "sentences": [["a b c d e f g h i j k l m n o p q r s t u v w x y z " * 3]]},
    },
]


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("context_attribution")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    # No weight on the prompt of the model's own answers: that of the data is explained.
    model = write_model(folder / "model", "llama3", chat_template=None)
    (folder / "questions.json").write_text(json.dumps(QUESTIONS))
    return {
        "model": str(model),
        "data": str(folder / "questions.json"),
        "answers": "gold",
        "budget": 32,
        "held_out": 16,
        "documents": 3,
    }


def test_prompts_name_the_parts_and_the_facts(program):
    text, spans, names, supporting = program.questions.prompt_of(QUESTIONS[0], 3, "sentence")
    assert "\nW:" not in text  # two documents with facts, and one more
    assert [text[slice(*span)] for span in spans] == ["a b c .", "d e .", "f g h .", "i .", "j k ."]
    assert names[1] == "T: d e ."
    assert supporting == [False, True, False, False, True]
    assert text.endswith("Question: which x ?\nAnswer:")
    text, spans, names, supporting = program.questions.prompt_of(QUESTIONS[0], 10, "document")
    assert names == ["T", "U", "V", "W"]
    assert text[slice(*spans[0])] == "a b c . d e ."
    assert supporting == [True, False, True, False]


@pytest.mark.slow
def test_a_run_and_its_continuation(program, given, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(program.METHODS, "proxyspex", {"proxy": "linear"})  # which compiles least
    with flagsaver.flagsaver(**given, out=str(tmp_path), pages=1):
        program.main()
    printed = capsys.readouterr().out
    assert "3 of 3: does not fit into the context of 64 tokens" in printed
    assert "lasso" in printed
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["left_out"] == 1
    assert [row["n"] for row in result["questions"]] == [5, 4]
    for method in ("proxyspex", "lasso"):
        mean, low, high = result["table"][method]["lds"]
        assert -1 <= low <= mean <= high <= 1
        assert 0 <= result["table"][method]["recall"][0] <= 1
    assert "T: d e ." in (tmp_path / "question_0.html").read_text()
    with flagsaver.flagsaver(**given, out=str(tmp_path)):
        program.main()
    again = json.loads((tmp_path / "result.json").read_text())
    assert again["table"] == result["table"]


def test_what_is_undefined_is_null(program):
    found = program.without_nan({"a": [1.0, float("nan")], "b": {"c": float("inf"), "d": "x", "e": 3}})
    assert json.dumps(found, allow_nan=False) == '{"a": [1.0, null], "b": {"c": null, "d": "x", "e": 3}}'


def test_the_measures(program):
    """Of a spectrum that is the function itself."""
    support = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
    spectrum = spex_jax.Spectrum(support, np.array([1.0, -2.0, -0.5]))
    held = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 0, 0]], bool)
    found = program.measures(
        spectrum, held, spectrum(held), np.array([True, False, False]), lambda removed: (~removed).sum(axis=1)
    )
    assert found["lds"] == pytest.approx(1)
    assert found["r2"] == pytest.approx(1)
    assert found["recall"] == 1
    assert [found[f"drop_{k}"] for k in (1, 3, 5)] == [1, 3, 3]


def test_a_context_of_real_questions(program, data_folder):
    path = data_folder / "hotpotqa" / "hotpotqa_distractor_50.json"
    found = [program.questions.prompt_of(each, 10, "sentence") for each in program.questions.hotpotqa(str(path), 50)]
    assert len(found) == 50
    facts = [sum(supporting) for _, _, _, supporting in found]
    assert min(facts) >= 2 or sum(count < 2 for count in facts) <= 2
    for text, spans, _, _ in found:
        assert all(0 < left < right <= len(text) for left, right in spans)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "give --model"),
        ({"data": "/no/such/file"}, "cannot read --data"),
        ({"documents": 1, "max_new_tokens": 60, "answers": "own"}, "no question fits"),
    ],
)
def test_wrong_flags(changes, message, program, given, tmp_path):
    with (
        flagsaver.flagsaver(**{**given, "out": str(tmp_path), **changes}),
        pytest.raises(ValueError, match=message),
    ):
        program.main()


def test_data_in_another_form(program, given, tmp_path):
    (tmp_path / "other.json").write_text('[{"question": "x"}]')
    with (
        flagsaver.flagsaver(**{**given, "data": str(tmp_path / "other.json")}, out=str(tmp_path)),
        pytest.raises(ValueError, match="is not in the form of HotpotQA"),
    ):
        program.main()


def test_questions_in_the_form_of_drop(program, tmp_path):
    rows = [
        {"passage": "a b", "question": "c ?", "answers_spans": {"spans": ["d", "e"]}},
        {"passage": "f", "question": "g ?", "answer": "h"},
    ]
    (tmp_path / "drop.json").write_text(json.dumps(rows))
    found = program.questions.drop(str(tmp_path / "drop.json"), 5)
    assert [question["answer"] for question in found] == ["d", "h"]
    (tmp_path / "drop.json").write_text('[{"passage": "a"}]')
    with pytest.raises(ValueError, match="is not in the form of DROP"):
        program.questions.drop(str(tmp_path / "drop.json"), 5)
    with pytest.raises(ValueError, match="give --data"):
        program.questions.drop(None, 5)
