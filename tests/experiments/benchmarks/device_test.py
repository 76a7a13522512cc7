import json

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("benchmarks/device")


def numbers(found):
    """All numbers of a result."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        return [number for entry in found for number in numbers(entry)]
    return [] if isinstance(found, str) else [found]


def test_ceilings_and_forward(program, tmp_path, capsys):
    out = tmp_path / "device.json"
    given = {"parts": ["forward"], "batches": ["16"], "large_batches": ["4"], "layers": 1, "repeats": 2}
    with flagsaver.flagsaver(toy=True, **given, out=str(out)):
        program.main()
    result = json.loads(out.read_text())
    assert {"revision", "versions", "device", "ceilings", "forward", "seconds"} <= set(result)
    assert result["settings"]["matmul"] == 512
    assert all(np.isfinite(number) and number > 0 for number in numbers(result["ceilings"]))
    assert [(row["model"], row["batch"]) for row in result["forward"]] == [("shipped", 16), ("larger", 4)]
    for row in result["forward"]:
        assert all(np.isfinite(number) and number >= 0 for number in numbers(row))
        assert row["masks_per_s"] > 0
        # On a busy machine the ceiling itself may be measured too low.
        assert 0 < row["share_of_ceiling"] < 3
        assert row["share_of_ceiling"] == pytest.approx(row["tflops"] / result["ceilings"]["float32_tflops"])
        assert row["tflops"] * 1e3 == pytest.approx(row["gflop_per_mask"] * row["masks_per_s"])
    assert "of the ceiling" in capsys.readouterr().out


def test_fit(program, tmp_path, monkeypatch):
    truth, asked = [], []

    def fit(masks, values, *, proxy):
        asked.append((proxy, masks.shape, values.shape))
        return truth[0]

    monkeypatch.setattr(program.proxyspex, "fit", fit)  # a real one compiles for five seconds
    out = tmp_path / "device.json"
    with flagsaver.flagsaver(toy=True, parts=["fit"], proxies=["auto", "linear"], out=str(out)):
        truth.append(program.planted(12, 3))
        program.main()
    result = json.loads(out.read_text())
    assert "ceilings" not in result
    assert [row["proxy"] for row in result["fit"]] == ["linear", "auto"]
    assert [proxy for proxy, *_ in asked] == ["linear", "linear", "auto", "auto"]
    assert all(shapes == [(200, 12), (200,)] for _, *shapes in asked)
    for row in result["fit"]:
        assert row["r2"] == 1
        assert row["seconds"] > 0
        assert row["compile"] >= 0


def test_decode(program, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "_DEGREE", 1)  # the simplest program of all
    out = tmp_path / "device.json"
    with flagsaver.flagsaver(toy=True, parts=["decode"], designs=["8:120"], terms=4, out=str(out)):
        program.main()
    (row,) = json.loads(out.read_text())["decode"]
    assert (row["n"], row["budget"], row["terms"]) == (8, 120, 4)
    assert row["recall"] == row["precision"] == 1
    assert row["seconds"] > 0
    assert all(np.isfinite(number) and number >= 0 for number in numbers(row))


def test_toy_sizes_are_of_flags_and_yield_to_them(program):
    assert set(program.TOY) <= set(flags.FLAGS)
    with flagsaver.flagsaver(toy=True, rows=50):
        assert (program._size(program._ROWS), program._size(program._N)) == (50, 12)
    assert program._size(program._ROWS) == 3072


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"parts": ["everything"]}, "unknown parts"),
        ({"proxies": ["oracle"]}, "unknown proxies"),
        ({"heads": 3}, "multiple of --heads"),
        ({"n": 11}, "larger --n"),
        ({"designs": ["64:20"]}, "too small"),
    ],
)
def test_wrong_flags_are_refused_at_once(program, given, message):
    with flagsaver.flagsaver(**given), pytest.raises(ValueError, match=message):
        program.main()


def test_lists_hold_whole_numbers(program):
    for name in ("batches", "designs"):
        with pytest.raises(flags.IllegalFlagValueError, match="such as"), flagsaver.flagsaver(**{name: ["a"]}):
            pass
