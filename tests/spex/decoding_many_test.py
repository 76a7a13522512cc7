import numpy as np
import pytest

from spex_jax import Spectrum, spex
from spex_jax.spex import decoding_many


def planted(n, rng):
    support = np.unique(rng.permuted(np.tile(np.arange(n) < 2, (10, 1)), axis=1), axis=0)
    return Spectrum(support, rng.uniform(0.5, 1.5, len(support)))


def given(rng):
    """Designs of one shape, that of decode_test.py, and one of another with constant values."""
    designs = [spex.design(64, 1400, max_degree=4, seed=seed) for seed in range(3)]
    designs.insert(1, spex.design(12, 300, max_degree=2))
    values = [planted(one.n, rng)(one.masks) + 0.1 * rng.normal(size=len(one.masks)) for one in designs]
    values[1][:] = -1.5
    return designs, values


@pytest.mark.parametrize("refit", [True, False])
def test_side_by_side_as_one_by_one(refit, rng, monkeypatch):
    monkeypatch.setattr(decoding_many, "cores", lambda: 2)
    designs, values = given(rng)
    for b, found in enumerate(spex.decode_many(designs, values, refit=refit)):
        expected = spex.decode(designs[b], values[b], refit=refit)
        np.testing.assert_array_equal(found.support, expected.support)
        np.testing.assert_array_equal(found.coefficients, expected.coefficients)
        np.testing.assert_array_equal(found.covariance_factor, expected.covariance_factor)


@pytest.mark.slow
def test_in_one_program_as_one_by_one(rng, monkeypatch):
    monkeypatch.setattr(decoding_many, "_at_once", lambda design: 2)  # of three: a whole chunk and a part of one
    designs, values = given(rng)
    for b, found in enumerate(decoding_many._vmapped(designs, values, True)):
        expected = spex.decode(designs[b], values[b])
        np.testing.assert_array_equal(found.support, expected.support)
        np.testing.assert_allclose(found.coefficients, expected.coefficients, atol=1e-6)


def test_outputs_of_one_design(rng):
    made = spex.design(11, 504)
    values = planted(11, rng)(made.masks)
    first, constant = spex.decode_many(made, np.stack([values, np.ones(len(values))], axis=1))
    np.testing.assert_array_equal(first.coefficients, spex.decode(made, values).coefficients)
    assert constant.coefficients.tolist() == [1.0]


MADE = spex.design(12, 300, max_degree=2)


@pytest.mark.parametrize(
    ("design", "values", "message"),
    [
        ([], [], "at least one design, got none"),
        (MADE, np.ones((300, 0)), "at least one design, got none"),
        (MADE, np.ones(300), r"must have shape \(300, T\), got \(300,\)"),
        ([MADE], [np.ones(300)] * 2, "got 1 designs and 2 arrays of values"),
        ("design", [np.ones(300)], "expected a Design of spex_jax.spex.design or a list of them, got str"),
    ],
)
def test_wrong_arguments(design, values, message):
    with pytest.raises(ValueError, match=message):
        spex.decode_many(design, values)


def test_wrong_values_are_named():
    with pytest.raises(ValueError, match=r"values must have shape \(300,\)") as caught:
        spex.decode_many([MADE, MADE], [np.ones(300), np.ones(299)])
    assert caught.value.__notes__ == ["in design 1 of 2"]
    with pytest.raises(ValueError, match="not finite") as caught:
        spex.decode_many(MADE, np.where(np.arange(2) == 1, np.nan, np.ones((300, 1))))
    assert caught.value.__notes__ == ["in output 1"]
