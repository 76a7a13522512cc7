"""SPEX: coded ablations and their decoder."""

from spex_jax.spex.decoder import decode, search
from spex_jax.spex.decoding_many import decode_many
from spex_jax.spex.designs import MOST_DEGREE, Design, Plan, check_design, design, least_budget, plan

__all__ = [
    "MOST_DEGREE",
    "Design",
    "Plan",
    "check_design",
    "decode",
    "decode_many",
    "design",
    "least_budget",
    "plan",
    "search",
]
