"""How much memory a device has left."""

import math
import pathlib

import jax

__all__ = ["free_bytes", "out_of_memory"]


def _host_free() -> float:
    try:
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return math.inf  # no Linux: nothing is known, and out-of-memory is met when it comes


def free_bytes(mesh: jax.sharding.Mesh | None) -> float:
    """Bytes free on the fullest of this process's devices (of the mesh); infinite where nothing is known."""
    devices = jax.local_devices() if mesh is not None else jax.local_devices()[:1]
    if devices[0].platform == "cpu":
        return _host_free() / len(devices)
    statistics = [device.memory_stats() or {} for device in devices]
    return min(s.get("bytes_limit", math.inf) - s.get("bytes_in_use", 0) for s in statistics)


def out_of_memory(error: Exception) -> bool:
    """Whether XLA says that memory did not suffice."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
