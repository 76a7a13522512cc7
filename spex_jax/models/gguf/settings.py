"""The settings of a GGUF file as the config.json that transformers would write."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from spex_jax.models.gguf.rotations import llama3_scaling

__all__ = ["Keys", "config_of"]

# By llama.cpp's name of an architecture: the class of transformers. A file of Mistral says "llama".
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
_MODEL_TYPES = {"gemma3": "gemma3_text"}
# Keys, without the architecture in front: what config.json calls them.
_WHOLE = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "context_length": "max_position_embeddings",
}
_NUMBERS = {
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
# What else a file may say of the mathematics, with what the models here compute.
_NEUTRAL: dict[str, tuple[float, ...]] = {
    "expert_count": (0,),
    "logit_scale": (1,),
    "residual_scale": (1,),
    "embedding_scale": (1,),
    "attention.scale": (),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "rope.scaling.attn_factor": (1,),
}
_WINDOW, _LOCAL = "attention.sliding_window", "rope.freq_base_swa"
_GEMMA2_27B, _GEMMA3_27B = 46, 62  # layers of the models that scale scores by another width than their heads'


class Keys:
    """The keys of a GGUF file, with the types that are expected of them."""

    def __init__(self, fields: Mapping[str, Any]):
        """Takes the fields of a GGUFReader."""
        self._fields = fields
        self._known: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        """Returns whether the file has a key."""
        return name in self._fields

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return self.text("general.architecture")

    def get(self, name: str, default: Any = None) -> Any:
        """Returns the value of a key."""
        if name not in self._fields:
            return default
        if name not in self._known:  # lists of a vocabulary take a second to read
            self._known[name] = self._fields[name].contents()
        return self._known[name]

    def _of_type(self, name: str, default: Any, kind: Any, expected: str) -> Any:
        value = self.get(name, default)
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
            given = "no value" if value is None else f"{value!r:.60}"
            raise ValueError(f"the key {name} of a GGUF file must be {expected}, got {given}")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Returns a text; raises ValueError for anything else."""
        return str(self._of_type(name, default, str, "a text"))

    def number(self, name: str, default: float | None = None) -> float:
        """Returns a number; raises ValueError for anything else."""
        return float(self._of_type(name, default, int | float, "a number"))

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """Returns a truth value; raises ValueError for anything else."""
        return bool(self._of_type(name, default, bool, "true or false"))

    def texts(self, name: str) -> list[str]:
        """Returns a list of texts; raises ValueError for anything else."""
        found = self._of_type(name, None, list, "a list of texts")
        if not all(isinstance(value, str) for value in found):
            raise ValueError(f"the key {name} of a GGUF file must hold texts only")
        return list(found)

    def numbers(self, name: str) -> list[float]:
        """Returns a list of numbers; raises ValueError for anything else."""
        found = self._of_type(name, None, list, "a list of numbers")
        if not all(isinstance(value, int | float) for value in found):
            raise ValueError(f"the key {name} of a GGUF file must hold numbers only")
        return list(found)


def config_of(
    keys: Keys, shapes: Mapping[str, tuple[int, ...]], factors: np.ndarray | None
) -> tuple[str, dict[str, Any]]:
    """Returns the class of transformers, and the config.json of that class.

    Args:
      keys: the keys of the file.
      shapes: the shapes of its tensors by their names in the file.
      factors: by how much each frequency of rotary positions is divided, float64 [width / 2]; None where the file has
        no such numbers.

    Raises:
      ValueError: an architecture or a setting that the models here do not compute, or keys that are missing.
    """
    name = keys.architecture
    if name not in _CLASSES:
        raise ValueError(
            f"unknown architecture {name!r} in a GGUF file; models.load knows {', '.join(_CLASSES)}. Give a value "
            "function of your own to spex_jax.explain, or a Hugging Face directory of a class that models.load knows"
        )
    for key, neutral in _NEUTRAL.items():
        full = f"{name}.{key}"
        if full in keys and keys.number(full) not in neutral:
            raise ValueError(
                f"the file has {full} = {keys.get(full)!r:.60}, which models.load does not compute for {name!r}; it is "
                "a variant that cannot be read yet"
            )
    config: dict[str, Any] = {"model_type": _MODEL_TYPES.get(name, name), "architectures": [_CLASSES[name]]}
    config |= {theirs: int(keys.number(f"{name}.{key}")) for key, theirs in _WHOLE.items()}
    config |= {theirs: keys.number(f"{name}.{key}") for key, theirs in _NUMBERS.items() if f"{name}.{key}" in keys}
    heads = config["num_attention_heads"]
    config["num_key_value_heads"] = int(keys.number(f"{name}.attention.head_count_kv", heads))
    width = int(keys.number(f"{name}.attention.key_length", config["hidden_size"] // heads))
    config["head_dim"] = width
    rotated = keys.number(f"{name}.rope.dimension_count", width)
    if rotated != width:
        raise ValueError(
            f"the file rotates {rotated:g} of {width} dimensions of a head, and models.load rotates whole heads; it is "
            "a variant that cannot be read yet"
        )
    embedding = shapes.get("token_embd.weight")
    if not embedding:
        raise ValueError("the file has no tensor token_embd.weight; it is not a language model, or is cut short")
    config["vocab_size"] = embedding[0]
    config["tie_word_embeddings"] = "output.weight" not in shapes
    biased = "blk.0.attn_output.bias" in shapes
    if name == "llama":
        config |= {"attention_bias": biased, "mlp_bias": "blk.0.ffn_down.bias" in shapes}
    elif name == "qwen3":
        config["attention_bias"] = biased
    config |= _scaling(keys, name, factors, config)
    config |= _windows(keys, name)
    return _CLASSES[name], config


def _scaling(keys: Keys, name: str, factors: np.ndarray | None, config: Mapping[str, Any]) -> dict[str, Any]:
    kind = keys.text(f"{name}.rope.scaling.type", "none")
    theta = config.get("rope_theta", 10_000.0)
    if factors is not None:
        if kind != "none" or len(factors) * 2 != config["head_dim"]:
            raise ValueError("the file divides the frequencies of its rotary positions in two ways, or not all of them")
        return {"rope_scaling": dict(llama3_scaling(factors, theta))}
    if kind == "none":
        return {}
    if kind != "linear":
        raise ValueError(
            f"the file has rotary positions of type {kind!r}; models.load knows linear, and the factors of Llama 3.1"
        )
    return {"rope_scaling": {"rope_type": "linear", "factor": keys.number(f"{name}.rope.scaling.factor")}}


def _windows(keys: Keys, name: str) -> dict[str, Any]:
    """Returns what Gemma 2 and 3 need beyond others: windows, and the width by which scores are scaled."""
    window = int(keys.number(f"{name}.{_WINDOW}", 0))
    if name not in ("gemma2", "gemma3"):
        if window:
            raise ValueError(
                f"the file has {name}.{_WINDOW} = {window}, which models.load does not know for {name!r}; it is a "
                "variant that cannot be read yet"
            )
        return {}
    layers = keys.number(f"{name}.block_count")
    width = keys.number(f"{name}.attention.key_length")
    heads, size = keys.number(f"{name}.attention.head_count"), keys.number(f"{name}.embedding_length")
    odd = layers == (_GEMMA2_27B if name == "gemma2" else _GEMMA3_27B)
    found: dict[str, Any] = {"sliding_window": window or None, "query_pre_attn_scalar": size / heads if odd else width}
    if f"{name}.{_LOCAL}" in keys:
        found["rope_local_base_freq"] = keys.number(f"{name}.{_LOCAL}")
    return found
