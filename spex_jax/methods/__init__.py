"""The methods of `explain`: which masks each asks and how it fits a spectrum to their values."""

from spex_jax.methods import surrogates
from spex_jax.methods.method import Method
from spex_jax.methods.spectral import PROXYSPEX, SPEX

__all__ = ["METHODS", "Method"]

METHODS: dict[str, Method] = {
    "proxyspex": PROXYSPEX,
    "spex": SPEX,
    "leave_one_out": surrogates.LEAVE_ONE_OUT,
    "lime": surrogates.LIME,
    "kernel_shap": surrogates.KERNEL_SHAP,
    "lasso": surrogates.LASSO,
    "banzhaf": surrogates.BANZHAF,
    "faith_banzhaf": surrogates.FAITH_BANZHAF,
    "faith_shapley": surrogates.FAITH_SHAPLEY,
    "permutation_shapley": surrogates.PERMUTATION_SHAPLEY,
}
