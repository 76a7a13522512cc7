"""Protocols of the text models and tokenizers that lenses use, and functions that read their optional attributes.

A model is a function tokens int32 [B, L], attention_mask bool [B, L] -> logits. A model that also has the methods of
these protocols is evaluated with them, which takes less time. In the shape descriptions, B denotes rows, L positions
and S texts of a row, C classes, K places read, D the width of the model, P positions of a prefix, V the vocabulary.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax

__all__ = [
    "ChatTokenizer",
    "Classifier",
    "HiddenStates",
    "PrefixModel",
    "SpecialTokens",
    "Tokenizer",
    "class_names_of",
    "decoded",
    "max_length_of",
    "special_tokens_of",
    "takes_partly_kept",
    "token_name",
    "vocabulary_of",
    "width_of",
]

_UNLIMITED = 10**9
_WIDTH = 256  # for a model that does not state its own


@runtime_checkable
class Classifier(Protocol):
    """A model that classifies several texts in a row, as `Encoder` does."""

    def classify(self, tokens: jax.Array, positions: jax.Array, segments: jax.Array, slots: int) -> jax.Array:
        """Returns the class logits float32 [B, S, C]; see `Encoder.classify`."""


@runtime_checkable
class HiddenStates(Protocol):
    """A causal language model that returns states of several texts in a row, and the logits of chosen states."""

    def states(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        branches: jax.Array | None = None,
        *,
        read: jax.Array | None = None,
        prefix: Any = None,
    ) -> jax.Array:
        """Returns the states [B, K, D]; see `Decoder.states`."""

    def logits(self, states: jax.Array) -> jax.Array:
        """Returns the logits float32 [..., V] of states [..., D]."""


@runtime_checkable
class PrefixModel(HiddenStates, Protocol):
    """A model that computes the common beginning of all rows once, and takes it as the `prefix` of `states`."""

    def prefix(self, tokens: jax.Array, positions: jax.Array) -> Any:
        """Returns the pytree that `states` needs for tokens int32 [P] at positions int32 [P], say keys and values."""


class Tokenizer(Protocol):
    """A tokenizer that gives the place of each token in the text, as the fast ones of Hugging Face do."""

    def __call__(
        self, text: str, *, add_special_tokens: bool = True, return_offsets_mapping: bool = False
    ) -> Mapping[str, Any]:
        """Returns "input_ids" and, on request, "offset_mapping", the span (start, end) of each token."""

    def __len__(self) -> int:
        """Returns the number of tokens in the vocabulary."""


@runtime_checkable
class ChatTokenizer(Protocol):
    """A tokenizer that renders a conversation as a text; an empty template counts as none."""

    chat_template: Any

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> Any:
        """Returns the text of messages [{"role": ..., "content": ...}]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids of a tokenizer's special tokens, None for those it lacks; `every` holds these and any others."""

    begin: int | None
    mask: int | None
    pad: int | None
    unknown: int | None
    every: frozenset[int]


def special_tokens_of(tokenizer: Tokenizer) -> SpecialTokens:
    """Returns the special tokens of a tokenizer, from the attributes that those of Hugging Face have."""
    names = {"begin": "bos_token_id", "mask": "mask_token_id", "pad": "pad_token_id", "unknown": "unk_token_id"}
    every = frozenset(map(int, getattr(tokenizer, "all_special_ids", ())))
    return SpecialTokens(every=every, **{ours: getattr(tokenizer, theirs, None) for ours, theirs in names.items()})


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """Returns the name that a tokenizer gives a token, for messages; the id where it gives none."""
    convert = getattr(tokenizer, "convert_ids_to_tokens", None)
    return str(token) if convert is None else str(convert([token])[0])


def decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Returns the text of tokens; their ids where the tokenizer has no `decode`."""
    decode = getattr(tokenizer, "decode", None)
    return " ".join(map(str, ids)) if decode is None else decode(list(ids))


def max_length_of(model: Any, tokenizer: Any = None) -> int:
    """Returns the largest number of tokens that a model, and its tokenizer if given, allow."""
    allowed = getattr(tokenizer, "model_max_length", None) or _UNLIMITED
    return min(getattr(model, "max_length", _UNLIMITED), allowed)


def vocabulary_of(model: Any) -> int | None:
    """Returns the number of tokens that a model embeds, V; None where it does not state it."""
    return getattr(getattr(model, "config", None), "vocab_size", None)


def width_of(model: Any) -> int:
    """Returns the width D of a model, which decides how long rows are; a small one where it does not state it."""
    return getattr(getattr(model, "config", None), "dim", _WIDTH)


def takes_partly_kept(model: Any) -> bool:
    """Returns whether `states` and `classify` of a model take `partly=`, a `blocks.PartlyKept`, so that the removal of
    tokens has derivatives.
    """
    return bool(getattr(model, "takes_partly_kept", False))


def class_names_of(model: Any) -> tuple[str, ...]:
    """Returns the names of a classifier's classes; () where it has none."""
    return tuple(getattr(model, "class_names", ()))
