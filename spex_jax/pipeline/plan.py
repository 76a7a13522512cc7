"""What `explain` asks: the arguments checked, the masks drawn; nothing has been paid for yet."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.indices import Index, find_index
from spex_jax.engine.value_function import ValueFunction
from spex_jax.methods import Adaptive, Method
from spex_jax.utils.seeds import Stream, generator

__all__ = ["Question", "default_budget", "held_out_of", "least_budget", "question", "too_few"]

_HELD_OUT = 50  # masks at least, or 10% of the budget


def held_out_of(budget: int) -> int:
    """How many masks of a budget no fit sees."""
    return max(_HELD_OUT, budget // 10)


def least_budget(n: int, method: Method) -> int:
    """The smallest budget for n features: what the method needs to fit, and the held-out masks."""
    if n < 63 and 2**n <= _HELD_OUT:
        return 2**n
    fitted = method.least(n)
    least = fitted + _HELD_OUT
    while least - held_out_of(least) < fitted:
        least += 1
    return min(2**n, least) if n < 63 else least


def default_budget(n: int, method: Method) -> int:
    """8 n log2(n) ablations, and never fewer than the least."""
    return max(math.ceil(8 * n * math.log2(n)), least_budget(n, method))


def _check_budget(budget: int | None, n: int, method: Method) -> int:
    if budget is None:
        return default_budget(n, method)
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer):
        raise ValueError(f"budget must be a whole number of ablations, got {budget!r}")
    least = least_budget(n, method)
    if budget < least:
        raise ValueError(
            f"a budget of {budget} is too small for {n} features; the least that would do is {least} "
            f"(the default is {default_budget(n, method)})"
        )
    return int(budget)


def too_few(finite: int, asked: int, least: int) -> ValueError:
    """The error of a fit that needs `least` values, where of those asked so few are finite."""
    return ValueError(f"{finite} of {asked} values are finite, too few: a fit needs {least}; mend the value function")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What a call of `explain` asks, all of it checked: the masks, and how their values will be read.

    Attributes:
      names: of the features.
      masks: bool [M, n]; the last `held_out` of them are for the faithfulness. Of adaptive sampling those asked first.
      complete: whether they are all masks; where the method's answer to these is a surrogate, those that it needs come
        first.
      method, seed: of the fit.
      made: what the method knows of its masks.
      budget: ablations.
      index, max_order: of the interactions that are asked for.
      settings: for the report.
    """

    names: tuple[str, ...]
    masks: np.ndarray
    held_out: int
    complete: bool
    method: Method
    seed: int
    made: Any
    budget: int
    index: str
    max_order: int
    settings: dict[str, Any]

    @property
    def adaptive(self) -> Adaptive | None:
        """How more masks are chosen that follow those that are drawn already; None where none follow."""
        return None if self.complete else self.method.adaptive


def question(
    value_fn: ValueFunction,
    *,
    method: Method,
    budget: int | None = None,
    index: str | Index = "FSII",
    max_order: int = 2,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> Question:
    """Checks the arguments of `explain` and draws the masks; nothing is asked yet.

    Args:
      value_fn, budget, method, index, max_order, seed, names: see `explain`.

    Raises:
      ValueError: arguments that do not fit.
    """
    index = find_index(index).name
    masks_lib.check_whole("max_order", max_order, 1)
    n = value_fn.n
    method = method.complete(index)
    method.check(seed)  # now, and not after the model has been paid for
    budget, seed = _check_budget(budget, n, method), int(seed)
    names = value_fn.names if names is None else masks_lib.check_names(names, n)

    complete = n < 63 and 2**n <= budget
    held_out = 0 if complete else held_out_of(budget)
    settings = {"method": method.name, "budget": budget, "seed": seed, **method.short_form()}
    made = None
    if complete and method.exact:
        masks = masks_lib.all_masks(n)
    else:
        fitted, made = method.draw(n, 2**n if complete else budget - held_out, seed)
        count = 2**n if complete else len(fitted) + held_out
        masks = masks_lib.uniform(n, count, generator(seed, Stream.HELD_OUT_MASKS), given=fitted)
        settings |= method.settings(made)
    return Question(
        names=names,
        masks=masks,
        held_out=held_out,
        complete=complete,
        method=method,
        seed=seed,
        made=made,
        budget=budget,
        index=index,
        max_order=int(max_order),
        settings={name: value for name, value in settings.items() if value is not None},
    )
