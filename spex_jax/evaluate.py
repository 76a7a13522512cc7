"""The ablation engine: every distinct mask is asked once, in batches of one static shape.

On-device functions run in one compiled program, batch after batch without waiting: the next batch is dispatched before
the values of the last are fetched. Host functions receive numpy masks. Sharding over devices and the store of paid-for
ablations have their places in the signature (`mesh`, `store`) and refuse until they exist.
"""

import collections
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from spex_jax import masks as masks_lib

__all__ = ["evaluate"]

_BATCH = 256  # default rows of a batch; a power of two
_IN_FLIGHT = 2  # batches dispatched before the oldest is fetched


@jax.jit
def _apply_pytree(fn: Callable[[jax.Array], jax.Array], masks: jax.Array) -> jax.Array:
    return fn(masks)


def _program(value_fn: Any) -> Callable[[np.ndarray], jax.Array]:
    """The compiled program of an on-device function.

    A function that is a pytree (as the lenses make them) is an argument of one shared program, so that texts of the
    same padded shape compile once. Any other function gets a program of its own that lives as long as the value
    function does.
    """
    if not jax.tree_util.all_leaves([value_fn.fn]):
        return lambda masks: _apply_pytree(value_fn.fn, masks)
    if not hasattr(value_fn, "_compiled"):
        value_fn._compiled = jax.jit(value_fn.fn)
    return value_fn._compiled


def _device_batches(value_fn: Any, masks: np.ndarray, batch_size: int) -> Iterator[tuple[slice, np.ndarray]]:
    program = _program(value_fn)
    padded = masks_lib.pad_features(masks, value_fn.width)
    waiting: collections.deque[tuple[slice, jax.Array]] = collections.deque()

    def fetch() -> tuple[slice, np.ndarray]:
        rows, pending = waiting.popleft()
        values = np.asarray(jax.device_get(pending))
        if values.shape != (batch_size, *value_fn.outputs):
            raise ValueError(
                f"the value function returned shape {values.shape} for masks {(batch_size, value_fn.width)}; "
                f"expected {(batch_size, *value_fn.outputs)}, one value for each mask"
            )
        return rows, values[: rows.stop - rows.start]

    for start in range(0, len(masks), batch_size):
        rows = slice(start, min(start + batch_size, len(masks)))
        batch = padded[rows]
        if len(batch) < batch_size:  # the last batch is filled up with copies of its first mask
            batch = np.concatenate([batch, np.broadcast_to(batch[:1], (batch_size - len(batch), batch.shape[1]))])
        waiting.append((rows, program(batch)))
        if len(waiting) > _IN_FLIGHT:
            yield fetch()
    while waiting:
        yield fetch()


def _host_batches(
    fn: Callable[[np.ndarray], Any], masks: np.ndarray, batch_size: int, outputs: tuple[int, ...]
) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(masks), batch_size):
        rows = slice(start, min(start + batch_size, len(masks)))
        values = np.asarray(fn(masks[rows].copy()))
        if values.shape != (rows.stop - rows.start, *outputs):
            raise ValueError(
                f"the value function returned shape {values.shape} for masks {masks[rows].shape}; "
                f"expected {(rows.stop - rows.start, *outputs)}, one value for each mask"
            )
        yield rows, values


def evaluate(
    value_fn: Any,
    masks: Any,
    *,
    batch_size: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    store: Any = None,
    progress: bool = True,
) -> np.ndarray:
    """Values of a value function at masks; a mask that stands in several rows is asked once.

    Args:
      value_fn: a `spex_jax.ValueFunction`, or any callable masks bool [M, n] -> values [M], which is treated as host
        code.
      masks: bool [M, n].
      batch_size: masks in one call; None is 256, or the next power of two for fewer masks.
      mesh: not supported yet; must be None.
      store: not supported yet; must be None.
      progress: a bar with rate and time left on stderr, where that is a terminal.

    Returns:
      float64 [M, *outputs].

    Raises:
      ValueError: masks of the wrong shape or dtype, values of the wrong shape, or a value that is not finite (the mask
        is named).
    """
    if mesh is not None or store is not None:
        raise ValueError("evaluate does not support mesh= and store= yet; leave them None")
    if batch_size is not None and (isinstance(batch_size, bool) or batch_size != int(batch_size) or batch_size < 1):
        raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    if not callable(value_fn):
        raise ValueError(
            f"a value function must be callable (masks [M, n] -> values [M]), got {type(value_fn).__name__}"
        )
    masks = masks_lib.check_masks(masks, getattr(value_fn, "n", None))
    outputs = getattr(value_fn, "outputs", ())
    first, inverse = masks_lib.deduplicate(masks)
    distinct = masks[first]
    if not len(distinct):
        return np.zeros((0, *outputs))
    size = int(batch_size or min(_BATCH, 1 << (len(distinct) - 1).bit_length()))
    if getattr(value_fn, "on_device", False):
        batches = _device_batches(value_fn, distinct, size)
    else:
        batches = _host_batches(getattr(value_fn, "fn", value_fn), distinct, size, outputs)
    values = np.empty((len(distinct), *outputs))
    # disable=None shows the bar on a terminal only, so that logs and notebooks without one stay clean.
    with tqdm(
        total=len(distinct), unit="mask", desc="ablations", disable=None if progress else True, leave=False
    ) as bar:
        for rows, found in batches:
            values[rows] = masks_lib.check_values(found, distinct[rows], outputs, rows=first[rows])
            bar.update(rows.stop - rows.start)
    return values[inverse]
