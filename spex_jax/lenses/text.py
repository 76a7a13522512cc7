"""The text lens: which units of a text act together in a classifier's decision."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.lenses.units import UNITS, assign_tokens, find_units
from spex_jax.lenses.value_function import ValueFunction
from spex_jax.lenses.values import check_value, choose_classes, watched

__all__ = ["REMOVALS", "text"]

REMOVALS = ("mask",)
_BUCKET = 16  # tokens and units are padded to multiples, so that texts of similar length share one program


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["model", "tokens", "attention", "unit", "mask_id", "target", "contrast"],
    meta_fields=["value"],
)
@dataclasses.dataclass(frozen=True)
class _MaskedText:
    """Masks [B, width] -> values [B]: a pytree, so that all texts of one padded shape share a program.

    tokens int32 [L], attention bool [L], unit int32 [L] (-1: always kept), target and contrast int32 [].
    """

    model: Callable[[jax.Array, jax.Array], jax.Array]
    tokens: jax.Array
    attention: jax.Array
    unit: jax.Array
    mask_id: jax.Array
    target: jax.Array
    contrast: jax.Array
    value: str

    def logits(self, masks: jax.Array) -> jax.Array:
        """Class logits [B, C] of the text with the units that are not kept replaced by the mask token."""
        kept = (self.unit < 0) | masks[:, jnp.maximum(self.unit, 0)]
        tokens = jnp.where(kept, self.tokens, self.mask_id)
        attention = jnp.broadcast_to(self.attention, tokens.shape)
        return self.model(tokens, attention)

    def __call__(self, masks: jax.Array) -> jax.Array:
        """Values float32 [B]."""
        return watched(self.logits(masks), self.value, self.target, self.contrast)


@jax.jit
def _logits_of_full(fn: _MaskedText, masks: jax.Array) -> jax.Array:
    return fn.logits(masks)


def _pad(array: np.ndarray, length: int, fill: int) -> np.ndarray:
    return np.pad(array, (0, length - len(array)), constant_values=fill)


def _encode(tokenizer: Any, content: str) -> tuple[list[int], list[tuple[int, int]]]:
    try:
        encoded = tokenizer(content, return_offsets_mapping=True)
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"the tokenizer {type(tokenizer).__name__} gives no character offsets; use a fast tokenizer "
            "(transformers.AutoTokenizer with use_fast=True)"
        ) from error
    return list(encoded["input_ids"]), [(int(start), int(end)) for start, end in encoded["offset_mapping"]]


def _mask_token(tokenizer: Any) -> int:
    for name in ("mask_token_id", "pad_token_id", "unk_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            return int(token)
    raise ValueError("removal 'mask' needs a tokenizer with a mask, pad or unk token; this one has none")


def text(
    model: Any,
    tokenizer: Any,
    text_or_messages: str,
    *,
    units: str = "word",
    removal: str = "mask",
    target: int | str | None = None,
    contrast: int | str | None = None,
    value: str = "logprob",
) -> ValueFunction:
    """Value function of a text: its units are kept or removed, the model's answer is the value.

    Args:
      model: a pure JAX function, model(tokens int32 [B, L], attention_mask bool [B, L]) -> class logits [B, C]. One
        that is a registered pytree, as `spex_jax.models.tiny()` is, shares its compiled program between texts.
      tokenizer: with the call of the Hugging Face fast tokenizers (input_ids, offset_mapping) and mask_token_id.
      text_or_messages: the text.
      units: "token", "word" (a run between white space, with its punctuation) or "sentence".
      removal: "mask": every token of a removed unit becomes the tokenizer's mask token (else its pad or unk token);
        positions stay.
      target: class number or name; None is the class that the whole text gets.
      contrast: the class that "logit_diff" subtracts; for that value only.
      value: of the target class y, "logit" z_y, "margin" z_y - logsumexp of the others, "logprob" log softmax, or
        "logit_diff" z_y - z_contrast.

    Raises:
      ValueError: an unknown option, a text with no units or longer than the model's context, a target that is no class.
    """
    for name, given, known in (("units", units, UNITS), ("removal", removal, REMOVALS)):
        if given not in known:
            raise ValueError(f"unknown {name} {given!r}; expected one of {', '.join(known)}")
    if not isinstance(text_or_messages, str):
        raise ValueError(f"the text lens explains a string, got {type(text_or_messages).__name__}")
    check_value(value, contrast)
    if not callable(model):
        raise ValueError(f"the model must be callable (tokens, attention_mask -> logits), got {type(model).__name__}")
    content = text_or_messages
    ids, offsets = _encode(tokenizer, content)
    spans = find_units(content, units, offsets)
    unit = assign_tokens(offsets, spans)
    present = np.unique(unit[unit >= 0])  # a unit of invisible characters may have no token, and so no influence
    if not len(present):
        raise ValueError(f"the text has no {units}s to remove: {content!r:.60}")
    unit = np.where(unit >= 0, np.searchsorted(present, unit), -1)
    spans = [spans[position] for position in present]
    context = min(getattr(model, "max_length", 10**9), getattr(tokenizer, "model_max_length", None) or 10**9)
    if len(ids) > context:
        raise ValueError(
            f"the text has {len(ids)} tokens and the model's context is {context}; "
            "shorten the text, or use a model with a longer context"
        )

    length = min(-(-len(ids) // _BUCKET) * _BUCKET, context)
    fn = _MaskedText(
        model=jax.tree_util.Partial(model) if jax.tree_util.all_leaves([model]) else model,
        tokens=jnp.asarray(_pad(np.array(ids, np.int32), length, getattr(tokenizer, "pad_token_id", None) or 0)),
        attention=jnp.asarray(_pad(np.ones(len(ids), np.bool_), length, False)),
        unit=jnp.asarray(_pad(unit.astype(np.int32), length, -1)),
        mask_id=jnp.asarray(_mask_token(tokenizer), jnp.int32),
        target=jnp.asarray(0, jnp.int32),
        contrast=jnp.asarray(0, jnp.int32),
        value=value,
    )
    width = -(-len(spans) // _BUCKET) * _BUCKET
    full = np.asarray(_logits_of_full(fn, np.ones((1, width), np.bool_)), np.float32)
    if full.ndim != 2:
        raise ValueError(
            f"the text lens needs a classifier, logits of shape [B, C]; the model gave {full.shape} for one text"
        )
    chosen, against, classes = choose_classes(model, full[0], target, contrast)
    fn = dataclasses.replace(fn, target=jnp.asarray(chosen, jnp.int32), contrast=jnp.asarray(against, jnp.int32))
    return ValueFunction(
        fn,
        len(spans),
        names=[content[start:end] for start, end in spans],
        on_device=True,
        width=width,
        details={
            "text": content,
            "spans": [list(span) for span in spans],
            "units": units,
            "removal": removal,
            "value": value,
            **classes,
        },
    )
