"""mlp: an ensemble of small multilayer perceptrons, trained side by side in one scan (an extension of ProxySPEX, not
part of the paper).

Inputs are the signs of the mask; strong decoupled weight decay (Loshchilov and Hutter, ICLR 2019) keeps high degrees
small. The spectrum
of a perceptron has no closed form, but it is cheap to ask: see `extract.read_answers`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from spex_jax.proxyspex.extract import read_answers
from spex_jax.proxyspex.refit import refit
from spex_jax.proxyspex.table import Table, Terms

__all__ = ["MLP", "answers", "fit", "train"]

_MEMBERS = 5
_STEPS = 1500
_BATCH = 64
_RATE = 3e-3
_DECAY = 2.0
_PRIOR_FLOOR = 1e-10  # a coefficient of exactly zero still gets a prior variance

Params = Any


class MLP(nn.Module):
    """Signs [B, n] -> values [B]: two hidden layers and a linear path beside them."""

    width: int = 128

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the network."""
        dense = functools.partial(nn.Dense, precision="highest")
        hidden = nn.gelu(dense(self.width)(x))
        hidden = nn.gelu(dense(self.width)(hidden))
        last = functools.partial(dense, 1, kernel_init=nn.initializers.zeros)
        return (last()(hidden) + last()(x))[..., 0]


def _apply(params: Params, signs: jax.Array) -> jax.Array:
    values: jax.Array = MLP().apply(params, signs)  # type: ignore[assignment]  # flax allows a state beside it
    return values


@functools.partial(jax.jit, static_argnames=("members", "steps"))
def train(
    key: jax.Array,
    signs: jax.Array,
    targets: jax.Array,
    count: jax.Array,
    *,
    members: int = _MEMBERS,
    steps: int = _STEPS,
) -> Params:
    """Trains the ensemble: AdamW with a cosine rate on batches drawn with replacement, squared error.

    Args:
      key: PRNG key; each member starts and draws its own way.
      signs: float [N, n]; rows from `count` on are padding and never drawn.
      targets: float [N].
      count: number of real rows.
      members: networks.
      steps: of the optimiser.

    Returns:
      Parameters with a leading axis of members.
    """
    optimizer = optax.adamw(optax.cosine_decay_schedule(_RATE, steps), weight_decay=_DECAY)

    def loss(params: Params, rows: jax.Array) -> jax.Array:
        return jnp.mean((_apply(params, signs[rows]) - targets[rows]) ** 2)

    def train_one(key: jax.Array) -> Params:
        params = MLP().init(jax.random.fold_in(key, 0), signs[:1])

        def step(carry: tuple[Params, optax.OptState], key: jax.Array) -> tuple[tuple[Params, optax.OptState], None]:
            params, state = carry
            gradient = jax.grad(loss)(params, jax.random.randint(key, (_BATCH,), 0, count))
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.fold_in(key, 1), steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return jax.vmap(train_one)(jax.random.split(key, members))


@jax.jit
def answers(params: Params, signs: jax.Array) -> jax.Array:
    """Mean answer of the ensemble, [M], at signs [M, n]."""
    return jax.vmap(_apply, in_axes=(0, None))(params, signs).mean(axis=0)


def fit(table: Table, *, max_degree: int, seed: int) -> Terms:
    """Trains the ensemble, reads its spectrum and refits the coefficients on the table.

    The prior variance of a coefficient in the refit is its square in the network: what the network sees as small stays
    small.
    """
    key = jax.random.key(seed)
    params = train(jax.random.fold_in(key, 0), table.signs, table.targets, table.count)
    support, coefficients = read_answers(
        functools.partial(answers, params),
        table.n,
        table.signs.shape[1],
        jax.random.fold_in(key, 1),
        max_degree=max_degree,
    )
    prior = np.square(coefficients) + _PRIOR_FLOOR
    return Terms(support=support, coefficients=refit(table.masks, table.values, support, prior)[0])
