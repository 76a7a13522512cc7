"""Lenses: what a mask keeps or removes, and which value is measured. Each returns a `spex_jax.ValueFunction`."""

from spex_jax.lenses.component_lens import components
from spex_jax.lenses.joint_lens import joint
from spex_jax.lenses.patch_lens import patches
from spex_jax.lenses.tabular_lens import tabular
from spex_jax.lenses.text_lens import text
from spex_jax.lenses.training_data_lens import SeedNoise, measure_seed_noise, training_data
from spex_jax.lenses.training_parts import groups

__all__ = [
    "SeedNoise",
    "components",
    "groups",
    "joint",
    "measure_seed_noise",
    "patches",
    "tabular",
    "text",
    "training_data",
]
