"""Counts the operations of a program from its jaxpr: the same on every platform, before compilation."""

import math
from collections.abc import Iterator
from typing import Any

__all__ = ["largest_product", "matmul_flops"]


def matmul_flops(jaxpr: Any) -> int:
    """Counts the multiplications and additions in the matrix products and convolutions of a jaxpr.

    A scan counts as often as it runs, a while loop once. XLA's own cost analysis does not serve: on GPU it does not see
    into the library's matrix products (https://github.com/jax-ml/jax/issues/22249), and before compilation there is
    none (https://github.com/jax-ml/jax/issues/22713).
    """
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            summed = params["dimension_numbers"][0][0]
            left = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in summed)
        elif name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval, equation.outvars[0].aval
            channels = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * out.size * kernel.size // channels
        times = params["length"] if name == "scan" else 1
        total += times * sum(matmul_flops(inner) for inner in _inner(params.values()))
    return total


def largest_product(jaxpr: Any) -> int:
    """Returns the bytes of the largest result of a matrix product or convolution in a jaxpr."""
    largest = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            out = equation.outvars[0].aval
            largest = max(largest, out.size * out.dtype.itemsize)
        largest = max([largest, *(largest_product(inner) for inner in _inner(equation.params.values()))])
    return largest


def _inner(values: Any) -> Iterator[Any]:
    """Yields the jaxprs among the parameters of an equation."""
    for value in values:
        if hasattr(value, "eqns"):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner(value)
