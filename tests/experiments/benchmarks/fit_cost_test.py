import json

import pytest
from absl.testing import flagsaver


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("benchmarks/fit_cost")


def test_a_small_sparse_function(program, tmp_path):
    out = tmp_path / "cost.json"
    given = {"parts": ["planted"], "planted": ["linear"], "features": 24, "rows": 500, "terms": 20}
    with flagsaver.flagsaver(out=str(out), **given):
        program.main()
    (row,) = json.loads(out.read_text())["planted"]
    assert row["proxy"] == "linear"
    assert row["peak_gib"] > 0
    assert row["r2"] > 0.9


def test_an_unknown_part(program):
    with flagsaver.flagsaver(parts=["everything"]), pytest.raises(ValueError, match="unknown parts"):
        program.main()
