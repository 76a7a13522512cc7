"""Names of tensors: those of llama.cpp and those of transformers."""

import re

__all__ = ["transformers_name"]

_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Gemma 2 and 3 have norms after attention and MLP too.
_OF_LAYER_OF_GEMMA = {
    **_OF_LAYER,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def transformers_name(name: str, architecture: str) -> str:
    """Returns the name that transformers gives a tensor of a llama.cpp architecture; unknown names stay as they are,
    so that a reader of the checkpoint refuses them by their name in the file.
    """
    if name in _WHOLE:
        return _WHOLE[name]
    found = _LAYER.fullmatch(name)
    known = _OF_LAYER_OF_GEMMA if architecture in ("gemma2", "gemma3") else _OF_LAYER
    if found is None or found[2] not in known:
        return name
    return f"model.layers.{found[1]}.{known[found[2]]}.{found[3]}"
