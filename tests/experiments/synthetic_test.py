import itertools
import json

import numpy as np
import pytest
from absl.testing import flagsaver

from spex_jax import Spectrum

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("synthetic")


def sets_of(spectrum):
    return {tuple(np.flatnonzero(row).tolist()) for row in spectrum.support}


def test_the_families(program):
    peak = program.planted("peak", 12, 10, 3)
    assert len(peak) == 10
    assert (peak.support.sum(axis=1) == 5).all()
    assert np.abs(peak.coefficients).max() < 1
    hierarchy = program.planted("hierarchy", 12, 10, 3)
    subsets = {part for whole in sets_of(peak) for size in range(6) for part in itertools.combinations(whole, size)}
    assert sets_of(hierarchy) == subsets
    again = program.planted("peak", 12, 10, 3)
    np.testing.assert_array_equal(peak.coefficients, again.coefficients)
    assert sets_of(program.planted("peak", 12, 10, 4)) != sets_of(peak)


def test_scores_of_a_support(program):
    truth = Spectrum(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]], bool), np.array([9.0, 1.0, 1.0]))
    found = Spectrum(np.array([[0, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]], bool), np.array([5.0, -3.0, 2.0, 1.0]))
    assert program.support_scores(found, truth) == {"recall": 0.5, "precision": 0.5, "terms": 4}
    assert program.support_scores(truth, truth) == {"recall": 1.0, "precision": 1.0, "terms": 3}
    constant = Spectrum(np.zeros((1, 3), bool), np.ones(1))
    assert program.support_scores(constant, truth) == {"recall": 0.0, "precision": None, "terms": 1}


def test_noise_has_the_ratio_that_was_asked_for(program):
    task = program.Task(truth=program.planted("hierarchy", 14, 3, 0), budget=500, seed=0)
    masks, test = task.masks()
    assert (len(masks), len(test)) == (500, 2000)
    assert not {bytes(row) for row in masks} & {bytes(row) for row in test}
    np.testing.assert_array_equal(task.ask(test), task.truth(test))
    with flagsaver.flagsaver(snr=4.0):
        noise = task.ask(test) - task.truth(test)
    assert noise.var() == pytest.approx(task.truth.energy_by_degree()[1:].sum() / 4, rel=0.15)


def test_spex_finds_the_peak_and_proxies_do_not(program, tmp_path, capsys, monkeypatch):
    out = tmp_path / "result.json"
    given = {"families": ["peak", "hierarchy"], "n": ["14"], "alphas": ["14"], "sets": 2, "seeds": 1}
    with flagsaver.flagsaver(**given, contenders=["linear", "spex", "lasso"], out=str(out)):
        program.main()
        first = json.loads(out.read_text())
        with flagsaver.flagsaver(reuse="any"):
            monkeypatch.setattr(program, "outcome", None)
            program.main()
    assert json.loads(out.read_text()) == first
    scores = {(row["family"], row["contender"], row["alpha"]): row for row in first["rows"]}
    assert scores["peak", "spex", 14]["r2"] > 0.99
    assert scores["peak", "spex", 14]["recall"] == 1
    assert scores["peak", "linear", 14]["r2"] < 0.2
    assert scores["hierarchy", "linear", 14]["r2"] > 0.9
    assert scores["peak", "lasso", 14]["budget"] == scores["peak", "spex", 14]["asked"] == 746
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "| spex" in printed
    assert "never" in printed


def test_contenders_of_others(program):
    task = program.Task(truth=program.planted("hierarchy", 12, 1, 0), budget=60, seed=0)
    for name in ("random_forest", "neural_network"):
        found = program.outcome(name, task)
        assert found["r2"] < 1
        assert found["recall"] is None
        assert found["asked"] == 60


def test_a_budget_that_is_too_small_for_spex(program):
    task = program.Task(truth=program.planted("peak", 32, 2, 0), budget=100, seed=0)
    assert program.outcome("spex", task)["r2"] is None


def test_wrong_flags(program):
    for given, message in (
        ({"families": ["valley"]}, "unknown family valley"),
        ({"contenders": ["magic"]}, "unknown contender magic"),
        ({"alphas": ["0"]}, "alphas must be at least 1"),
        ({"n": ["5"]}, "fewer than 10 sets"),
        ({"n": ["10"]}, "too few masks"),
    ):
        with flagsaver.flagsaver(**given), pytest.raises(ValueError, match=message):
            program.main()
    if program.importlib.util.find_spec("spectralexplain") is None:
        with flagsaver.flagsaver(contenders=["published"]), pytest.raises(ValueError, match=r"spex-jax\[peers\]"):
            program.main()
