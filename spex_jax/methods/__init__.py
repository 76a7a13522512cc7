"""The interface between `explain` and its methods, and the registry of methods by name.

A method is a frozen dataclass that inherits from `Method`: its fields are its options. `register` makes it known by its
name, so that `explain(..., method="its name", option=...)` means the record.
"""

from spex_jax.methods.method import METHODS, Adaptive, CrossFit, Method, register
from spex_jax.methods.registry import Named, Registry

__all__ = ["METHODS", "Adaptive", "CrossFit", "Method", "Named", "Registry", "register"]
