"""The store of evaluated ablations: append-only, one file for each value function, safe against a killed process.

`python -m spex_jax.store info|verify|repair|export PATH` inspects a store.
"""

from spex_jax.store.store import Store, read, verify

__all__ = ["Store", "read", "verify"]
