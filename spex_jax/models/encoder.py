"""Encoders with a classification head: BERT, DistilBERT and sentence encoders such as MiniLM, from one static config.

In the shape descriptions, B denotes rows, L positions of a row, D the width of the model, S texts of a row, C classes.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.models.blocks import ACTIVATIONS, Params, PartlyKept, attend, layer_norm, linear
from spex_jax.utils.jax_settings import own_settings

__all__ = ["Encoder", "EncoderConfig", "check_tokens", "one_text_a_row", "pooled"]

_LEAST_WEIGHT = 1e-30  # of a text of which nothing is kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes and options of an encoder; hashable, so that it can be a static argument of jit.

    Attributes:
      pooling: the hidden state that the head reads: that of the "first" token, or the "mean".
      head_activation: the activation after the head's dense layer, if any: "tanh" (BERT), "relu" (DistilBERT).
    """

    identity_name: ClassVar[str] = "spex_jax.EncoderConfig"

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    max_length: int
    norm_eps: float = 1e-12
    activation: str = "gelu"
    pooling: str = "first"
    head_activation: str = "tanh"


def check_tokens(tokens: jax.Array, attention_mask: jax.Array, max_length: int, vocab_size: int) -> None:
    """Raises ValueError where tokens is not [B, L] of an integer type, the shapes differ, L is over `max_length`, or a
    real token has an id outside 0 to `vocab_size` - 1 (which cannot be checked while a program is traced).
    """
    if tokens.ndim != 2:
        raise ValueError(f"tokens has shape {tokens.shape}, expected [B, L]; for one text pass tokens[None].")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens has dtype {tokens.dtype}, expected an integer type; pass the tokenizer's input_ids.")
    if attention_mask.shape != tokens.shape:
        raise ValueError(
            f"attention_mask has shape {attention_mask.shape}, expected that of tokens, {tokens.shape}; "
            "pad both to the same length."
        )
    if tokens.shape[1] > max_length:
        raise ValueError(
            f"tokens has {tokens.shape[1]} positions, expected at most max_length={max_length}; "
            "shorten the text or call the tokenizer with truncation=True."
        )
    given = (tokens, attention_mask)
    traced = any(isinstance(array, jax.core.Tracer) for array in given)
    if not traced and all(getattr(array, "is_fully_addressable", True) for array in given):
        ids, attended = (np.asarray(array) for array in jax.device_get(given))
        outside = ids[((ids < 0) | (ids >= vocab_size)) & (attended != 0)]
        if outside.size:
            raise ValueError(
                f"tokens has the id {outside[0]}, and the model embeds ids from 0 to {vocab_size - 1}; "
                "use the tokenizer that belongs to the model"
            )


def one_text_a_row(attention_mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the positions int32 [L] and segments int32 [B, L] of rows of one text each, as `classify` takes them."""
    return jnp.arange(attention_mask.shape[1]), jnp.where(attention_mask.astype(bool), 0, -1)


def pooled(x: jax.Array, segments: jax.Array, slots: int, pooling: str, weight: jax.Array | None = None) -> jax.Array:
    """Returns the "mean" or "first" state of each text in x [B, L, D], [B, slots, D]; zero for an empty text. A mean
    may have weights [B, L].
    """
    member = segments[:, None, :] == jnp.arange(slots)[:, None]  # [B, S, L]
    if pooling == "first":
        member &= jnp.cumsum(member, axis=-1) == 1
    counted = member.astype(x.dtype)
    if weight is None or pooling == "first":
        least = 1.0
    else:
        counted, least = counted * weight[:, None, :].astype(x.dtype), _LEAST_WEIGHT
    total = jnp.einsum("bsl,bld->bsd", counted, x, precision=jax.lax.Precision.HIGHEST)
    return total / jnp.maximum(counted.sum(axis=-1, keepdims=True), least)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
    """An encoder as a pytree: `params` are its leaves, everything else is static.

    Post-norm blocks (Devlin et al. 2018, https://arxiv.org/abs/1810.04805), scanned over the stacked weights of
    the layers.
    """

    identity_name: ClassVar[str] = "spex_jax.Encoder"
    takes_partly_kept: ClassVar[bool] = True

    params: Params
    config: EncoderConfig = dataclasses.field(metadata={"static": True})
    class_names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})

    @property
    def max_length(self) -> int:
        """The largest number of tokens of a text."""
        return self.config.max_length

    def with_head(self, weight: Any, bias: Any, class_names: tuple[str, ...] = ()) -> "Encoder":
        """Returns the same encoder with a linear head on its pooled state.

        Args:
          weight: [C, D]; or [D] of a logistic regression, which gives the second class the logit weight · state + bias
            and the first 0.
          bias: [C], or a number.
          class_names: the names of the C classes.

        Raises:
          ValueError: shapes that do not fit.
        """
        weight, bias = jnp.asarray(weight), jnp.asarray(bias)
        if weight.ndim == 1:
            weight = jnp.stack([jnp.zeros_like(weight), weight])
            bias = jnp.stack([jnp.zeros_like(bias.reshape(())), bias.reshape(())])
        if weight.ndim != 2 or weight.shape[1] != self.config.dim or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"weight and bias must have the shapes (classes, {self.config.dim}) and (classes,), "
                f"got {weight.shape} and {bias.shape}"
            )
        if class_names and len(class_names) != len(weight):
            raise ValueError(f"there are {len(weight)} classes and {len(class_names)} class_names: {class_names}")
        dtype = self.params["norm"]["weight"].dtype
        head = {"classes": {"weight": weight.astype(dtype), "bias": bias.astype(dtype)}}
        return dataclasses.replace(self, params={**self.params, "head": head}, class_names=tuple(class_names))

    def states(
        self, tokens: jax.Array, positions: jax.Array, segments: jax.Array, partly: PartlyKept | None = None
    ) -> jax.Array:
        """Returns the hidden states [B, L, D] of rows that hold several texts: a token sees only its own segment."""
        c, params = self.config, self.params
        x = params["embedding"][tokens] if partly is None else partly.embedded(params["embedding"], tokens)
        x = x + params["positions"][positions]
        weight = None if partly is None else partly.weight
        x = layer_norm(params["norm"], x, c.norm_eps)
        visible = segments[:, :, None] == segments[:, None, :]
        activation, scale = ACTIVATIONS[c.activation], (c.dim // c.num_heads) ** -0.5

        def block(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
            heads = (*x.shape[:2], c.num_heads, -1)
            with jax.named_scope("attention"):
                q, k, v = (linear(layer[name], x).reshape(heads) for name in ("query", "key", "value"))
                attended = attend(q, k, v, visible, scale=scale, weight=weight).reshape(x.shape)
                x = layer_norm(layer["norm_attention"], x + linear(layer["output"], attended), c.norm_eps)
            with jax.named_scope("mlp"):
                hidden = linear(layer["down"], activation(linear(layer["up"], x)))
                return layer_norm(layer["norm_mlp"], x + hidden, c.norm_eps), None

        return jax.lax.scan(block, x, params["layers"])[0]

    def classify(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        slots: int,
        partly: PartlyKept | None = None,
    ) -> jax.Array:
        """Returns the logits of several texts in each row.

        Args:
          tokens, segments: int32 [B, L]; tokens of segment s in 0..slots - 1 are one text, those of -1 are padding.
          positions: int32 [B, L], or [L] where all rows have the same.
          slots: S, the number of texts in a row.
          partly: how far each token is kept; None where all are.

        Returns:
          float32 [B, S, C]; for an encoder without a head its pooled states [B, S, D].
        """
        states = self.states(tokens, positions, segments, partly)
        weight = None if partly is None else partly.weight
        x = pooled(states, segments, slots, self.config.pooling, weight)
        head = self.params.get("head", {})
        if "dense" in head:
            x = linear(head["dense"], x)
            x = jnp.tanh(x) if self.config.head_activation == "tanh" else ACTIVATIONS[self.config.head_activation](x)
        if "classes" in head:
            x = linear(head["classes"], x)
        return x.astype(jnp.float32)

    @own_settings()
    def __call__(self, tokens: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Returns the logits of every class.

        Args:
          tokens: int32 [B, L], with L at most `max_length`.
          attention_mask: bool or int [B, L], nonzero at real tokens. Positions with 0 have no influence.

        Returns:
          float32 [B, C], in the order of `class_names`; for an encoder without a head its pooled states [B, D].

        Raises:
          ValueError: see `check_tokens`.
        """
        check_tokens(tokens, attention_mask, self.max_length, self.config.vocab_size)
        return self.classify(tokens, *one_text_a_row(attention_mask), slots=1)[:, 0]
