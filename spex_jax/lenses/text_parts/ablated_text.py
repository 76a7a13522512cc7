"""Values that a model gives to ablated texts: pure functions of masks, as pytrees."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from spex_jax.lenses.text_parts.layout import Template
from spex_jax.lenses.values import logit_and_margin, value_of_answers, watched
from spex_jax.models.protocols import Classifier, HiddenStates

__all__ = ["AblatedAnswer", "AblatedClass"]

_LOGITS = 2**26  # logits that are in memory at once


def _partly(batch: tuple[jax.Array, ...]) -> bool:
    """Returns whether the masks of a batch say how far units are kept, in floats."""
    return bool(jnp.issubdtype(batch[0].dtype, jnp.floating))


def _with_slots(template: Template, batch: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns masks bool [B, S, width] and used bool [B, S] of a batch of the engine."""
    if template.kind == "packed":
        masks, used = batch
        return masks, used
    return batch[0][:, None], jnp.ones((len(batch[0]), 1), jnp.bool_)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["model", "template", "target", "contrast"],
    meta_fields=["value"],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class AblatedClass:
    """Maps masks to values of a class; all texts of one padded shape share a program.

    Masks are bool [B, width] and values float32 [B]. With a packed template masks are bool [B, S, width], there is a
    second argument used bool [B, S], and values are [B, S]. `target` and `contrast` are int32 []. With a model that
    takes `PartlyKept`, masks may also be float32 [B, width], the share to which each unit is kept, for values [B].
    """

    identity_name: ClassVar[str] = "spex_jax.AblatedClass"

    model: Any
    template: Template
    target: jax.Array
    contrast: jax.Array
    value: str

    def of(self, model: Any) -> "AblatedClass":
        """Returns the same function for another model."""
        return dataclasses.replace(self, model=model)

    def logits(self, *batch: jax.Array) -> jax.Array:
        """Returns class logits [B, S, C]; S is 1 for masks of floats."""
        if _partly(batch):
            rows, partly = self.template.partly(batch[0])
            found: jax.Array = self.model.classify(rows.tokens, rows.positions, rows.segments, 1, partly)
            return found
        masks, used = _with_slots(self.template, batch)
        rows = self.template.rows(masks, used)
        if isinstance(self.model, Classifier):
            return self.model.classify(rows.tokens, rows.positions, rows.segments, masks.shape[1])
        logits: jax.Array = self.model(rows.tokens, rows.segments >= 0)
        return logits[:, None]

    def __call__(self, *batch: jax.Array) -> jax.Array:
        """Returns the values; see the class."""
        values = watched(self.logits(*batch), self.value, self.target, self.contrast)
        return values if self.template.kind == "packed" and not _partly(batch) else values[:, 0]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["model", "template", "prefix_tokens", "prefix", "sources", "tokens", "weight"],
    meta_fields=["value"],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class AblatedAnswer:
    """Maps masks to values of an answer, in the shapes of `AblatedClass`.

    Attributes:
      model: one with `HiddenStates`, or any function tokens, attention_mask -> logits [B, L, V].
      prefix_tokens, prefix: the tokens before the template, int32 [P], and their keys and values; None where there
        are none.
      sources: int32 [K], the place in the template after which each token of the answers is expected, -1 for the
        last token of the prompt.
      tokens, weight: int32 [K] and float32 [K], see `value_of_answers`.
    """

    identity_name: ClassVar[str] = "spex_jax.AblatedAnswer"

    model: Any
    template: Template
    prefix_tokens: jax.Array | None
    prefix: Any
    sources: jax.Array
    tokens: jax.Array
    weight: jax.Array
    value: str

    def without_derived(self) -> "AblatedAnswer":
        """Returns a copy without the keys and values, which follow from the rest."""
        return dataclasses.replace(self, prefix=None)

    def of(self, model: Any) -> "AblatedAnswer":
        """Returns the same function for another model, with keys and values of its own."""
        prefix = None
        if self.prefix_tokens is not None:
            prefix = model.prefix(self.prefix_tokens, jnp.arange(len(self.prefix_tokens)))
        return dataclasses.replace(self, model=model, prefix=prefix)

    def __call__(self, *batch: jax.Array) -> jax.Array:
        """Returns the values; see `AblatedClass`."""
        if _partly(batch):
            rows, partly = self.template.partly(batch[0])
            every = self.model.states(
                *(rows.tokens, rows.positions, rows.segments, rows.branches), prefix=self.prefix, partly=partly
            )
            weights = self.template.sources(self.sources, partly).astype(every.dtype)
            states = jnp.einsum("bkl,bld->bkd", weights, every, precision=jax.lax.Precision.HIGHEST)
            return self.measured(states[:, None])[:, 0]
        masks, used = _with_slots(self.template, batch)
        if isinstance(self.model, HiddenStates):
            values = self.measured(self.states(masks, used))
        else:
            rows = self.template.rows(masks, used)
            places = rows.read(self.sources, self.template.branch)
            logits = self.model(rows.tokens, rows.segments >= 0)
            read = jnp.take_along_axis(logits, places.reshape(len(places), -1, 1), axis=1)
            read = read.reshape(*places.shape, -1)
            values = self._values(*logit_and_margin(read, jnp.broadcast_to(self.tokens, places.shape)))
        return values if self.template.kind == "packed" else values[:, 0]

    def states(self, masks: jax.Array, used: jax.Array) -> jax.Array:
        """Returns the states [B, S, K, D] of a model with `HiddenStates` that predict the tokens of the answers, for
        masks bool [B, S, width], of which those `used` bool [B, S] count; S is 1 unless the template is packed.
        """
        rows = self.template.rows(masks, used)
        places = rows.read(self.sources, self.template.branch)
        states: jax.Array = self.model.states(
            rows.tokens,
            rows.positions,
            rows.segments,
            rows.branches,
            read=places.reshape(len(places), -1),
            prefix=self.prefix,
        )
        return states.reshape(*places.shape, -1)

    def measured(self, states: jax.Array) -> jax.Array:
        """Returns values float32 [B, S] of states [B, S, K, D]; computes as many logits at once as `_LOGITS` allows."""
        flat = states.reshape(-1, states.shape[-1])
        expected = jnp.broadcast_to(self.tokens, states.shape[:-1]).reshape(-1)

        def score(state: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
            return logit_and_margin(self.model.logits(state), token)

        one = jax.eval_shape(self.model.logits, jax.ShapeDtypeStruct(flat.shape[1:], flat.dtype))
        at_once = max(1, _LOGITS // one.size)
        if len(flat) <= at_once:
            scores = score(flat, expected)
        else:
            scores = jax.lax.map(lambda pair: score(*pair), (flat, expected), batch_size=at_once)
        return self._values(*(part.reshape(states.shape[:-1]) for part in scores))

    def _values(self, logit: jax.Array, margin: jax.Array) -> jax.Array:
        return value_of_answers(self.value, logit, margin, self.weight)
