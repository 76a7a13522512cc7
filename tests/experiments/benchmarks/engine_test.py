import json

import pytest
from absl.testing import flagsaver


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("benchmarks/engine")


def test_overhead(program, tmp_path):
    out = tmp_path / "engine.json"
    with flagsaver.flagsaver(parts=["overhead"], milliseconds=["5"], seconds=0.05, repeats=1, out=str(out)):
        program.main()
    (row,) = json.loads(out.read_text())["overhead"]
    assert 0.5 < row["batch_ms"] < 100
    assert row["batches"] == 10
    assert all(row[name] > -1 for name in ("engine", "engine with a store", "bare loop again"))


def test_scaling(program):
    with flagsaver.flagsaver(seconds=0.3):
        (row,) = program.scaling(of=(2,))
    assert row["devices"] == 2
    assert row["masks_per_s"] > 0
    assert row["largest_difference"] == 0


@pytest.mark.parametrize("on_device", [False, True])
def test_a_run_to_kill_comes_to_its_end(on_device, program, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "_FEATURES", 4)
    monkeypatch.setattr(program.sys.modules["spex_jax.engine.evaluation"], "Store", program.Store)
    program.run_to_kill(str(tmp_path), on_device, True)
    assert len(program.np.load(tmp_path / "answer.npy")) == 16
    assert (tmp_path / "started").exists()
    acknowledged = (tmp_path / "acknowledged").read_bytes()
    assert len(acknowledged) == 16
    assert on_device or sorted((tmp_path / "asked").read_bytes()) == sorted(acknowledged)


def test_unknown_parts(program):
    with flagsaver.flagsaver(parts=["everything"]), pytest.raises(ValueError, match="unknown parts"):
        program.main()
