import math

import pytest


@pytest.fixture(scope="module")
def tables(load_program):
    return load_program("tables")


def test_markdown(tables):
    rows = [{"game": "a|b", "r2": 0.12345, "n": 3}, {"game": "c", "r2": math.nan, "seconds": None, "n": 1.5e6}]
    assert tables.markdown(rows) == (
        "| game |    r2 |       n | seconds |\n"
        "|------|------:|--------:|--------:|\n"
        "| a\\|b | 0.123 |       3 |       - |\n"
        "| c    |     - | 1.5e+06 |       - |\n"
    )
    assert tables.markdown(rows, ["n"], digits=1).splitlines()[2] == "|       3 |"
    assert tables.markdown([]) == "(nothing)\n"
