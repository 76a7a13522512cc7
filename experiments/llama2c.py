"""Converts checkpoints of llama2.c (https://github.com/karpathy/llama2.c) to Hugging Face directories."""

import json
import pathlib
import struct
from typing import Any

import numpy as np

_BYTES = 256
_SPECIAL = 3  # unk, BOS and EOS come first, then the bytes


def read_checkpoint(path: pathlib.Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Reads a checkpoint as config.json and the tensors by Hugging Face's names.

    Raises:
      ValueError: the file is shorter than its header says.
    """
    content = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack("7i", content[:28])
    tied, vocab, width = vocab > 0, abs(vocab), dim // heads
    numbers = np.frombuffer(content, "<f4", offset=28)
    start = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal start
        size = int(np.prod(shape))
        if start + size > len(numbers):
            raise ValueError(f"{path} ends after {len(numbers)} weights, and its header promises more")
        start += size
        return numbers[start - size : start].reshape(shape)

    def halves(weight: np.ndarray) -> np.ndarray:
        """Moves rotated pairs (2i, 2i + 1) to (i, i + width / 2), as Hugging Face has them."""
        return weight.reshape(-1, width // 2, 2, dim).swapaxes(1, 2).reshape(weight.shape)

    tensors = {"model.embed_tokens.weight": take(vocab, dim)}
    stacked = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": take(layers, dim, dim),
        "self_attn.k_proj": take(layers, kv_heads * width, dim),
        "self_attn.v_proj": take(layers, kv_heads * width, dim),
        "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim),
        "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim),
    }
    for name, weights in stacked.items():
        for layer, weight in enumerate(weights):
            turned = halves(weight) if name.endswith(("q_proj", "k_proj")) else weight
            tensors[f"model.layers.{layer}.{name}.weight"] = np.ascontiguousarray(turned)
    tensors["model.norm.weight"] = take(dim)
    if not tied:
        take(context, width)  # skips the tables of the rotations
        tensors["lm_head.weight"] = take(vocab, dim)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return config, tensors


def read_tokenizer(path: pathlib.Path, vocab_size: int) -> Any:
    """Reads a tokenizer as one of the library `tokenizers`: merges in the order of their scores, bytes for the rest."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
    from tokenizers.models import BPE

    content = path.read_bytes()
    pieces, scores, start = [], [], 4
    for _ in range(vocab_size):
        score, size = struct.unpack("<fi", content[start : start + 8])
        pieces.append(content[start + 8 : start + 8 + size].decode())
        scores.append(score)
        start += 8 + size
    first = _SPECIAL + _BYTES
    special = ["<unk>", "<s>", "</s>"]
    names = special + [f"<0x{byte:02X}>" for byte in range(_BYTES)] + [p.replace(" ", "▁") for p in pieces[first:]]
    vocab = {name: i for i, name in enumerate(names)}
    merges = [
        (score, name[:cut], name[cut:])
        for name, score in zip(names[first:], scores[first:], strict=True)
        for cut in range(1, len(name))
        if name[:cut] in vocab and name[cut:] in vocab
    ]
    merges.sort(key=lambda merge: -merge[0])
    pairs = [(left, right) for _, left, right in merges]
    tokenizer = Tokenizer(BPE(vocab, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def convert(checkpoint: pathlib.Path, tokenizer: pathlib.Path, out: pathlib.Path) -> None:
    """Converts a checkpoint and its tokenizer to the directory `out`."""
    from safetensors.numpy import save_file

    config, tensors = read_checkpoint(checkpoint)
    converted = read_tokenizer(tokenizer, len(tensors["model.embed_tokens.weight"]))
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors")
    converted.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": config["max_position_embeddings"],
    }
    for name, document in (("config.json", config), ("tokenizer_config.json", settings)):
        (out / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
