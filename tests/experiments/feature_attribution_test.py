import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl.testing import flagsaver
from models.directories import write_model

import spex_jax

PROGRAM = pathlib.Path(__file__).parents[2] / "experiments" / "feature_attribution.py"


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("feature_attribution")


def test_the_default_review_is_a_real_one(program):
    assert len(program.REVIEW.split()) >= 24


@pytest.mark.parametrize("source", ["flag", "file"])
def test_writes_the_ranking_the_page_and_the_data(source, program, tmp_path, capsys):
    text = "Her acting never fails to impress"
    (tmp_path / "review.txt").write_text(text)
    given = {"text": text} if source == "flag" else {"text_file": str(tmp_path / "review.txt")}
    with flagsaver.flagsaver(out=str(tmp_path / "out"), index="SII", budget=100, **given):
        program.main()
    printed = capsys.readouterr().out
    assert "never + fails" in printed
    assert "exact: all 64 ablations were evaluated" in printed
    assert "</html>" in (tmp_path / "out" / "report.html").read_text()
    loaded = spex_jax.Interactions.load(tmp_path / "out" / "interactions.json")
    assert loaded == spex_jax.Explanation.load(tmp_path / "out" / "explanation").interactions("SII")


@pytest.mark.slow
def test_a_language_model_of_ones_own(program, tmp_path, capsys):
    folder = write_model(tmp_path / "model", "llama3")
    chat = [{"role": "system", "content": "a b"}, {"role": "user", "content": "c d. e f"}]
    (tmp_path / "chat.json").write_text(json.dumps(chat))
    given = {"model": str(folder), "out": str(tmp_path / "out")}

    def run(**flags):
        with flagsaver.flagsaver(**given, **flags):
            program.main()
        return capsys.readouterr().out

    printed = run(messages_file=str(tmp_path / "chat.json"), removal="delete", max_new_tokens=3)
    assert "4 words, removal 'delete'" in printed
    assert "assistant" in (tmp_path / "out" / "report.html").read_text()
    printed = run(text="a b c d", pattern="[b-d]", target="e", contrast="f", value="logit_diff", removal="attention")
    assert "logit_diff of 'e'" in printed
    assert "3 phrases, removal 'attention'" in printed
    with pytest.raises(ValueError, match="--head is for encoders"):
        run(head=str(tmp_path / "head.npz"))


def test_an_encoder_with_a_head_of_ones_own(program, tmp_path, capsys):
    folder = write_model(tmp_path / "model", "bert")
    np.savez(tmp_path / "head.npz", w=np.linspace(-1, 1, 24), b=0.1)
    given = {"model": str(folder), "text": "a b c", "out": str(tmp_path / "out")}
    with flagsaver.flagsaver(**given, head=str(tmp_path / "head.npz")):
        program.main()
    assert "3 words, removal 'mask'" in capsys.readouterr().out
    for head, message in (
        (tmp_path / "none.npz", "cannot read --head"),
        (folder / "config.json", "cannot read --head"),
    ):
        with flagsaver.flagsaver(**given, head=str(head)), pytest.raises(ValueError, match=message):
            program.main()


def test_a_store_and_a_dry_run(program, tmp_path, capsys):
    def run(**given):
        with flagsaver.flagsaver(
            text="A dull film , but never lazy .",
            budget=300,
            out=str(tmp_path / "out"),
            store=str(tmp_path / "s"),
            **given,
        ):
            program.main()
        return capsys.readouterr().out

    assert "64 ablations, 0 of them stored; batches of 64 on 1 device" in run(dry_run=True)
    assert not (tmp_path / "out").exists()
    assert "exact: all 64 ablations (64 from the store) were evaluated" in run()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text_file": "/no/such/file"}, "cannot read --text_file"),
        ({"text": "a", "text_file": "b"}, "give one"),
        ({"text": "a", "messages_file": "b"}, "give one"),
        ({"messages_file": "/no/such/file"}, "cannot read --messages_file"),
        ({"pattern": "("}, "is not a regular expression"),
        ({"dtype": "float32"}, "--dtype applies to the model of --model; give --model too"),
        ({"model": "/no/such/folder"}, "is no directory"),
        ({"mesh": "masks"}, "not a list of axes and sizes"),
        ({"mesh": "masks=-1,model=-1"}, "only one may be -1"),
        ({"mesh": "masks=-1,model=2"}, "there are 1 devices, not a multiple of 2"),
        ({"mesh": "masks=3"}, "--mesh=masks=3 does not fit: there are 1 devices, and it needs 3"),
        ({"mesh": "model=1"}, "one of them must be 'masks'"),
        ({"store": "/dev/full"}, "not a regular file"),
        ({"out": "/proc/nowhere"}, "cannot write to the folder --out"),
    ],
)
def test_bad_values_of_flags(given, message, program, tmp_path):
    with flagsaver.flagsaver(**{"out": str(tmp_path), **given}), pytest.raises(ValueError, match=message):
        program.main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bugdet=100"], "Unknown command line flag 'bugdet'. Did you mean: budget ?"),
        (["a review", "--out={out}"], "unexpected argument 'a review'"),
        (["--budget=60", "--out={out}"], "the smallest possible budget is"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(arguments, message, tmp_path):
    arguments = [argument.format(out=tmp_path / "out") for argument in arguments]
    found = subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stdout == ""
    *before, line = found.stderr.splitlines()
    assert message in line
    assert [text.startswith("devices: ") for text in before] in ([], [True])
