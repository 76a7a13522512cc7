"""Every config opens as the catalogue wants it, its command runs the program of that name, and its flags are known."""

import pathlib
import shlex

import pytest
from absl import flags
from absl.testing import flagsaver

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"
CONFIGS = sorted((EXPERIMENTS / "configs").glob("*.cfg"))


@pytest.fixture(scope="module")
def catalogue(load_program):
    return load_program("catalogue")


def program_of(command):
    words = [word for word in shlex.split(command) if "=" not in word or word.startswith("--")]
    assert words[0] == "python"
    return EXPERIMENTS.parent / words[1], words[2:]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config(catalogue, path):
    config = catalogue.read(path)
    program, arguments = program_of(config.fields["Command"])
    assert program.exists()
    assert arguments == [f"--flagfile=experiments/configs/{path.name}"]
    for row in config.rows:
        assert row["what"]
        assert any(row[column] not in ("", "-") for column in catalogue.COLUMNS[1:]), row["what"]
    assert all(line.startswith("--") for line in config.flags)


def of_programs():
    """Configs by the program that they are of."""
    found = {}
    for path in CONFIGS:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("# Command: "):
                found.setdefault(program_of(line.removeprefix("# Command: "))[0].stem, []).append(path)
    return found.items()


@pytest.mark.parametrize(("name", "paths"), of_programs(), ids=lambda given: given if isinstance(given, str) else "")
def test_flags(load_one_program, name, paths, monkeypatch):
    for variable in ("SPEX_JAX_DATA", "MINILM", "DISTILBERT", "LLAMA", "DROP", "TRAININGS"):
        monkeypatch.setenv(variable, "/somewhere")
    load_one_program(name)
    for path in paths:
        with flagsaver.flagsaver():
            assert flags.FLAGS([name, f"--flagfile={path}"]) == [name]  # and knows all of them


def test_the_readme_holds_the_catalogue(catalogue):
    text = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    _, _, rest = text.partition(catalogue.MARKS[0] + "\n")
    assert rest.partition(catalogue.MARKS[1])[0] == catalogue.catalogue(), (
        "run python experiments/catalogue.py --readme=experiments/README.md"
    )


def test_what_is_no_config(catalogue, tmp_path):
    path = tmp_path / "x.cfg"
    path.write_text("# Title: a\n# Paper: b\n--flag\n")
    with pytest.raises(ValueError, match=r"line 3 of x\.cfg must be '# Command"):
        catalogue.read(path)
    path.write_text("".join(f"# {field}: x\n" for field in catalogue.FIELDS) + "# | what |\n# |---|\n# | x |\n")
    with pytest.raises(ValueError, match="must have a table with the columns what, published"):
        catalogue.read(path)
