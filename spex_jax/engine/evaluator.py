"""Evaluates a model again after it was explained."""

import dataclasses
import math
import os
from typing import Any

import jax
import numpy as np

from spex_jax.core.masks import check_whole
from spex_jax.engine.evaluation import evaluate
from spex_jax.engine.value_function import ValueFunction

__all__ = ["Evaluator"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluator:
    """Evaluates a value function with fixed options: masks bool [M, n] -> values float64 [M].

    It can be pickled where the value function can.

    Attributes:
      value_fn, batch_size, mesh, store, store_key: see `spex_jax.evaluate`.
      output: number of one output, counted over all axes of a value; 0 where there is only one.
    """

    value_fn: ValueFunction
    batch_size: int | None = None
    mesh: jax.sharding.Mesh | None = None
    store: str | os.PathLike[str] | None = None
    store_key: str | None = None
    output: int = 0

    @classmethod
    def checked(cls, value_fn: ValueFunction, **options: Any) -> "Evaluator":
        """Returns an evaluator with checked options of a user.

        Raises:
          ValueError: an option is unknown, or the value function does not have the output.
        """
        known = [field.name for field in dataclasses.fields(cls) if field.name != "value_fn"]
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(
                f"unknown options {', '.join(unknown)}; a value function is evaluated with {', '.join(known)}"
            )
        outputs = math.prod(value_fn.outputs)
        check_whole("output", options.get("output", 0), 0, outputs - 1)
        return cls(value_fn=value_fn, **options)

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        """Returns the values float64 [M] at masks bool [M, n]; distinct masks that no store holds are evaluated once.

        Raises:
          ValueError: see `spex_jax.evaluate`; also where another output than this one is not finite.
        """
        values = evaluate(
            self.value_fn,
            masks,
            batch_size=self.batch_size,
            mesh=self.mesh,
            store=self.store,
            store_key=self.store_key,
            progress=False,
        )
        return values.reshape(len(masks), -1)[:, self.output]
