import json

import pytest
from absl.testing import flagsaver
from planting import write_complete_game


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("sampling")


@pytest.fixture
def folder(tmp_path):
    return write_complete_game(tmp_path)


def test_all_parts(program, folder):
    out = folder / "result.json"
    options = {"games": str(folder), "only": "game", "alphas": ["5"], "seeds": 1, "proxy": "walsh_gp"}
    options |= {"draws": ["uniform", "kernel_shap"], "acquisitions": ["information", "uniform"]}
    with flagsaver.flagsaver(out=str(out), **options):
        program.main()
    result = json.loads(out.read_text())
    (row,) = result["shapley"]["rows"]
    assert (row["game"], row["n"], row["budget"]) == ("game", 9, 142)
    assert set(row["errors"]) == {"uniform", "uniform, corrected", "kernel_shap", "kernel_shap, corrected"}
    assert row["errors"]["kernel_shap, corrected"] < 0.01
    fsii, k_sii = result["interactions"]
    assert (fsii["index"], k_sii["index"]) == ("FSII", "k-SII")
    assert fsii["singles_and_pairs"]["kernel_shap, corrected"][1] < 0.1
    assert set(result["adaptive"]["mean_r2_and_recall"]) == {"information", "uniform"}
    r2, recall = result["adaptive"]["mean_r2_and_recall"]["information"]
    assert r2 > 0.9
    assert recall > 0.2


def test_unknown_draws(program):
    with flagsaver.flagsaver(draws=["by size"]), pytest.raises(ValueError, match="unknown sampling 'by size'"):
        program.main()
