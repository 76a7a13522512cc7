"""A context in which JAX may neither compile a program nor take an array."""

import contextlib

import jax

_COMPILED = "backend_compile"


@contextlib.contextmanager
def nothing_on_a_device():
    """Fails where the code inside compiles a program or hands JAX an array, as every function of `jax.numpy` does."""
    compiled = []

    def listen(event, seconds, **kwargs):
        compiled.append(_COMPILED in event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with jax.transfer_guard("disallow_explicit"):
            yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not any(compiled)
