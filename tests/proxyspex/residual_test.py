import numpy as np
import pytest

from spex_jax import Spectrum, proxyspex, spex
from spex_jax.analysis.metrics import r2_score


@pytest.fixture(scope="module")
def made():
    return spex.design(24, 504, max_degree=3)  # the sizes of a test of explain, so that it compiles nothing new


def smooth(masks):
    weights = np.random.default_rng(1).normal(size=masks.shape[1])
    return 3 * np.tanh(0.4 * (np.asarray(masks, float) - 0.5) @ weights)


def hidden(masks):
    """Triples that nothing announces, too many to be found as learned neighbours."""
    rng = np.random.default_rng(2)
    triples = [rng.choice(masks.shape[1], 3, replace=False) for _ in range(14)]
    return sum(0.7 * (1 - 2.0 * (masks[:, members].sum(axis=1) % 2)) for members in triples)


def test_the_smooth_part_by_the_proxy_and_the_rest_decoded(made, rng):
    test = rng.integers(0, 2, (2000, 24)).astype(bool)
    values, truth = smooth(made.masks) + hidden(made.masks), smooth(test) + hidden(test)
    both = r2_score(truth, proxyspex.fit_and_decode(made, values)(test))
    proxy = r2_score(truth, proxyspex.fit(made.masks, values, proxy="walsh_gp")(test))
    assert both > 0.9
    assert both > proxy + 0.2


def test_where_noise_is_left_it_is_the_fit(made, rng):
    values = smooth(made.masks) + rng.normal(size=len(made.masks))
    found, fitted = proxyspex.fit_and_decode(made, values), proxyspex.fit(made.masks, values, proxy="walsh_gp")
    np.testing.assert_array_equal(found.coefficients, fitted.coefficients)
    assert found.variances is not None


def test_a_constant(made):
    found = proxyspex.fit_and_decode(made, np.full(len(made.masks), 2.5))
    assert isinstance(found, Spectrum)
    np.testing.assert_array_equal(found.coefficients, [2.5])


def test_wrong_arguments(made):
    with pytest.raises(ValueError, match="values must have shape"):
        proxyspex.fit_and_decode(made, np.ones(5))
    with pytest.raises(ValueError, match="unknown proxy 'magic'"):
        proxyspex.fit_and_decode(made, np.ones(len(made.masks)), proxy="magic")
