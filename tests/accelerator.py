"""What an accelerator does to products, on a CPU: factors of float32 products that do not state their precision are
rounded, as TF32 of a GPU and bfloat16 of a TPU do. Fits run in programs there, and not in NumPy.
"""

import contextlib
import functools
import math

import jax
from jax._src.interpreters import mlir  # whose public part registers rules of lowering, and does not give them
from jax.extend import core

from spex_jax.utils import array_api

PRODUCTS = (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p)
MANTISSA = {"float32": None, "tf32": 10, "bfloat16": 7}  # explicit bits, each with the 8 of the exponent

# Part of the key of JAX's caches: no program is taken for one that was compiled under other rules.
_ROUNDED_TO = jax.make_user_context(None)


def keeps_its_factors(params):
    """Whether a product on float32 states that all bits of its factors count."""
    given = params["precision"]
    return given is not None and all(one == jax.lax.Precision.HIGHEST for one in given)


def _rounds(avals, params):
    return all(aval.dtype == "float32" for aval in avals) and not keeps_its_factors(params)


def _rule(primitive, original):
    def lower(context, *operands, **params):
        if _ROUNDED_TO.value is None or not _rounds(context.avals_in, params):
            return original(context, *operands, **params)

        def product(*factors):
            rounded = (jax.lax.reduce_precision(x, 8, _ROUNDED_TO.value) for x in factors)
            return primitive.bind(*rounded, **params | {"precision": (jax.lax.Precision.HIGHEST,) * 2})

        return mlir.lower_fun(product, multiple_results=False)(context, *operands)

    return lower


@contextlib.contextmanager
def accelerator(kind):
    """A context in which every program that is compiled or run, in jit or out of it, computes as on such a device."""
    rules = mlir._platform_specific_lowerings["cpu"]
    before, on_the_host = {primitive: rules.get(primitive) for primitive in PRODUCTS}, array_api.host_is_best
    for primitive in PRODUCTS:
        original = before[primitive] or mlir._lowerings[primitive]
        rules[primitive] = mlir.LoweringRuleEntry(_rule(primitive, original.rule), original.inline)
    array_api.host_is_best = lambda: False
    try:
        with _ROUNDED_TO(MANTISSA[kind]):
            yield
    finally:
        array_api.host_is_best = on_the_host
        for primitive, rule in before.items():
            rules.pop(primitive)
            if rule is not None:
                rules[primitive] = rule


def _inner(params):
    for value in jax.tree.leaves(list(params.values()), is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)):
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value


def products(jaxpr):
    """Every float32 product of a jaxpr with those of all functions, loops and branches inside, as equations."""
    for equation in jaxpr.eqns:
        if equation.primitive in PRODUCTS and all(v.aval.dtype == "float32" for v in equation.invars):
            yield equation
        for inner in _inner(equation.params):
            yield from products(inner)


def unstated(function, *args, **kwargs):
    """The float32 products of a traced function that do not state their precision, and the number of all."""
    traced = jax.make_jaxpr(functools.partial(function, **kwargs))(*args)
    every = list(products(traced.jaxpr))
    return [equation for equation in every if not keeps_its_factors(equation.params)], len(every)


def rms(differences):
    """The root of the mean square."""
    return math.sqrt(float((abs(differences) ** 2).mean()))
