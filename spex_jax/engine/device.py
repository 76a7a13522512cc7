"""Evaluates value functions on devices: one compiled shape, batches dispatched ahead, masks split over a mesh.

A batch of B masks goes to D devices as B / D rows each (`jax.shard_map` over the mesh axis "masks"), so that every
device runs the program that one device would. Other axes of the mesh, such as one over which a model shards its own
weights, are left to the compiler. In a run of several processes all of them call with the same masks and get all
values. A function with a `packing` receives rows that hold several masks.
"""

import collections
import functools
import logging
import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from spex_jax.core import masks as masks_lib
from spex_jax.engine.hints import failed_as_one_mask, naming_ended_iterators, one_mask_hint, shape_hint, wrong_shape
from spex_jax.engine.memory import free_bytes, out_of_memory
from spex_jax.engine.value_function import ValueFunction
from spex_jax.fingerprints import static_content
from spex_jax.utils.array_cache import ArrayMemo
from spex_jax.utils.flops import largest_product, matmul_flops
from spex_jax.utils.jax_settings import own_settings

__all__ = ["AXIS", "DeviceFunction"]

AXIS = "masks"  # the mesh axis over which masks are split
_IN_FLIGHT = 2  # batches dispatched before the oldest is fetched
_MEMORY_SHARE = 0.8  # of a device's free memory that a batch may take
# Work of a batch on one device, in floating-point operations, and its most rows: large enough to hide the cost of
# dispatching it, small enough that a killed run loses little. On a CPU larger products leave the caches.
_WORK = {"cpu": 2.0**34}
_WORK_OF_ACCELERATORS = 2.0**45
_ROWS = {"cpu": 64}
_ROWS_OF_ACCELERATORS = 8192
_PRODUCT = {"cpu": 2**22}  # bytes of the largest product of a batch

# The programs of functions that are not pytrees, and the rows per device for which a program had memory.
_own_programs: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()
_own_limits: weakref.WeakKeyDictionary[Any, dict[Any, int]] = weakref.WeakKeyDictionary()
_limits: dict[Any, int] = {}


def _power_of_two(number: float) -> int:
    """Returns the largest power of two up to `number`, at least 1."""
    return 1 << (max(1, int(number)).bit_length() - 1)


@functools.lru_cache(maxsize=1024)
def _shared_program(mesh: jax.sharding.Mesh | None, content: str | None) -> Any:
    """Returns one program for functions that JAX tells apart, or that have the same `content` where it does not."""

    def apply(fn: Callable[..., jax.Array], *batch: jax.Array) -> jax.Array:  # JAX caches programs by this object
        return fn(*batch)

    return _program(apply, mesh)


def _program(apply: Callable[..., jax.Array], mesh: jax.sharding.Mesh | None) -> Any:
    if mesh is None:
        return jax.jit(apply)

    def split(fn: Any, *batch: jax.Array) -> jax.Array:
        specs = (P(), *(P(AXIS) for _ in batch))
        return jax.shard_map(apply, mesh=mesh, in_specs=specs, out_specs=P(AXIS), axis_names={AXIS}, check_vma=False)(
            fn, *batch
        )

    return jax.jit(split, out_shardings=NamedSharding(mesh, P()))


# A model is copied to all devices once, not for every text that is explained with it.
_replicated = ArrayMemo(lambda leaf, mesh: jax.device_put(leaf, NamedSharding(mesh, P())))


def _mesh_of(fn: Any) -> Any:
    """Returns the mesh on which a function's arrays already are, or None."""
    for leaf in jax.tree_util.tree_leaves(fn):
        if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh.size > 1:
            return leaf.sharding.mesh
    return None


def _check_mesh(mesh: Any) -> jax.sharding.Mesh:
    if not isinstance(mesh, jax.sharding.Mesh):
        raise ValueError(f"mesh must be a jax.sharding.Mesh with an axis {AXIS!r}, got {type(mesh).__name__}")
    if AXIS not in mesh.axis_names:
        raise ValueError(
            f"the mesh has the axes {mesh.axis_names}; one of them must be {AXIS!r}, over which the masks are split "
            "(of size 1 where all devices hold parts of one model)"
        )
    return mesh


class DeviceFunction:
    """Evaluates an on-device value function, placed on its devices.

    Attributes:
      mesh: the mesh, None for one device.
      devices: number of parts into which a batch is split.
      noise: the largest change of a value that was computed again, in another batch or place; nan until one was.
    """

    @own_settings()
    def __init__(self, value_fn: ValueFunction, mesh: jax.sharding.Mesh | None = None):
        """Places the function.

        A function that is a pytree (as the lenses make them) is an argument of one shared program, so that texts of
        the same padded shape compile once; its arrays are replicated over the mesh unless they are on it already, for
        example by a model's own rules. Any other function gets its own program, which lives as long as the function.

        Args:
          value_fn: a value function with `on_device`.
          mesh: None takes the mesh on which the arrays are, or all devices.

        Raises:
          ValueError: the mesh lacks the axis "masks".
        """
        found = mesh if mesh is not None else _mesh_of(value_fn.fn)
        if found is None and jax.device_count() > 1:
            found = jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
        self.mesh = None if found is None else _check_mesh(found)
        self.devices = 1 if self.mesh is None else self.mesh.shape[AXIS]
        self.noise = math.nan
        self._value_fn = value_fn
        self._packing = value_fn.device.packing
        self._per_row = 1 if self._packing is None else self._packing.per_row
        if jax.tree_util.all_leaves([value_fn.fn]):
            fn, programs = value_fn.fn, _own_programs.setdefault(value_fn, {})
            if self.mesh not in programs:
                programs[self.mesh] = _program(lambda _, *batch: fn(*batch), self.mesh)
            self._run, self._fn = programs[self.mesh], ()
            self._limits = _own_limits.setdefault(value_fn, {})
            self._key: Any = self.mesh
        else:
            self._fn = self._placed()
            leaves, structure = jax.tree_util.tree_flatten(self._fn)
            self._run = _shared_program(self.mesh, static_content(structure))
            shapes = tuple((np.shape(leaf), str(getattr(leaf, "dtype", type(leaf)))) for leaf in leaves)
            self._limits = _limits
            slots = 1 if self._packing is None else self._packing.slots
            self._key = (structure, shapes, value_fn.width, slots, self.mesh)

    def _placed(self) -> Any:
        """Returns the function with its arrays on the mesh."""
        mesh = self.mesh
        if mesh is None:
            return self._value_fn.fn

        def place(leaf: Any) -> Any:
            there = isinstance(leaf, jax.Array) and getattr(leaf.sharding, "mesh", None) == mesh
            return leaf if there else _replicated(leaf, mesh)

        return jax.tree_util.tree_map(place, self._value_fn.fn)

    def _trace(self, rows: int) -> Any:
        sharding = None if self.mesh is None else NamedSharding(self.mesh, P(AXIS))
        size, width = rows * self.devices, self._value_fn.width
        shapes: list[tuple[int, ...]] = [(size, width)]
        if self._packing is not None:
            shapes = [(size, self._packing.slots, width), (size, self._packing.slots)]
        batch = [jax.ShapeDtypeStruct(shape, np.bool_, sharding=sharding) for shape in shapes]
        try:
            with naming_ended_iterators():
                return self._run.trace(self._fn, *batch)
        except Exception as error:
            if self._packing is None and (failure := self._as_one_mask(error)):
                raise failure from error
            raise

    def _as_one_mask(self, error: Exception) -> ValueError | None:
        """Returns the error to raise in place of `error` where the function takes one mask, else None."""
        value_fn = self._value_fn
        return failed_as_one_mask(error, value_fn.fn, value_fn.width, value_fn.outputs, on_device=True)

    def _rows_by_work(self, traced: Any, rows: int) -> int:
        """Returns at most `rows` per device, fewer where their work is more than a batch should have."""
        parts = 1 if self.mesh is None else self.mesh.size // self.devices  # devices that share the work of a row
        platform = jax.devices()[0].platform
        most = _WORK.get(platform, _WORK_OF_ACCELERATORS) / max(matmul_flops(traced.jaxpr) / parts, 1)
        if platform in _PRODUCT:
            most = min(most, _PRODUCT[platform] / max(largest_product(traced.jaxpr) / parts, 1))
        return rows if most >= 1 else _power_of_two(rows * most)

    @own_settings()
    def batch_size(self, count: int, given: int | None = None) -> int:
        """Compiles a batch and returns its number of masks: `given`, or by the work and the memory of the program.

        It depends only on the program, the devices and the next power of two of `count`, so that the same run has the
        same batches, unless memory is short. Where rows hold several masks, it counts those that they usually hold.

        Raises:
          ValueError: the function does not return one value for each mask.
        """
        most, together = self._limits.get(self._key, 2**31), self.devices * self._per_row
        needed = 1 << (-(-count // together) - 1).bit_length()
        if given is not None:
            rows = min(most, needed, -(-given // together))
            self._check_shape(self._trace(rows), rows)
            return min(given, rows * together) if self._packing is not None else rows * together
        rows = min(most, needed, _ROWS.get(jax.devices()[0].platform, _ROWS_OF_ACCELERATORS))
        traced = self._trace(rows)
        self._check_shape(traced, rows)
        if (fewer := self._rows_by_work(traced, rows)) < rows:
            rows, traced = fewer, self._trace(fewer)
        while rows > 1:
            taken, free = self._memory(traced), free_bytes(self.mesh)
            if taken <= _MEMORY_SHARE * free:
                break
            rows = min(rows // 2, _power_of_two(rows * _MEMORY_SHARE * free / taken))
            traced = self._trace(rows)
        if jax.process_count() > 1:  # all processes need the same batches
            rows = int(multihost_utils.broadcast_one_to_all(np.int32(rows)))
        return rows * together

    @staticmethod
    def _memory(traced: Any) -> float:
        """Returns the bytes that a batch takes on a device besides the weights; infinite if it cannot be compiled."""
        try:
            analysis = traced.lower().compile().memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            if out_of_memory(error):
                return math.inf
            raise
        if analysis is None:
            return 0.0
        taken = float(analysis.temp_size_in_bytes + (1 + _IN_FLIGHT) * analysis.output_size_in_bytes)
        if jax.devices()[0].platform == "cpu":  # a product copies what it reads, which the analysis leaves out
            taken += 2 * largest_product(traced.jaxpr)
        return taken

    def _check_shape(self, traced: Any, rows: int) -> None:
        size, found = rows * self.devices, traced.out_info
        places = (size,) if self._packing is None else (size, self._packing.slots)
        width, outputs = self._value_fn.width, self._value_fn.outputs
        if self._packing is None and size == width:  # a function of one mask could return n numbers for n masks
            more = jax.ShapeDtypeStruct((size + 1, width), np.bool_)
            try:
                places, found = more.shape[:1], jax.eval_shape(self._value_fn.fn, more)
            except Exception as error:
                if failure := self._as_one_mask(error):
                    raise failure from error
                places = (size,)  # a function of batches of certain sizes
        expected = (*places, *outputs)
        if not hasattr(found, "shape") or tuple(found.shape) != expected:
            hint = ""
            if self._packing is None:
                hint = shape_hint(found, places[0], outputs)
                hint = hint or one_mask_hint(self._value_fn.fn, width, outputs, on_device=True)
            given = f"shape {found.shape}" if hasattr(found, "shape") else f"a {type(found).__name__}"
            raise wrong_shape(given, (*places, width), expected, hint)

    @own_settings()
    def _dispatch(self, masks: np.ndarray, members: np.ndarray) -> jax.Array:
        """Starts the batch whose places hold the masks with the numbers `members`, int [size, slots], -1 for none."""
        batch = [masks_lib.pad_features(masks[members.reshape(-1)], self._value_fn.width)]
        if self._packing is not None:
            batch = [batch[0].reshape(*members.shape, -1), members >= 0]
        given: Iterable[np.ndarray | jax.Array] = batch
        if self.mesh is not None:
            sharding = NamedSharding(self.mesh, P(AXIS))
            given = (jax.make_array_from_callback(part.shape, sharding, part.__getitem__) for part in batch)
        found: jax.Array = self._run(self._fn, *given)
        return found

    def stop(self) -> None:
        """Starts no further batches; `answers` ends with those in flight."""
        self._stopped = True

    def answers(self, masks: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields numbers of masks and their values, batch by batch, while the device works on the next ones.

        The last batch is filled up with the first rows, whose second values give `noise`. A batch for which the device
        lacks memory is evaluated again in halves, and so is everything after it.

        Args:
          masks: bool [M, n], distinct.
          size: masks of a batch, from `batch_size`.
        """
        if self._packing is None:
            order_of = self._value_fn.device.order_of
            order = np.arange(len(masks)) if order_of is None else np.argsort(order_of(masks), kind="stable")
            table = order[:, None]
        else:
            table = self._packing.rows(masks, size)
        rows_of_batch = -(-size // (self.devices * self._per_row)) * self.devices
        waiting: collections.deque[tuple[slice, jax.Array]] = collections.deque()
        start, first = 0, None
        self._stopped = False
        while (start < len(table) and not self._stopped) or waiting:
            fetching = start >= len(table) or self._stopped or len(waiting) > _IN_FLIGHT
            try:
                if not fetching:
                    rows = slice(start, min(start + rows_of_batch, len(table)))
                    chosen = np.arange(start, start + rows_of_batch)
                    chosen[rows.stop - start :] = np.arange(rows_of_batch - (rows.stop - start)) % len(table)
                    waiting.append((rows, self._dispatch(masks, table[chosen])))
                    start = rows.stop
                    continue
                rows, pending = waiting[0]
                values = np.asarray(jax.device_get(pending))
            except jax.errors.JaxRuntimeError as error:
                rows_of_device = rows_of_batch // self.devices // 2
                if not out_of_memory(error) or not rows_of_device or jax.process_count() > 1:
                    raise
                if fetching:
                    start, first = waiting[0][0].start, None
                    waiting.clear()
                self._limits[self._key] = rows_of_device
                rows_of_batch = rows_of_device * self.devices
                logging.getLogger("spex_jax").warning(
                    "out of memory: batches of %d masks from here on", rows_of_batch * self._per_row
                )
                continue
            waiting.popleft()
            values = values.reshape(len(values), table.shape[1], *self._value_fn.outputs)
            count = rows.stop - rows.start
            first = values if first is None and rows.start == 0 else first
            again = min(len(values) - count, len(first) if first is not None else 0, len(table))
            if again > 0 and first is not None:
                change = np.abs(values[count : count + again].astype(np.float64) - first[:again])
                self.noise = float(np.nan_to_num(change[table[:again] >= 0]).max())
            used = table[rows] >= 0
            yield table[rows][used], values[:count][used]
