"""Lenses: what is kept or removed, and what is watched. Each returns a `spex_jax.ValueFunction`."""

from spex_jax.lenses import groups
from spex_jax.lenses.components import components
from spex_jax.lenses.joint import joint
from spex_jax.lenses.patches import patches
from spex_jax.lenses.tabular import tabular
from spex_jax.lenses.text import text
from spex_jax.lenses.training_data import SeedNoise, measure_seed_noise, training_data

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
