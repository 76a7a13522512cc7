import json

import pytest
from absl.testing import flagsaver


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("benchmarks/fit_many")


@pytest.mark.slow
def test_a_few_small_explanations(program, tmp_path):
    out = tmp_path / "many.json"
    small = {"count": 2, "features": 8, "alphas": ["2.5"], "noises": ["0.02"], "proxies": ["walsh_gp"], "rounds": 1}
    with flagsaver.flagsaver(out=str(out), coded=11, budgets=["504"], **small):
        program.main()
    result = json.loads(out.read_text())
    rows = [*result["tables"], result["outputs"], *result["designs"]]
    assert len(rows) == 3
    for row in rows:
        assert row["ratio"] > 0
        assert row["later_compilations"] == 0
        assert row["largest_difference"] == 0


def test_an_unknown_part(program):
    with flagsaver.flagsaver(parts=["everything"]), pytest.raises(ValueError, match="unknown parts"):
        program.main()
