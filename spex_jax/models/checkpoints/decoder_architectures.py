"""Builds causal language models: reads their config.json and names their tensors."""

import math
from collections.abc import Callable
from typing import Any

from spex_jax.models.checkpoints.config_keys import Config, activation
from spex_jax.models.checkpoints.parameters import Parameters, layers, prefix_of, table, unused, vector_or_matrix
from spex_jax.models.checkpoints.rotations import rope, ropes_by_layer_type
from spex_jax.models.checkpoints.weights import Checkpoint, Stored
from spex_jax.models.decoder import DecoderConfig

__all__ = ["gemma", "gemma2", "gemma3", "gpt2", "llama", "mistral", "qwen2", "qwen3"]

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
_GPT2 = {
    "norm_attention": "ln_1",
    "query": "attn.c_attn",
    "key": "attn.c_attn",
    "value": "attn.c_attn",
    "output": "attn.c_proj",
    "norm_mlp": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
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
    _refuse(others, "vision_tower.", "multi_modal_projector.")
    return c, parameters


def _refuse(others: list[str], *towers: str) -> None:
    """Raises ValueError for tensors outside `towers`, the parts for images that are left out."""
    for name in others:
        if not any(tower in name for tower in towers):
            raise ValueError(
                f"the weights hold {name}, which the architecture does not have; it is a variant that models.load "
                "cannot read yet"
            )


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


def gpt2(checkpoint: Checkpoint, config: Config, model_axis: int) -> tuple[DecoderConfig, Parameters]:
    """Builds GPT-2."""
    dim, heads = config["n_embd"], config["n_head"]
    c = DecoderConfig(
        vocab_size=config["vocab_size"],
        dim=dim,
        num_layers=config["n_layer"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=dim // heads,
        hidden_dim=config["n_inner"] or 4 * dim,
        max_length=config["n_positions"],
        attention_scale=(dim // heads) ** -0.5,
        norm="layer",
        norm_eps=config["layer_norm_epsilon"],
        activation=activation(config["activation_function"]),
        ropes=(),
    )
    prefix = prefix_of(checkpoint, "wte.weight")
    parameters: Parameters = {
        "embedding": table(f"{prefix}wte.weight", c.vocab_size, dim, model_axis),
        "positions": Stored((f"{prefix}wpe.weight",), (c.max_length, dim)),
        "norm": vector_or_matrix((f"{prefix}ln_f",), (dim,), bias=True),
        "layers": layers(_GPT2, f"{prefix}h.", c, model_axis=model_axis, biases=tuple(_GPT2), fused=True),
    }
    if not config["tie_word_embeddings"]:
        parameters["head"] = table("lm_head.weight", c.vocab_size, dim, model_axis)
    _refuse([name for name in unused(checkpoint, parameters, ()) if name != "lm_head.weight"])
    return c, parameters
