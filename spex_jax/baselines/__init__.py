"""What people compare with: methods that give each unit one number, and a greedy search for a circuit.

All ask the model through the engine, or read a table of ablations that was asked (`banzhaf`, `datamodels`, `shapley`),
or the gradients of networks (`influence`, `trak`). Those that give numbers return the `Spectrum` of their additive
surrogate, so that they can be compared, optimised and reported as any other.
"""

from spex_jax.baselines.additive import additive_spectrum
from spex_jax.baselines.circuit_discovery import Circuits, acdc
from spex_jax.baselines.datamodels import datamodels
from spex_jax.baselines.gradients import attribution_patching, integrated_gradients
from spex_jax.baselines.influence import influence, trak
from spex_jax.baselines.leave_one_out import leave_one_out
from spex_jax.baselines.semivalues import banzhaf, shapley

__all__ = [
    "Circuits",
    "acdc",
    "additive_spectrum",
    "attribution_patching",
    "banzhaf",
    "datamodels",
    "influence",
    "integrated_gradients",
    "leave_one_out",
    "shapley",
    "trak",
]
