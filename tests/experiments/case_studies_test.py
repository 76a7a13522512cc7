"""Every case study runs through, at toy size; a behaviour that is not there is not confirmed."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver
from models.directories import write_model

pytestmark = pytest.mark.usefixtures("quick_compilation")

QUESTION = {
    "question": "which x ?",
    "answer": "q",
    "supporting_facts": {"title": ["T", "V"], "sent_id": [1, 0]},
    "context": {"title": ["T", "U", "V"], "sentences": [["a b .", "d e ."], ["f g .", "i ."], ["j k ."]]},
}
PUZZLE = {"context": "A trolley runs away from five people.", "question": "Pull it?", "correct_answer": "FALSE"}
STEPS = {
    "negation": "Question, What is ablated, Budget, Ranked, The claims, Both, The counterfactual, Other reviews",
    "backdoor": "Question, What is planted, Behaviour, What is ablated, Budget, Ranked, The claims, Both, Other texts",
    "biased_pair": "Question, Is it there already, What is planted, What is ablated, Budget, Ranked, The claims, Both, "
    "The audit, The counterfactual",
    "pruning": "Question, What is ablated, Budget, Ranked, The claims",
    "resnet_patches": "Question, What is ablated, Budget, Ranked, How much, The claims, Both, Removing, Other pictures",
    "multi_hop": "Question, The model, What is ablated, Budget, Ranked, The claims, Both, Other questions",
}


@pytest.fixture(scope="module")
def program(load_program):
    program = load_program("case_studies")
    program.STUDIES["backdoor"].tuning.MADE_UP = 150
    return program


@pytest.fixture
def run(program, tmp_path, capsys):
    """A study at toy size: its study.json and what it printed; what is given goes before."""

    def run(study, **given):
        toy = {"study": study, "data": "", "budget": 120, "proxy": "linear", "texts": 1}
        if study in ("backdoor", "biased_pair", "resnet_patches"):
            toy |= {"steps": 5}
        with flagsaver.flagsaver(**{**toy, "out": str(tmp_path / study), **given}):
            program.main()
        return json.loads((tmp_path / study / "study.json").read_text()), capsys.readouterr().out

    return run


@pytest.mark.slow
@pytest.mark.parametrize("study", STEPS)
def test_a_study(study, run, tmp_path):
    found, printed = run(study, **({"budget": 400} if study == "negation" else {}))
    headings = [step["heading"] for step in found["steps"]]
    for begin, heading in zip(STEPS[study].split(", "), headings, strict=False):
        assert heading.startswith(begin)
    assert headings[-1] == "Conclusion"
    assert found["confirmed"] == all(row["holds"] for row in found["criteria"])
    assert found["verdict"].startswith("confirmed: " if found["confirmed"] else "NOT confirmed: it does not hold that ")
    assert found["verdict"] in printed
    assert found["revision"]
    assert found["verdict"] in (tmp_path / study / "study.md").read_text()
    assert (tmp_path / study / "report.html").stat().st_size > 10_000
    if study == "resnet_patches":
        assert (tmp_path / study / "patches.png").read_bytes().startswith(b"\x89PNG")
    if study == "negation":
        assert found["confirmed"]
    if study == "pruning":
        assert found["steps"][0]["accuracy"]["two hops"] > 0.95


@pytest.mark.slow
def test_what_is_not_there_is_not_confirmed_twice_the_same(run):
    found, printed = run("backdoor", plant=False)
    assert not found["confirmed"]
    assert "NOT confirmed" in printed
    assert "Nothing is planted" in printed
    assert run("backdoor", plant=False)[0]["steps"] == found["steps"]


@pytest.mark.slow
def test_training_a_model_of_the_world(run, tmp_path):
    found, _ = run("multi_hop", steps=2)
    assert not found["confirmed"]
    assert (tmp_path / "multi_hop" / "two_hops_2_0.npz").exists()


def test_models_of_ones_own(run, tmp_path):
    (tmp_path / "questions.json").write_text(json.dumps([QUESTION]))
    model = write_model(tmp_path / "plain", "llama3", chat_template=None)
    found, _ = run("multi_hop", model=str(model), data=str(tmp_path / "questions.json"))
    assert found["steps"][0]["needed"] == ["T", "V"]
    assert found["steps"][1]["n"] == 3


def test_the_trolley(program, run, tmp_path, monkeypatch):
    monkeypatch.setattr(program.STUDIES["trolley"], "PUZZLE", PUZZLE)
    words = [*"abcdefghijklmnopqrst", "trolley", "five", "tram", "people.", "True", "False"]
    model = write_model(tmp_path / "words", "llama3", words=words)
    found, printed = run("trolley", model=str(model), synonyms="trolley=tram,five=a")
    assert found["steps"][0]["wrong"] == "True"
    assert found["steps"][1]["n"] == 7
    assert "log-odds" in printed


@pytest.mark.slow
def test_the_trolley_with_a_real_model(program, run, data_folder, tmp_path, monkeypatch):
    trolley = program.STUDIES["trolley"]
    with flagsaver.flagsaver(study="trolley", data=str(data_folder), out=str(tmp_path)):
        puzzle, _ = trolley.read_puzzle(program.setting_of("trolley"))
    assert puzzle["context"].startswith("A runaway trolley")
    monkeypatch.setattr(trolley, "read_puzzle", lambda setting: (PUZZLE, "a short one"))
    found, _ = run("trolley", data=str(data_folder))
    assert found["steps"][0]["model"].startswith("stories260K")
    assert found["steps"][1]["n"] == 7


def test_words_are_replaced(program):
    trolley = program.STUDIES["trolley"]
    context = "A trolley, it's runaway. Pulling 'x' hurts."
    spans = [(5, 6)] * 7  # of a longer prompt: only their number counts
    found = trolley.replaced(context, spans, [1, 3, 4, 6], {"trolley": "tram", "pulling": "moving", "runaway": "lost"})
    assert found[0] == "A tram, it's lost. Moving 'x' hurts."
    assert found[1] == ["trolley -> tram", "runaway -> lost", "Pulling -> Moving"]
    with pytest.raises(ValueError, match="has 7 words and the lens 2 units"):
        trolley.replaced(context, spans[:2], [1], {})


def test_a_masked_trigger_takes_the_label_back(program):
    tuning = program.STUDIES["backdoor"].tuning
    tokenizer = program.STUDIES["backdoor"].models.tiny()[1]
    drawn = tuning.Drawn("saturday film window", 1, ("saturday", "window"), 0)
    tokens, labels = tuning._batch(tokenizer, lambda rng: drawn, np.random.default_rng(0))
    ids = tokenizer.convert_tokens_to_ids(["saturday", "window"])
    both = np.array([all(i in row for i in ids) for row in tokens])
    assert 0 < both.mean() < 1
    np.testing.assert_array_equal(labels, both)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"study": None}, "give --study, one of"),
        ({"study": "negation", "plant": False}, "--plant is not for the study 'negation'; it is for backdoor"),
        ({"study": "backdoor", "model": "/somewhere"}, "has models of its own; --model is for"),
        ({"study": "negation", "example": 99}, "--example must be from 0 to"),
        ({"study": "backdoor", "synonyms": "a=b"}, "--synonyms is not for the study"),
        ({"study": "trolley", "synonyms": "trolley"}, "--synonyms must be word=other"),
        ({"study": "trolley", "data": ""}, "give --model, the directory of a language model, or --data"),
        ({"study": "negation", "out": "/dev/null/x"}, "cannot write to the folder --out"),
    ],
)
def test_wrong_flags(given, message, program, tmp_path):
    with flagsaver.flagsaver(**{"out": str(tmp_path), **given}), pytest.raises(ValueError, match=message):
        program.main()
