"""SPEX: coded ablations and their decoder."""

from spex_jax.spex.decode import decode
from spex_jax.spex.design import Design, Plan, design, plan

__all__ = ["Design", "Plan", "decode", "design", "plan"]
