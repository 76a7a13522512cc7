"""Reads weights from safetensors files by memory map, straight onto their devices."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from spex_jax.utils.untrusted_files import Record, read_json, refusing

__all__ = ["Checkpoint", "Stored", "place_tree"]

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_FLOATS = ("F64", "F32", "F16", "BF16")
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}  # of norms, in the first files of BERT


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
    """A context manager of the tensors in a Hugging Face directory: one safetensors file, or several with an index.

    LayerNorm.gamma and .beta of BERT's first files are renamed to .weight and .bias, as in all later ones.
    """

    def __init__(self, folder: pathlib.Path):
        """Opens the files; no tensor is read yet.

        Raises:
          ValueError: no weights, an index that is damaged or names a missing file, a truncated file.
          ImportError: safetensors is not installed.
        """
        try:
            from safetensors import safe_open
        except ImportError as error:
            raise ImportError("models.load needs safetensors; pip install 'spex-jax[hf]'") from error
        self._tensors: dict[str, tuple[Any, str]] = {}  # by name: its file, and the name in that file
        with contextlib.ExitStack() as opening:  # closes what is open when a later file is damaged
            for path in _files(folder):
                advice = "; the file is damaged or cut short: download it again"
                with refusing(path, "a file of weights", advice=advice):
                    file = opening.enter_context(safe_open(path, framework="numpy"))
                for stored in file.keys():  # noqa: SIM118
                    name = _new_name(stored)
                    if name != stored and name in file.keys():  # noqa: SIM118
                        raise ValueError(f"{path} holds both {stored} and {name}, two names of one tensor; remove one")
                    self._tensors[name] = (file, stored)
            self._stack = opening.pop_all()

    def __enter__(self) -> "Checkpoint":
        """Returns the checkpoint itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Closes the files."""
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        """Returns whether a tensor has this name."""
        return name in self._tensors

    @property
    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self._tensors)

    def is_bfloat16(self, name: str) -> bool:
        """Returns whether a tensor is stored as bfloat16."""
        return bool(self._slice(name).get_dtype() == "BF16")

    def _slice(self, name: str) -> Any:
        file, stored = self._tensors[name]
        return file.get_slice(stored)

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
                dtype = self._slice(name).get_dtype()
                if dtype not in _FLOATS:
                    raise ValueError(
                        f"the tensor {name} has the dtype {dtype}; models.load reads weights of {', '.join(_FLOATS)}. "
                        "They are quantised: give the checkpoint that they were made from, or a dequantised one"
                    )
                found = tuple(self._slice(name).get_shape())
                turned = found[::-1] if parameter.transposed else found
                if turned and parameter.part is not None:
                    turned = (len(range(turned[0])[slice(*parameter.part)]), *turned[1:])
                if turned != parameter.shape:
                    raise ValueError(
                        f"the tensor {name} has shape {found}, but config.json expects {parameter.shape}; "
                        "weights and config.json do not belong together"
                    )

    def _read(self, parameter: Stored, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Returns a part of one tensor, in the layout of the parameter."""
        start = 0 if parameter.part is None else parameter.part[0]
        first, *others = (slice(*axis.indices(size)) for axis, size in zip(index, parameter.shape, strict=True))
        wanted = (slice(first.start + start, first.stop + start), *others)
        tensor = self._slice(name)
        if parameter.transposed and len(wanted) == 2:
            return np.asarray(tensor[wanted[1], wanted[0]]).T
        return np.asarray(tensor[wanted])

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


def _new_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    return f"{module}.{_OLD_NAMES[kind]}" if kind in _OLD_NAMES and module.lower().endswith("norm") else name


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    index = folder / _INDEX
    if index.exists():
        with refusing(index, "an index of weights", advice="; the file is damaged: download it again"):
            names = sorted(set(Record(read_json(index)).take("weight_map").values()))
            if strange := [name for name in names if pathlib.PurePath(name).name != name]:
                raise ValueError(f"it names {strange[0]!r}, which is not a file beside it")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{index} names {', '.join(missing)}, which {folder} lacks; download the missing files")
        return [folder / name for name in names]
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} has an adapter and no model; merge it first (merge_and_unload of peft) and save that"
        )
    others = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt*"))
    found = f"; it has {', '.join(others[:3])}: convert them to safetensors" if others else ""
    raise ValueError(f"{folder} has no weights, neither {_SINGLE} nor {_INDEX}{found}")


def place_tree(checkpoint: Checkpoint, tree: Any, dtype: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """Returns a tree of `Stored` as arrays on their devices."""
    leaves, structure = jax.tree_util.tree_flatten(tree, is_leaf=lambda leaf: isinstance(leaf, Stored))
    checkpoint.check(leaves)
    placed = [checkpoint.place(leaf, jnp.dtype(dtype), mesh) for leaf in leaves]
    return jax.tree_util.tree_unflatten(structure, placed)
