"""The pruning experiment: on the small model with redundant heads, on minGPT's sorter, on a subject of MMLU."""

import csv
import json

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from models.directories import write_model

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("head_pruning")


@pytest.mark.slow
def test_redundant_heads_are_kept_one_of_each_layer(program, tmp_path, capsys):
    """Of heads that all stand in for each other those that judge heads one by one keep any two."""
    with flagsaver.flagsaver(tasks=["redundant"], seeds=1, keep=["0.25"], out=str(tmp_path)):
        program.main()
    found = json.loads((tmp_path / "pruning.json").read_text())["tasks"]["redundant"]
    scores = found["summary"]["means"]["logprob"]["2"]
    for method in ("spectrum_checked", "spectrum", "spectrum_greedy", "spectrum_beam"):
        assert scores[method] > -0.5
    assert scores["leave_one_out"] < -2
    assert {name[:2] for name in found["runs"][0]["kept"]["2"]} == {"L0", "L1"}
    assert sum(found["summary"]["energy"].values()) == pytest.approx(1)
    assert found["summary"]["energy"]["within"] > 0.4
    assert (tmp_path / "pruning.png").read_bytes().startswith(b"\x89PNG")
    assert "sx-map" in (tmp_path / "report_redundant.html").read_text()
    assert "spectrum_checked" in capsys.readouterr().out


def test_sets(program):
    mask = np.array([True, False, True, False, False])
    found = program.swaps(mask)
    assert found.shape == (1 + 2 * 3, 5)
    assert (found.sum(axis=1) == 2).all()
    assert len(np.unique(found, axis=0)) == 7
    assert (program.random_sets(9, 4, 30, np.random.default_rng(0)).sum(axis=1) == 4).all()
    with flagsaver.flagsaver(keep=["0.01", ".5", ".99"]):
        assert program.sizes(8) == [1, 4, 7]


def test_the_sorter_sorts(program, data_folder):
    """minGPT's sorter, a model that nobody here trained: its recorded logits, and all 729 inputs."""
    task = program.pruning_tasks.SMALL["sorter"](data_folder)
    golden = np.load(data_folder / "gpt_nano_sort" / "golden.npz")
    forward = jax.jit(lambda model, tokens: model(tokens, np.ones(tokens.shape, bool)))
    np.testing.assert_allclose(forward(task.model, golden["tokens"].astype(np.int32)), golden["logits"], atol=1e-4)
    chosen, scored = task.split(0)
    tokens = np.concatenate([chosen["tokens"], scored["tokens"]]).astype(np.int32)
    assert len(np.unique(tokens[:, :6], axis=0)) == 729
    said = np.asarray(forward(task.model, tokens).argmax(axis=-1))[:, 5:]
    assert (said == np.concatenate([chosen["target"], scored["target"]])).all()


def test_stories_are_continued(program, data_folder, monkeypatch):
    monkeypatch.setattr(program.pruning_tasks, "NAMES", ("Tim",))
    monkeypatch.setattr(program.pruning_tasks, "ANIMALS", ("dog", "cat"))
    task = program.pruning_tasks.SMALL["stories260K"](data_folder)
    chosen, _ = task.split(0)
    found = np.take_along_axis(chosen["tokens"], chosen["read"][:, 1:], axis=1)
    np.testing.assert_array_equal(found, chosen["target"][:, :-1])


@pytest.mark.slow
def test_a_model_of_ones_own(program, tmp_path, monkeypatch):
    model = write_model(tmp_path / "model", "llama3")
    with (tmp_path / "toy_test.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "choice0", "choice1", "choice2", "choice3", "answer"])
        rows.writerows([[f"a b {letter}", "a", "b", "c", "d", number % 4] for number, letter in enumerate("abcdef")])
    options = {"model": str(model), "questions": str(tmp_path / "toy_test.csv"), "training": 4, "seeds": 1}
    with flagsaver.flagsaver(**options), pytest.raises(ValueError, match="does not tell the letters ABCD apart"):
        program.main()
    monkeypatch.setattr(program.pruning_tasks, "LETTERS", "abcd")  # those that the small tokenizer knows
    options |= {"layers": ["0", "1"], "together": 1, "keep": [".5"], "removal": "zero_rescaled"}
    with flagsaver.flagsaver(**options, out=str(tmp_path / "out")):
        program.main()
    found = json.loads((tmp_path / "out" / "pruning.json").read_text())["tasks"]
    assert list(found) == ["toy, layers 0", "toy, layers 1"]
    for task in found.values():
        assert task["value"] == "accuracy"
        assert 0 < task["summary"]["means"]["accuracy"]["whole"] < 1
        assert set(task["summary"]["means"]["accuracy"]["2"].values()) - {None}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": ["magic"]}, "expected some of induction"),
        ({"questions": "x.csv"}, "give --model too"),
        ({"tasks": ["sorter"], "data": ""}, "needs --data"),
        ({"tasks": ["backup"], "keep": ["2"]}, "between 0 and 1"),
        ({"tasks": ["backup"], "keep": ["x"]}, "numbers separated"),
    ],
)
def test_wrong_flags(program, given, message, tmp_path):
    with flagsaver.flagsaver(out=str(tmp_path), **given), pytest.raises(ValueError, match=message):
        program.main()
