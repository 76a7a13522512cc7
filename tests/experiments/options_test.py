import pathlib

import spex_jax

ROOT = pathlib.Path(__file__).parents[2]


def test_the_page_is_what_the_package_says(load_program):
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == load_program("options").text(), "run python experiments/options.py --page=docs/options.md"


def test_every_option_of_a_record_is_described(load_program):
    program = load_program("options")
    for cls in (*spex_jax.methods.METHODS.values(), *spex_jax.proxyspex.PROXIES.values()):
        section = program.record_section(cls)
        assert not {name for name in cls.__dataclass_fields__ if f"`{name}`" not in section}, cls
