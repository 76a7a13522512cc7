"""The version of the package, which pyproject.toml reads here, and the environment of a result."""

import platform
from typing import Any

import jax
import numpy as np

__all__ = ["__version__", "environment"]

__version__ = "0.1.0"


def environment() -> dict[str, Any]:
    """Returns the versions and the device, which go into every result."""
    device = jax.devices()[0]
    return {
        "versions": {
            "spex_jax": __version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": f"{device.platform}: {device.device_kind}",
    }
