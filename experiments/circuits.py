"""Small language models with a known mechanism: their task, their training and their weights.

"induction": two attention-only layers of four heads each, on sequences of random tokens that repeat after a random
number of tokens. The next token of the second round can only be predicted by a circuit of two heads: one of the first
layer that moves each token to the place after it, and one of the second that finds the place where the current token
was moved to (Olsson et al. 2022, https://arxiv.org/abs/2209.11895). "backup": the same task, with heads of the second
layer dropped at random in training, so that two of them learn to stand in for each other. "redundant": the same with
all heads dropped at random, so that all of them stand in for each other.
"""

import dataclasses
import functools
import pathlib
from typing import Any, Literal

import attention_only
import jax
import jax.numpy as jnp
import numpy as np
import optax

from spex_jax.models.components import Ablation
from spex_jax.models.decoder import Decoder, DecoderConfig

FOLDER = pathlib.Path(__file__).parent / "circuits"
VOCABULARY, LENGTH, SHORTEST, LONGEST = 48, 48, 8, 24
CONFIG = DecoderConfig(
    vocab_size=VOCABULARY,
    dim=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    hidden_dim=0,
    max_length=LENGTH,
    attention_scale=16**-0.5,
    norm="layer",
    ropes=(),
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The training settings of a model.

    Attributes:
      seed: seed of the weights and the sequences.
      dropped: share of the heads that training drops, drawn anew for each sequence; or "pair": the first or second head
        of the last layer and, in half of the sequences, its other heads.
      sparsity: weight of the penalty on heads.
    """

    seed: int
    dropped: float | Literal["pair"]
    sparsity: float
    steps: int
    batch: int = 64
    rate: float = 3e-3


RECIPES = {
    "induction": Recipe(seed=0, dropped=0.0, sparsity=0.3, steps=600),
    "backup": Recipe(seed=0, dropped="pair", sparsity=0.2, steps=700),
    "redundant": Recipe(seed=0, dropped=0.3, sparsity=0.0, steps=800),
}


def new_model(seed: int) -> Decoder:
    """Returns a model with random weights."""
    return attention_only.new_model(CONFIG, seed)


def sequences(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Draws tokens int32 [count, LENGTH] that repeat after SHORTEST to LONGEST distinct ones, and periods [count]."""
    periods = jax.random.randint(key, (count,), SHORTEST, LONGEST + 1)
    orders = jax.vmap(lambda k: jax.random.permutation(k, VOCABULARY))(jax.random.split(key, count))
    places = jnp.arange(LENGTH)[None] % periods[:, None]
    return jnp.take_along_axis(orders, places, axis=1).astype(jnp.int32), periods


def _states(model: Decoder, tokens: jax.Array, keep: jax.Array) -> jax.Array:
    """Returns the final states of one sequence [L], with heads kept float32 [N, H]."""
    x, place = model.begin(tokens[None], jnp.zeros_like(tokens)[None])
    ablation = Ablation(keep={"heads": keep}, instead={}, slot=jnp.zeros(CONFIG.num_layers, jnp.int32), at=None)
    for layer in range(CONFIG.num_layers):
        x, _ = model.block(layer, x, place, edit=ablation.edit(layer))
    return model.norm(model.params["norm"], x)[0]


def loss(model: Decoder, tokens: jax.Array, periods: jax.Array, keep: jax.Array) -> jax.Array:
    """Returns the cross entropy of the second round's tokens, with heads kept float32 [B, N, H]."""
    logits = model.logits(jax.vmap(lambda row, kept: _states(model, row, kept))(tokens, keep))
    each = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    weight = (jnp.arange(1, LENGTH)[None] > periods[:, None]).astype(jnp.float32)
    return (each * weight).sum() / weight.sum()


def kept(key: jax.Array, recipe: Recipe) -> jax.Array:
    """Draws the heads that training keeps in each sequence of a batch, float32 [batch, N, H]."""
    shape = (recipe.batch, CONFIG.num_layers, CONFIG.num_heads)
    if not isinstance(recipe.dropped, str):
        return (jax.random.uniform(key, shape) >= recipe.dropped).astype(jnp.float32)
    coins = jax.random.bernoulli(key, shape=(2, recipe.batch)).astype(jnp.float32)
    others = jnp.broadcast_to(coins[1], (CONFIG.num_heads - 2, recipe.batch))
    return jnp.ones(shape).at[:, -1].set(jnp.stack([coins[0], 1 - coins[0], *others], axis=1))


def penalty(model: Decoder) -> jax.Array:
    """Returns the sum over heads of the root of the norm of their output weights: heads that are not needed vanish, and
    the work of one head is not spread over several.
    """
    shape = (CONFIG.num_layers, CONFIG.dim, CONFIG.num_heads, CONFIG.head_dim)
    squares = jnp.square(model.params["layers"]["output"]["weight"].reshape(shape)).sum(axis=(1, 3))
    return jnp.power(squares + 1e-8, 0.25).sum()


@functools.partial(jax.jit, static_argnames="recipe")
def train(model: Decoder, key: jax.Array, *, recipe: Recipe) -> tuple[Decoder, jax.Array]:
    """Trains a model with AdamW, a warm-up and cosine decay; returns it and its losses [steps]."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, recipe.rate, max(1, recipe.steps // 20), recipe.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.1))

    def step(state: Any, key: jax.Array) -> Any:
        model, optimized = state
        drawing, dropping = jax.random.split(key)
        tokens, periods = sequences(drawing, recipe.batch)
        keep = kept(dropping, recipe)

        def objective(model: Decoder) -> tuple[jax.Array, jax.Array]:
            found = loss(model, tokens, periods, keep)
            return found + recipe.sparsity * penalty(model), found

        gradient, found = jax.grad(objective, has_aux=True)(model)
        updates, optimized = optimizer.update(gradient, optimized, model)
        return (optax.apply_updates(model, updates), optimized), found

    (model, _), losses = jax.lax.scan(step, (model, optimizer.init(model)), jax.random.split(key, recipe.steps))
    return model, losses


def load(name: str) -> Decoder:
    """Loads the trained model of this name.

    Raises:
      ValueError: there is none.
    """
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        raise ValueError(
            f"there is no model {name!r}; there are {', '.join(sorted(p.stem for p in FOLDER.glob('*.npz')))}"
        )
    return attention_only.load(CONFIG, path)


def questions(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws prompts int32 [count, LENGTH - 1], each in its second round, and their next tokens [count]."""
    tokens, _ = sequences(jax.random.key(seed), count)
    found = np.asarray(tokens)
    return found[:, :-1], found[:, -1]
