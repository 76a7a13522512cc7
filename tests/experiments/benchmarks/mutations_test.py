import json

import pytest
from absl.testing import flagsaver

_SUM, _SWAPPED = "pairs[..., 0, :] + pairs[..., 1, :]", "pairs[..., 1, :] + pairs[..., 0, :]"


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("benchmarks/mutations")


@pytest.fixture
def mutation(program):
    def made(new, tests=("tests/core/walsh_test.py",)):
        return program.Mutation("spex_jax/core/walsh.py", "made up", _SUM, new, tests)

    return made


def test_changes_are_killed_or_survive_and_are_taken_back(program, mutation, tmp_path, monkeypatch):
    before = (program._CHECKOUT / "spex_jax/core/walsh.py").read_text()
    monkeypatch.setattr(program, "MUTATIONS", (mutation(f"2 * {_SUM}"), mutation(_SWAPPED)))
    with flagsaver.flagsaver(unchanged=True, out=str(tmp_path / "result.json")):
        program.main()
    found = json.loads((tmp_path / "result.json").read_text())
    assert (found["mutations"], found["killed"], found["survivors"]) == (2, 1, ["made up"])
    assert [row["killed"] for row in found["rows"]] == [True, False]
    assert found["rows"][0]["by"].startswith("tests/core/walsh_test.py::test_")
    assert (program._CHECKOUT / "spex_jax/core/walsh.py").read_text() == before


def test_the_table_fits_the_code(program):
    assert len(program.chosen()) == len(program.MUTATIONS) >= 60
    files = {(program._CHECKOUT / test).is_file() for mutation in program.MUTATIONS for test in mutation.tests[:1]}
    assert files == {True}


@pytest.mark.parametrize("old", ["return", "no such line"])
def test_a_stale_table_is_refused(program, mutation, old, monkeypatch):
    monkeypatch.setattr(program, "MUTATIONS", (mutation("x")._replace(old=old),))
    with pytest.raises(ValueError, match=r"times, expected once; adapt mutation_table\.py to the code"):
        program.main()


def test_tests_that_are_gone_are_refused(program, mutation, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "MUTATIONS", (mutation("x", ("tests/gone_test.py",)),))
    with pytest.raises(ValueError, match="did not run its tests"):
        program.main()
