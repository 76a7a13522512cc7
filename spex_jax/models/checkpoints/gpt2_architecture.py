"""GPT-2: its keys of config.json, the names of its tensors, and how it is built."""

from spex_jax.models.checkpoints.architecture import Architecture
from spex_jax.models.checkpoints.config_keys import Config, Settings, activation
from spex_jax.models.checkpoints.parameters import (
    Parameters,
    layers,
    prefix_of,
    refuse_others,
    table,
    unused,
    vector_or_matrix,
)
from spex_jax.models.checkpoints.weights import Checkpoint, Stored
from spex_jax.models.decoder import DecoderConfig

__all__ = ["GPT2"]

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
    refuse_others([name for name in unused(checkpoint, parameters, ()) if name != "lm_head.weight"])
    return c, parameters


_GPT2_SETTINGS = Settings(
    model_type="gpt2",
    defaults={
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
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
)

GPT2: dict[str, Architecture] = {"GPT2LMHeadModel": Architecture(_GPT2_SETTINGS, gpt2)}
