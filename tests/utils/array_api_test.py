"""What NumPy and JAX spell in different ways does the same on both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.utils import array_api
from spex_jax.utils.precision import portable


@pytest.fixture
def matrix(rng):
    factor = rng.normal(size=(9, 30))
    return (factor @ factor.T).astype(np.float32)


def on_both(function, *arrays):
    """The results on the host and in a program."""
    copies = [np.array(array) for array in arrays]
    host, device = function(*copies), jax.jit(function)(*map(jnp.asarray, arrays))
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(host))
    return host, device


def test_cholesky_factors(matrix, rng):
    right = rng.normal(size=(9, 2)).astype(np.float32)
    for factor in on_both(array_api.cholesky, matrix):
        np.testing.assert_allclose(factor, np.linalg.cholesky(matrix.astype(float)), rtol=1e-4, atol=1e-4)
    for name, expected in (
        ("cholesky_solve", np.linalg.solve(matrix, right)),
        ("solve_lower", np.linalg.solve(np.linalg.cholesky(matrix), right)),
    ):
        solve = getattr(array_api, name)
        for found in on_both(lambda a, b, solve=solve: solve(array_api.cholesky(a), b), matrix, right):
            np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4)
    for found in on_both(lambda a: array_api.cholesky_inverse(array_api.cholesky(a)), matrix):
        np.testing.assert_allclose(found @ matrix, np.eye(9), atol=1e-3)
        np.testing.assert_allclose(found, found.T, rtol=1e-3, atol=1e-6)


def test_a_matrix_that_is_not_positive_definite_has_a_factor_of_nan(matrix):
    for factor in on_both(array_api.cholesky, matrix - 100 * np.eye(9, dtype=np.float32)):
        assert np.isnan(np.asarray(factor)[np.tril_indices(9)]).any()


@pytest.mark.parametrize("scores", [[3, 1, 3, 2, 3, 0], [0, 0, 0], [5], [-1, -1, 2, -1], []], ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_first_of_equal_scores_come_first(scores, count):
    count = min(count, len(scores))
    given = np.array(scores, np.float32)
    for best, at in on_both(lambda array: array_api.top_k(array, count), given):
        expected = np.argsort(-given, kind="stable")[:count]
        np.testing.assert_array_equal(at, expected)
        np.testing.assert_array_equal(best, given[expected])


def test_places_diagonals_and_parts(matrix):
    chosen = np.arange(9) % 2 == 0
    for found in on_both(lambda a, c: array_api.principal(a, c), matrix, chosen):
        np.testing.assert_array_equal(found, np.where(np.outer(chosen, chosen), matrix, 0))
    for found in on_both(lambda a: array_api.add_to_diagonal(a, np.arange(9, dtype=np.float32)), matrix):
        np.testing.assert_allclose(found, matrix + np.diag(np.arange(9)))
    for found in on_both(lambda a: array_api.put(a, (0, slice(2, 4)), 7), matrix):
        assert (np.asarray(found)[0, 2:4] == 7).all()


def test_loops():
    items = np.arange(1, 6, dtype=np.float32)
    for found in on_both(lambda x: array_api.fold_in_order(lambda s, i: 2 * s + i, x[0] * 0, x), items):
        assert float(found) == 57
    for found in on_both(lambda x: array_api.repeat_while(lambda s: s < 100, lambda s: s * s, x[1]), items):
        assert float(found) == 256


def test_a_portable_function_runs_where_its_arrays_are():
    kinds = []

    @portable(static_argnames="power")
    def function(a, b, *, power):
        kinds.append(array_api.on_host(a, b))
        return array_api.namespace(a, b).log(a) ** power + b

    zero = np.zeros(2, np.float32)
    assert isinstance(function(zero, 1.0, power=2), np.ndarray)  # and no warning of the logarithm of 0
    assert isinstance(function(zero, jnp.ones(2), power=2), jax.Array)
    assert kinds == [True, False]


def test_the_default_device_of_a_context_counts():
    assert array_api.host_is_best()
    with jax.default_device(jax.devices("cpu")[-1]):
        assert array_api.default_device() == jax.devices("cpu")[-1]
    with jax.default_device("cpu"):
        assert array_api.host_is_best()
