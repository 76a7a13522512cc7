"""ProxySPEX: fit a cheap proxy to random ablations and read the spectrum off the proxy."""

from spex_jax.proxyspex.fit import PROXIES, check_options, fit

__all__ = ["PROXIES", "check_options", "fit"]
