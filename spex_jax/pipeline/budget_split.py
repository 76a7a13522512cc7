"""How a budget is chosen and split: masks to fit and held-out masks."""

import math

import numpy as np

from spex_jax.methods import Method

__all__ = ["check_budget", "default_budget", "held_out_count", "least_budget", "too_few_values"]

_HELD_OUT = 50  # held-out masks at least; 10% of the budget where that is more


def held_out_count(budget: int) -> int:
    """Returns how many masks of a budget are held out of all fits."""
    return max(_HELD_OUT, budget // 10)


def least_budget(n: int, method: Method) -> int:
    """Returns the smallest budget for n features: the masks that the method needs to fit, and the held-out masks."""
    if n < 63 and 2**n <= _HELD_OUT:
        return 1 << n
    fitted = method.least(n)
    least = fitted + _HELD_OUT
    while least - held_out_count(least) < fitted:
        least += 1
    return min(2**n, least) if n < 63 else least


def default_budget(n: int, method: Method) -> int:
    """Returns the default budget: 8 n log2(n) ablations, or the smallest budget where that is more."""
    return max(math.ceil(8 * n * math.log2(n)), least_budget(n, method))


def check_budget(budget: int | None, n: int, method: Method) -> int:
    """Returns the budget, the default one for None; raises ValueError for what is no budget or too small."""
    if budget is None:
        return default_budget(n, method)
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer):
        raise ValueError(f"budget must be a whole number of ablations, got {budget!r}")
    least = least_budget(n, method)
    if budget < least:
        raise ValueError(
            f"a budget of {budget} is too small for {n} features; the smallest possible budget is {least} "
            f"(the default is {default_budget(n, method)})"
        )
    return int(budget)


def too_few_values(finite: int, count: int, least: int) -> ValueError:
    """Returns the error that only `finite` of `count` values are finite where a fit needs `least`."""
    found = f"{finite} of {count} values are finite, too few"
    return ValueError(f"{found}: a fit needs {least} besides the held-out masks; fix the value function")
