import pathlib
import subprocess
import sys

import pytest
from absl.testing import flagsaver

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
    assert "exact: all 64 ablations were asked" in printed
    assert "</html>" in (tmp_path / "out" / "report.html").read_text()
    loaded = spex_jax.Interactions.load(tmp_path / "out" / "interactions.json")
    assert loaded == spex_jax.Explanation.load(tmp_path / "out" / "explanation").interactions("SII")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bugdet=100"], "Unknown command line flag 'bugdet'. Did you mean: budget ?"),
        (["--proxy=forest", "--out={out}"], "value should be one of"),
        (["--budget=60", "--out={out}"], "the least that would do is"),
        (["--text_file=/no/such/file", "--out={out}"], "cannot read --text_file"),
        (["--text=a", "--text_file=b", "--out={out}"], "give one"),
        (["a review", "--out={out}"], "unexpected argument 'a review'"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(arguments, message, tmp_path):
    arguments = [argument.format(out=tmp_path / "out") for argument in arguments]
    found = subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stdout == ""
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
