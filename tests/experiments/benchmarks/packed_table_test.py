import json

import pytest
from absl.testing import flagsaver


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("benchmarks/packed_table")


def test_a_small_table(program, tmp_path):
    out = tmp_path / "packed.json"
    given = {"features": 60, "rows": 1200, "singles": 8, "pairs": 4, "max_degree": 2, "snr": 10.0}
    with flagsaver.flagsaver(out=str(out), **given):
        program.main()
    result = json.loads(out.read_text())
    assert result["planted_pairs"] == 4
    assert result["recall"] == result["recall_without_singles"] == result["precision"] == 1
    assert result["r2"] > 0.9
    assert 0 < result["before_gib"] < result["peak_gib"] < 2


def test_a_process_that_fails_is_an_error(program, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "__file__", str(tmp_path / "missing.py"))
    given = {"features": 8, "rows": 10, "singles": 2, "pairs": 2, "out": str(tmp_path / "packed.json")}
    with flagsaver.flagsaver(**given), pytest.raises(ValueError, match="the process that fits failed"):
        program.main()
