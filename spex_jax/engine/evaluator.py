"""Evaluates a model again, long after it was explained."""

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
    """A value function and how it is evaluated: masks bool [M, n] -> values float64 [M].

    It can be pickled where the value function can.

    Attributes:
      value_fn, batch_size, mesh, store, store_key: see `spex_jax.evaluate`.
      output: which of several outputs, counted over all axes of a value; 0 where there is one.
    """

    value_fn: ValueFunction
    batch_size: int | None = None
    mesh: jax.sharding.Mesh | None = None
    store: str | os.PathLike[str] | None = None
    store_key: str | None = None
    output: int = 0

    @classmethod
    def checked(cls, value_fn: ValueFunction, **options: Any) -> "Evaluator":
        """Returns an evaluator with options of a user, checked.

        Raises:
          ValueError: unknown options, or an output that the value function does not have.
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
        """Returns the values float64 [M] of masks bool [M, n]; each distinct one that no store holds is evaluated once.

        Raises:
          ValueError: see `spex_jax.evaluate`; one value of several that is not finite is among it.
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
