"""The networks of the proxy "mlp": an ensemble of small multilayer perceptrons, trained side by side in one scan (an
extension of ProxySPEX, not part of the paper).

Inputs are the signs of the mask; strong decoupled weight decay (Loshchilov and Hutter, ICLR 2019) keeps high degrees
small. The spectrum of a perceptron has no closed form, but its values are cheap: see `extraction.read_answers`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

from spex_jax.core.spectrum import Spectrum
from spex_jax.proxyspex.extraction import read_answers
from spex_jax.proxyspex.preprocessing import FOLDS, Fitted, Table
from spex_jax.proxyspex.regression.ridge import refit
from spex_jax.utils import array_api
from spex_jax.utils.array_api import Array
from spex_jax.utils.precision import compiled
from spex_jax.utils.seeds import Stream, generator

__all__ = ["Params", "Perceptron", "Trained", "answers", "fit", "initial_params", "read", "train", "train_ensemble"]

_MEMBERS = 5
_DECAYS = (1.0, 2.0, 4.0)
_STEPS = 1500
_STOPS = 10  # equally spaced numbers of steps, one of which the folds choose
_BATCH = 64
_RATE = 3e-3
_TRUNCATED = 0.87962566103423978  # deviation of the standard normal distribution that is truncated at 2
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


class Trained(NamedTuple):
    """B networks at S equally spaced numbers of steps.

    Attributes:
      params: their parameters, with leading axes [S, B].
      answers: float [S, B, N], their answers at all signs.
    """

    params: Params
    answers: Array


@functools.cache
def _shapes(features: int) -> Params:
    return jax.eval_shape(lambda: Perceptron().init(jax.random.key(0), jnp.zeros((1, features))))


def initial_params(rng: np.random.Generator, features: int) -> Params:
    """Draws parameters of a `Perceptron` as Flax does: kernels of hidden layers from a normal distribution that is
    truncated at two deviations, of variance 1 / inputs (LeCun et al., 1998), and zeros elsewhere. On the host, since a
    program of truncated normals compiles for longer than it is used.
    """
    edges = scipy.special.ndtr([-2.0, 2.0])

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(leaf.shape) < 2 or leaf.shape[1] == 1:
            return np.zeros(leaf.shape, leaf.dtype)
        normal = scipy.special.ndtri(rng.uniform(edges[0], edges[1], leaf.shape))
        return np.asarray(normal / (_TRUNCATED * np.sqrt(leaf.shape[0])), leaf.dtype)

    return jax.tree.map(draw, _shapes(features))


@compiled
def train(params: Params, signs: Array, targets: Array, batches: Array, decay: Array) -> Trained:
    """Trains B networks side by side: AdamW with a cosine rate on given batches, squared error.

    Args:
      params: initial parameters, with a leading axis [B].
      signs: float [N, n].
      targets: float [N].
      batches: int [B, S, T, rows], the rows of each step; S stretches of T steps.
      decay: float [B], weight decay.

    Returns:
      The networks after each stretch.
    """
    chex.assert_shape([signs, batches], [(*targets.shape, None), (*decay.shape, None, None, None)])
    _, stretches, length, _ = batches.shape

    def train_one(params: Params, batches: jax.Array, decay: jax.Array) -> Trained:
        optimizer = optax.adamw(optax.cosine_decay_schedule(_RATE, stretches * length), weight_decay=decay)

        def loss(params: Params, batch: jax.Array) -> jax.Array:
            return jnp.mean((_apply(params, signs[batch]) - targets[batch]) ** 2)

        def step(carry: tuple[Params, optax.OptState], batch: jax.Array) -> tuple[tuple[Params, optax.OptState], None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        def stretch(
            carry: tuple[Params, optax.OptState], batches: jax.Array
        ) -> tuple[tuple[Params, optax.OptState], Trained]:
            carry, _ = jax.lax.scan(step, carry, batches)
            return carry, Trained(carry[0], _apply(carry[0], signs))

        found: Trained = jax.lax.scan(stretch, (params, optimizer.init(params)), batches)[1]
        return found

    return jax.vmap(train_one, out_axes=1)(params, batches, decay)


@compiled
def answers(params: Params, signs: jax.Array) -> jax.Array:
    """Returns the mean answer [M] of the ensemble at signs [M, n]."""
    return jax.vmap(_apply, in_axes=(0, None))(params, signs).mean(axis=0)


def _train_all(table: Table, rngs: Sequence[np.random.Generator], seen: np.ndarray, decay: np.ndarray) -> Trained:
    """Trains a network for each generator, rows seen bool [B, N] and decay [B], on the host's arrays.

    Batches are drawn with replacement. A CPU trains `_MEMBERS` of them at a time, so that all trainings share one
    program; an accelerator all at once.
    """
    rows = table.on_device
    starts = [initial_params(rng, rows.signs.shape[1]) for rng in rngs]
    batches = [
        rng.choice(np.flatnonzero(among).astype(np.int32), (_STOPS, _STEPS // _STOPS, _BATCH))
        for rng, among in zip(rngs, seen, strict=True)
    ]
    at_once = _MEMBERS if array_api.host_is_best() else len(rngs)
    parts = []
    for start in range(0, len(rngs), at_once):
        part = slice(start, start + at_once)
        params = jax.tree.map(lambda *leaves: np.stack(leaves), *starts[part])
        parts.append(jax.device_get(train(params, rows.signs, rows.targets, np.stack(batches[part]), decay[part])))
    found: Trained = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)
    return found


def _choose(table: Table, seed: int) -> tuple[float, int, np.ndarray]:
    """Returns the decay and stop with the least out-of-fold error, and their out-of-fold predictions [N].

    Trains one network for each decay and fold; those of a fold begin alike and see the same batches.
    """
    rngs = [generator(seed, Stream.MLP_FOLDS, fold) for _ in _DECAYS for fold in range(FOLDS)]
    out = table.fold == np.arange(FOLDS)[:, None]
    decay = np.repeat(np.asarray(_DECAYS, np.float32), FOLDS)
    found = _train_all(table, rngs, np.tile(~out, (len(_DECAYS), 1)), decay).answers[:, :, : table.count]
    found = found.astype(np.float64).reshape(_STOPS, len(_DECAYS), FOLDS, -1)
    held_out = np.einsum("sdfn,fn->sdn", found, out)
    errors = np.mean((held_out - table.values) ** 2, axis=2)
    stop, chosen = np.unravel_index(int(errors.argmin()), errors.shape)
    return _DECAYS[chosen], int(stop), held_out[stop, chosen]


def train_ensemble(table: Table, *, seed: int) -> tuple[Params, np.ndarray]:
    """Trains the ensemble, with decay and stop chosen by folds. Returns parameters with a leading axis of members, and
    the out-of-fold predictions [N] of single networks.
    """
    decay, stop, held_out = _choose(table, seed)
    rngs = [generator(seed, Stream.MLP_MEMBERS, member) for member in range(_MEMBERS)]
    seen = np.ones((_MEMBERS, table.count), np.bool_)
    found = _train_all(table, rngs, seen, np.full(_MEMBERS, decay, np.float32))
    return jax.tree.map(lambda leaf: leaf[stop], found.params), held_out


def read(
    params: Params, n: int, width: int, *, max_degree: int, seed: int, extract: str = "grow"
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the large terms of an ensemble, support bool [K, n] and coefficients float64 [K]; see
    `extraction.read_answers`.
    """
    query = functools.partial(answers, jax.device_put(params))
    rng = generator(seed, Stream.MLP_QUERIES)
    return read_answers(query, n, width, rng, max_degree=max_degree, extract=extract)


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
