"""Measures wall-clock time by phase, and compilation inside each phase separately."""

import contextlib
import functools
import threading
import time
from collections.abc import Iterator

import jax.monitoring

__all__ = ["Stopwatch"]

_COMPILE_EVENTS = frozenset(
    f"/jax/core/compile/{event}_duration" for event in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
)
_spent = threading.local()


@functools.cache
def _listen() -> None:
    def add(event: str, duration_secs: float, **_: str | int) -> None:
        if event in _COMPILE_EVENTS:
            _spent.seconds = getattr(_spent, "seconds", 0.0) + duration_secs

    jax.monitoring.register_event_duration_secs_listener(add)


class Stopwatch:
    """Counts seconds by phase; tracing, lowering and compiling go to 'compile' whatever the phase."""

    def __init__(self, *phases: str):
        """Sets all phases, and 'compile', to zero."""
        _listen()
        self.seconds = dict.fromkeys(("compile", *phases), 0.0)
        self._within = (0.0, 0.0)  # seconds and seconds of compilation of the phases inside the current one

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the block's time to `name`, without the phases inside it. The block must wait for what it dispatched."""
        start, compiled = time.perf_counter(), getattr(_spent, "seconds", 0.0)
        beside, self._within = self._within, (0.0, 0.0)
        try:
            yield
        finally:
            seconds, compiling = time.perf_counter() - start, getattr(_spent, "seconds", 0.0) - compiled
            own = compiling - self._within[1]
            self.seconds["compile"] += own
            self.seconds[name] += max(seconds - self._within[0] - own, 0.0)
            self._within = (beside[0] + seconds, beside[1] + compiling)
