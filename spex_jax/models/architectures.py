"""What the config.json of each known architecture means, and what its tensors are called."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from spex_jax.models.blocks import Rope
from spex_jax.models.decoder import DecoderConfig
from spex_jax.models.encoder import EncoderConfig
from spex_jax.models.parameters import Parameters, layers, prefix_of, table, vector_or_matrix
from spex_jax.models.weights import Checkpoint, Stored

__all__ = ["ARCHITECTURES", "class_names"]

_ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "relu": "relu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}

_LLAMA = {
    "norm_attention": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "norm_query": "self_attn.q_norm",
    "norm_key": "self_attn.k_norm",
    "norm_mlp": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_GEMMA = {
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
_BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "norm_attention": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm_mlp": "output.LayerNorm",
}
_DISTILBERT = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "norm_attention": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm_mlp": "output_layer_norm",
}


def _activation(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r} in config.json; known are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a classifier, in the order of its logits."""
    labels = config.get("id2label") or {}
    return tuple(str(labels[key]) for key in sorted(labels, key=int))


def _rope(given: Mapping[str, Any] | None, theta: float) -> Rope:
    """Of config.json's "rope_scaling" and "rope_theta", or its newer "rope_parameters"."""
    given = given or {}
    theta = float(given.get("rope_theta", theta))
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return Rope(theta=theta)
    if kind == "linear":
        return Rope(theta=theta, factor=float(given["factor"]))
    if kind == "llama3":
        return Rope(
            theta=theta,
            factor=float(given["factor"]),
            low_frequency=float(given["low_freq_factor"]),
            high_frequency=float(given["high_freq_factor"]),
            original_length=int(given["original_max_position_embeddings"]),
        )
    raise ValueError(
        f"config.json asks for rotary positions of type {kind!r}; models.load knows default, linear and llama3. For "
        "prompts within the model's original context remove rope_scaling from config.json"
    )


def _decoder(config: Mapping[str, Any], **options: Any) -> DecoderConfig:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    theta = config.get("rope_theta", 10_000.0)
    given = config.get("rope_parameters") or config.get("rope_scaling")
    values: dict[str, Any] = {
        "vocab_size": config["vocab_size"],
        "dim": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": width,
        "hidden_dim": config["intermediate_size"],
        "max_length": config["max_position_embeddings"],
        "norm_eps": config["rms_norm_eps"],
        "activation": _activation(config.get("hidden_activation") or config.get("hidden_act") or "silu"),
        "attention_scale": width**-0.5,
    }
    if "ropes" not in options:
        values["ropes"] = (_rope(given, theta),)
    return DecoderConfig(**{**values, **options})


def _llama_like(
    checkpoint: Checkpoint, config: Mapping[str, Any], c: DecoderConfig, names: dict[str, str], model_axis: int
) -> tuple[DecoderConfig, Parameters]:
    prefix = prefix_of(checkpoint, "embed_tokens.weight")
    parameters: Parameters = {
        "embedding": table(f"{prefix}embed_tokens.weight", c.vocab_size, c.dim, model_axis),
        "norm": {"weight": Stored((f"{prefix}norm.weight",), (c.dim,))},
        "layers": layers(checkpoint, names, f"{prefix}layers.", c, model_axis=model_axis),
    }
    if not config.get("tie_word_embeddings", False):
        name = f"{prefix.removesuffix('model.')}lm_head.weight"
        parameters["head"] = table(name, c.vocab_size, c.dim, model_axis)
    return c, parameters


def _windows(config: Mapping[str, Any], sliding: Callable[[int], bool]) -> tuple[int, ...]:
    """The window of each layer, by config.json's "layer_types" or, in older files, by the layer's number."""
    window, count = config.get("sliding_window"), config["num_hidden_layers"]
    if not window:
        return ()
    types = config.get("layer_types")
    slides = [kind == "sliding_attention" for kind in types] if types else [sliding(layer) for layer in range(count)]
    return tuple(window if slide else 0 for slide in slides) if any(slides) else ()


def _llama(checkpoint: Checkpoint, config: Mapping[str, Any], model_axis: int) -> tuple[DecoderConfig, Parameters]:
    return _llama_like(checkpoint, config, _decoder(config), _LLAMA, model_axis)


def _mistral(checkpoint: Checkpoint, config: Mapping[str, Any], model_axis: int) -> tuple[DecoderConfig, Parameters]:
    c = _decoder(config, windows=_windows(config, lambda layer: True))
    return _llama_like(checkpoint, config, c, _LLAMA, model_axis)


def _qwen(checkpoint: Checkpoint, config: Mapping[str, Any], model_axis: int) -> tuple[DecoderConfig, Parameters]:
    # In these files a window is written down even where it is not used.
    used = config.get("use_sliding_window", False)
    windows = _windows(config, lambda layer: layer >= config.get("max_window_layers", 0)) if used else ()
    return _llama_like(checkpoint, config, _decoder(config, windows=windows), _LLAMA, model_axis)


def _gemma_like(
    checkpoint: Checkpoint, config: Mapping[str, Any], names: dict[str, str], model_axis: int, **options: Any
) -> tuple[DecoderConfig, Parameters]:
    """What all Gemmas share: weights of norms around 0, scaled embeddings, tied heads unless it is said otherwise."""
    c = _decoder(config, norm_offset=1.0, embedding_scale=math.sqrt(config["hidden_size"]), **options)
    return _llama_like(checkpoint, {"tie_word_embeddings": True, **config}, c, names, model_axis)


def _gemma_scores(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of Gemma 2 and 3."""
    return {
        "attention_scale": config["query_pre_attn_scalar"] ** -0.5,
        "attention_softcap": config.get("attn_logit_softcapping"),
        "logit_softcap": config.get("final_logit_softcapping"),
    }


def _gemma(checkpoint: Checkpoint, config: Mapping[str, Any], model_axis: int) -> tuple[DecoderConfig, Parameters]:
    activation = config.get("hidden_activation") or "gelu_pytorch_tanh"
    return _gemma_like(checkpoint, {**config, "hidden_activation": activation}, _LLAMA, model_axis)


def _gemma2(checkpoint: Checkpoint, config: Mapping[str, Any], model_axis: int) -> tuple[DecoderConfig, Parameters]:
    windows = _windows(config, lambda layer: layer % 2 == 0)
    return _gemma_like(checkpoint, config, _GEMMA, model_axis, windows=windows, **_gemma_scores(config))


def _gemma3(checkpoint: Checkpoint, config: Mapping[str, Any], model_axis: int) -> tuple[DecoderConfig, Parameters]:
    every = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    windows = _windows(config, lambda layer: (layer + 1) % every != 0)
    newer = config.get("rope_parameters") or {}
    whole = newer.get("full_attention") or config.get("rope_scaling")
    ropes = (
        _rope(whole, config.get("rope_theta", 1_000_000.0)),
        _rope(newer.get("sliding_attention"), config.get("rope_local_base_freq", 10_000.0)),
    )
    kinds = tuple(int(window > 0) for window in windows)
    options = {"windows": windows, "ropes": ropes, "rope_of_layer": kinds, **_gemma_scores(config)}
    return _gemma_like(checkpoint, config, _GEMMA, model_axis, **options)


def _gpt2(checkpoint: Checkpoint, config: Mapping[str, Any], model_axis: int) -> tuple[DecoderConfig, Parameters]:
    dim, heads = config["n_embd"], config["n_head"]
    if config.get("scale_attn_by_inverse_layer_idx") or not config.get("scale_attn_weights", True):
        raise ValueError("config.json asks for attention scores scaled by layer or not at all; that is not known here")
    c = DecoderConfig(
        vocab_size=config["vocab_size"],
        dim=dim,
        num_layers=config["n_layer"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=dim // heads,
        hidden_dim=config.get("n_inner") or 4 * dim,
        max_length=config["n_positions"],
        attention_scale=(dim // heads) ** -0.5,
        norm="layer",
        norm_eps=config["layer_norm_epsilon"],
        activation=_activation(config["activation_function"]),
        ropes=(),
    )
    prefix = prefix_of(checkpoint, "wte.weight")
    parameters: Parameters = {
        "embedding": table(f"{prefix}wte.weight", c.vocab_size, dim, model_axis),
        "positions": Stored((f"{prefix}wpe.weight",), (c.max_length, dim)),
        "norm": vector_or_matrix(checkpoint, (f"{prefix}ln_f",), (dim,), bias=True),
        "layers": layers(checkpoint, _GPT2, f"{prefix}h.", c, model_axis=model_axis, bias=True, fused=True),
    }
    if not config.get("tie_word_embeddings", True):
        parameters["head"] = table("lm_head.weight", c.vocab_size, dim, model_axis)
    return c, parameters


def _head(checkpoint: Checkpoint, dense: str, classes: str, c: EncoderConfig, count: int) -> Parameters:
    square = vector_or_matrix(checkpoint, (dense,), (c.dim, c.dim), bias=True)
    return {"dense": square, "classes": vector_or_matrix(checkpoint, (classes,), (count, c.dim), bias=True)}


def _bert(checkpoint: Checkpoint, config: Mapping[str, Any], model_axis: int) -> tuple[EncoderConfig, Parameters]:
    c = EncoderConfig(
        vocab_size=config["vocab_size"],
        dim=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_dim=config["intermediate_size"],
        max_length=config["max_position_embeddings"],
        norm_eps=config.get("layer_norm_eps", 1e-12),
        activation=_activation(config["hidden_act"]),
        pooling="first" if "classifier.weight" in checkpoint else "mean",
        head_activation="tanh",
    )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError("config.json asks for relative positions, which models.load does not know for BERT")
    prefix = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    parameters: Parameters = {
        **_embeddings(checkpoint, f"{prefix}embeddings.", c, model_axis),
        "types": Stored((f"{prefix}embeddings.token_type_embeddings.weight",), (config["type_vocab_size"], c.dim)),
        "layers": layers(checkpoint, _BERT, f"{prefix}encoder.layer.", c, model_axis=model_axis, bias=True),
    }
    if c.pooling == "first":
        names = class_names(config)
        parameters["head"] = _head(checkpoint, f"{prefix}pooler.dense", "classifier", c, len(names) or 2)
    return c, parameters


def _distilbert(checkpoint: Checkpoint, config: Mapping[str, Any], model_axis: int) -> tuple[EncoderConfig, Parameters]:
    c = EncoderConfig(
        vocab_size=config["vocab_size"],
        dim=config["dim"],
        num_layers=config["n_layers"],
        num_heads=config["n_heads"],
        hidden_dim=config["hidden_dim"],
        max_length=config["max_position_embeddings"],
        activation=_activation(config["activation"]),
        pooling="first" if "classifier.weight" in checkpoint else "mean",
        head_activation="relu",
    )
    prefix = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    parameters: Parameters = {
        **_embeddings(checkpoint, f"{prefix}embeddings.", c, model_axis),
        "layers": layers(checkpoint, _DISTILBERT, f"{prefix}transformer.layer.", c, model_axis=model_axis, bias=True),
    }
    if c.pooling == "first":
        names = class_names(config)
        parameters["head"] = _head(checkpoint, "pre_classifier", "classifier", c, len(names) or 2)
    return c, parameters


def _embeddings(checkpoint: Checkpoint, prefix: str, c: EncoderConfig, model_axis: int) -> Parameters:
    return {
        "embedding": table(f"{prefix}word_embeddings.weight", c.vocab_size, c.dim, model_axis),
        "positions": Stored((f"{prefix}position_embeddings.weight",), (c.max_length, c.dim)),
        "norm": vector_or_matrix(checkpoint, (f"{prefix}LayerNorm",), (c.dim,), bias=True),
    }


# By the class that config.json's "architectures" names.
ARCHITECTURES: dict[str, Callable[..., tuple[Any, Parameters]]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen,
    "Qwen3ForCausalLM": _qwen,
    "GemmaForCausalLM": _gemma,
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
    "Gemma3ForConditionalGeneration": _gemma3,
    "GPT2LMHeadModel": _gpt2,
    "BertModel": _bert,
    "BertForSequenceClassification": _bert,
    "DistilBertModel": _distilbert,
    "DistilBertForSequenceClassification": _distilbert,
}
