"""Decoders as layers of parts: recording the parts in one run, and running with parts scaled or replaced.

In the shape descriptions, P denotes prompts, L positions, D the width of the model, N layers, S the layers whose parts
are ablated, K places that are read, H heads, A the width of a head, M hidden units of an MLP.
"""

import dataclasses
import functools
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from spex_jax.models.decoder import Decoder, Edit, KeyValues, Place

__all__ = ["AblatedDecoder", "Ablation", "Parts", "record"]

Parts = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation:
    """How much of each part of every layer one mask keeps.

    Attributes:
      keep: by kind (see `Decoder.block`), of a float type: "heads" [N, H], "neurons" [N, M], "attention" and "mlp" [N];
        1 keeps a part, 0 removes it, and values between mix the two.
      instead: by kind, the replacement of a removed part; zero where the kind is missing. [S, P or 1, L or 1, H, A] for
        heads, [S, P or 1, L or 1, M or D] for the others.
      slot: int32 [N], the index of each layer among the S.
      at: bool [P, L], the positions at which parts are ablated; None means all.
      rescaled: whether the kept heads or neurons of a layer are multiplied by the share of them that is kept.
    """

    identity_name: ClassVar[str] = "spex_jax.Ablation"

    keep: Parts
    instead: Parts
    slot: jax.Array
    at: jax.Array | None
    rescaled: bool = dataclasses.field(default=False, metadata={"static": True})

    def edit(self, index: Any, read: jax.Array | None = None) -> Edit:
        """Returns the `edit` for `Decoder.block` of layer `index`, with `read` int32 [P, K] as there."""

        def places(x: jax.Array) -> jax.Array:
            """Returns the places of x [P or 1, L or 1, ...] that are read."""
            if read is None or x.shape[1] == 1:
                return x
            return jnp.broadcast_to(x, (len(read), *x.shape[1:]))[jnp.arange(len(read))[:, None], read]

        def apply(kind: str, value: jax.Array) -> jax.Array:
            if kind not in self.keep:
                return value
            kept = self.keep[kind][index].astype(value.dtype)
            factor = kept * kept.mean() if self.rescaled and kept.ndim else kept
            kept, factor = (x[..., None] if kind == "heads" else x for x in (kept, factor))
            if self.at is not None:
                there = places(self.at).astype(value.dtype)
                there = there.reshape(*there.shape, *(1,) * (value.ndim - 2))
                kept, factor = (1 - there * (1 - x) for x in (kept, factor))
            if kind not in self.instead:
                return value * factor
            other = places(self.instead[kind][self.slot[index]]).astype(value.dtype)
            return value * factor + other * (1 - kept)

        return apply


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class AblatedDecoder(Decoder):
    """A decoder with some parts ablated in everything it computes: states, keys and values of a prefix, logits.

    An `ablation` for single positions (with `at`, or with an `instead` for each of them) fits prompts of that shape
    only.
    """

    identity_name: ClassVar[str] = "spex_jax.AblatedDecoder"

    ablation: Ablation

    def block(
        self,
        index: Any,
        x: jax.Array,
        place: Place,
        *,
        prefix: KeyValues | None = None,
        read: jax.Array | None = None,
        edit: Edit = lambda kind, value: value,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Applies a layer as `Decoder.block` does; `edit` gets the parts as the ablation leaves them."""
        own = self.ablation.edit(index, read)
        return super().block(
            index, x, place, prefix=prefix, read=read, edit=lambda kind, value: edit(kind, own(kind, value))
        )

    def resumed(self, states: jax.Array, start: jax.Array, place: Place, read: jax.Array, first: int) -> jax.Array:
        """Returns the states after the last norm of a run that continues a recorded one.

        Under `jax.vmap` over ablations, with one `start` for all, layer `start` attends once for all of them: its heads
        do not depend on what is removed.

        Args:
          states: [P, L, D], the input of layer `start`.
          start: int32 [], at least `first`; nothing is ablated in the layers before.
          place: the `Place` of the states, see `Decoder.begin`.
          read: int32 [P, K], the places whose states are returned.
          first: the lowest layer that `start` can be.

        Returns:
          [P, K, D].
        """
        last = self.config.num_layers - 1

        def later(x: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
            return jax.lax.cond(index > start, lambda x: self.block(index, x, place)[0], lambda x: x, x), None

        x = states
        if first < last:
            x = jax.lax.cond(start < last, lambda x: self.block(start, x, place)[0], lambda x: x, x)
            x, _ = jax.lax.scan(later, x, jnp.arange(first + 1, last))
        x, _ = self.block(last, x, place, read=read)
        return self.norm(self.params["norm"], x)


@functools.partial(jax.jit, static_argnames=("layers", "kinds", "mean"))
def record(
    model: Decoder,
    tokens: jax.Array,
    segments: jax.Array,
    *,
    layers: tuple[int, ...],
    kinds: tuple[str, ...],
    mean: str | None = None,
) -> Parts:
    """Records the parts of S layers in one run up to the last of them.

    Args:
      model: a decoder.
      tokens, segments: int32 [P, L], as `Decoder.states` takes them.
      layers: the sorted numbers of the layers.
      kinds: the kinds of parts to record (see `Decoder.block`), or "states", the inputs of the layers.
      mean: "tokens" takes the mean over all real tokens [S, 1, 1, ...], "prompts" over the prompts at each position
        [S, 1, L, ...]; None takes no mean.

    Returns:
      By kind, "heads" [S, P, L, H, A], "neurons" [S, P, L, M], the others [S, P, L, D]; or their means.
    """
    x, place = model.begin(tokens, segments)
    there = (segments >= 0).astype(jnp.float32)

    def reduced(value: jax.Array) -> jax.Array:
        if mean is None:
            return value
        weight = there.reshape(*there.shape, *(1,) * (value.ndim - 2))
        axes = (0, 1) if mean == "tokens" else (0,)
        total = (value * weight).sum(axis=axes, keepdims=True)
        return (total / jnp.maximum(weight.sum(axis=axes, keepdims=True), 1)).astype(value.dtype)

    def step(x: jax.Array, index: jax.Array, recording: bool) -> tuple[jax.Array, Any]:
        seen: Parts = {}

        def note(kind: str, value: jax.Array) -> jax.Array:
            if recording and kind in kinds:
                seen[kind] = reduced(value)
            return value

        note("states", x)
        after, _ = model.block(index, x, place, edit=note)
        return after, seen

    # Neighbouring layers are scanned together, so that nothing is kept of layers that are not recorded.
    wanted, found = set(layers), []
    for recording, run in itertools.groupby(range(max(layers) + 1), wanted.__contains__):
        x, outputs = jax.lax.scan(functools.partial(step, recording=recording), x, jnp.array(list(run)))
        if recording:
            found.append(outputs)
    parts: Parts = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)
    return parts
