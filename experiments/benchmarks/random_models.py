"""Language models with random weights at the shapes of real ones, and a tokenizer of numbers for them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.models.blocks import Rope
from spex_jax.models.decoder import Decoder, DecoderConfig


def llama(dim: int, layers: int, heads: int, kv_heads: int, hidden: int, vocabulary: int, *, dtype: Any) -> Decoder:
    """Returns a model of the architecture of Llama with random weights."""
    width = dim // heads
    shapes = {
        "query": (heads * width, dim),
        "key": (kv_heads * width, dim),
        "value": (kv_heads * width, dim),
        "output": (dim, heads * width),
        "gate": (hidden, dim),
        "up": (hidden, dim),
        "down": (dim, hidden),
    }
    keys = iter(jax.random.split(jax.random.key(0), len(shapes) + 1))

    @functools.partial(jax.jit, static_argnums=1)
    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(key, shape, dtype) * 0.02

    stacked: dict[str, Any] = {name: {"weight": draw(next(keys), (layers, *shape))} for name, shape in shapes.items()}
    ones = jnp.ones((layers, dim), dtype)
    stacked |= {"norm_attention": {"weight": ones}, "norm_mlp": {"weight": ones}}
    config = DecoderConfig(
        vocab_size=vocabulary,
        dim=dim,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=width,
        hidden_dim=hidden,
        max_length=8192,
        attention_scale=width**-0.5,
        ropes=(Rope(theta=500_000.0),),
    )
    embedding = draw(next(keys), (vocabulary, dim))
    params = {"embedding": embedding, "norm": {"weight": ones[0]}, "layers": stacked}
    return Decoder(params=params, config=config)


def gpt2(dim: int, count: int, heads: int, vocabulary: int) -> Decoder:
    """Returns a model of the architecture of GPT-2 with random weights."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(0, 0.02, shape).astype(np.float32))

    def product(outputs: int, inputs: int) -> dict[str, jax.Array]:
        return {"weight": normal(count, outputs, inputs), "bias": normal(count, outputs)}

    def norm(*shape: int) -> dict[str, jax.Array]:
        return {"weight": 1 + normal(*shape), "bias": normal(*shape)}

    layers = {name: product(dim, dim) for name in ("query", "key", "value", "output")}
    layers |= {"up": product(4 * dim, dim), "down": product(dim, 4 * dim)}
    layers |= {name: norm(count, dim) for name in ("norm_attention", "norm_mlp")}
    config = DecoderConfig(
        vocab_size=vocabulary,
        dim=dim,
        num_layers=count,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=dim // heads,
        hidden_dim=4 * dim,
        max_length=128,
        attention_scale=(dim // heads) ** -0.5,
        norm="layer",
        activation="gelu_tanh",
        ropes=(),
    )
    params = {"embedding": normal(vocabulary, dim), "positions": normal(128, dim), "norm": norm(dim), "layers": layers}
    return Decoder(params=params, config=config)


class Numbers:
    """A tokenizer of numbers for models with random weights."""

    bos_token_id, pad_token_id = 0, 1

    def __init__(self, size: int):
        """Takes the number of tokens."""
        self._size = size

    def __len__(self) -> int:
        """Returns the number of tokens."""
        return self._size

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        """Returns the ids of the numbers of a text, and their offsets."""
        ids, offsets, start = [], [], 0
        for word in text.split(" "):
            ids.append(int(word) % self._size)
            offsets.append((start, start + len(word)))
            start += len(word) + 1
        return {"input_ids": ids, "offset_mapping": offsets}
