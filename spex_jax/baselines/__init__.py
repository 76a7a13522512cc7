"""Baselines to compare with: methods that give each unit one number, faithful interactions of low order, and a greedy
search for a circuit.

Most fit a table of evaluated ablations; `explain` has these as methods. The others evaluate the model through the
engine (`acdc`, `attribution_patching`, `integrated_gradients`, `leave_one_out`), or read the gradients of networks
(`influence`, `trak`). Those that give numbers return the `Spectrum` of their surrogate, so that it can be compared,
optimised and reported like any other.
"""

from spex_jax.baselines.additive import additive_spectrum
from spex_jax.baselines.circuit_discovery import Circuits, acdc
from spex_jax.baselines.gradients import attribution_patching, integrated_gradients
from spex_jax.baselines.influence_functions import influence, trak
from spex_jax.baselines.lasso_regression import LASSO, datamodels, lasso
from spex_jax.baselines.local_surrogates import LIME, lime
from spex_jax.baselines.permutations import PermutationShapley, permutation_shapley
from spex_jax.baselines.semivalues import (
    Banzhaf,
    FaithBanzhaf,
    FaithShapley,
    KernelSHAP,
    banzhaf,
    faith_banzhaf,
    faith_shapley,
    kernel_shap,
)
from spex_jax.baselines.single_removals import LeaveOneOut, leave_one_out, left_out

__all__ = [
    "LASSO",
    "LIME",
    "Banzhaf",
    "Circuits",
    "FaithBanzhaf",
    "FaithShapley",
    "KernelSHAP",
    "LeaveOneOut",
    "PermutationShapley",
    "acdc",
    "additive_spectrum",
    "attribution_patching",
    "banzhaf",
    "datamodels",
    "faith_banzhaf",
    "faith_shapley",
    "influence",
    "integrated_gradients",
    "kernel_shap",
    "lasso",
    "leave_one_out",
    "left_out",
    "lime",
    "permutation_shapley",
    "trak",
]
