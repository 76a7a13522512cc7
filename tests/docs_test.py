import ast
import pathlib
import re

import pytest

import spex_jax

ROOT = pathlib.Path(__file__).parent.parent


def test_public_names_are_sorted_and_there():
    assert spex_jax.__all__ == sorted(spex_jax.__all__)
    assert all(getattr(spex_jax, name).__doc__ for name in spex_jax.__all__ if name != "__version__")


@pytest.mark.parametrize("name", ["README.md", "BUILD_NOTES.md"])
def test_paths_that_documents_name_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:spex_jax|experiments|tests)/[\w/.]+)`", text))
    assert named
    assert not {path for path in named if not (ROOT / path).exists()}


def test_the_python_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    scope = {}
    for block in blocks:
        exec(compile(ast.parse(block), "README.md", "exec"), scope)
    assert scope["e"].faithfulness.r2 > 0.5
