"""What values and indices mean, in plain words."""

__all__ = ["INDEX_MEANING", "VALUE_NAMES", "plural"]


def plural(noun: str) -> str:
    """Of what a unit is called: words, patches."""
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

_JOINT = (
    "For two or more, positive: together they raise the value more than the sum of their parts; negative: less, "
    "because they say the same or undo each other."
)
_SINGLE = "Positive: the part raises the value. What several parts do together is shared among them."

INDEX_MEANING = {
    "SV": "Shapley value: what keeping a part adds to the value, averaged over all orders in which the parts can be "
    f"added one by one. {_SINGLE}",
    "BV": "Banzhaf value: what keeping a part adds to the value, averaged over all subsets of the others, each counted "
    f"the same. {_SINGLE}",
    "SII": "Shapley interaction index: what a set does beyond its parts, averaged over the subsets of all others with "
    f"the weights of the Shapley value; for one part it is its Shapley value. {_JOINT}",
    "k-SII": "k-Shapley values: the Shapley interaction index, shared out so that all sets up to the highest order add "
    f"up to the value of the whole. {_JOINT}",
    "BII": "Banzhaf interaction index: what a set does beyond its parts, averaged over the subsets of all others, each "
    f"counted the same; for one part it is its Banzhaf value. {_JOINT}",
    "STII": "Shapley-Taylor interaction index: below the highest order, what a set adds when nothing else is kept; at "
    f"the highest order, all that is left, averaged over the orders in which the parts can be added. {_JOINT}",
    "FSII": "Faithful Shapley interaction index: the numbers whose sum over the sets inside what is kept comes closest "
    f"to the value, with the weights of the Shapley value. {_JOINT}",
    "FBII": "Faithful Banzhaf interaction index: the numbers whose sum over the sets inside what is kept comes closest "
    f"to the value, every mask counted the same. {_JOINT}",
    "Moebius": "Moebius transform: what a set adds when nothing else is kept, beyond all that the smaller sets inside "
    f"it add. {_JOINT}",
    "Fourier": "Fourier (Walsh) coefficient: the weight of -1 to the number of parts of the set that are kept. For one "
    "part, negative: keeping it raises the value on average. For two, positive: the value is higher when both are kept "
    "or both are removed.",
}
