"""What `explain` asks: the arguments checked, the masks drawn; nothing has been paid for yet."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax import masks as masks_lib
from spex_jax.engine.value_function import ValueFunction
from spex_jax.indices import Index, find_index
from spex_jax.methods import METHODS, Method
from spex_jax.seeds import Stream, generator

__all__ = ["Question", "default_budget", "held_out_of", "least_budget", "question", "too_few"]

_HELD_OUT = 50  # masks at least, or 10% of the budget


def held_out_of(budget: int) -> int:
    """How many masks of a budget no fit sees."""
    return max(_HELD_OUT, budget // 10)


def least_budget(n: int, method: str = "proxyspex", **options: Any) -> int:
    """The smallest budget for n features: what the method needs to fit, and the held-out masks."""
    if n < 63 and 2**n <= _HELD_OUT:
        return 2**n
    chosen = METHODS[method]
    fitted = chosen.least(n, {**chosen.defaults, **options})
    least = fitted + _HELD_OUT
    while least - held_out_of(least) < fitted:
        least += 1
    return min(2**n, least) if n < 63 else least


def default_budget(n: int, method: str = "proxyspex", **options: Any) -> int:
    """8 n log2(n) ablations, and never fewer than the least."""
    return max(math.ceil(8 * n * math.log2(n)), least_budget(n, method, **options))


def _check_budget(budget: int | None, n: int, method: str, options: dict[str, Any]) -> int:
    if budget is None:
        return default_budget(n, method, **options)
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer):
        raise ValueError(f"budget must be a whole number of ablations, got {budget!r}")
    least = least_budget(n, method, **options)
    if budget < least:
        raise ValueError(
            f"a budget of {budget} is too small for {n} features; the least that would do is {least} "
            f"(the default is {default_budget(n, method, **options)})"
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
      method, options, seed: of the fit.
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
    options: dict[str, Any]
    seed: int
    made: Any
    budget: int
    index: str
    max_order: int
    settings: dict[str, Any]

    @property
    def adaptive(self) -> bool:
        """Whether more masks follow those that are drawn already."""
        return not self.complete and self.options.get("sampling") == "adaptive"


def question(
    value_fn: ValueFunction,
    *,
    budget: int | None = None,
    method: str = "proxyspex",
    index: str | Index = "FSII",
    max_order: int = 2,
    seed: int = 0,
    names: Sequence[str] | None = None,
    **options: Any,
) -> Question:
    """Checks the arguments of `explain` and draws the masks; nothing is asked yet.

    Args:
      value_fn, budget, method, index, max_order, seed, names: see `explain`.
      **options: of the method.

    Raises:
      ValueError: arguments that do not fit.
    """
    index = find_index(index).name
    masks_lib.check_whole("max_order", max_order, 1)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    chosen = METHODS[method]
    if unknown := sorted(set(options) - set(chosen.defaults)):
        raise ValueError(f"unknown options {', '.join(unknown)}; {method} takes {', '.join(chosen.defaults) or 'none'}")
    n = value_fn.n
    plain = {name: option.item() if isinstance(option, np.generic) else option for name, option in options.items()}
    options = chosen.complete({**chosen.defaults, **plain}, index)  # plain, since a file keeps them
    chosen.check(seed, options)  # now, and not after the model has been paid for
    budget, seed = _check_budget(budget, n, method, options), int(seed)
    names = value_fn.names if names is None else masks_lib.check_names(names, n)

    complete = n < 63 and 2**n <= budget
    held_out = 0 if complete else held_out_of(budget)
    settings = {"method": method, "budget": budget, "seed": seed, **options}
    made = None
    if complete and chosen.exact:
        masks = masks_lib.all_masks(n)
    else:
        fitted, made = chosen.draw(n, 2**n if complete else budget - held_out, seed, options)
        count = 2**n if complete else len(fitted) + held_out
        masks = masks_lib.uniform(n, count, generator(seed, Stream.HELD_OUT_MASKS), given=fitted)
        settings |= chosen.settings(made)
    return Question(
        names=names,
        masks=masks,
        held_out=held_out,
        complete=complete,
        method=chosen,
        options=options,
        seed=seed,
        made=made,
        budget=budget,
        index=index,
        max_order=int(max_order),
        settings={name: value for name, value in settings.items() if value is not None},
    )
