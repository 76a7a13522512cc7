"""Reads the tensors of a Hugging Face directory from safetensors files, by memory map."""

import contextlib
import dataclasses
import pathlib
from typing import Any

import numpy as np

from spex_jax.models.checkpoints.weights import Checkpoint
from spex_jax.utils.untrusted_files import Record, read_json, refusing

__all__ = ["open_safetensors"]

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}  # of norms, in the first files of BERT


@dataclasses.dataclass(frozen=True)
class _Slice:
    """A tensor of a safetensors file; see `Tensor`."""

    shape: tuple[int, ...]
    dtype: str
    file: Any
    name: str

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """Returns a part."""
        return np.asarray(self.file.get_slice(self.name)[index])


def open_safetensors(folder: pathlib.Path) -> Checkpoint:
    """Returns the tensors of a directory with one safetensors file, or several with an index; none is read yet.

    LayerNorm.gamma and .beta of BERT's first files are renamed to .weight and .bias, as in all later ones.

    Raises:
      ValueError: no weights, an index that is damaged or names a missing file, a truncated file.
      ImportError: safetensors is not installed.
    """
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError("models.load needs safetensors; pip install 'spex-jax[hf]'") from error
    tensors: dict[str, _Slice] = {}
    with contextlib.ExitStack() as opening:  # closes what is open when a later file is damaged
        for path in _files(folder):
            advice = "; the file is damaged or cut short: download it again"
            with refusing(path, "a file of weights", advice=advice):
                file = opening.enter_context(safe_open(path, framework="numpy"))
            stored = set(file.keys())
            for old in sorted(stored):
                name = _new_name(old)
                if name != old and name in stored:
                    raise ValueError(f"{path} holds both {old} and {name}, two names of one tensor; remove one")
                part = file.get_slice(old)
                tensors[name] = _Slice(tuple(part.get_shape()), part.get_dtype(), file, old)
        return Checkpoint(tensors, opening.pop_all())


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
