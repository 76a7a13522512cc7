"""ProxySPEX: fits a cheap proxy to random ablations and reads the spectrum off the proxy.

Proxies are records: `Auto()`, `WalshGP()`, `MLP(extract="grow")`, `Trees()`, `Linear(solver="greedy")`. Where a
proxy is expected, its name will do: "auto", "walsh_gp", "mlp", "trees", "linear".
"""

from spex_jax.proxyspex.fitting import cross_fit, fit
from spex_jax.proxyspex.fitting_many import cross_fit_many, fit_many
from spex_jax.proxyspex.mlp import MLP
from spex_jax.proxyspex.preprocessing import Fitted, Table
from spex_jax.proxyspex.proxy import PROXIES, Proxy, proxy_of, register
from spex_jax.proxyspex.regression.linear import Linear
from spex_jax.proxyspex.residual import fit_and_decode
from spex_jax.proxyspex.stacking import Auto
from spex_jax.proxyspex.trained_mlp import TrainedMLP, train_mlp
from spex_jax.proxyspex.trees import Trees
from spex_jax.proxyspex.walsh_gp import WalshGP

__all__ = [
    "MLP",
    "PROXIES",
    "Auto",
    "Fitted",
    "Linear",
    "Proxy",
    "Table",
    "TrainedMLP",
    "Trees",
    "WalshGP",
    "cross_fit",
    "cross_fit_many",
    "fit",
    "fit_and_decode",
    "fit_many",
    "proxy_of",
    "register",
    "train_mlp",
]

for _proxy in (Auto, WalshGP, MLP, Trees, Linear):
    register(_proxy)
