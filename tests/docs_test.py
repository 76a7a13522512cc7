import ast
import pathlib
import re

import pytest

import spex_jax

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
PARTS = ["## Context", "## Decision", "## Numbers", "## Tried and rejected"]
DECISIONS = sorted(ROOT.glob("docs/decisions/*.md"))


def test_public_names_are_sorted_and_there():
    assert spex_jax.__all__ == sorted(spex_jax.__all__, key=lambda name: (not name.isupper(), name))
    assert all(getattr(spex_jax, name).__doc__ for name in spex_jax.__all__ if name != "__version__")


def test_paths_that_documents_name_exist():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"`((?:spex_jax|experiments|tests)/[\w/.]+)`", text))
    assert named
    assert not {path for path in named if not (ROOT / path).exists()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    assert not {link for link in links if "://" not in link and not (page.parent / link).exists()}


def test_the_index_names_every_decision_once():
    text = (ROOT / "BUILD_NOTES.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((.+?)\)", text) == [str(page.relative_to(ROOT)) for page in DECISIONS]
    assert [int(page.name[:2]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    assert len(text.splitlines()) <= 60


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_a_decision_has_its_parts_in_order(page):
    first, *rest = page.read_text(encoding="utf-8").splitlines()
    headings = [line for line in rest if line.startswith("#")]
    assert first.startswith("# ")
    assert headings[0] == "## Context"
    assert headings == [line for line in PARTS if line in headings]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_the_python_of_a_page_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    scope = {}
    for block in blocks:
        exec(compile(ast.parse(block), page, "exec"), scope)
    assert scope["e"].faithfulness.r2 > 0.5


def test_the_readme_is_a_front_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
