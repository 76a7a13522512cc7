import json

import pytest
from absl.testing import flagsaver


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("benchmarks/first_answer")


def test_two_answers_in_fresh_processes(program, tmp_path):
    out = tmp_path / "first.json"
    with flagsaver.flagsaver(out=str(out), uses=["callable"], repeats=1):
        program.main()
    found = json.loads(out.read_text())["callable"]
    assert set(found) == {"cold", "second process"}
    for times in found.values():
        answers = times["first answer"], times["second answer"]
        assert sum(answer["answer"] for answer in answers) < times["process"]
        for answer in answers:
            assert answer["compile"] == 0
            assert 0 < answer["fit"] < answer["answer"]


def test_the_median_of_records(program):
    rows = [{"a": value, "b": {"c": 2 * value}} for value in (5, 1, 3)]
    assert program.median(rows) == {"a": 3, "b": {"c": 6}}


def test_an_unknown_use(program):
    with flagsaver.flagsaver(uses=["nothing"]), pytest.raises(ValueError, match=r"unknown uses .*nothing.*callable"):
        program.main()
