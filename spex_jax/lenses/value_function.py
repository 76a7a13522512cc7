"""The one form in which every lens answers: masks in, values out."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from spex_jax import masks as masks_lib
from spex_jax.details import Details, plain_details
from spex_jax.engine.hints import as_values
from spex_jax.engine.packing import Packing
from spex_jax.interactions import check_names
from spex_jax.jax_settings import own_settings

__all__ = ["ValueFunction", "as_pytree"]


def as_pytree(fn: Any) -> Any:
    """A function that can be part of a pytree: itself where it is one, as models are, else wrapped."""
    return jax.tree_util.Partial(fn) if jax.tree_util.all_leaves([fn]) else fn


class ValueFunction:
    """A value function with what the rest of the package wants to know about it.

    Attributes:
      n: number of features.
      names: one name per feature.
      on_device: whether `fn` is a pure JAX function.
      outputs: the shape of one value, () for a scalar.
      identity: what makes two value functions the same, None where unknown.
      width: columns of the masks that reach a device function; those from n on are padding, True, and must not matter.
      packing: how several masks share a row of a device function, None where each has its own.
      order_of: see the arguments.
      relaxed: whether `fn` also takes masks of floats in [0, 1], in which its values are differentiable.
      details: what a report may show, such as the text and the spans of its units.
      workers, timeout, retries, backoff: how host code is called; see the arguments.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        n: int,
        *,
        names: Sequence[str] | None = None,
        on_device: bool = False,
        identity: str | None = None,
        outputs: tuple[int, ...] = (),
        width: int | None = None,
        packing: Packing | None = None,
        order_of: Callable[[np.ndarray], np.ndarray] | None = None,
        relaxed: bool = False,
        details: Details | dict[str, Any] | None = None,
        workers: int = 1,
        timeout: float | None = None,
        retries: int = 0,
        backoff: float = 1.0,
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
          packing: for a device function that answers rows of several masks; see `engine.packing.Packing`.
          order_of: masks bool [M, n] -> numbers [M], for a device function that answers faster where the masks of a
            batch have neighbouring numbers: those of lower numbers are asked first.
          relaxed: whether a device function may be differentiated, in masks of floats.
          details: what reports may show: a lens's record, or a JSON-like dictionary with fields of `details.Details`
            and any others.
          workers: calls of host code that may run at once, each in a thread.
          timeout: seconds that one call of host code may take; a call that takes longer is left alone (its thread
            cannot be stopped) and counts as failed.
          retries: further attempts after a call of host code failed or took too long. A batch that fails for good is
            asked in halves, down to the first mask that does not work, which the error names.
          backoff: seconds before the second attempt; twice as long before each further one.

        Raises:
          ValueError: fn is not callable, n is no positive whole number, names or width do not fit n, or an option is
            out of range or does not belong to a device function; details that reports cannot show.
        """
        if not callable(fn):
            raise ValueError(f"a value function must be callable (masks [M, n] -> values [M]), got {type(fn).__name__}")
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be a whole number of at least 1 feature, got {n!r}")
        if width is not None and width < n:
            raise ValueError(f"width must be at least n = {n}, got {width}")
        if not isinstance(outputs, tuple | list):
            raise ValueError(f"outputs must be a shape such as () or (3,), got {outputs!r}")
        for size in outputs:
            masks_lib.check_whole("each size of outputs", size, 0)
        self.fn, self.n, self.on_device = fn, int(n), on_device
        self.names = check_names(names, self.n)
        self.identity, self.outputs, self.width = identity, tuple(outputs), self.n if width is None else width
        self.packing = packing
        self.details = details if isinstance(details, Details) else plain_details(details or {}, self.n)
        self.order_of, self.relaxed = order_of, relaxed
        if identity is not None and (not isinstance(identity, str) or not identity):
            raise ValueError(f"identity must be a string that is not empty, or None, got {identity!r}")
        masks_lib.check_whole("workers", workers, 1)
        masks_lib.check_whole("retries", retries, 0)
        if (timeout is not None and not timeout > 0) or not backoff >= 0:
            raise ValueError(f"timeout must be above 0 s and backoff not below 0 s, got {timeout!r} and {backoff!r}")
        if on_device and (workers != 1 or timeout is not None or retries):
            raise ValueError("workers, timeout and retries are for host code; this function runs on the device")
        self.workers, self.timeout, self.retries, self.backoff = int(workers), timeout, int(retries), float(backoff)

    @own_settings()
    def __call__(self, masks: Any) -> np.ndarray:
        """Values at masks bool [M, n], float64 [M, *outputs], in one call of `fn`; `spex_jax.evaluate` does it in
        batches.
        """
        masks = masks_lib.check_masks(masks, self.n)
        if self.on_device:
            padded = masks_lib.pad_features(masks, self.width)
            if self.packing is None:
                return np.asarray(jax.device_get(self.fn(padded)), np.float64)
            rows = self.packing.rows(masks)
            found = np.asarray(jax.device_get(self.fn(padded[rows], rows >= 0)), np.float64)
            values = np.empty((len(masks), *self.outputs))
            values[rows[rows >= 0]] = found[rows >= 0]
            return values
        return masks_lib.check_values(as_values(self.fn(masks), self.fn, masks, self.outputs), masks, self.outputs)

    def describe(self) -> str:
        """One line: 'n = 24 features, on the device, one value each: Her, acting, never, ...'."""
        shown = ", ".join(self.names[:8]) + (", ..." if self.n > 8 else "")
        place = "on the device" if self.on_device else "on the host"
        count = math.prod(self.outputs)
        values = "one value" if count == 1 else f"{count} values"
        return f"n = {self.n} features, {place}, {values} a mask: {shown}"
