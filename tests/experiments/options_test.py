import dataclasses
import pathlib

import pytest

import spex_jax

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("options")


def test_the_page_is_what_the_package_says(program):
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == program.text(), "run python experiments/options.py --page=docs/options.md"


def test_every_option_of_a_record_is_described(program):
    for cls in (*spex_jax.methods.METHODS.values(), *spex_jax.proxyspex.PROXIES.values()):
        section = program.record_section(cls)
        assert not {field.name for field in dataclasses.fields(cls) if f"`{field.name}`" not in section}, cls
