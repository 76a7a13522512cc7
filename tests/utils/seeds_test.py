"""The numbers of the streams never change, and no module derives a seed by a bare number."""

import ast
import pathlib

import numpy as np
import pytest

import spex_jax
from spex_jax.utils import seeds

PACKAGE = pathlib.Path(spex_jax.__file__).parent
NUMBERS = {
    seeds.Stream: {
        "HELD_OUT_MASKS": 1,
        "LEFTOVER_MASKS": 1,
        "SEED_NOISE": 2,
        "ROWS_HELD_OUT": 3,
        "ADAPTIVE": 4,
        "CONTEXTS": 5,
        "WALSH_GP_START": 6,
        "WALSH_GP_STEPS": 7,
        "WALSH_GP_DRAWS": 8,
        "MLP_FOLDS": 9,
        "MLP_MEMBERS": 10,
        "MLP_QUERIES": 11,
        "WALSH_GP_WINDOWS": 12,
        "RELEVANCE": 13,
        "NEAR_FULL": 14,
    },
}


def bare_derivations(source):
    """The lines of a source that derive a seed or a key by a bare number.

    Those are a number in the data of `fold_in`, a sequence or arithmetic where a generator or a key begins, and every
    `SeedSequence`. A fixed seed, such as `default_rng(0)`, is not derived from any.
    """
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if name == "fold_in":
            wrong = any(isinstance(part, ast.Constant) for data in given[1:] for part in ast.walk(data))
        elif name in ("default_rng", "PRNGKey") or (name == "key" and "random" in ast.unparse(node.func)):
            wrong = any(isinstance(part, ast.List | ast.Tuple | ast.BinOp) for one in given for part in ast.walk(one))
        else:
            wrong = name == "SeedSequence"
        if wrong:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("kind", NUMBERS, ids=lambda kind: kind.__name__)
def test_the_numbers_of_the_streams_are_those_that_stores_were_written_with(kind):
    assert {name: int(member) for name, member in kind.__members__.items()} == NUMBERS[kind]


def test_further_trainings_come_after_any_number_of_repeats():
    assert seeds.FURTHER_TRAININGS == 1_000


@pytest.mark.parametrize("stream", seeds.Stream)
@pytest.mark.parametrize("index", [(), (3,)], ids=str)
@pytest.mark.parametrize("seed", [0, 2**40])
def test_a_generator_is_that_of_the_seed_and_the_number(seed, stream, index):
    expected = np.random.default_rng([seed, int(stream), *index]).integers(0, 2**63, 8)
    np.testing.assert_array_equal(seeds.generator(seed, stream, *index).integers(0, 2**63, 8), expected)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_derives_a_seed_by_a_bare_number(path):
    if path.name != "seeds.py":
        lines = bare_derivations(path.read_text(encoding="utf-8"))
        assert not lines, f"lines {lines} of {path.relative_to(PACKAGE)}: name the stream in spex_jax/utils/seeds.py"


@pytest.mark.parametrize(
    "source",
    [
        "np.random.default_rng([seed, 1])",
        "default_rng((seed, turn))",
        "np.random.default_rng(seed + 1)",
        "np.random.default_rng(seed=[seed, stream])",
        "np.random.SeedSequence(seed)",
        "jax.random.fold_in(key, 7)",
        "jax.random.fold_in(key, 1 + number)",
        "jax.random.fold_in(jax.random.key(seed), 1)",
        "jax.random.key(seed ^ 1)",
    ],
)
def test_the_check_sees_a_bare_number(source):
    assert bare_derivations(source) == [1]


@pytest.mark.parametrize(
    "source",
    [
        "np.random.default_rng(seed)",
        "np.random.default_rng(0)",
        "generator(seed, Stream.CONTEXTS)",
        "jax.random.fold_in(key, number)",
        "jax.random.fold_in(key, seeds.FURTHER_TRAININGS)",
        "jax.random.fold_in(key, FURTHER_TRAININGS + turn)",
        "jax.random.key(seed)",
    ],
)
def test_the_check_lets_names_pass(source):
    assert not bare_derivations(source)
