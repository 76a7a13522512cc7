"""The methods of `explain`: which masks each asks and how it fits a spectrum to their values."""

from spex_jax.methods.method import Method
from spex_jax.methods.spectral import PROXYSPEX, SPEX

__all__ = ["METHODS", "Method"]

METHODS: dict[str, Method] = {"proxyspex": PROXYSPEX, "spex": SPEX}
