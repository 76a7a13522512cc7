"""Products of the mathematics keep all bits of their factors on any device; those of a model are its user's choice."""

import ast
import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from accelerator import MANTISSA, accelerator, products, unstated
from lenses.retraining_data import apply, clouds, init
from lowering_test import CASES, program_of, real

import spex_jax
from spex_jax.utils.precision import compiled, precision_of_models

PACKAGE = pathlib.Path(spex_jax.__file__).parent
# What runs models, whose precision is theirs or their user's, and what names functions of all kinds and runs none.
OF_MODELS = {"engine", "fingerprints", "lenses", "models"}
HIGHEST = jax.lax.Precision.HIGHEST


@pytest.fixture(scope="module")
def square():
    return np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)


class Product:
    """The same product with and without a stated precision."""

    stated = staticmethod(lambda a: jnp.matmul(a, a, precision="highest"))
    bare = staticmethod(lambda a: jnp.matmul(a, a))
    within = staticmethod(lambda a: jax.jit(Product.bare)(a) + 1)
    scanned = staticmethod(lambda a: jax.lax.scan(lambda c, _: (Product.within(c) / 9, None), a, None, length=2)[0])
    branch = staticmethod(lambda a: jax.lax.cond(a.sum() > 1e9, lambda x: x, Product.within, a))
    looped = staticmethod(lambda a: jax.lax.while_loop(lambda x: x.max() < 99, Product.within, jnp.abs(a) + 1))
    vmapped = staticmethod(lambda a: jax.vmap(Product.within)(jnp.stack([a, a])))
    gradient = staticmethod(jax.grad(lambda a: Product.within(a).sum()))
    library = staticmethod(lambda a: jnp.linalg.solve(a, Product.bare(a)))
    convolved = staticmethod(lambda a: jax.lax.conv(a[None, None], a[None, None, :2, :2], (1, 1), "VALID"))


UNSTATED = sorted(set(vars(Product)) - set(vars(type("Empty", (), {}))) - {"stated"})


@pytest.mark.parametrize("name", UNSTATED)
@pytest.mark.parametrize("kind", ["tf32", "bfloat16"])
def test_the_emulated_device_changes_a_product_without_a_precision(name, kind, square):
    function = getattr(Product, name)
    plain = [function(square), jax.jit(function)(square)]
    with accelerator(kind):
        rounded = [function(square), jax.jit(function)(square)]
    again = [function(square), jax.jit(function)(square)]
    size = float(np.abs(plain[0]).max())
    for before, during, after in zip(plain, rounded, again, strict=True):
        error = float(np.abs(before - during).max())
        assert 2.0 ** -(MANTISSA[kind] + 6) * size < error < 0.2 * size
        np.testing.assert_array_equal(before, after)
    assert unstated(function, square)[0]


def test_the_emulated_device_rounds_as_the_hardware_does(square):
    for kind, dtype in (("bfloat16", jnp.bfloat16), ("tf32", None)):
        factor = jnp.asarray(square, dtype).astype(jnp.float32) if dtype else jax.lax.reduce_precision(square, 8, 10)
        with accelerator(kind):
            np.testing.assert_array_equal(Product.bare(square), Product.stated(factor))


@pytest.mark.parametrize("kind", ["tf32", "bfloat16"])
def test_the_emulated_device_leaves_what_is_stated(kind, square):
    plain = Product.stated(square), compiled(Product.scanned)(square), compiled(Product.gradient)(square)
    with accelerator(kind):
        rounded = Product.stated(square), compiled(Product.scanned)(square), compiled(Product.gradient)(square)
    for before, during in zip(plain, rounded, strict=True):
        np.testing.assert_array_equal(before, during)


@pytest.mark.parametrize("case", CASES)
def test_every_product_states_its_precision(case):
    module, _, name = case.split()[0].rpartition(".")
    arguments, static = CASES[case]
    function = program_of(getattr(importlib.import_module(f"spex_jax.{module}"), name))
    bare, _ = unstated(function, *arguments, **static)
    assert not bare


def test_the_programs_have_products():
    """What the test above counts is there: a walk that found nothing would pass it."""
    arguments, static = CASES["proxyspex.walsh_gp.scales.learn_scales"]
    learn = importlib.import_module("spex_jax.proxyspex.walsh_gp.scales").learn_scales.program
    assert unstated(learn, *arguments, **static)[1] > 5
    assert unstated(jax.jit(lambda a: a + a), real(3, 3)) == ([], 0)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_mathematics_is_compiled_in_one_way(path):
    """Mathematics uses `utils.precision.compiled` in the place of jax.jit, and no product states its own precision."""
    if path.relative_to(PACKAGE).parts[0] in OF_MODELS or path.name == "precision.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        assert named not in ("jit", "pjit"), f"line {node.lineno}: use spex_jax.utils.precision.compiled, not jax.jit"
        if isinstance(node, ast.Call):
            stated = [word.arg for word in node.keywords if word.arg in ("precision", "preferred_element_type")]
            assert not stated, f"line {node.lineno}: leave out {stated[0]}=, compiled states it for all products"


def choices_of(function, *arguments):
    """The precisions of the products that a program takes, in their order."""
    return [equation.params["precision"] for equation in products(jax.make_jaxpr(function)(*arguments).jaxpr)]


@pytest.mark.parametrize("chosen", [None, "bfloat16", "tensorfloat32", "highest"])
def test_a_model_in_a_compiled_function_keeps_its_precision(chosen, square):
    def model(a):
        return Product.within(a).sum()

    @compiled
    def inner(a):
        with precision_of_models():
            own = jax.grad(model)(a)
        return own, a @ a

    @compiled
    def outer(a):
        return jax.lax.map(inner, a[None])[0][0] @ a + inner(a)[1]

    with jax.default_matmul_precision(chosen):
        expected = choices_of(jax.grad(model), square)
        for function in (inner, outer, jax.jit(outer)):
            function(square)  # what is cached from it is not taken for another choice
            found = choices_of(function, square)
            # A product forwards and two backwards, each time that the model is called.
            calls = 1 if function is inner else 2
            assert found.count((HIGHEST, HIGHEST)) == len(found) - (0 if chosen == "highest" else 3 * calls)
            assert set(expected) <= set(found)
        assert choices_of(model, square) == expected[:1]


@pytest.mark.slow
def test_influence_keeps_the_precision_of_the_model():
    rng = np.random.default_rng(0)
    fn = spex_jax.lenses.training_data(init, apply, clouds(12, rng), clouds(3, rng), steps=2).fn
    params = init(jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    module = importlib.import_module("spex_jax.baselines.influence_functions")
    solve = functools.partial(module._by_conjugate_gradients, iterations=3)
    key = jax.random.key(0)
    for chosen, choice in ((None, None), ("tensorfloat32", (jax.lax.Precision.HIGH,) * 2)):
        with jax.default_matmul_precision(chosen):
            for function, arguments in (
                (module._trained, (fn, np.ones((1, 12), bool))),
                (module._gradients_of_values, (fn, params)),
                (module._hessian, (fn, params)),
                (module._losses_along, (fn, params, np.zeros((2, size), np.float32))),
            ):
                assert set(choices_of(function, *arguments)) == {choice}
            for function, arguments in (
                (solve, (fn, params, np.zeros((2, size), np.float32), np.float32(0))),
                (functools.partial(module._kernel, size=4), (fn, params, key)),
            ):
                assert set(choices_of(function, *arguments)) == {choice, (HIGHEST, HIGHEST)}
