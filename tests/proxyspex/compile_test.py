import jax
import pytest
from planting import planted

from spex_jax import proxyspex

EVENT = "/jax/core/compile/backend_compile_duration"


@pytest.mark.parametrize("proxy", ["auto", "mlp"])  # walsh_gp, trees and linear are parts of auto
def test_a_new_table_in_the_same_bucket_compiles_nothing(proxy, rng, monkeypatch):
    """n = 18 and 30 share a bucket, and so do 260 and 500 rows."""
    # Fewer answers to read the network from, for the time of this test.
    monkeypatch.setattr("spex_jax.proxyspex.extract._ANSWERS", 2**14)
    monkeypatch.setattr("spex_jax.proxyspex.extract._MOST_COMPLETE", 14)
    monkeypatch.setattr("spex_jax.proxyspex.extract._LEAST_SQUARES_ROWS", 2**13)
    monkeypatch.setattr("spex_jax.proxyspex.mlp._STEPS", 50)
    compiled = []

    def listen(event, seconds, **kwargs):
        compiled.append(event == EVENT)

    proxyspex.fit(*planted(18, 260, rng, noise=3.0, degree=2)[:2], proxy=proxy)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        proxyspex.fit(*planted(30, 500, rng, noise=3.0, degree=2)[:2], proxy=proxy)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert sum(compiled) == 0
