"""The page of options: every method, proxy, index and lens with its options, made from their docstrings and signatures.

  python experiments/options.py                           # prints it
  python experiments/options.py --page=docs/options.md    # writes it

Needs the extra `test`. Expected: a second.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import docstring_parser
import tables
from absl import flags

import spex_jax
from spex_jax import lenses
from spex_jax.methods import METHODS
from spex_jax.proxyspex import PROXIES
from spex_jax.runtime import run_program

_PAGE = flags.DEFINE_string("page", None, "The file to write. Default: none, the page is printed.")

_OPENING = """# Options

Made by `experiments/options.py` from the package itself; do not edit this page.
`explain(value_fn, method="proxyspex", max_terms=100)` is the short form of
`explain(value_fn, method=spex_jax.ProxySPEX(max_terms=100))`: the options of a method are the fields of its record, and
those of a proxy the fields of the proxy's record. An argument without a default is required."""

_LENSES = (lenses.text, lenses.patches, lenses.tabular, lenses.training_data, lenses.components, lenses.joint)


def _plain(text: str | None) -> str:
    """Returns a text in one line."""
    return " ".join((text or "").split())


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty or value is dataclasses.MISSING:
        return ""
    if isinstance(value, float | int | str | bool | None):
        return f"`{value!r}`"
    return f"`{value}`" if isinstance(value, tuple) else f"`{type(value).__name__}`"


def _table(defaults: Mapping[str, Any], described: Iterable[Any]) -> str:
    """Returns a table of options; several that share one description share a row."""
    rows = []
    for entry in described:
        names = [name.strip().lstrip("*") for name in entry.arg_name.split(",")]
        known = [name for name in names if name in defaults]
        if known:
            values = dict.fromkeys(_default(defaults[name]) for name in known)
            option = ", ".join(f"`{name}`" for name in known)
            rows.append({"option": option, "default": ", ".join(values), "meaning": _plain(entry.description)})
    return tables.markdown(rows) if rows else "No options.\n"


def _parse(thing: Any) -> docstring_parser.Docstring:
    return docstring_parser.parse(inspect.getdoc(thing) or "", style=docstring_parser.DocstringStyle.GOOGLE)


def record_section(cls: type[Any]) -> str:
    """Returns the section of a record of options."""
    doc = _parse(cls)
    fields = {field.name: field.default for field in dataclasses.fields(cls)}
    about = [_plain(doc.short_description), _plain(doc.long_description)]
    return "\n\n".join([f'### `{cls.__name__}`, "{cls.name}"', *filter(None, about), _table(fields, doc.params)])


def function_section(name: str, function: Callable[..., Any]) -> str:
    """Returns the section of a function."""
    doc = _parse(function)
    defaults = {
        key: one.default for key, one in inspect.signature(function).parameters.items() if one.kind != one.VAR_KEYWORD
    }
    return "\n\n".join([f"### `{name}`", _plain(doc.short_description), _table(defaults, doc.params)])


def text() -> str:
    """Returns the page as Markdown."""
    indices = [
        {"index": f"`{name}`", "meaning": _plain(index.meaning)} for name, index in spex_jax.indices.INDICES.items()
    ]
    parts = [
        _OPENING,
        "## Running\n\n" + function_section("spex_jax.explain", spex_jax.explain),
        function_section("spex_jax.evaluate", spex_jax.evaluate),
        "## Methods",
        *map(record_section, METHODS.values()),
        "## Proxies\n\nOf the method `ProxySPEX`, as `proxy=`.",
        *map(record_section, PROXIES.values()),
        "## Indices\n\nThe argument `index=` of `explain` and of `interactions`.\n\n" + tables.markdown(indices),
        "## Lenses",
        *(function_section(f"lenses.{lens.__name__}", lens) for lens in _LENSES),
        "## Best subsets\n\n" + function_section("optimize.select", spex_jax.optimize.select),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def main() -> None:
    """Prints the page or writes it into a file."""
    tables.print_or_write(_PAGE.value, text())


if __name__ == "__main__":
    run_program(main)
