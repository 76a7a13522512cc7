"""The Llama-like language models that can be read: keys of config.json, names of tensors, how each is built.

A further architecture is a `Settings`, a builder and a row of `DECODERS`, all in this file.
"""

import math
from collections.abc import Callable
from typing import Any

from spex_jax.models.checkpoints.architecture import Architecture
from spex_jax.models.checkpoints.config_keys import Config, Settings, activation
from spex_jax.models.checkpoints.parameters import Parameters, layers, prefix_of, refuse_others, table, unused
from spex_jax.models.checkpoints.rotations import rope, ropes_by_layer_type
from spex_jax.models.checkpoints.weights import Checkpoint, Stored
from spex_jax.models.decoder import DecoderConfig

__all__ = ["DECODERS"]

_LLAMA = {
    "norm_attention": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "norm_mlp": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_HEAD_NORMS = {"norm_query": "self_attn.q_norm", "norm_key": "self_attn.k_norm"}
_GEMMA2 = {
    **_LLAMA,
    "norm_attention_after": "post_attention_layernorm",
    "norm_mlp": "pre_feedforward_layernorm",
    "norm_mlp_after": "post_feedforward_layernorm",
}
_ATTENTION, _MLP = ("query", "key", "value", "output"), ("gate", "up", "down")


def _decoder(config: Config, function: str, **options: Any) -> DecoderConfig:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    values: dict[str, Any] = {
        "vocab_size": config["vocab_size"],
        "dim": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": config["num_key_value_heads"] or heads,
        "head_dim": width,
        "hidden_dim": config["intermediate_size"],
        "max_length": config["max_position_embeddings"],
        "norm_eps": config["rms_norm_eps"],
        "activation": activation(function),
        "attention_scale": width**-0.5,
    }
    if "ropes" not in options:
        values["ropes"] = (rope(config),)
    if heads % values["num_kv_heads"]:
        raise ValueError(
            f"config.json has {heads} attention heads and {values['num_kv_heads']} of keys and values; the first "
            "must be a multiple of the second"
        )
    return DecoderConfig(**{**values, **options})


def _llama_like(
    checkpoint: Checkpoint,
    config: Config,
    c: DecoderConfig,
    names: dict[str, str],
    model_axis: int,
    biases: tuple[str, ...] = (),
) -> tuple[DecoderConfig, Parameters]:
    prefix = prefix_of(checkpoint, "embed_tokens.weight")
    parameters: Parameters = {
        "embedding": table(f"{prefix}embed_tokens.weight", c.vocab_size, c.dim, model_axis),
        "norm": {"weight": Stored((f"{prefix}norm.weight",), (c.dim,))},
        "layers": layers(names, f"{prefix}layers.", c, model_axis=model_axis, biases=biases),
    }
    if not config["tie_word_embeddings"]:
        parameters["head"] = table(
            prefix_of(checkpoint, "lm_head.weight") + "lm_head.weight", c.vocab_size, c.dim, model_axis
        )
    others = [name for name in unused(checkpoint, parameters, ()) if not name.endswith("lm_head.weight")]
    refuse_others(others, "vision_tower.", "multi_modal_projector.")
    return c, parameters


def _windows(config: Config, sliding: Callable[[int], bool]) -> tuple[int, ...]:
    """Returns the window of each layer, by config.json's "layer_types" or, in older files, by the layer's number."""
    window, count, types = config.get("sliding_window"), config["num_hidden_layers"], config.get("layer_types")
    if types is not None:
        strange = [kind for kind in types if kind not in ("full_attention", "sliding_attention")]
        if strange or len(types) != count:
            raise ValueError(
                f"layer_types of config.json must give full_attention or sliding_attention for each of the {count} "
                f"layers, got {len(types)}{f', with {strange[0]!r:.40}' if strange else ''}"
            )
        if "sliding_attention" in types and not window:
            raise ValueError(
                "config.json has sliding_attention among its layer_types but no sliding_window that is used"
            )
    if not window:
        return ()
    slides = [kind == "sliding_attention" for kind in types] if types else [sliding(layer) for layer in range(count)]
    return tuple(window if slide else 0 for slide in slides) if any(slides) else ()


def _attention_biases(config: Config) -> tuple[str, ...]:
    return _ATTENTION if config["attention_bias"] else ()


def llama(checkpoint: Checkpoint, config: Config, model_axis: int) -> tuple[DecoderConfig, Parameters]:
    """Builds Llama 1 to 3."""
    _windows(config, lambda layer: False)  # refuses layers that are not of full attention
    biases = (*_attention_biases(config), *(_MLP if config["mlp_bias"] else ()))
    return _llama_like(checkpoint, config, _decoder(config, config["hidden_act"]), _LLAMA, model_axis, biases)


def mistral(checkpoint: Checkpoint, config: Config, model_axis: int) -> tuple[DecoderConfig, Parameters]:
    """Builds Mistral, in which all layers have the window or none has."""
    windows = _windows(config, lambda layer: True)
    if len(set(windows)) > 1:
        raise ValueError(
            "config.json of MistralForCausalLM has layer_types of both kinds, which transformers ignores for this "
            "class; remove layer_types, or sliding_window where no layer has one"
        )
    return _llama_like(checkpoint, config, _decoder(config, config["hidden_act"], windows=windows), _LLAMA, model_axis)


def _qwen(
    checkpoint: Checkpoint, config: Config, names: dict[str, str], model_axis: int, biases: tuple[str, ...]
) -> tuple[DecoderConfig, Parameters]:
    # In older files a window is written down even where it is not used.
    used = config if config["use_sliding_window"] else {**config, "sliding_window": None}
    windows = _windows(used, lambda layer: layer >= (config["max_window_layers"] or 0))
    c = _decoder(config, config["hidden_act"], windows=windows)
    return _llama_like(checkpoint, config, c, names, model_axis, biases)


def qwen2(checkpoint: Checkpoint, config: Config, model_axis: int) -> tuple[DecoderConfig, Parameters]:
    """Builds Qwen 2 and 2.5."""
    return _qwen(checkpoint, config, _LLAMA, model_axis, ("query", "key", "value"))


def qwen3(checkpoint: Checkpoint, config: Config, model_axis: int) -> tuple[DecoderConfig, Parameters]:
    """Builds Qwen 3."""
    return _qwen(checkpoint, config, {**_LLAMA, **_HEAD_NORMS}, model_axis, _attention_biases(config))


def _gemma_like(
    checkpoint: Checkpoint, config: Config, names: dict[str, str], function: str, model_axis: int, **options: Any
) -> tuple[DecoderConfig, Parameters]:
    """Builds any Gemma; all have norm weights around 0 and scaled embeddings."""
    c = _decoder(config, function, norm_offset=1.0, embedding_scale=math.sqrt(config["hidden_size"]), **options)
    return _llama_like(checkpoint, config, c, names, model_axis, _attention_biases(config))


def _gemma_scores(config: Config) -> dict[str, Any]:
    """Returns the scale and the soft caps of scores in Gemma 2 and 3."""
    return {
        "attention_scale": config["query_pre_attn_scalar"] ** -0.5,
        "attention_softcap": config["attn_logit_softcapping"],
        "logit_softcap": config["final_logit_softcapping"],
    }


def gemma(checkpoint: Checkpoint, config: Config, model_axis: int) -> tuple[DecoderConfig, Parameters]:
    """Builds Gemma 1, whose first files say "gelu" and mean its approximation."""
    old = "gelu_pytorch_tanh" if config["hidden_act"] == "gelu" else config["hidden_act"]
    return _gemma_like(checkpoint, config, _LLAMA, config.get("hidden_activation") or old, model_axis)


def gemma2(checkpoint: Checkpoint, config: Config, model_axis: int) -> tuple[DecoderConfig, Parameters]:
    """Builds Gemma 2."""
    windows = _windows(config, lambda layer: layer % 2 == 0)
    options = {"windows": windows, **_gemma_scores(config)}
    return _gemma_like(checkpoint, config, _GEMMA2, config["hidden_activation"], model_axis, **options)


def gemma3(checkpoint: Checkpoint, config: Config, model_axis: int) -> tuple[DecoderConfig, Parameters]:
    """Builds the language model of Gemma 3."""
    every = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    windows = _windows(config, lambda layer: (layer + 1) % every != 0)
    kinds = tuple(int(window > 0) for window in windows)
    options = {
        "windows": windows,
        "ropes": ropes_by_layer_type(config),
        "rope_of_layer": kinds,
        **_gemma_scores(config),
    }
    names = {**_GEMMA2, **_HEAD_NORMS}
    return _gemma_like(checkpoint, config, names, config["hidden_activation"], model_axis, **options)


_ROTATION_KEYS = ("rope_parameters", "rope_scaling", "rope_theta")  # read by `rotations` where present
_PATTERN = ("rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern")
_LLAMA_SIZES = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_WINDOWED = {
    **_LLAMA_SIZES,
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_GEMMA_SIZES = {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}

_LLAMA_SETTINGS = Settings(
    model_type="llama",
    defaults={**_LLAMA_SIZES, "attention_bias": False, "mlp_bias": False},
    also_read=(*_ROTATION_KEYS, "layer_types"),
)
_MISTRAL_SETTINGS = Settings(
    model_type="mistral",
    defaults={
        **_LLAMA_SIZES,
        "intermediate_size": 14_336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
    also_read=(*_ROTATION_KEYS, "layer_types"),
)
_QWEN2_SETTINGS = Settings(
    model_type="qwen2",
    defaults={key: value for key, value in _WINDOWED.items() if key != "head_dim"},
    also_read=(*_ROTATION_KEYS, "head_dim"),
)
_QWEN3_SETTINGS = Settings(
    model_type="qwen3",
    defaults={**_WINDOWED, "head_dim": 128, "attention_bias": False},
    also_read=_ROTATION_KEYS,
)
_GEMMA_SETTINGS = Settings(
    model_type="gemma",
    defaults={
        **{key: value for key, value in _LLAMA_SIZES.items() if key != "hidden_act"},
        "vocab_size": 256_000,
        "hidden_size": 3072,
        "intermediate_size": 24_576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "attention_bias": False,
    },
    also_read=(*_ROTATION_KEYS, "hidden_activation"),
)
# Gemma 2 and 3 write hidden_act beside hidden_activation; transformers does not use it.
_GEMMA2_SETTINGS = Settings(
    model_type="gemma2",
    defaults=_GEMMA_SIZES,
    also_read=(*_ROTATION_KEYS, "hidden_act", "cache_implementation"),
)
_GEMMA3_SETTINGS = Settings(
    model_type="gemma3_text",
    defaults={
        **_GEMMA_SIZES,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    also_read=(*_ROTATION_KEYS, *_PATTERN, "hidden_act", "cache_implementation"),
)
DECODERS: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture(_LLAMA_SETTINGS, llama),
    "MistralForCausalLM": Architecture(_MISTRAL_SETTINGS, mistral),
    "Qwen2ForCausalLM": Architecture(_QWEN2_SETTINGS, qwen2),
    "Qwen3ForCausalLM": Architecture(_QWEN3_SETTINGS, qwen3),
    "GemmaForCausalLM": Architecture(_GEMMA_SETTINGS, gemma),
    "Gemma2ForCausalLM": Architecture(_GEMMA2_SETTINGS, gemma2),
    "Gemma3ForCausalLM": Architecture(_GEMMA3_SETTINGS, gemma3),
    "Gemma3ForConditionalGeneration": Architecture(_GEMMA3_SETTINGS, gemma3),
}
