"""Attention-only decoders that the experiments train: random initial weights, saving and loading."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.models.decoder import Decoder, DecoderConfig


def new_model(config: DecoderConfig, seed: int) -> Decoder:
    """Returns a decoder with random weights."""
    c, rng = config, np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32))

    def norm(*shape: int) -> dict[str, jax.Array]:
        return {"weight": jnp.ones(shape), "bias": jnp.zeros(shape)}

    layers: dict[str, Any] = {
        name: {"weight": normal(c.num_layers, c.dim, c.dim)} for name in ("query", "key", "value", "output")
    }
    layers["norm_attention"] = norm(c.num_layers, c.dim)
    params = {
        "embedding": normal(c.vocab_size, c.dim),
        "positions": normal(c.max_length, c.dim),
        "head": normal(c.vocab_size, c.dim),
        "norm": norm(c.dim),
        "layers": layers,
    }
    return Decoder(params=params, config=c)


def save(model: Decoder, path: pathlib.Path) -> None:
    """Saves the weights as .npz, keyed by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(model.params)
    arrays: dict[str, Any] = {
        jax.tree_util.keystr(where, simple=True, separator="."): np.asarray(leaf) for where, leaf in leaves
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def load(config: DecoderConfig, path: pathlib.Path) -> Decoder:
    """Loads a model whose weights `save` wrote."""
    with np.load(path) as stored:
        weights = {where: jnp.asarray(stored[where]) for where in stored.files}
    return jax.tree_util.tree_map_with_path(
        lambda where, _: weights[jax.tree_util.keystr(where[1:], simple=True, separator=".")], new_model(config, 0)
    )
