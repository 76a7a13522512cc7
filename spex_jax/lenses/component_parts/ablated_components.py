"""Values of a network with some of its parts removed: a pure function of masks, as a pytree.

In the shape descriptions, B denotes masks, P prompts, L positions, K places of a prompt that are read, N layers, S
those that hold units, V the vocabulary.
"""

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from spex_jax.lenses.values import logit_and_margin
from spex_jax.models.components import AblatedDecoder, Ablation, Parts, record
from spex_jax.models.decoder import Decoder

__all__ = ["AblatedComponents", "Reading"]

_LOGITS = 2**26  # logits that are in memory at once


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["places", "weight", "target", "contrast", "is_choice", "clean"],
    meta_fields=["value", "per_prompt"],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """Holds what is measured, and where.

    Attributes:
      places: int32 [P, K], the tokens after which the next one is predicted.
      weight: float32 [P, K], of each place in the value of its prompt; they sum to 1 for each prompt.
      target, contrast: int32 [P, K].
      is_choice: bool [V], the tokens that the model may choose from; all where None.
      clean: float32 [P, K, V], log-probabilities of the whole network, for "kl" only.
      value: one of COMPONENT_VALUES.
      per_prompt: whether each prompt has a value of its own.
    """

    identity_name: ClassVar[str] = "spex_jax.Reading"

    places: jax.Array
    weight: jax.Array
    target: jax.Array
    contrast: jax.Array
    is_choice: jax.Array | None
    clean: jax.Array | None
    value: str
    per_prompt: bool

    def logits(self, model: Decoder, states: jax.Array) -> jax.Array:
        """Returns logits float32 [..., V] of states [..., D]; -inf for tokens that are no choice."""
        logits = model.logits(states).astype(jnp.float32)
        return logits if self.is_choice is None else jnp.where(self.is_choice, logits, -jnp.inf)

    def measured(self, model: Decoder, states: jax.Array) -> jax.Array:
        """Returns values float32 [B], or [B, P], of states [B, P, K, D]."""
        count, places = states.shape[0], math.prod(states.shape[1:3])
        flat = states.reshape(count * places, -1)
        at = jnp.tile(jnp.arange(places), count)
        at_once = max(1, _LOGITS // model.config.vocab_size)
        if len(flat) <= at_once:
            scores = self._score(model, flat, at)
        else:
            scores = jax.lax.map(lambda pair: self._score(model, *pair), (flat, at), batch_size=at_once)
        of_prompts = (scores.reshape(states.shape[:3]) * self.weight).sum(axis=-1)
        return of_prompts if self.per_prompt else of_prompts.mean(axis=-1)

    def _score(self, model: Decoder, states: jax.Array, at: jax.Array) -> jax.Array:
        """Returns the scores of states [..., D] that are read at places int32 [...] of all P K."""
        logits = self.logits(model, states)
        target = self.target.reshape(-1)[at]
        if self.value == "accuracy":
            return (logits.argmax(axis=-1) == target).astype(jnp.float32)
        if self.value == "kl":
            assert self.clean is not None
            clean = self.clean.reshape(-1, self.clean.shape[-1])[at]
            far = jnp.where(clean > -jnp.inf, clean - jax.nn.log_softmax(logits), 0.0)
            return (jnp.exp(clean) * far).sum(axis=-1)
        logit, margin = logit_and_margin(logits, target)
        if self.value == "logit_diff":
            return logit - jnp.take_along_axis(logits, self.contrast.reshape(-1)[at][..., None], axis=-1)[..., 0]
        logprob = -jax.nn.softplus(-margin)
        return {"logit": logit, "margin": margin, "logprob": logprob, "loss": -logprob}[self.value]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "model",
        "tokens",
        "segments",
        "source",
        "entering",
        "instead",
        "slot",
        "starts",
        "first",
        "unit",
        "at",
        "reading",
    ],
    meta_fields=["earliest", "removal"],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class AblatedComponents:
    """Maps masks bool [B, n] to values float32 [B], or [B, P]. Masks of floats mix a part with its replacement, and the
    values are differentiable in them.

    Attributes:
      model: a decoder.
      tokens, segments: int32 [P, L].
      source: the prompts whose parts replace removed ones: tokens and segments int32 [R, L]; None for zero.
      entering: [T, P, L, D], the states that enter the layers `starts`.
      instead: the parts of `source` in the layers that hold units, see `Ablation`.
      slot: int32 [N], the place of each layer among S.
      starts: int32 [T], the layers at which a run may begin.
      first: int32 [n], for each unit the place among T of the last layer that is not behind its first part.
      unit: by kind, the unit of each part, -1 where it is always kept: int32 [N, H], [N, M] or [N].
      at: bool [P, L], the positions at which parts are removed; all where None.
      reading: what is measured, and where.
      earliest: the first of `starts`.
      removal: what replaces removed parts; with `source` it determines what `instead` holds.
    """

    identity_name: ClassVar[str] = "spex_jax.AblatedComponents"

    model: Decoder
    tokens: jax.Array
    segments: jax.Array
    source: tuple[jax.Array, jax.Array] | None
    entering: jax.Array
    instead: Parts
    slot: jax.Array
    starts: jax.Array
    first: jax.Array
    unit: Parts
    at: jax.Array | None
    reading: Reading
    earliest: int
    removal: str

    def without_derived(self) -> "AblatedComponents":
        """Returns a copy without the arrays that follow from the rest."""
        reading = dataclasses.replace(self.reading, clean=None)
        return dataclasses.replace(self, entering=jnp.zeros(()), instead={}, reading=reading)

    def of(self, model: Decoder, layers: tuple[int, ...]) -> "AblatedComponents":
        """Returns the same function for another model, whose own runs give the replacements of removed parts in the
        `layers` that hold units; `entering` and `reading` stay as they are.
        """
        instead: Parts = {}
        if self.source is not None:
            mean = self.removal.removeprefix("mean over ") if self.removal.startswith("mean") else None
            instead = record(model, *self.source, layers=layers, kinds=tuple(self.unit), mean=mean)
        return dataclasses.replace(self, model=model, instead=instead)

    def ablated(self, mask: jax.Array) -> AblatedDecoder:
        """Returns the model without the parts that a mask [n] removes."""
        share = mask.astype(jnp.float32)
        keep = {kind: jnp.where(unit < 0, 1.0, share[jnp.maximum(unit, 0)]) for kind, unit in self.unit.items()}
        rescaled = self.removal == "zero_rescaled"
        ablation = Ablation(keep=keep, instead=self.instead, slot=self.slot, at=self.at, rescaled=rescaled)
        return AblatedDecoder(params=self.model.params, config=self.model.config, ablation=ablation)

    def states(self, masks: jax.Array) -> jax.Array:
        """Returns the states [B, P, K, D] at the places that are read."""
        differentiable = jnp.issubdtype(masks.dtype, jnp.floating)
        # Masks of one batch begin where the first of them removes something; see `DeviceOptions.order_of`.
        slot = jnp.zeros((), jnp.int32)
        if not differentiable:
            slot = jnp.where(masks, len(self.starts) - 1, self.first).min()
        _, place = self.model.begin(self.tokens, self.segments)

        def resumed(mask: jax.Array) -> jax.Array:
            entering, start = self.entering[slot], self.starts[slot]
            return self.ablated(mask).resumed(entering, start, place, self.reading.places, self.earliest)

        return jax.vmap(resumed)(masks)

    def __call__(self, masks: jax.Array) -> jax.Array:
        """Returns the values; see the class."""
        return self.reading.measured(self.model, self.states(masks))

    def anew(self, masks: jax.Array) -> jax.Array:
        """Returns the same values without `entering`: all layers are computed for every mask, for a model that is used
        only a few times.
        """

        def states(mask: jax.Array) -> jax.Array:
            positions = jnp.arange(self.tokens.shape[1])
            return self.ablated(mask).states(self.tokens, positions, self.segments, read=self.reading.places)

        return self.reading.measured(self.model, jax.vmap(states)(masks))
