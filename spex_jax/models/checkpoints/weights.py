"""Reads the tensors of a checkpoint, whatever files hold them, straight onto their devices."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

__all__ = ["Checkpoint", "Stored", "Tensor", "place_tree"]

_FLOATS = ("F64", "F32", "F16", "BF16")


class Tensor(Protocol):
    """A tensor of a file, of which parts can be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> str:
        """The name of the floats in which it is read, such as "BF16"."""

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """Returns a part, given by a slice of each axis."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """The tensors of the files that hold a parameter: one for each layer where `stacked`, otherwise one.

    Attributes:
      names: the names of the tensors.
      shape: the shape that each of them must have, once transposed and cut.
      stacked: whether the parameter has an axis of layers in front.
      transposed: whether the files keep [in, out] (GPT-2).
      part: start and end in the first axis, for a tensor that holds several parameters.
      split: the axis (of one tensor) that a "model" axis of a mesh divides; None keeps it whole on every device.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool = False
    transposed: bool = False
    part: tuple[int, int] | None = None
    split: int | None = None

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""
        return (len(self.names), *self.shape) if self.stacked else self.shape


class Checkpoint:
    """A context manager of tensors by the names that transformers gives them, and of the files that hold them."""

    def __init__(self, tensors: Mapping[str, Tensor], files: contextlib.ExitStack):
        """Takes tensors, and what closes their files."""
        self._tensors, self._files = tensors, files

    def __enter__(self) -> "Checkpoint":
        """Returns the checkpoint itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Closes the files."""
        self._files.close()

    def __contains__(self, name: str) -> bool:
        """Returns whether a tensor has this name."""
        return name in self._tensors

    @property
    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self._tensors)

    def is_bfloat16(self, name: str) -> bool:
        """Returns whether a tensor is stored as bfloat16."""
        return self._tensors[name].dtype == "BF16"

    def check(self, stored: Sequence[Stored]) -> None:
        """Raises ValueError where tensors are missing, differ in shape from the config, or are no floats (quantised
        weights, whose scales are kept elsewhere).
        """
        names = [name for parameter in stored for name in parameter.names]
        missing = [name for name in names if name not in self]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise ValueError(f"the weights lack {', '.join(missing[:5])}{more}; the directory is incomplete")
        for parameter in stored:
            for name in parameter.names:
                tensor = self._tensors[name]
                if tensor.dtype not in _FLOATS:
                    raise ValueError(
                        f"the tensor {name} has the dtype {tensor.dtype}; models.load reads weights of "
                        f"{', '.join(_FLOATS)}. They are quantised: give the checkpoint that they were made from, or a "
                        "dequantised one"
                    )
                turned = tensor.shape[::-1] if parameter.transposed else tensor.shape
                if turned and parameter.part is not None:
                    turned = (len(range(turned[0])[slice(*parameter.part)]), *turned[1:])
                if turned != parameter.shape:
                    raise ValueError(
                        f"the tensor {name} has shape {tensor.shape}, but config.json expects {parameter.shape}; "
                        "weights and config.json do not belong together"
                    )

    def _read(self, parameter: Stored, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Returns a part of one tensor, in the layout of the parameter."""
        start = 0 if parameter.part is None else parameter.part[0]
        first, *others = (slice(*axis.indices(size)) for axis, size in zip(index, parameter.shape, strict=True))
        wanted = (slice(first.start + start, first.stop + start), *others)
        tensor = self._tensors[name]
        if parameter.transposed and len(wanted) == 2:
            return tensor.read((wanted[1], wanted[0])).T
        return tensor.read(wanted)

    def place(self, parameter: Stored, dtype: Any, mesh: jax.sharding.Mesh | None) -> jax.Array:
        """Returns the parameter on its devices, each of which reads its own part of the files; host memory holds one
        part at a time.
        """
        shape = parameter.full_shape
        sharding: Any = SingleDeviceSharding(jax.devices()[0])
        if mesh is not None:
            axes: list[str | None] = [None] * len(shape)
            if parameter.split is not None:
                axes[parameter.split + parameter.stacked] = "model"
            sharding = NamedSharding(mesh, P(*axes))
        parts: dict[str, np.ndarray] = {}
        arrays = []
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            key = str(index)
            if key not in parts:
                parts = {key: self._part(parameter, index, dtype)}
            arrays.append(jax.block_until_ready(jax.device_put(parts[key], device)))
        return jax.make_array_from_single_device_arrays(shape, sharding, arrays)

    def _part(self, parameter: Stored, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
        if not parameter.stacked:
            return np.ascontiguousarray(self._read(parameter, parameter.names[0], index).astype(dtype))
        layers = parameter.names[index[0]]
        sizes = [len(range(size)[axis]) for axis, size in zip(index[1:], parameter.shape, strict=True)]
        part = np.empty((len(layers), *sizes), dtype)
        for row, name in zip(part, layers, strict=True):
            row[...] = self._read(parameter, name, index[1:])
        return part


def place_tree(checkpoint: Checkpoint, tree: Any, dtype: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """Returns a tree of `Stored` as arrays on their devices."""
    leaves, structure = jax.tree_util.tree_flatten(tree, is_leaf=lambda leaf: isinstance(leaf, Stored))
    checkpoint.check(leaves)
    placed = [checkpoint.place(leaf, jnp.dtype(dtype), mesh) for leaf in leaves]
    return jax.tree_util.tree_unflatten(structure, placed)
