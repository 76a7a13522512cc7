import pytest
from host_only import nothing_compiled
from planting import planted

from spex_jax import proxyspex


# walsh_gp, trees and linear are parts of auto. The sizes are those of other tests, which then compile nothing either.
@pytest.mark.parametrize(("proxy", "first", "second"), [("auto", (18, 260), (30, 500)), ("mlp", (10, 30), (14, 60))])
def test_a_new_table_in_the_same_bucket_compiles_nothing(proxy, first, second, rng, monkeypatch):
    """Numbers of features and of rows that share a bucket."""
    # The network is read as one of many features, from fewer answers.
    monkeypatch.setattr("spex_jax.proxyspex.extraction._ANSWERS", 2**14)
    monkeypatch.setattr("spex_jax.proxyspex.extraction._MOST_COMPLETE", 9)
    monkeypatch.setattr("spex_jax.proxyspex.extraction._LEAST_SQUARES_ROWS", 2**13)
    monkeypatch.setattr("spex_jax.proxyspex.perceptrons._STEPS", 200)
    proxyspex.fit(*planted(*first, rng, noise=3.0, degree=2)[:2], proxy=proxy)
    with nothing_compiled():
        proxyspex.fit(*planted(*second, rng, noise=3.0, degree=2)[:2], proxy=proxy)
