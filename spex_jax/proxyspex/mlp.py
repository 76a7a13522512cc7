"""mlp: an ensemble of small multilayer perceptrons, trained side by side in one scan (an extension of ProxySPEX, not
part of the paper).

Inputs are the signs of the mask; strong decoupled weight decay (Loshchilov and Hutter, ICLR 2019) keeps high degrees
small. The spectrum of a perceptron has no closed form, but it is cheap to ask: see `extract.read_answers`.
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
from spex_jax.proxyspex.table import FOLDS, Fitted, Table
from spex_jax.spectrum import Spectrum

__all__ = ["MLP", "answers", "fit", "train"]

_MEMBERS = 5
_FOLD_MEMBERS = 2  # networks of each fold, for the held-out predictions
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
    rows: jax.Array,
    count: jax.Array,
    *,
    members: int = _MEMBERS,
    steps: int = _STEPS,
) -> Params:
    """Trains the ensemble: AdamW with a cosine rate on batches drawn with replacement, squared error.

    Args:
      key: PRNG key; each member starts and draws its own way.
      signs: float [N, n].
      targets: float [N].
      rows: int [N], of which the first `count` are the rows to learn from.
      count: how many.
      members: networks.
      steps: of the optimiser.

    Returns:
      Parameters with a leading axis of members.
    """
    optimizer = optax.adamw(optax.cosine_decay_schedule(_RATE, steps), weight_decay=_DECAY)

    def loss(params: Params, batch: jax.Array) -> jax.Array:
        return jnp.mean((_apply(params, signs[batch]) - targets[batch]) ** 2)

    def train_one(key: jax.Array) -> Params:
        params = MLP().init(jax.random.fold_in(key, 0), signs[:1])

        def step(carry: tuple[Params, optax.OptState], key: jax.Array) -> tuple[tuple[Params, optax.OptState], None]:
            params, state = carry
            gradient = jax.grad(loss)(params, rows[jax.random.randint(key, (_BATCH,), 0, count)])
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.fold_in(key, 1), steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return jax.vmap(train_one)(jax.random.split(key, members))


@jax.jit
def answers(params: Params, signs: jax.Array) -> jax.Array:
    """Mean answer of the ensemble, [M], at signs [M, n]."""
    return jax.vmap(_apply, in_axes=(0, None))(params, signs).mean(axis=0)


def _held_out(key: jax.Array, table: Table) -> np.ndarray:
    """Prediction [N] for each row by networks that did not see its fold."""
    found = np.zeros(len(table.targets))
    for each in range(FOLDS):
        seen = (table.fold >= 0) & (table.fold != each)
        rows = jnp.asarray(np.argsort(~seen, kind="stable"))
        params = train(
            jax.random.fold_in(key, each), table.signs, table.targets, rows, int(seen.sum()), members=_FOLD_MEMBERS
        )
        found = np.where(table.fold == each, answers(params, table.signs), found)
    return found[: table.count]


def fit(table: Table, *, max_degree: int, seed: int) -> Fitted:
    """Trains the ensemble, reads its spectrum and refits the coefficients on the table.

    The prior variance of a coefficient in the refit is its square in the network: what the network sees as small stays
    small.
    """
    key = jax.random.key(seed)
    params = train(jax.random.fold_in(key, 0), table.signs, table.targets, jnp.arange(len(table.targets)), table.count)
    support, coefficients = read_answers(
        functools.partial(answers, params),
        table.n,
        table.signs.shape[1],
        jax.random.fold_in(key, 1),
        max_degree=max_degree,
    )
    prior = np.square(coefficients) + _PRIOR_FLOOR
    spectrum = Spectrum(support, refit(table.masks, table.values, support, prior)[0])
    return Fitted(spectrum=spectrum, held_out=lambda: _held_out(jax.random.fold_in(key, 2), table))
