"""The one form in which every lens answers: masks in, values out."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from spex_jax import masks as masks_lib
from spex_jax.interactions import check_names

__all__ = ["ValueFunction"]


class ValueFunction:
    """A value function with what the rest of the package wants to know about it.

    Attributes:
      n: number of features.
      names: one name per feature.
      on_device: whether `fn` is a pure JAX function.
      outputs: the shape of one value, () for a scalar.
      identity: what makes two value functions the same, None where unknown.
      width: columns of the masks that reach a device function; those from n on are padding, True, and must not matter.
      details: what a report may show, such as the text and the spans of its units.
    """

    def __init__(
        self,
        fn: Callable[[Any], Any],
        n: int,
        *,
        names: Sequence[str] | None = None,
        on_device: bool = False,
        identity: str | None = None,
        outputs: tuple[int, ...] = (),
        width: int | None = None,
        details: dict[str, Any] | None = None,
    ):
        """Wraps `fn`.

        Args:
          fn: masks bool [M, n] -> values [M, *outputs]. On device it is a pure JAX function of masks bool [M, width];
            one that is a registered pytree (a `jax.tree_util.Partial`, say) shares its compiled program with all others
            of the same structure and shapes. Otherwise it is host code that receives numpy masks.
          n: number of features, at least 1.
          names: n names; numbers where None.
          on_device: whether fn is a pure JAX function.
          identity: a string that differs for any two functions with different values.
          outputs: shape of one value.
          width: see above; None is n.
          details: JSON-like information for reports.

        Raises:
          ValueError: fn is not callable, n is no positive whole number, names or width do not fit n.
        """
        if not callable(fn):
            raise ValueError(f"a value function must be callable (masks [M, n] -> values [M]), got {type(fn).__name__}")
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be a whole number of at least 1 feature, got {n!r}")
        if width is not None and width < n:
            raise ValueError(f"width must be at least n = {n}, got {width}")
        self.fn, self.n, self.on_device = fn, int(n), on_device
        self.names = check_names(names, self.n)
        self.identity, self.outputs, self.width = identity, tuple(outputs), self.n if width is None else width
        self.details = details or {}

    def __call__(self, masks: Any) -> np.ndarray:
        """Values at masks bool [M, n], float64 [M, *outputs], in one call of `fn`; `spex_jax.evaluate` does it in
        batches.
        """
        masks = masks_lib.check_masks(masks, self.n)
        if self.on_device:
            return np.asarray(jax.device_get(self.fn(masks_lib.pad_features(masks, self.width))), np.float64)
        return masks_lib.check_values(self.fn(masks), masks, self.outputs)

    def describe(self) -> str:
        """One line: 'n = 24 features, on the device, one value each: Her, acting, never, ...'."""
        shown = ", ".join(self.names[:8]) + (", ..." if self.n > 8 else "")
        place = "on the device" if self.on_device else "on the host"
        count = math.prod(self.outputs)
        values = "one value" if count == 1 else f"{count} values"
        return f"n = {self.n} features, {place}, {values} a mask: {shown}"
