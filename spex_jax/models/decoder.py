"""Causal language models: Llama, Qwen, Mistral, GPT-2 and Gemma from one static config.

In the shape descriptions, B denotes rows, L positions of a row, D the width of the model, N layers, H query heads, G
heads of keys and values, A the width of a head, P positions of a shared prefix, K places read, V the vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.models.blocks import (
    ACTIVATIONS,
    Params,
    PartlyKept,
    Rope,
    attend,
    layer_norm,
    linear,
    precision_of,
    rms_norm,
    rotate,
)
from spex_jax.models.encoder import check_tokens, one_text_a_row
from spex_jax.utils.jax_settings import own_settings

__all__ = ["Decoder", "DecoderConfig", "Edit", "KeyValues", "Place", "generate"]

_NO_WINDOW = 2**30

Edit = Callable[[str, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and options of a decoder; hashable, so that it can be a static argument of jit. Biases, norms of queries
    and keys, norms after the blocks and an output head of its own are used where the weights hold them.

    Attributes:
      norm: "rms" or "layer".
      norm_offset: the number added to the weights of RMS norms (Gemma: 1).
      ropes: the kinds of rotary positions; empty where the positions are learned (GPT-2).
      rope_of_layer: the index in `ropes` of each layer; all layers use the first where empty.
      windows: how many positions each layer sees, the query's included, 0 for all; all layers see all where empty.
      attention_softcap, logit_softcap: see `blocks.attend`.
      embedding_scale: the factor of the embedded tokens.
    """

    identity_name: ClassVar[str] = "spex_jax.DecoderConfig"

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_dim: int
    max_length: int
    attention_scale: float
    norm: str = "rms"
    norm_eps: float = 1e-5
    norm_offset: float = 0.0
    activation: str = "silu"
    ropes: tuple[Rope, ...] = (Rope(),)
    rope_of_layer: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float = 1.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyValues:
    """Keys and values [N, P, G, A] of tokens that all rows share, and their positions int32 [P] (queries at earlier
    positions do not see them).
    """

    identity_name: ClassVar[str] = "spex_jax.KeyValues"

    keys: jax.Array
    values: jax.Array
    positions: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """A causal language model as a pytree: `params` are its leaves, everything else is static."""

    identity_name: ClassVar[str] = "spex_jax.Decoder"
    takes_partly_kept: ClassVar[bool] = True

    params: Params
    config: DecoderConfig = dataclasses.field(metadata={"static": True})

    @property
    def max_length(self) -> int:
        """The largest number of tokens of a prompt with its answer."""
        return self.config.max_length

    def states(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        branches: jax.Array | None = None,
        *,
        read: jax.Array | None = None,
        prefix: KeyValues | None = None,
        partly: PartlyKept | None = None,
    ) -> jax.Array:
        """Returns the hidden states after the last norm of rows that hold several texts.

        Args:
          tokens, segments: int32 [B, L]; a token sees the tokens of its own segment at positions up to its own. Segment
            -1 is padding.
          positions: int32 [B, L], or [L] where all rows have the same.
          branches: int32 [B, L]; tokens of branch 0 are seen by their whole segment, those of another branch only by
            that branch, so that several continuations share one prompt.
          read: int32 [B, K], the places of each row whose states are returned; None means all. The last layer computes
            keys and values everywhere and the rest only there.
          prefix: keys and values that all rows share.
          partly: how far each token is kept; None where all are.

        Returns:
          [B, K, D], or [B, L, D] where `read` is None.
        """
        c = self.config
        positions = jnp.broadcast_to(positions, tokens.shape)
        x, place = self._embed(tokens, positions, partly), self._place(positions, segments, branches)
        if partly is not None:
            place = dataclasses.replace(place, weight=partly.weight)
        if read is None:
            x, _ = self._run(x, place, c.num_layers, prefix)
        else:
            x, _ = self._run(x, place, c.num_layers - 1, prefix)
            x, _ = self.block(c.num_layers - 1, x, place, prefix=prefix, read=read)
        return self.norm(self.params["norm"], x)

    def logits(self, states: jax.Array) -> jax.Array:
        """Returns the logits float32 [..., V] of states [..., D]."""
        head = self.params.get("head", self.params["embedding"])
        logits = jnp.einsum(
            "...d,vd->...v", states, head, precision=precision_of(states), preferred_element_type=jnp.float32
        )
        cap = self.config.logit_softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def prefix(self, tokens: jax.Array, positions: jax.Array, prefix: KeyValues | None = None) -> KeyValues:
        """Returns the keys and values of tokens int32 [P] at positions int32 [P], after an earlier prefix if any."""
        _, found = self._extend(tokens[None], positions[None], prefix)
        return found

    @own_settings()
    def __call__(self, tokens: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Returns the logits of the next token after every position.

        Args:
          tokens: int32 [B, L], with L at most `max_length`.
          attention_mask: bool or int [B, L], nonzero at real tokens. Positions with 0 have no influence on others.

        Returns:
          float32 [B, L, V].

        Raises:
          ValueError: see `check_tokens`.
        """
        check_tokens(tokens, attention_mask, self.max_length, self.config.vocab_size)
        positions, segments = one_text_a_row(attention_mask)
        return self.logits(self.states(tokens, positions, segments))

    def _extend(self, tokens: jax.Array, positions: jax.Array, prefix: KeyValues | None) -> tuple[jax.Array, KeyValues]:
        """Returns the states [1, L, D] of one row, and its keys and values."""
        place = self._place(positions, jnp.zeros_like(tokens), None)
        x, (keys, values) = self._run(self._embed(tokens, positions), place, self.config.num_layers, prefix)
        found = KeyValues(keys=keys[:, 0], values=values[:, 0], positions=positions[0])
        return self.norm(self.params["norm"], x), found

    def _embed(self, tokens: jax.Array, positions: jax.Array, partly: PartlyKept | None = None) -> jax.Array:
        table: jax.Array = self.params["embedding"]
        x = table[tokens] if partly is None else partly.embedded(table, tokens)
        x = x * jnp.asarray(self.config.embedding_scale, x.dtype)
        if "positions" in self.params:
            x = x + self.params["positions"][positions]
        return x

    def norm(self, params: Params, x: jax.Array) -> jax.Array:
        """Applies the norm of the architecture to states [..., D]."""
        c = self.config
        if c.norm == "layer":
            return layer_norm(params, x, c.norm_eps)
        return rms_norm(params, x, c.norm_eps, c.norm_offset)

    def _place(self, positions: jax.Array, segments: jax.Array, branches: jax.Array | None) -> "Place":
        return Place(positions, _visible(positions, segments, branches), self._angles(positions))

    def _angles(self, positions: jax.Array) -> jax.Array:
        """Returns the angles of the rotations, float32 [kinds, B, L, A/2]."""
        width = self.config.head_dim
        frequencies = np.stack([r.frequencies(width) for r in self.config.ropes] or [np.zeros(width // 2)])
        return positions[None, :, :, None] * jnp.asarray(frequencies, jnp.float32)[:, None, None, :]

    def _run(self, x: jax.Array, place: "Place", layers: int, prefix: KeyValues | None) -> Any:
        """Scans the first `layers` layers; also returns the keys and values of each, [N, B, L, G, A]."""

        def step(x: jax.Array, index: jax.Array) -> Any:
            return self.block(index, x, place, prefix=prefix)

        return jax.lax.scan(step, x, jnp.arange(layers))

    def begin(self, tokens: jax.Array, segments: jax.Array) -> tuple[jax.Array, "Place"]:
        """Returns the embedded tokens [B, L, D] of rows of one text each, and their `Place`; both go into `block`."""
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return self._embed(tokens, positions), self._place(positions, segments, None)

    def block(
        self,
        index: Any,
        x: jax.Array,
        place: "Place",
        *,
        prefix: KeyValues | None = None,
        read: jax.Array | None = None,
        edit: Edit = lambda kind, value: value,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Applies layer `index`; also returns its keys and values of all states.

        Args:
          index: the number of the layer, int32 [].
          x: states [B, L, D].
          place: the `Place` of x.
          prefix: keys and values that all rows share.
          read: int32 [B, K], the places whose states are returned; None means all.
          edit: changes the parts of the layer before they are used, a pure function of the kind and the value: "heads"
            [B, K, H, A], the output of each query head before the output product; "attention" and "mlp" [B, K, D],
            which are added to the residual stream; "neurons" [B, K, M], the hidden units of the MLP.

        Returns:
          States [B, K, D]; keys and values [B, L, G, A].
        """
        c = self.config
        # The layer is indexed in the stacked weights: a slice of all but the last layer would copy them.
        layer = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), self.params["layers"]
        )
        kind = jnp.asarray(c.rope_of_layer, jnp.int32)[index] if c.rope_of_layer else 0
        queries, at = (x, place) if read is None else (x[jnp.arange(len(read))[:, None], read], place.at(read))
        with jax.named_scope("attention"):
            normed = self.norm(layer["norm_attention"], x)
            normed_queries = normed if read is None else self.norm(layer["norm_attention"], queries)
            q = linear(layer["query"], normed_queries).reshape(*queries.shape[:2], c.num_heads, c.head_dim)
            k, v = (
                linear(layer[name], normed).reshape(*x.shape[:2], c.num_kv_heads, c.head_dim)
                for name in ("key", "value")
            )
            if "norm_query" in layer:
                q, k = self.norm(layer["norm_query"], q), self.norm(layer["norm_key"], k)
            if c.ropes:
                q, k = rotate(q, at.angles[kind]), rotate(k, place.angles[kind])
            visible, shared = at.visible, None
            if prefix is not None:
                keys, values = prefix.keys[index], prefix.values[index]
                shared = (keys, values, prefix.positions <= at.positions[..., None])
            if c.windows:
                window = jnp.asarray([w or _NO_WINDOW for w in c.windows], jnp.int32)[index]
                visible &= at.positions[:, :, None] - place.positions[:, None, :] < window
                if prefix is not None and shared is not None:
                    shared = (*shared[:2], shared[2] & (at.positions[..., None] - prefix.positions < window))
            options: Any = {"scale": c.attention_scale, "softcap": c.attention_softcap, "weight": place.weight}
            mixed = attend(q, k, v, visible, shared=shared, **options)
            mixed = edit("heads", mixed).reshape(*queries.shape[:2], -1)
            added = self._after(layer, "norm_attention_after", linear(layer["output"], mixed))
            queries = queries + edit("attention", added)
        if "up" in layer:  # models of attention alone have no MLPs
            with jax.named_scope("mlp"):
                normed = self.norm(layer["norm_mlp"], queries)
                hidden = ACTIVATIONS[c.activation](linear(layer["gate" if "gate" in layer else "up"], normed))
                if "gate" in layer:
                    hidden = hidden * linear(layer["up"], normed)
                added = self._after(layer, "norm_mlp_after", linear(layer["down"], edit("neurons", hidden)))
                queries = queries + edit("mlp", added)
        return queries, (k, v)

    def _after(self, layer: Params, name: str, x: jax.Array) -> jax.Array:
        return self.norm(layer[name], x) if name in layer else x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Place:
    """Positions of states int32 [B, L], visible keys bool [B, L, keys], rotation angles float32 [kinds, B, L, A/2], and
    the weights of keys float32 [B, keys] where they differ.
    """

    positions: jax.Array
    visible: jax.Array
    angles: jax.Array
    weight: jax.Array | None = None

    def at(self, read: jax.Array) -> "Place":
        """Returns the `Place` of the states at places int32 [B, K]."""
        rows = jnp.arange(len(read))[:, None]
        return Place(self.positions[rows, read], self.visible[rows, read], self.angles[:, rows, read])


def _visible(positions: jax.Array, segments: jax.Array, branches: jax.Array | None) -> jax.Array:
    """Returns which keys each query sees, bool [B, L, L]."""
    visible = (segments[:, :, None] == segments[:, None, :]) & (positions[:, :, None] >= positions[:, None, :])
    if branches is not None:
        visible &= (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    return visible


class _Answer(NamedTuple):
    """The state of the loop that writes a greedy answer.

    Attributes:
      step: int32 [], the number of tokens written.
      token: int32 [], the next token.
      found: int32 [most], the tokens written, then -1.
      cache: keys and values of the prompt and of the tokens written.
    """

    step: jax.Array
    token: jax.Array
    found: jax.Array
    cache: KeyValues


@functools.partial(jax.jit, static_argnames="most")
def _continue(model: Decoder, tokens: jax.Array, length: jax.Array, stops: jax.Array, *, most: int) -> jax.Array:
    """Returns the greedy continuation int32 [most] of the first `length` tokens [L]; -1 from the first stop on."""
    size = len(tokens)
    places = jnp.arange(size)
    # Padding, and places that are not yet written, have a position that no query reaches.
    states, cache = model._extend(tokens[None], places[None], None)
    room = ((0, 0), (0, most), (0, 0), (0, 0))
    cache = KeyValues(
        keys=jnp.pad(cache.keys, room),
        values=jnp.pad(cache.values, room),
        positions=jnp.pad(jnp.where(places < length, places, _NO_WINDOW), (0, most), constant_values=_NO_WINDOW),
    )
    first = model.logits(states[0, length - 1]).argmax()

    def unfinished(answer: _Answer) -> jax.Array:
        return (answer.step < most) & ~jnp.isin(answer.token, stops)

    def advance(answer: _Answer) -> _Answer:
        found = answer.found.at[answer.step].set(answer.token)
        position = length + answer.step
        states, new = model._extend(answer.token[None, None], position[None, None], answer.cache)
        cache = jax.tree.map(
            lambda whole, part, axis: jax.lax.dynamic_update_slice_in_dim(whole, part, size + answer.step, axis),
            answer.cache,
            new,
            KeyValues(keys=1, values=1, positions=0),  # type: ignore[arg-type]
        )
        following = model.logits(states[0, 0]).argmax().astype(jnp.int32)
        return _Answer(step=answer.step + 1, token=following, found=found, cache=cache)

    empty = jnp.full(most, -1, jnp.int32)
    start = _Answer(step=jnp.int32(0), token=first.astype(jnp.int32), found=empty, cache=cache)
    return jax.lax.while_loop(unfinished, advance, start).found


@own_settings()
def generate(model: Decoder, tokens: Any, *, most: int, stops: tuple[int, ...] = ()) -> list[int]:
    """Returns the greedy answer to a prompt, decoded with a cache of keys and values.

    Args:
      model: a decoder.
      tokens: the token ids of the prompt.
      most: the largest number of tokens of the answer.
      stops: ids that end the answer; they are not part of it.

    Raises:
      ValueError: an empty prompt, an id that the model does not embed, or no room for an answer in the model's context.
    """
    ids = np.asarray(tokens, np.int32)
    if not len(ids):
        raise ValueError("the prompt has no tokens; begin it with the tokenizer's BOS token")
    if ids.min() < 0 or ids.max() >= model.config.vocab_size:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(
            f"the prompt has the id {wrong}, and the model embeds ids from 0 to {model.config.vocab_size - 1}"
        )
    if len(ids) >= model.max_length:
        raise ValueError(f"the prompt has {len(ids)} tokens, which leaves no room in a context of {model.max_length}")
    most = min(most, model.max_length - len(ids))
    padded = np.pad(ids, (0, min(-len(ids) % 64, model.max_length - len(ids))))
    stop = np.array(stops or (-1,), np.int32)
    found = np.asarray(_continue(model, padded, np.int32(len(ids)), stop, most=most))
    return [int(token) for token in found if token >= 0]
