"""A decoder of one layer that is trained from scratch in a moment, and sequences to train it on.

Its tokens are those of `write_word_tokenizer`: the letters are 6 to 31. A sequence ends with a question: after COPY
comes its first token, which only attention can know; after any other question always the same token.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spex_jax.models import Decoder, DecoderConfig

HEADS, WIDTH = 4, 8
CONFIG = DecoderConfig(
    vocab_size=32,
    dim=16,
    num_layers=1,
    num_heads=HEADS,
    num_kv_heads=HEADS,
    head_dim=WIDTH,
    hidden_dim=0,
    max_length=48,
    attention_scale=WIDTH**-0.5,
    ropes=(),
)
COPY, ANSWERS = 6, {7: 13, 8: 14, 9: 15}
QUESTIONS = (7, COPY, 8, 9)


def init(key):
    """Parameters of a decoder with attention alone."""

    def normal(number, *shape):
        return jax.random.normal(jax.random.fold_in(key, number), shape) * shape[-1] ** -0.5

    dim, mixed = CONFIG.dim, HEADS * WIDTH
    layers = {name: {"weight": normal(i, 1, mixed, dim)} for i, name in enumerate(("query", "key", "value"))}
    return {
        "embedding": normal(3, CONFIG.vocab_size, dim),
        "positions": normal(4, CONFIG.max_length, dim),
        "head": normal(5, CONFIG.vocab_size, dim),
        "norm": {"weight": jnp.ones(dim)},
        "layers": {
            **layers,
            "output": {"weight": normal(6, 1, dim, mixed)},
            "norm_attention": {"weight": jnp.ones((1, dim))},
        },
    }


def model_of(params):
    return Decoder(params=params, config=CONFIG)


def apply(params, x):
    """Logits of the token after each sequence."""
    return model_of(params)(x, jnp.ones(x.shape, bool))[:, -1]


def learning_alone(head, rate=0.03):
    """Adam that leaves the weights of all other heads as they were drawn."""
    adam = optax.adam(rate)
    own = jnp.repeat(jnp.arange(HEADS) == head, WIDTH).astype(jnp.float32)

    def update(gradients, state, params=None):
        updates, state = adam.update(gradients, state, params)
        layers = dict(updates["layers"])
        for name in ("query", "key", "value"):
            layers[name] = {"weight": layers[name]["weight"] * own[:, None]}
        layers["output"] = {"weight": layers["output"]["weight"] * own}
        return {**updates, "layers": layers}, state

    return optax.GradientTransformation(adam.init, update)


def sequences(question, count, seed=0):
    """Tokens int32 [count, 4] that end with a question, and what comes next."""
    x = np.random.default_rng([question, seed]).integers(16, 22, (count, 4)).astype(np.int32)
    x[:, 0] = 16 + np.arange(count) % 6
    x[:, -1] = question
    return x, x[:, 0].copy() if question == COPY else np.full(count, ANSWERS[question], np.int32)


def four_groups(count=12):
    """(x, y) of as many sequences of each of QUESTIONS, and the name of the group of each."""
    parts = [sequences(question, count) for question in QUESTIONS]
    names = np.repeat(["seven", "copy", "eight", "nine"], count)
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True)), names
