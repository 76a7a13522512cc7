"""The value function, masks in and values out, which every lens returns and into which any callable is wrapped."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.packed_masks import PackedMasks
from spex_jax.core.side_information import check_coordinates
from spex_jax.engine.details import Details, plain_details
from spex_jax.engine.hints import as_values
from spex_jax.engine.packing import Packing
from spex_jax.engine.relevance import RELEVANCE_MASKS, Relevance, relevance_of
from spex_jax.utils.jax_settings import own_settings

__all__ = ["DeviceOptions", "HostOptions", "ValueFunction", "as_pytree", "as_value_function"]


def as_pytree(fn: Any) -> Any:
    """Returns a function that can be part of a pytree: itself where it is one, as models are, else wrapped."""
    return jax.tree_util.Partial(fn) if jax.tree_util.all_leaves([fn]) else fn


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostOptions:
    """Options for calling host code.

    Attributes:
      workers: number of calls that may run at once, each in a thread.
      timeout: seconds that one call may take; a longer call is abandoned (its thread cannot be stopped) and counts as
        failed.
      retries: further attempts after a call failed or took too long. A batch that fails for good is evaluated in
        halves, down to the first mask that fails, which the error names.
      backoff: seconds before the second attempt; the pause doubles before each further one.

    Raises:
      ValueError: an option is out of range.
    """

    workers: int = 1
    timeout: float | None = None
    retries: int = 0
    backoff: float = 1.0

    def __post_init__(self) -> None:
        """Checks the options."""
        masks_lib.check_whole("workers", self.workers, 1)
        masks_lib.check_whole("retries", self.retries, 0)
        if (self.timeout is not None and not self.timeout > 0) or not self.backoff >= 0:
            raise ValueError(
                f"timeout must be above 0 s and backoff at least 0 s, got {self.timeout!r} and {self.backoff!r}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DeviceOptions:
    """Describes the input of a device function, and the order in which it evaluates masks fastest.

    Attributes:
      width: columns of the masks that reach the function; those from n on are padding, True, and must not matter. None
        stands for n.
      packing: how several masks share a row; None where each has its own.
      order_of: masks bool [M, n] -> numbers [M], for a function that is faster where the masks of a batch have
        neighbouring numbers: masks with lower numbers are evaluated first.
      relaxed: whether the function also takes masks of floats in [0, 1], in which its values are differentiable.
    """

    width: int | None = None
    packing: Packing | None = None
    order_of: Callable[[np.ndarray], np.ndarray] | None = None
    relaxed: bool = False


class ValueFunction:
    """A function of masks, with what the rest of the package needs to know about it.

    Attributes:
      n: number of features.
      names: one name per feature.
      on_device: whether `fn` is a pure JAX function.
      outputs: the shape of one value, () for a scalar.
      identity: a string that functions share only if their values are the same; None where unknown.
      details: what a report may show, such as the text and the spans of its units.
      coordinates: float64 [n, d], where the features are; None where that is not known.
      host: options of host code.
      device: options of a device function.
    """

    def __init__(  # noqa: PLR0913
        self,
        fn: Callable[..., Any],
        n: int,
        *,
        names: Sequence[str] | None = None,
        on_device: bool = False,
        identity: str | None = None,
        outputs: tuple[int, ...] = (),
        details: Details | dict[str, Any] | None = None,
        coordinates: Any = None,
        device: DeviceOptions | None = None,
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
          names: n names; None takes numbers.
          on_device: whether fn is a pure JAX function.
          identity: a string that differs for any two functions with different values.
          outputs: shape of one value.
          details: what reports may show: a lens's record, or a JSON-like dictionary with fields of `details.Details`
            and any others.
          coordinates: [n, d] or [n], where the features are, in any unit that all columns share: the places of words,
            the rows and columns of patches. Fits then look for interactions among neighbours, see `proxyspex.fit`.
          device: options of a device function.
          workers, timeout, retries, backoff: options of host code, see `HostOptions`.

        Raises:
          ValueError: fn is not callable, n is not a positive whole number, names, coordinates or width do not fit n,
            reports cannot show the details, or an option is out of range or does not belong to such a function.
        """
        if not callable(fn):
            raise ValueError(f"a value function must be callable (masks [M, n] -> values [M]), got {type(fn).__name__}")
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be a whole number of at least 1 feature, got {n!r}")
        if not isinstance(outputs, tuple | list):
            raise ValueError(f"outputs must be a shape such as () or (3,), got {outputs!r}")
        for size in outputs:
            masks_lib.check_whole("each size of outputs", size, 0)
        if identity is not None and (not isinstance(identity, str) or not identity):
            raise ValueError(f"identity must be a string that is not empty, or None, got {identity!r}")
        self.fn, self.n, self.on_device = fn, int(n), on_device
        self.names = masks_lib.check_names(names, self.n)
        self.coordinates = check_coordinates(coordinates, self.n)
        self.identity, self.outputs = identity, tuple(outputs)
        self.details = details if isinstance(details, Details) else plain_details(details or {}, self.n)
        self.host = HostOptions(workers=workers, timeout=timeout, retries=retries, backoff=backoff)
        self.device = DeviceOptions() if device is None else device
        if on_device and self.host != HostOptions(backoff=backoff):
            raise ValueError("workers, timeout and retries are for host code; this function runs on the device")
        if not on_device and device is not None:
            raise ValueError("device= is for functions on the device; give on_device=True too, or leave it out")
        if self.width < n:
            raise ValueError(f"width must be at least n = {n}, got {self.width}")

    @property
    def width(self) -> int:
        """The number of columns of the masks that reach a device function."""
        return self.n if self.device.width is None else self.device.width

    @own_settings()
    def __call__(self, masks: Any) -> np.ndarray:
        """Returns the values float64 [M, *outputs] at masks bool [M, n], in one call of `fn` and not in batches."""
        masks = masks_lib.check_masks(masks, self.n)
        if self.on_device:
            padded, packing = masks_lib.pad_features(masks, self.width), self.device.packing
            if packing is None:
                return np.asarray(jax.device_get(self.fn(padded)), np.float64)
            rows = packing.rows(masks)
            found = np.asarray(jax.device_get(self.fn(padded[rows], rows >= 0)), np.float64)
            values = np.empty((len(masks), *self.outputs))
            values[rows[rows >= 0]] = found[rows >= 0]
            return values
        return masks_lib.check_values(as_values(self.fn(masks), self.fn, masks, self.outputs), masks, self.outputs)

    @property
    def has_relevance(self) -> bool:
        """Whether `relevance` can be computed: values are one differentiable number, see `DeviceOptions.relaxed`."""
        return self.device.relaxed and self.outputs == () and self.details.value != "accuracy"

    @own_settings()
    def relevance(self, masks: int = RELEVANCE_MASKS, *, seed: int = 0) -> Relevance:
        """Returns how much each unit is likely to matter, from gradients by how far each is kept.

        Args:
          masks: the number of gradients, each at a mask that keeps every unit to a share drawn from 0 to 1.
          seed: seed of these masks.

        Raises:
          ValueError: the value function has no derivatives, or they are not finite or vanish everywhere.
        """
        if not self.has_relevance:
            raise ValueError(
                "relevance needs a value function of one differentiable value, as lenses.text (with removal 'mask', "
                "'replace' or 'attention' and a model of spex_jax.models), lenses.patches and lenses.components make "
                "them, or device=DeviceOptions(relaxed=True); this one has none: give an array [n], or leave it out"
            )
        return relevance_of(as_pytree(self.fn), self.n, self.width, masks, seed)

    def describe(self) -> str:
        """Returns one line: 'n = 24 features, on the device, one value each: Her, acting, never, ...'."""
        shown = ", ".join(self.names[:8]) + (", ..." if self.n > 8 else "")
        place = "on the device" if self.on_device else "on the host"
        count = math.prod(self.outputs)
        values = "one value" if count == 1 else f"{count} values"
        return f"n = {self.n} features, {place}, {values} a mask: {shown}"


def as_value_function(
    value_fn: ValueFunction | Callable[[np.ndarray], Any], n: int | None, caller: str, *, several: bool = False
) -> ValueFunction:
    """Returns the value function that a public function was given, a bare callable wrapped as host code.

    Args:
      value_fn: a `ValueFunction`, or a bare callable with n given.
      n: number of features of a callable.
      caller: the public function, for messages.
      several: whether a value may be several numbers.

    Raises:
      ValueError: it is a table of ablations or not callable, n is missing or not that of the value function, or a value
        is several numbers.
    """
    if isinstance(value_fn, tuple | list | np.ndarray | PackedMasks):
        raise ValueError(
            f"{caller} evaluates a value function, and was given a table, which cannot be evaluated at new masks: "
            "fit it with proxyspex.fit(masks, values)"
        )
    if not isinstance(value_fn, ValueFunction):
        if n is None:
            raise ValueError(f"{caller} needs n, the number of features, for a bare callable: {caller}(value_fn, n)")
        return ValueFunction(value_fn, n)
    if n is not None and n != value_fn.n:
        raise ValueError(f"n = {n} was given, but the value function has {value_fn.n} features; leave n out")
    if not several and value_fn.outputs != ():
        raise ValueError(
            f"{caller} needs one value for each mask; this value function gives shape {value_fn.outputs}: "
            "spex_jax.explain_many explains each of its outputs"
        )
    return value_fn
