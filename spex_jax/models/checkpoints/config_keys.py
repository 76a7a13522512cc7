"""Reads config.json with the defaults that transformers leaves out, and refuses keys that ask for other mathematics.

transformers does not write a key whose value is its config class's default, above all into nested configs, so that a
file is complete only together with those defaults (`tests/golden/make_config_defaults.py` compares them).
"""

import dataclasses
import json
import math
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["Config", "Settings", "activation", "read_config", "refuse_quantised", "text_config"]

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of config.json that are read for a model_type of transformers.

    Attributes:
      model_type: its name.
      defaults: every key that is read, with what transformers' config class takes for it when it is left out.
      also_read: keys that are read where present and have no default.
      aliases: other names that transformers accepts for keys (its attribute_map).
    """

    model_type: str
    defaults: Mapping[str, Any]
    also_read: tuple[str, ...] = ()
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)


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


def read_config(config: Config, settings: Settings, architecture: str) -> Config:
    """Returns all keys that are read, with defaults for those that the file leaves out.

    A key that is not known is harmless where it is off (null, false or empty). Otherwise it is refused if its name is
    one of mathematics, and named in a warning if not.

    Args:
      config: the language model's settings, see `text_config`.
      settings: the keys of the architecture.
      architecture: the class that config.json names, for messages.

    Raises:
      ValueError: another model_type, values of another type than the default's, or a key that asks for something that
        the models here do not compute.
    """
    given = config.get("model_type") or settings.model_type
    if given != settings.model_type:
        raise ValueError(
            f"config.json has the model_type {given!r} and the architecture {architecture}, which is of "
            f"{settings.model_type!r}; they do not belong together"
        )
    config = {settings.aliases.get(key, key): value for key, value in config.items()}
    defaults = settings.defaults
    known = {*defaults, *settings.also_read}
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
