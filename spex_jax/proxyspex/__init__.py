"""ProxySPEX: fit a cheap proxy to random ablations and read the spectrum off the proxy."""

from spex_jax.proxyspex.fitting import PROXIES, check_options, cross_fit, fit
from spex_jax.proxyspex.many import cross_fit_many, fit_many
from spex_jax.proxyspex.residual import fit_and_decode
from spex_jax.proxyspex.trained import TrainedMLP, train_mlp

__all__ = [
    "PROXIES",
    "TrainedMLP",
    "check_options",
    "cross_fit",
    "cross_fit_many",
    "fit",
    "fit_and_decode",
    "fit_many",
    "train_mlp",
]
