import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("measurements")


def test_the_page_is_what_the_results_say(program):
    page = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    assert page == program.text(), "run python experiments/measurements.py --page=docs/measurements.md"


def test_the_comparison_of_the_readme_is_what_the_results_say(program):
    _, _, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition(program.MARKS[0])
    found = rest.partition(program.MARKS[1])[0].strip()
    assert found == program.measured.comparison().strip(), "run python experiments/measurements.py --readme=README.md"


def test_every_result_is_on_the_page(program):
    experiments = ROOT / "experiments"
    results = {
        str(path.relative_to(experiments))
        for folder in ("results", "benchmarks/results")
        for path in (experiments / folder).glob("*.json")
    }
    assert results == {name for section in program.measured.SECTIONS for name in section.results}


def test_a_section(program):
    section = program.measured.Section(
        title="A title: with words",
        about="Words that\n        are folded.",
        results=("results/validation.json",),
        tables=lambda result: [f"| {len(result['planted'])} |", "word " * 40],
    )
    title, about, table, paragraph, sources = section.markdown().split("\n\n")
    assert (title, about, table) == ("## A title: with words", "Words that are folded.", "| 6 |")
    assert len(paragraph.splitlines()) == 2
    assert sources.startswith("From [validation.json](../experiments/results/validation.json) (revision ")
    assert "* [A title: with words](#a-title-with-words)\n" in program.measured.page("# T", [section], "End.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (float("nan"), "-"), (0.01914, "0.019"), (224.6, "220"), (3400.0, "3,400"), (2, "2")],
)
def test_significant_digits(program, value, text):
    assert program.measured.section.significant(value) == text


def test_rows_by_alpha(program):
    rows = [
        {"m": "x", "alpha": 2.0, "r2": 0.5},
        {"m": "x", "alpha": 8.0, "r2": 0.7},
        {"m": "y", "alpha": 8.0, "r2": 0.6},
    ]
    assert program.measured.section.by_alpha(rows, ["m"], "r2") == [
        {"m": "x", "alpha 2": 0.5, "alpha 8": 0.7},
        {"m": "y", "alpha 2": None, "alpha 8": 0.6},
    ]
