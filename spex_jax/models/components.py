"""A decoder as layers of parts: what its parts do in one run, and runs in which parts are scaled or replaced.

In the shape descriptions, P denotes prompts, L positions, D the width of the model, N layers, S the layers that hold
parts to be ablated, K places that are read.
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
    """How much of the parts of every layer is kept, of one mask.

    Attributes:
      keep: by kind (see `Decoder.block`), of a float type: "heads" [N, H], "neurons" [N, M], "attention" and "mlp" [N];
        1 keeps a part, 0 removes it, between them the two are mixed.
      instead: by kind, what stands for a removed part; nothing (zero) where the kind is missing. [S, P or 1, L or 1, H,
        A] of heads, [S, P or 1, L or 1, M or D] of the others.
      slot: int32 [N], the place of a layer among S.
      at: bool [P, L], the positions at which parts are ablated; all where None.
      rescaled: whether what is kept of a layer's heads or neurons is multiplied by the share of them that is kept.
    """

    identity_name: ClassVar[str] = "spex_jax.Ablation"

    keep: Parts
    instead: Parts
    slot: jax.Array
    at: jax.Array | None
    rescaled: bool = dataclasses.field(default=False, metadata={"static": True})

    def edit(self, index: Any, read: jax.Array | None = None) -> Edit:
        """For layer `index` of `Decoder.block`; `read` int32 [P, K] as there."""

        def places(x: jax.Array) -> jax.Array:
            """Of [P or 1, L or 1, ...] those that are read."""
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
    """A decoder some of whose parts are ablated in whatever it is asked: states, keys and values of a prefix, logits.

    An `ablation` that stands for single positions (`at`, or what stands `instead` at each of them) is of prompts of
    that shape alone.
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
        """As `Decoder.block`; `edit` gets the parts as the ablation leaves them."""
        own = self.ablation.edit(index, read)
        return super().block(
            index, x, place, prefix=prefix, read=read, edit=lambda kind, value: edit(kind, own(kind, value))
        )

    def resumed(self, states: jax.Array, start: jax.Array, place: Place, read: jax.Array, first: int) -> jax.Array:
        """States after the last norm of a run that goes on from a recorded one.

        Under `jax.vmap` over ablations, with one `start` for all, layer `start` attends once for all of them: its heads
        do not depend on what is removed.

        Args:
          states: [P, L, D], which enter layer `start`.
          start: int32 [], at least `first`; nothing is ablated in the layers before.
          place: of the states, see `Decoder.begin`.
          read: int32 [P, K].
          first: the first layer of all that `start` can be.

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
    """What the parts of S layers do, in one run up to the last of them.

    Args:
      model: a decoder.
      tokens, segments: int32 [P, L], as `Decoder.states` takes them.
      layers: sorted numbers.
      kinds: of parts that are recorded (see `Decoder.block`), or "states", what enters the layers.
      mean: "tokens", the mean over all real tokens [S, 1, 1, ...]; "prompts", over the prompts at each position
        [S, 1, L, ...]; None all of them.

    Returns:
      By kind, "heads" [S, P, L, H, A], "neurons" [S, P, L, M], the others [S, P, L, D]; or means.
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

    # Runs of neighbouring layers, so that nothing is kept of the layers between them.
    wanted, found = set(layers), []
    for recording, run in itertools.groupby(range(max(layers) + 1), wanted.__contains__):
        x, outputs = jax.lax.scan(functools.partial(step, recording=recording), x, jnp.array(list(run)))
        if recording:
            found.append(outputs)
    parts: Parts = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)
    return parts
