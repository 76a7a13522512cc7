"""GGUF files made on the spot from the golden models, with the names and the layout of llama.cpp's own library."""

import json

import gguf
import numpy as np
from models.directories import MODELS, WORDS
from models.random_weights import random_weights
from safetensors.numpy import load_file

SPECIAL = ["<unk>", "<s>", "</s>"]
KINDS = gguf.GGMLQuantizationType


def rotated(weight, heads):
    """The rows of queries or keys as llama.cpp's converter reorders them (LlamaModel.permute)."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def llama3_factors(width, theta, factor, low, high, original):
    """By how much each frequency is divided, as llama.cpp's converter computes it."""
    found = []
    for frequency in 1.0 / theta ** (np.arange(0, width, 2) / width):
        wave = 2 * np.pi / frequency
        if wave < original / high:
            found.append(1.0)
        elif wave > original / low:
            found.append(factor)
        else:
            smooth = (original / wave - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def write_gguf(
    path, folder, *, kinds=None, tokenizer=None, remove=(), leave=None, metadata=None, architecture=None, tensors=None
):
    """Writes the model of a Hugging Face directory.

    `kinds` gives the kind of tensors whose names contain a text; `tokenizer` writes its keys with the writer, words by
    default; `remove` names keys and `leave` a tensor that are left out; `metadata` and `tensors` are added.
    """
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    name = config["model_type"].removesuffix("_text")
    arch = next(known for known, shown in gguf.MODEL_ARCH_NAMES.items() if shown == name)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(path, architecture or name)
    keys = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": kv,
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.dimension_count": width,
    }
    for key, value in keys.items():
        if key not in remove:
            writer.add_uint32(f"{name}.{key}", value)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    ropes = config["rope_parameters"]
    rope = ropes.get("full_attention", ropes)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "llama3":
        facts = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        factors = llama3_factors(width, rope["rope_theta"], *(rope[fact] for fact in facts))
        writer.add_tensor("rope_freqs.weight", factors)
    if name in ("gemma2", "gemma3") and config["sliding_window"]:
        writer.add_sliding_window(config["sliding_window"])
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    (tokenizer or write_words)(writer)
    for key, value in (metadata or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    for full, weight in weights.items():
        stored = names.get_name(full, try_suffixes=(".weight", ".bias"))
        if leave is not None and leave in stored:
            continue
        if name == "llama" and ".q_proj." in full:
            weight = rotated(weight, heads)
        elif name == "llama" and ".k_proj." in full:
            weight = rotated(weight, kv)
        elif name.startswith("gemma") and full.endswith("norm.weight"):
            weight = weight + 1
        kind = next((kind for part, kind in (kinds or {}).items() if part in stored and weight.ndim == 2), KINDS.F32)
        writer.add_tensor(stored, *_content(weight, kind))
    for stored, content in (tensors or {}).items():
        writer.add_tensor(stored, *content)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _content(weight, kind):
    if kind == KINDS.F32:
        return weight.astype(np.float32), None, None
    data = gguf.quants.quantize(weight.astype(np.float32), kind)
    return data, (None if data.dtype != np.uint8 else data.shape), kind


def write_words(writer):
    """A tokenizer of byte-level pairs with one token for each letter, and "ab"."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = [*SPECIAL, *WORDS, "ab"]
    tokens += [f"unused{i}" for i in range(MODELS["llama2"]["config"]["vocab_size"] - len(tokens))]
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["a b"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def shrunken():
    """The settings and the weights of a Llama whose rows can be quantised: 256 columns and more."""
    size, hidden, vocabulary = 256, 512, 40
    described = {
        **MODELS["llama2"]["config"],
        "hidden_size": size,
        "intermediate_size": hidden,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": vocabulary,
    }
    shapes = {"model.embed_tokens.weight": (vocabulary, size), "lm_head.weight": (vocabulary, size)}
    shapes["model.norm.weight"] = (size,)
    for layer in range(2):
        of = f"model.layers.{layer}."
        shapes |= {f"{of}{name}.weight": (size,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{of}self_attn.{name}_proj.weight": (256, size) for name in "qo"}
        shapes |= {f"{of}self_attn.{name}_proj.weight": (128, size) for name in "kv"}
        shapes |= {f"{of}mlp.{name}_proj.weight": (hidden, size) for name in ("gate", "up")}
        shapes[f"{of}mlp.down_proj.weight"] = (size, hidden)
    return described, random_weights(shapes)
