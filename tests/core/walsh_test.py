import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from spex_jax.core import walsh


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_transform_is_the_definition(n, rng):
    values = rng.normal(size=2**n)
    expected = oracle.walsh(values)
    found = walsh.walsh_hadamard(values) / 2**n
    for code, coefficient in enumerate(found):
        members = tuple(i for i in range(n) if code >> i & 1)
        assert coefficient == pytest.approx(expected[members], abs=1e-12)


def test_transform_is_its_own_inverse_and_works_on_batches(rng):
    values = rng.normal(size=(3, 4, 16))
    np.testing.assert_allclose(walsh.walsh_hadamard(walsh.walsh_hadamard(values)) / 16, values, atol=1e-12)
    np.testing.assert_allclose(walsh.walsh_hadamard(values)[1, 2], walsh.walsh_hadamard(values[1, 2]))


def test_transform_stays_in_jax(rng):
    values = rng.normal(size=8).astype(np.float32)
    found = walsh.walsh_hadamard(jnp.asarray(values))
    assert isinstance(found, jnp.ndarray)
    np.testing.assert_allclose(found, walsh.walsh_hadamard(values), rtol=1e-5)


@pytest.mark.parametrize("length", [0, 3, 12])
def test_transform_refuses_other_lengths(length):
    with pytest.raises(ValueError, match="power of two"):
        walsh.walsh_hadamard(np.zeros(length))


def test_characters_are_products_of_signs(rng):
    masks, support = rng.integers(0, 2, (50, 9)).astype(bool), rng.integers(0, 2, (20, 9)).astype(bool)
    expected = np.array([[np.prod(walsh.signs(x)[s]) for s in support] for x in masks])
    np.testing.assert_array_equal(walsh.subset_characters(masks, support), expected)
    assert walsh.signs(np.array([True, False])).tolist() == [-1, 1]
