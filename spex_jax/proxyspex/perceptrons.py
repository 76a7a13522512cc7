"""The networks of the proxy "mlp": an ensemble of small multilayer perceptrons, trained side by side in one scan (an
extension of ProxySPEX, not part of the paper).

Inputs are the signs of the mask; strong decoupled weight decay (Loshchilov and Hutter, ICLR 2019) keeps high degrees
small. The spectrum of a perceptron has no closed form, but its values are cheap: see `extraction.read_answers`.
"""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from spex_jax.core.spectrum import Spectrum
from spex_jax.proxyspex.extraction import read_answers
from spex_jax.proxyspex.preprocessing import FOLDS, Fitted, Table
from spex_jax.proxyspex.regression.ridge import refit
from spex_jax.utils.precision import compiled
from spex_jax.utils.seeds import MLPKey, NetworkKey

__all__ = ["Params", "Perceptron", "answers", "fit", "read", "train", "train_ensemble"]

_MEMBERS = 5
_DECAYS = (1.0, 2.0, 4.0)
_STEPS = 1500
_STOPS = 10  # equally spaced numbers of steps, one of which the folds choose
_BATCH = 64
_RATE = 3e-3
_PRIOR_FLOOR = 1e-10  # a coefficient of exactly zero still gets a prior variance

Params = Any


class Perceptron(nn.Module):
    """Signs [B, n] -> values [B]: two hidden layers and a linear path beside them."""

    width: int = 128

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the network."""
        hidden = nn.gelu(nn.Dense(self.width)(x))
        hidden = nn.gelu(nn.Dense(self.width)(hidden))
        last = functools.partial(nn.Dense, 1, kernel_init=nn.initializers.zeros)
        return (last()(hidden) + last()(x))[..., 0]


def _apply(params: Params, signs: jax.Array) -> jax.Array:
    values: jax.Array = Perceptron().apply(params, signs)  # type: ignore[assignment]  # flax allows a state beside it
    return values


@compiled(static_argnames=("steps",))
def train(
    keys: jax.Array,
    signs: jax.Array,
    targets: jax.Array,
    rows: jax.Array,
    count: jax.Array,
    decay: jax.Array,
    *,
    steps: int,
) -> Params:
    """Trains B networks side by side: AdamW with a cosine rate on batches drawn with replacement, squared error.

    Args:
      keys: PRNG keys [B], for the start and the batches of each network.
      signs: float [N, n].
      targets: float [N].
      rows: int [B, N], the first count[b] of which are the training rows of a network.
      count: int [B].
      decay: float [B], weight decay.
      steps: steps of the optimiser, a multiple of 10.

    Returns:
      Parameters after each tenth of the steps, with leading axes [10, B].
    """
    chex.assert_shape([signs, rows], [(*targets.shape, None), (*count.shape, *targets.shape)])
    chex.assert_equal_shape([keys, count, decay])

    def train_one(key: jax.Array, rows: jax.Array, count: jax.Array, decay: jax.Array) -> Params:
        optimizer = optax.adamw(optax.cosine_decay_schedule(_RATE, steps), weight_decay=decay)
        params = Perceptron().init(jax.random.fold_in(key, NetworkKey.START), signs[:1])

        def loss(params: Params, batch: jax.Array) -> jax.Array:
            return jnp.mean((_apply(params, signs[batch]) - targets[batch]) ** 2)

        def step(carry: tuple[Params, optax.OptState], key: jax.Array) -> tuple[tuple[Params, optax.OptState], None]:
            params, state = carry
            gradient = jax.grad(loss)(params, rows[jax.random.randint(key, (_BATCH,), 0, count)])
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        def stretch(
            carry: tuple[Params, optax.OptState], keys: jax.Array
        ) -> tuple[tuple[Params, optax.OptState], Params]:
            carry, _ = jax.lax.scan(step, carry, keys)
            return carry, carry[0]

        keys = jax.random.split(jax.random.fold_in(key, NetworkKey.BATCHES), (_STOPS, steps // _STOPS))
        return jax.lax.scan(stretch, (params, optimizer.init(params)), keys)[1]

    return jax.vmap(train_one, out_axes=1)(keys, rows, count, decay)


@compiled
def answers(params: Params, signs: jax.Array) -> jax.Array:
    """Returns the mean answer [M] of the ensemble at signs [M, n]."""
    return jax.vmap(_apply, in_axes=(0, None))(params, signs).mean(axis=0)


@compiled
def _each_answer(params: Params, signs: jax.Array) -> jax.Array:
    """Returns the answers [stops, B, M] of every network at every stop."""
    found: jax.Array = jax.lax.map(lambda part: jax.vmap(_apply, in_axes=(0, None))(part, signs), params)
    return found


def _choose(key: jax.Array, table: Table) -> tuple[float, int, np.ndarray]:
    """Returns the decay and stop with the least out-of-fold error, and their out-of-fold predictions [N].

    Trains one network for each fold and decay, all in one program.
    """
    fold = np.repeat(np.arange(FOLDS), len(_DECAYS))
    rows, folds = table.on_device, np.asarray(table.on_device.fold)
    seen = (folds >= 0) & (folds != fold[:, None])
    order = jnp.asarray(np.argsort(~seen, axis=1, kind="stable"), jnp.int32)
    decays = jnp.tile(jnp.asarray(_DECAYS), FOLDS)
    keys = jnp.repeat(jax.random.split(key, FOLDS), len(_DECAYS))
    params = train(keys, rows.signs, rows.targets, order, jnp.asarray(seen.sum(axis=1)), decays, steps=_STEPS)
    found = np.asarray(_each_answer(params, rows.signs), np.float64)
    found = found.reshape(_STOPS, FOLDS, len(_DECAYS), -1)
    out = folds == np.arange(FOLDS)[:, None]
    held_out = np.einsum("sfdn,fn->sdn", found, out)[:, :, : table.count]
    errors = np.mean((held_out - table.values) ** 2, axis=2)
    stop, decay = np.unravel_index(int(errors.argmin()), errors.shape)
    return _DECAYS[decay], int(stop), held_out[stop, decay]


def train_ensemble(table: Table, *, seed: int) -> tuple[Params, np.ndarray]:
    """Trains the ensemble, with decay and stop chosen by folds. Returns parameters with a leading axis of members, and
    the out-of-fold predictions [N] of single networks.
    """
    key, rows = jax.random.key(seed), table.on_device
    decay, stop, held_out = _choose(jax.random.fold_in(key, MLPKey.FOLDS), table)
    params = train(
        jax.random.split(jax.random.fold_in(key, MLPKey.MEMBERS), _MEMBERS),
        rows.signs,
        rows.targets,
        jnp.broadcast_to(jnp.arange(len(rows.targets)), (_MEMBERS, len(rows.targets))),
        jnp.full(_MEMBERS, table.count),
        jnp.full(_MEMBERS, decay),
        steps=_STEPS,
    )
    return jax.tree.map(lambda leaf: leaf[stop], params), held_out


def read(
    params: Params, n: int, width: int, *, max_degree: int, seed: int, extract: str = "grow"
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the large terms of an ensemble, support bool [K, n] and coefficients float64 [K]; see
    `extraction.read_answers`.
    """
    query = functools.partial(answers, params)
    key = jax.random.fold_in(jax.random.key(seed), MLPKey.QUERIES)
    return read_answers(query, n, width, key, max_degree=max_degree, extract=extract)


def fit(table: Table, *, max_degree: int, seed: int, extract: str = "grow") -> Fitted:
    """Trains the ensemble, reads its spectrum and refits the coefficients on the table.

    The prior variance of a coefficient in the refit is its square in the network: terms that are small in the network
    stay small.
    """
    params, held_out = train_ensemble(table, seed=seed)
    width = table.on_device.signs.shape[1]
    support, coefficients = read(params, table.n, width, max_degree=max_degree, seed=seed, extract=extract)
    prior = np.square(coefficients) + _PRIOR_FLOOR
    spectrum = Spectrum(support, refit(table.masks, table.values, support, prior)[0])
    return Fitted(spectrum=spectrum, held_out=lambda: held_out)
