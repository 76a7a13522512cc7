"""Opens GGUF files: their keys, and their tensors, which are dequantised as they are read."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from spex_jax.models.checkpoints.source import Source
from spex_jax.models.checkpoints.weights import Checkpoint, Tensor
from spex_jax.models.gguf.names import transformers_name
from spex_jax.models.gguf.rotations import LLAMA3_FACTORS, unrotated_rows
from spex_jax.models.gguf.settings import Keys, config_of
from spex_jax.models.gguf.tokenizers import tokenizer_of
from spex_jax.utils.untrusted_files import refusing

__all__ = ["open_gguf"]

_ADVICE = "; the file is damaged or cut short: download it again"


@dataclasses.dataclass(frozen=True)
class _Quantised:
    """A tensor of a GGUF file; see `Tensor`.

    Attributes:
      shape: its shape, as transformers has it.
      dtype: "BF16" or "F32", which quantised ones are read as.
      kind: how the file keeps it, a GGMLQuantizationType.
      data: [rows, ...] of the file, by memory map.
      rows: int [rows], the row of the file for each row; None for the order of the file.
      offset: what is added to every number.
    """

    shape: tuple[int, ...]
    dtype: str
    kind: Any
    data: np.ndarray
    rows: np.ndarray | None = None
    offset: float = 0.0

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """Returns a part; of a matrix, the rows asked for are dequantised and no others."""
        from gguf import quants

        first, *others = index
        rows = self.data[first] if self.rows is None else self.data[self.rows[first]]
        found = quants.dequantize(rows, self.kind)[:, *others]
        return np.asarray(found + self.offset if self.offset else found)


def open_gguf(path: pathlib.Path) -> Source:
    """Opens a GGUF file; no tensor is read yet.

    Raises:
      ValueError: a file that does not exist, is no GGUF file, is cut short or big-endian, holds an architecture or a
        quantisation that is not read, or is one of several parts.
      ImportError: gguf is not installed.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ImportError("GGUF files need the package gguf; pip install 'spex-jax[hf]'") from error
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}; give the path of a GGUF file")
    with refusing(path, "a GGUF file", advice=_ADVICE):
        reader = GGUFReader(path)
        keys = Keys({name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")})
    if keys.number("split.count", 1) > 1:
        raise ValueError(f"{path} is one of several parts; merge them first (llama-gguf-split --merge)")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    factors = None
    if LLAMA3_FACTORS in stored:
        factors = np.asarray(stored.pop(LLAMA3_FACTORS).data, np.float64).reshape(-1)
    architecture, config = config_of(keys, {name: _shape(tensor) for name, tensor in stored.items()}, factors)
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        tensors[transformers_name(name, keys.architecture)] = _tensor(tensor, keys, config, path)
    return Source(
        architecture=architecture,
        config=config,
        checkpoint=Checkpoint(tensors, contextlib.ExitStack()),
        tokenizer=lambda: tokenizer_of(keys),
    )


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape[::-1])


def _tensor(tensor: Any, keys: Keys, config: Mapping[str, Any], path: pathlib.Path) -> _Quantised:
    """Returns one tensor of the file.

    Raises:
      ValueError: its quantisation is not known.
    """
    kind, name = tensor.tensor_type, tensor.name
    _refuse_unknown(kind, name, path)
    rows = None
    if keys.architecture == "llama" and name.endswith(("attn_q.weight", "attn_q.bias")):
        rows = unrotated_rows(config["num_attention_heads"], _shape(tensor)[0])
    elif keys.architecture == "llama" and name.endswith(("attn_k.weight", "attn_k.bias")):
        rows = unrotated_rows(config["num_key_value_heads"], _shape(tensor)[0])
    # llama.cpp adds the 1 to the norms of Gemma that transformers adds as it computes.
    gemma_norm = keys.architecture.startswith("gemma") and name.endswith("norm.weight")
    return _Quantised(
        shape=_shape(tensor),
        dtype="BF16" if kind.name == "BF16" else "F32",
        kind=kind,
        data=tensor.data,
        rows=rows,
        offset=-1.0 if gemma_norm else 0.0,
    )


def _refuse_unknown(kind: Any, name: str, path: pathlib.Path) -> None:
    from gguf import GGML_QUANT_SIZES, quants

    try:
        quants.dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (NotImplementedError, KeyError) as error:
        raise ValueError(
            f"the tensor {name} of {path} is quantised by {kind.name}, which the package gguf cannot read; give a file "
            "of Q8_0, Q6_K, Q5_K, Q4_K, Q4_1 or Q4_0"
        ) from error
