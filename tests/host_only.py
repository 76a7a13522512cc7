"""Contexts that watch what JAX compiles, and in which it may neither compile a program nor take an array."""

import contextlib

import jax


@contextlib.contextmanager
def nothing_compiled():
    """Fails where the code inside compiles a program."""
    compiled = []

    def listen(event, seconds, **kwargs):
        compiled.append(event == "/jax/core/compile/backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert sum(compiled) == 0


@contextlib.contextmanager
def nothing_on_a_device():
    """Fails where the code inside compiles a program or hands JAX an array, as every function of `jax.numpy` does."""
    with nothing_compiled(), jax.transfer_guard("disallow_explicit"):
        yield
