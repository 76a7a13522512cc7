"""Plain words for values and units; `spex_jax.core.indices` has the meaning of each index."""

__all__ = ["VALUE_NAMES", "plural"]


def plural(noun: str) -> str:
    """Returns the plural of the noun for a unit: words, patches."""
    return f"{noun}es" if noun.endswith(("ch", "sh", "s", "x")) else f"{noun}s"


VALUE_NAMES = {
    "logit": "logit",
    "margin": "margin",
    "logprob": "log-probability",
    "logit_diff": "logit difference",
    "loss": "loss",
    "kl": "KL divergence from the whole network",
    "accuracy": "accuracy",
}
