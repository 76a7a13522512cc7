"""Ablated texts and what a model says of them: pure functions of masks, as pytrees."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from spex_jax.lenses.layout import Rows, Template
from spex_jax.lenses.values import logit_and_margin, value_of_answers, watched
from spex_jax.models.decoder import Decoder, KeyValues

__all__ = ["AblatedAnswer", "AblatedClass"]

_LOGITS = 2**26  # logits that are in memory at once


def _with_slots(template: Template, batch: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    """Masks bool [B, S, width] and used bool [B, S] of the engine's batches."""
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
    """Masks -> values of a class: all texts of one padded shape share a program.

    Masks are bool [B, width] and values float32 [B]; with a packed template masks are bool [B, S, width], there is a
    second argument used bool [B, S], and values are [B, S]. target and contrast are int32 [].
    """

    model: Any
    template: Template
    target: jax.Array
    contrast: jax.Array
    value: str

    def logits(self, *batch: jax.Array) -> jax.Array:
        """Class logits [B, S, C]."""
        masks, used = _with_slots(self.template, batch)
        rows = self.template.rows(masks, used)
        if hasattr(self.model, "classify"):
            return self.model.classify(rows.tokens, rows.positions, rows.segments, masks.shape[1])
        return self.model(rows.tokens, rows.segments >= 0)[:, None]

    def __call__(self, *batch: jax.Array) -> jax.Array:
        """Values; see the class."""
        values = watched(self.logits(*batch), self.value, self.target, self.contrast)
        return values if self.template.kind == "packed" else values[:, 0]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["model", "template", "prefix_tokens", "prefix", "sources", "tokens", "weight"],
    meta_fields=["value"],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class AblatedAnswer:
    """Masks -> values of an answer, as `AblatedClass`.

    Attributes:
      model: a `Decoder`, or any function tokens, attention_mask -> logits [B, L, V].
      prefix_tokens, prefix: what comes before the template, int32 [P], and its keys and values; None where nothing
        does.
      sources: int32 [K], the place in the template after which each token of the answers is expected, -1 for the
        prompt's last.
      tokens, weight: int32 [K] and float32 [K], see `value_of_answers`.
    """

    model: Any
    template: Template
    prefix_tokens: jax.Array | None
    prefix: KeyValues | None
    sources: jax.Array
    tokens: jax.Array
    weight: jax.Array
    value: str

    def without_derived(self) -> "AblatedAnswer":
        """Without the keys and values, which follow from the rest."""
        return dataclasses.replace(self, prefix=None)

    def __call__(self, *batch: jax.Array) -> jax.Array:
        """Values; see `AblatedClass`."""
        masks, used = _with_slots(self.template, batch)
        rows = self.template.rows(masks, used)
        places = rows.read(self.sources, self.template.branch)
        read = places.reshape(len(places), -1)
        expected = jnp.broadcast_to(self.tokens, places.shape).reshape(-1)
        if isinstance(self.model, Decoder):
            states = self.model.states(
                rows.tokens, rows.positions, rows.segments, rows.branches, read=read, prefix=self.prefix
            )
            scores = self._scores(self.model.logits, states.reshape(len(expected), -1), expected)
        else:
            logits = self._called(rows, read)
            scores = logit_and_margin(logits.reshape(len(expected), -1), expected)
        logit, margin = (score.reshape(places.shape) for score in scores)
        values = value_of_answers(self.value, logit, margin, self.weight)
        return values if self.template.kind == "packed" else values[:, 0]

    def _called(self, rows: Rows, read: jax.Array) -> jax.Array:
        logits = self.model(rows.tokens, rows.segments >= 0)
        return jnp.take_along_axis(logits, read[..., None], axis=1)

    def _scores(
        self, logits_of: Callable[[jax.Array], jax.Array], states: jax.Array, expected: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Logit and margin of each expected token after a state [N, D], a part of the states at a time."""

        def score(state: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
            return logit_and_margin(logits_of(state), token)

        at_once = max(1, _LOGITS // self.model.config.vocab_size)
        if len(states) <= at_once:
            return score(states, expected)
        return jax.lax.map(lambda pair: score(*pair), (states, expected), batch_size=at_once)
