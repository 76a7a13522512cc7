"""States of loops and results of several parts have names."""

import ast
import pathlib

import pytest

import spex_jax

PACKAGE = pathlib.Path(spex_jax.__file__).parent
PATHS = sorted(PACKAGE.rglob("*.py"))
# The place of the first state among the arguments of each loop.
STATE_OF = {"jax.lax.fori_loop": 3, "jax.lax.while_loop": 2, "jax.lax.scan": 1}


def is_positional(node, most):
    return isinstance(node, ast.Tuple) and len(node.elts) > most


def positional_states(source):
    """The lines of loops of JAX whose state is a plain tuple of more than two parts."""
    tree = ast.parse(source)
    tuples = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and is_positional(node.value, 2)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (place := STATE_OF.get(ast.unparse(node.func))):
            state = node.args[place]
            if is_positional(state, 2) or (isinstance(state, ast.Name) and state.id in tuples):
                lines.append(node.lineno)
    return lines


def positional_results(source):
    """The names of functions for other modules that return a plain tuple of four or more parts."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and isinstance(node.returns, ast.Subscript)
        and ast.unparse(node.returns.value) == "tuple"
        and is_positional(node.returns.slice, 3)
    ]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_states_of_loops_and_results_have_names(path):
    source = path.read_text(encoding="utf-8")
    assert not positional_states(source), f"give the loop states of {path.relative_to(PACKAGE)} a NamedTuple"
    assert not positional_results(source), f"give the results of {path.relative_to(PACKAGE)} a NamedTuple"


def test_the_check_sees_plain_tuples():
    assert positional_states("start = (a, b, c)\nlast = jax.lax.while_loop(goes_on, step, start)") == [2]
    assert positional_states("jax.lax.fori_loop(0, t, step, (a, b, c))") == [1]
    assert positional_states("jax.lax.scan(step, (a, b, c), xs)") == [1]
    assert not positional_states("jax.lax.scan(step, (a, b), xs)\njax.lax.scan(step, State(a, b, c), xs)")
    assert positional_results("def f() -> tuple[A, B, C, D]: ...") == ["f"]
    assert not positional_results("def f() -> tuple[A, B, C]: ...\ndef _g() -> tuple[A, B, C, D]: ...")
