"""Lenses: what is kept or removed, and what is watched. Each returns a `ValueFunction`."""

from spex_jax.lenses.components import components
from spex_jax.lenses.patches import patches
from spex_jax.lenses.tabular import tabular
from spex_jax.lenses.text import text
from spex_jax.lenses.value_function import ValueFunction

__all__ = ["ValueFunction", "components", "patches", "tabular", "text"]
