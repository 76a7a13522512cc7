"""Reads how much memory a device has left."""

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
    return math.inf  # not Linux: unknown, and a lack of memory is handled when it occurs


def free_bytes(mesh: jax.sharding.Mesh | None) -> float:
    """Returns the free bytes on the fullest of this process's devices (of the mesh); infinite where unknown."""
    devices = jax.local_devices() if mesh is not None else jax.local_devices()[:1]
    if devices[0].platform == "cpu":
        return _host_free() / len(devices)
    statistics: list[dict[str, float]] = [device.memory_stats() or {} for device in devices]
    return min(s.get("bytes_limit", math.inf) - s.get("bytes_in_use", 0) for s in statistics)


def out_of_memory(error: Exception) -> bool:
    """Returns whether an error of XLA reports a lack of memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
