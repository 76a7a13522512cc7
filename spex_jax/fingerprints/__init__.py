"""Hashes of computations: of their arrays, their code and their settings.

Nothing is hashed by its printed form. A value is taken apart until only numbers, strings, arrays and byte code are
left; a value that cannot be taken apart, and so might hold anything, is refused.
"""

from spex_jax.fingerprints.hashing import fingerprint, static_content

__all__ = ["fingerprint", "static_content"]
