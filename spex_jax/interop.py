"""Makes this package usable from another library: `ShapiqApproximator` is an approximator of shapiq.

    approximator = spex_jax.interop.ShapiqApproximator(n, max_order=2, index="k-SII", random_state=0)
    values = approximator.approximate(budget, game)

shapiq is imported when the class is first accessed, so that this package does not depend on it.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.indices import INDICES, find_index
from spex_jax.methods import METHODS, Method
from spex_jax.pipeline.explain import explain
from spex_jax.pipeline.explanation import Explanation

__all__ = ["ShapiqApproximator"]

ShapiqApproximator: Any  # made by __getattr__ at the first access


def __getattr__(name: str) -> Any:
    if name == "ShapiqApproximator":
        return _approximator_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _approximator_class() -> type:
    try:
        from shapiq.approximator.base import Approximator
        from shapiq.game_theory.indices import is_empty_value_the_baseline, is_index_valid
    except ImportError as error:
        raise ImportError("ShapiqApproximator needs the package shapiq: pip install 'spex-jax[shapiq]'") from error

    class ShapiqApproximator(Approximator):  # type: ignore[misc]  # shapiq need not be installed
        """`spex_jax.explain` as an approximator of shapiq, for its explainers and its benchmark.

        Attributes:
          valid_indices: names from `spex_jax.core.indices.INDICES` that the installed shapiq knows.
          method, options: arguments of `explain`.
          explanation: the `Explanation` of the last call, with its faithfulness and spectrum; None before the first.
        """

        valid_indices = tuple(name for name, index in INDICES.items() if index.in_shapiq and is_index_valid(name))

        def __init__(
            self,
            n: int,
            max_order: int = 2,
            index: str = "k-SII",
            *,
            method: str | Method = "proxyspex",
            top_order: bool = False,
            random_state: int | None = None,
            **options: Any,
        ):
            """Stores the arguments; the game is not evaluated yet.

            Args:
              n: number of players.
              max_order: largest size of a set; SV and BV ignore it.
              index: one of valid_indices.
              method: see `explain`.
              top_order: whether to return only the sets of size max_order.
              random_state: seed of masks and fit: the same seed gives the same result, None a new one at each call.
              **options: further arguments of `explain`, including those of the method.

            Raises:
              ValueError: the index or the method is unknown, or n or max_order is below 1.
            """
            METHODS.record(method, {})
            masks_lib.check_whole("n", n, 1)
            masks_lib.check_whole("max_order", max_order, 1)
            super().__init__(
                n,
                find_index(index).order(max_order),
                index,
                top_order=top_order,
                random_state=random_state,
                sampling_weights=np.ones(n + 1),  # for an unused sampler; the default weights overflow at n > 1000
                initialize_dict=False,
            )
            self.method, self.options = method, options
            self.explanation: Explanation | None = None

        def approximate(self, budget: int, game: Callable[[np.ndarray], np.ndarray], **kwargs: Any) -> Any:
            """Explains a game with at most `budget` evaluations.

            The budget includes the evaluations that `explain` holds out of the fit, max(50, 10%). From 2^n evaluations
            on, the result is exact.

            Args:
              budget: evaluations of the game, including the empty and the grand coalition.
              game: coalitions bool [M, n] -> values [M]; a `shapiq.Game` or any callable.
              **kwargs: further options of `explain`, for this call.

            Returns:
              `shapiq.InteractionValues` of the sets that the explanation holds; all others are 0. The baseline value is
              the value that the game returned for the empty coalition.

            Raises:
              ValueError: the budget is too small for the method (the message gives the smallest possible one), values
                are not finite, or options do not fit.
            """
            seed = self._random_state
            found = explain(
                game,
                self.n,
                budget=budget,
                method=self.method,
                index=self.index,
                max_order=self.max_order,
                seed=int(self._rng.integers(2**32)) if seed is None else seed,
                **{"progress": False, **self.options, **kwargs},
            )
            self.explanation = found
            interactions = found.interactions()
            if self.top_order:
                interactions = interactions.order(self.max_order)
            failed = 0 if found.failed is None else len(found.failed)
            values = interactions.to_shapiq(estimated=not found.exact, budget=len(found.masks) + failed)
            values.min_order = self.min_order
            none = found.values[~found.masks.any(axis=1)]
            if len(none):  # the game's own value, in place of the spectrum's
                values.baseline_value = float(none[0])
                if () in values.interactions and is_empty_value_the_baseline(values.index):
                    values[()] = values.baseline_value
            self._interaction_lookup = values.interaction_lookup
            return values

    ShapiqApproximator.__qualname__ = "ShapiqApproximator"  # where pickle finds it
    return ShapiqApproximator
