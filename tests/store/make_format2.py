"""Writes the stores of tests/store/format2, each a store of a lens, which every later version must know as its own.

They were written by the last revision whose modules lay side by side, before the folders: `make_format2.py FOLDER`.
Only lenses whose value functions hold arrays and classes of this package are here, since Python's byte code differs by
version.
"""

import pathlib
import sys

import numpy as np

import spex_jax
from spex_jax.core import masks as masks_lib
from spex_jax.models import Decoder, DecoderConfig

CONFIG = DecoderConfig(
    vocab_size=12,
    dim=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    hidden_dim=8,
    max_length=16,
    attention_scale=0.5,
)


def decoder():
    """A decoder whose weights are the same on every machine and with every version of its libraries."""

    def weights(*shape):
        return np.sin(np.arange(np.prod(shape)) * 0.7 + len(shape)).reshape(shape).astype(np.float32)

    dim, mixed, shared, hidden = CONFIG.dim, 8, 4, CONFIG.hidden_dim
    shapes = {"query": (mixed, dim), "key": (shared, dim), "value": (shared, dim), "output": (dim, mixed)}
    shapes |= {"gate": (hidden, dim), "up": (hidden, dim), "down": (dim, hidden)}
    layers = {name: {"weight": weights(2, *shape)} for name, shape in shapes.items()}
    norms = {name: {"weight": np.ones((2, dim), np.float32)} for name in ("norm_attention", "norm_mlp")}
    params = {"embedding": weights(CONFIG.vocab_size, dim), "norm": {"weight": np.ones(dim, np.float32)}}
    return Decoder(params={**params, "layers": {**layers, **norms}}, config=CONFIG)


def lenses():
    """The value functions by the names of their stores."""
    heads = spex_jax.lenses.components(decoder(), np.arange(10).reshape(2, 5), removal="zero", value="logit", target=3)
    return {"words": spex_jax.lenses.text(*spex_jax.models.tiny(), "A dull film ."), "heads": heads}


if __name__ == "__main__":
    for name, value_fn in lenses().items():
        path = pathlib.Path(sys.argv[1]) / f"{name}.ablations"
        spex_jax.evaluate(value_fn, masks_lib.all_masks(value_fn.n), store=path, progress=False)
