"""What makes two computations the same: a hash of their arrays, their code and their settings.

Nothing is hashed by how it prints. A value is walked into until only numbers, strings, arrays and byte code are left;
what cannot be walked into, and so might hold anything, is refused.
"""

from spex_jax.fingerprints.hashing import fingerprint, static_content

__all__ = ["fingerprint", "static_content"]
