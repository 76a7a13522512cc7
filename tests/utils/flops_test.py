import jax
import jax.numpy as jnp
import pytest

from spex_jax.utils.flops import largest_product, matmul_flops


def flops(function, *arguments):
    return matmul_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_matrix_products_agree_with_xla_on_cpu():
    def function(x, y):
        return jax.nn.softmax(jnp.einsum("bij,bkj->bik", x, y)) @ y

    x, y = jnp.ones((3, 64, 32)), jnp.ones((3, 48, 32))
    counted = flops(jax.jit(function), x, y)
    assert counted == 2 * 2 * 3 * 64 * 48 * 32
    analysed = jax.jit(function).lower(x, y).cost_analysis()["flops"]
    assert counted <= analysed < 1.1 * counted  # which counts the softmax too


@pytest.mark.parametrize(("groups", "expected"), [(1, 2 * 2 * 6 * 6 * 8 * 9 * 4), (2, 2 * 2 * 6 * 6 * 8 * 9 * 2)])
def test_convolutions(groups, expected):
    image, kernel = jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4 // groups, 8))

    def function(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    assert flops(function, image, kernel) == expected


def test_loops_and_branches():
    x = jnp.ones((4, 4))

    def scanned(x):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, length=7)[0]

    def branches(x):
        return jax.lax.cond(x[0, 0] > 0, lambda y: y @ y, lambda y: y, x)

    assert flops(scanned, x) == 7 * 2 * 4**3
    assert flops(branches, x) == 2 * 4**3


def test_the_largest_product():
    def function(x, w):
        def step(x, _):
            return jnp.tanh((x @ w) @ w.T), None

        return jax.lax.scan(step, x, length=3)[0].sum()

    x, w = jnp.ones((8, 16)), jnp.ones((16, 32))
    assert largest_product(jax.make_jaxpr(function)(x, w).jaxpr) == 8 * 32 * 4
    assert largest_product(jax.make_jaxpr(jnp.tanh)(x).jaxpr) == 0
