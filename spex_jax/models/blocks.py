"""Building blocks of encoders and decoders: products with weights, norms, activations, rotary positions, attention.

In the shape descriptions, B denotes rows, L positions of a row, D the width of the model, H query heads, G heads of
keys and values (grouped-query attention: H is a multiple of G), A the width of a head.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "ACTIVATIONS",
    "LEAST_TOTAL",
    "Params",
    "PartlyKept",
    "Rope",
    "attend",
    "exponentials",
    "largest_of",
    "layer_norm",
    "linear",
    "precision_of",
    "rms_norm",
    "rotate",
]

Params = Mapping[str, Any]
_HIDDEN = -1e9  # added to scores: exp of it is exactly 0 in float32, and a row without any key stays free of NaN
_STEEPEST = 5.0  # logarithm of the largest derivative by the weight of a key
LEAST_TOTAL = 1e-30  # where no key counts, and nothing is mixed

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5))),  # jax.nn.gelu's erfc takes longer on CPU
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PartlyKept:
    """How far each token of rows is kept: removal as a differentiable function.

    Attributes:
      share: float32 [B, L], 1 where a token is kept, 0 where it is removed.
      stand_in: int32 [B, L], the token whose embedding takes the rest of the share; None where nothing takes its place,
        so that the others attend to a token, and its text is pooled, with the weight of its share.
    """

    share: jax.Array
    stand_in: jax.Array | None = None

    def embedded(self, table: jax.Array, tokens: jax.Array) -> jax.Array:
        """Returns the embeddings [B, L, D] of tokens int32 [B, L] by a table [V, D]."""
        if self.stand_in is None:
            return table[tokens]
        share = self.share[..., None].astype(table.dtype)
        return share * table[tokens] + (1 - share) * table[self.stand_in]

    @property
    def weight(self) -> jax.Array | None:
        """The weight of each token as a key, float32 [B, L]; None where all have the same."""
        return self.share if self.stand_in is None else None


def precision_of(x: jax.Array) -> jax.lax.Precision | None:
    """Returns the precision of products with x: on GPU and TPU the default rounds float32 factors to tf32 or bf16,
    which would add noise to every value.
    """
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def linear(params: Params, x: jax.Array) -> jax.Array:
    """Multiplies x [..., D] by weight [out, D] (as PyTorch keeps it) and adds bias [out] if any -> [..., out]."""
    weight = params["weight"]
    y = jnp.einsum("...d,od->...o", x, weight, precision=precision_of(x))
    return y + params["bias"] if "bias" in params else y


def rms_norm(params: Params, x: jax.Array, eps: float, offset: float = 0.0) -> jax.Array:
    """Divides x [..., D] by its RMS (Zhang and Sennrich 2019), times weight + offset; computed in float32."""
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    found: jax.Array = wide * scale * (params["weight"].astype(jnp.float32) + offset)
    return found.astype(x.dtype)


def layer_norm(params: Params, x: jax.Array, eps: float) -> jax.Array:
    """Applies layer norm (Ba et al. 2016) with weight and bias to x [..., D]; computed in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)
    found: jax.Array = centred * scale * params["weight"] + params["bias"]
    return found.astype(x.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864), with the scalings of Llama 3.1 and Gemma 3.

    Attributes:
      theta: the base of the wavelengths.
      factor: the divisor of positions; with `low_frequency` only at long wavelengths.
      low_frequency, high_frequency, original_length: as in Llama 3.1 (Grattafiori et al. 2024,
        https://arxiv.org/abs/2407.21783): wavelengths over original_length / low_frequency are scaled, those under
        original_length / high_frequency are not, and those between are interpolated.
    """

    identity_name: ClassVar[str] = "spex_jax.Rope"

    theta: float = 10_000.0
    factor: float = 1.0
    low_frequency: float | None = None
    high_frequency: float | None = None
    original_length: int | None = None

    def frequencies(self, width: int) -> np.ndarray:
        """Returns the radians per position of each pair of dimensions, float64 [width / 2]."""
        plain = self.theta ** (-np.arange(0, width, 2) / width)
        if self.low_frequency is None or self.high_frequency is None or self.original_length is None:
            return plain / self.factor
        turns = self.original_length * plain / (2 * math.pi)
        smooth = np.clip((turns - self.low_frequency) / (self.high_frequency - self.low_frequency), 0.0, 1.0)
        return plain * ((1 - smooth) / self.factor + smooth)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates the pairs (i, i + A/2) of x [B, L, H, A] by angles float32 [B, L, A/2]; computed in float32."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


def largest_of(scores: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Returns the largest of scores float32 [..., K] that count, [..., 1], for `exponentials`."""
    counted = scores if weight is None else scores + jnp.where(weight > 0, 0.0, _HIDDEN)
    return jax.lax.stop_gradient(counted.max(axis=-1, keepdims=True))


def exponentials(scores: jax.Array, largest: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Returns what a softmax divides by its sum: exp(scores - largest) times the weights of the keys [..., K] if any.

    A key of weight 0 may have a far larger score than those that count: its derivative is bounded.
    """
    if weight is None:
        return jnp.exp(scores - largest)
    return jnp.exp(jnp.minimum(scores - largest, _STEEPEST)) * weight


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    visible: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    shared: tuple[jax.Array, jax.Array, jax.Array] | None = None,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Computes multi-head attention, with scores and their softmax in float32.

    Keys that all rows share stay without a row axis: their scores are one product with the queries of all rows. One
    softmax runs over both parts, with their common maximum and sum (the merge by log-sum-exp of flash decoding, Dao et
    al. 2023), so that neither keys nor scores are ever concatenated.

    Args:
      q: [B, L, H, A].
      k, v: [B, K, G, A].
      visible: bool [B, L, K], which keys each query sees.
      scale: the factor of the scores.
      softcap: scores s become softcap * tanh(s / softcap) (Gemma 2).
      shared: keys and values [P, G, A] of a common prefix, and which of them each query sees, bool [B, L, P].
      weight: float32 [B, K], the weight of each key beside the others, see `PartlyKept`; None where all have the same.

    Returns:
      [B, L, H, A].
    """
    groups = k.shape[2]
    wide = {"precision": precision_of(q), "preferred_element_type": jnp.float32}
    q = jnp.moveaxis(q.reshape(*q.shape[:2], groups, -1, q.shape[-1]), 1, 3)  # [B, G, H / G, L, A]

    def masked(scores: jax.Array, seen: jax.Array) -> jax.Array:
        scores = scores * scale
        if softcap is not None:
            scores = softcap * jnp.tanh(scores / softcap)
        return scores + jnp.where(seen, 0.0, _HIDDEN)

    def weighted(weights: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        return weights.sum(axis=-1, keepdims=True), jnp.matmul(weights.astype(v.dtype), values, **wide)

    # Transposing and repeating these small arrays gives scores in the layout that is needed.
    k, v = (_repeated(jnp.moveaxis(x, 1, 2), q.shape) for x in (k, v))  # [B, G, H / G, K, A]
    scores = masked(jnp.einsum("bghld,bghkd->bghlk", q, k, **wide), visible[:, None, None])
    if weight is not None:
        weight = weight[:, None, None, None]
    largest = largest_of(scores, weight)
    if shared is None:
        total, mixed = weighted(exponentials(scores, largest, weight), v)
    else:
        keys, values = (_repeated(x.swapaxes(0, 1), q.shape[1:]) for x in shared[:2])  # [G, H / G, P, A]
        queries = jnp.moveaxis(q, 0, 2)  # [G, H / G, B, L, A]
        before = masked(jnp.einsum("ghbld,ghpd->ghblp", queries, keys, **wide), shared[2])
        largest = jnp.maximum(largest, jnp.moveaxis(before.max(axis=-1, keepdims=True), 2, 0))
        total, mixed = weighted(exponentials(scores, largest, weight), v)
        parts = weighted(exponentials(before, jnp.moveaxis(largest, 0, 2)), values[:, :, None])
        total, mixed = (own + jnp.moveaxis(part, 2, 0) for own, part in zip((total, mixed), parts, strict=True))
    if weight is not None:
        total = jnp.maximum(total, LEAST_TOTAL)
    # The division by the sum comes after the product with the values, which is smaller than the scores.
    mixed = jnp.moveaxis((mixed / total).astype(v.dtype), 3, 1)  # [B, L, G, H / G, A]
    return mixed.reshape(*mixed.shape[:2], -1, mixed.shape[-1])


def _repeated(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Repeats keys or values [..., G, K, A] for every query head of their group -> [..., G, H / G, K, A]."""
    return jnp.broadcast_to(x[..., None, :, :], (*shape[:-2], *x.shape[-2:]))
