"""Reads config.json with the defaults that transformers leaves out, and refuses keys that ask for other mathematics.

transformers does not write a key whose value is its config class's default, above all into nested configs, so that a
file is complete only together with those defaults (`tests/golden/make_config_defaults.py` compares them).
"""

import json
import math
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["DEFAULTS", "Config", "activation", "read_config", "refuse_quantised", "text_config"]

Config = Mapping[str, Any]

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
_BERT_SIZES = {
    "vocab_size": 30_522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}

# By model_type, every key that is read, with the value that transformers' config class takes when it is left out.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA_SIZES, "attention_bias": False, "mlp_bias": False},
    "mistral": {
        **_LLAMA_SIZES,
        "intermediate_size": 14_336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
    "qwen2": {key: value for key, value in _WINDOWED.items() if key != "head_dim"},
    "qwen3": {**_WINDOWED, "head_dim": 128, "attention_bias": False},
    "gemma": {
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
    "gemma2": _GEMMA_SIZES,
    "gemma3_text": {
        **_GEMMA_SIZES,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    "gpt2": {
        "vocab_size": 50_257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    "bert": _BERT_SIZES,
    "roberta": {**_BERT_SIZES, "vocab_size": 50_265, "pad_token_id": 1},
    "xlm-roberta": {**_BERT_SIZES, "pad_token_id": 1},
    "camembert": {**_BERT_SIZES, "pad_token_id": 1},
    "distilbert": {
        "vocab_size": 30_522,
        "max_position_embeddings": 512,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "activation": "gelu",
    },
}
_ROTARY = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
_ROTATION_KEYS = ("rope_parameters", "rope_scaling", "rope_theta")  # read by `rotations` where present
_PATTERN = ("rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern")
# Keys that are read where present and have no default.
_ALSO_READ = {
    **dict.fromkeys(_ROTARY, _ROTATION_KEYS),
    "gemma": (*_ROTATION_KEYS, "hidden_activation"),
    # Written beside hidden_activation and not used by transformers.
    "gemma2": (*_ROTATION_KEYS, "hidden_act", "cache_implementation"),
    "gemma3_text": (*_ROTATION_KEYS, *_PATTERN, "hidden_act", "cache_implementation"),
    "qwen2": (*_ROTATION_KEYS, "head_dim"),
    "mistral": (*_ROTATION_KEYS, "layer_types"),
    "llama": (*_ROTATION_KEYS, "layer_types"),
}
# Other names that transformers accepts for keys of these classes (its attribute_map).
_ALIASES = {
    "gpt2": {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    "distilbert": {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
}
_MAY_BE_NULL = {
    *("num_key_value_heads", "head_dim", "sliding_window", "layer_types", "n_inner"),
    *("attn_logit_softcapping", "final_logit_softcapping", "pad_token_id", "hidden_activation", "max_window_layers"),
}

# Keys that change the mathematics, with the values (and null) for which the models here compute what the file means.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "scale_attn_weights": (True,),
    "position_embedding_type": ("absolute",),
    "is_causal": (True,),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"), (1,)),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct", "rope_ratio", "scale_depth", "scale_emb"), (1,)),
}
# Generation, training, labels, and how transformers itself computes: nothing that a forward pass depends on.
_HARMLESS = {
    *("architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "use_cache", "auto_map"),
    *("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "finetuning_task", "task_specific_params"),
    *("tokenizer_class", "prefix", "torchscript", "output_attentions", "output_hidden_states", "output_past"),
    *("return_dict", "use_return_dict", "return_dict_in_generate", "output_scores", "gradient_checkpointing"),
    *("chunk_size_feed_forward", "pretraining_tp", "use_bfloat16", "tf_legacy_loss", "directionality", "vocab_file"),
    *("reorder_and_upcast_attn", "n_ctx", "sinusoidal_pos_embds", "tie_weights_", "max_window_layers"),
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "temperature"),
    *("top_k", "top_p", "typical_p", "repetition_penalty", "diversity_penalty", "length_penalty", "bad_words_ids"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_return_sequences", "remove_invalid_values"),
    *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "max_new_tokens"),
    *("name_or_path", "license", "language", "author", "model_max_length", "max_sequence_length", "base_model"),
    *(
        "is_training",
        "model_parallel",
        "use_flash_attn",
        "use_flash_attention",
        "attn_implementation",
        "tie_word_embeddings",
    ),
    *("cache_implementation", "router_aux_loss_coef", "fused_bias_relu", "pad_token_id", "type_vocab_size"),
    *("neftune_noise_alpha", "use_cache_quantization", "pooler_fc_size", "pooler_num_attention_heads", "pooler_type"),
    *("pooler_num_fc_layers", "pooler_size_per_head", "max_seq_len", "seq_length"),
}
_HARMLESS_NAMES = re.compile(
    r"token_ids?$|token_index$|token_list$|dropout|pdrop|drop_path|layerdrop|initializer|init_|loss|^summary_|^unsloth|"
    r"version|name_or_path|^is_llama_config$|^transformers.js|attn_implementation|flash_attn|flash_attention"
)
_MATHEMATICS = re.compile(
    "attn|attention|rope|rotary|rotat|alibi|posi|norm|scal|multipl|softcap|capping|clip|window|sliding|chunk|causal|"
    "direction|bias|residual|mlp|ffn|ff_|feed|expert|moe|rout|head|layer|act|gate|gating|embed|sink|mask|kv|qk|query|"
    "key|value|state|ssm|mamba|conv|temperature|hidden|proj|adapter|lora|parallel|share|tie|sparse|memory|recur|"
    "type|vocab|dim|width|rank|decoder|factor|gamma|alpha|theta|freq|eps|block|skip|depth|pruned|latent|compress"
)
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
_QUANTISATIONS = ("quantization_config", "quantization", "compression_config", "quantize_config")


def activation(name: str) -> str:
    """Returns our name of an activation that config.json names.

    Raises:
      ValueError: the activation is not known.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r} in config.json; known are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def text_config(config: Config) -> Config:
    """Returns the language model's settings, which models of text and images keep apart."""
    if "text_config" not in config:
        return config
    nested = config["text_config"] or {}
    if not isinstance(nested, Mapping):
        raise ValueError(f"text_config of config.json must hold settings, got {nested!r:.60}")
    tied = {key: config[key] for key in ("tie_word_embeddings",) if key in config}
    return {**tied, **nested}


def refuse_quantised(config: Config) -> None:
    """Raises ValueError that names the method where config.json describes quantised weights."""
    for part in (config, text_config(config)):
        for key in _QUANTISATIONS:
            given = part.get(key)
            if not given:
                continue
            facts = given if isinstance(given, Mapping) else {}
            method = facts.get("quant_method") or facts.get("format")
            if method is None and any(facts.get(name) for name in ("load_in_8bit", "load_in_4bit")):
                method = "bitsandbytes"
            bits = facts.get("bits") or facts.get("w_bit") or facts.get("num_bits")
            shown = f"{method or 'an unnamed method'}" + (f" with {bits} bits" if bits else "")
            raise ValueError(
                f"config.json has {key}: the weights are quantised by {shown}, which models.load does not read. Give "
                "the checkpoint that it was made from, or one that was dequantised (model.dequantize() and "
                "save_pretrained of transformers); if its weights are not quantised, remove the key from config.json"
            )


def read_config(config: Config, model_type: str, architecture: str) -> Config:
    """Returns all keys that are read for a model_type, with defaults for those that the file leaves out.

    A key that is not known is harmless where it is off (null, false or empty). Otherwise it is refused if its name is
    one of mathematics, and named in a warning if not.

    Args:
      config: the language model's settings, see `text_config`.
      model_type: the model_type of transformers.
      architecture: the class that config.json names, for messages.

    Raises:
      ValueError: another model_type, values of another type than the default's, or a key that asks for something that
        the models here do not compute.
    """
    given = config.get("model_type") or model_type
    if given != model_type:
        raise ValueError(
            f"config.json has the model_type {given!r} and the architecture {architecture}, which is of "
            f"{model_type!r}; they do not belong together"
        )
    aliases = _ALIASES.get(model_type, {})
    config = {aliases.get(key, key): value for key, value in config.items()}
    defaults = DEFAULTS[model_type]
    known = {*defaults, *_ALSO_READ.get(model_type, ())}
    _refuse_unknown(config, known, architecture)
    for key, default in defaults.items():
        if key in config and not _like(config[key], default, key):
            expected = "a number or null" if default is None else type(default).__name__
            raise ValueError(
                f"{key} of config.json must be {expected}, as in {json.dumps(default)}, got {config[key]!r:.60}"
            )
    return {**defaults, **config}


def _like(given: Any, default: Any, key: str) -> bool:
    """Returns whether a value has the type of the default."""
    if given is None:
        return default is None or key in _MAY_BE_NULL
    if key == "layer_types":
        return isinstance(given, list) and all(isinstance(kind, str) for kind in given)
    if isinstance(default, bool | str):
        return isinstance(given, type(default))
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        return False
    # Sizes are whole numbers of at least 1; an id or a window may be 0.
    whole = isinstance(default, int) and key != "query_pre_attn_scalar"
    return not whole or (isinstance(given, int) and given >= (key in _SIZES))


_SIZES = {
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
    *(
        "num_key_value_heads",
        "max_position_embeddings",
        "n_positions",
        "n_embd",
        "n_layer",
        "n_head",
        "type_vocab_size",
    ),
    *("dim", "n_layers", "n_heads", "hidden_dim"),
}


def _refuse_unknown(config: Config, known: Collection[str], architecture: str) -> None:
    strange = []
    for key, value in config.items():
        if key in known or value is None:
            continue
        if key in _NEUTRAL:
            if value not in _NEUTRAL[key]:
                raise ValueError(
                    f"config.json has {key} = {value!r:.60}, and models.load computes {architecture} only with "
                    f"{_NEUTRAL[key][0]!r}; it is a variant that cannot be read yet"
                )
            continue
        off = value is False or (isinstance(value, str | list | dict) and not value)
        if off or key in _HARMLESS or _HARMLESS_NAMES.search(key):
            continue
        if _MATHEMATICS.search(key.lower()):
            raise ValueError(
                f"config.json has {key} = {value!r:.60}, which models.load does not know for {architecture} and "
                "which by its name changes what the model computes. If transformers ignores it too, remove it from "
                "config.json; otherwise the model is a variant that cannot be read yet"
            )
        strange.append(key)
    if strange:
        warnings.warn(
            f"config.json has keys that models.load does not know and ignores: {', '.join(sorted(strange))}",
            stacklevel=4,
        )
