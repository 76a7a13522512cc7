"""Answers of a language model after a prompt: given ones, or the model's own."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.lenses.text_parts.prompt import Prompt, encode
from spex_jax.models.decoder import Decoder, generate
from spex_jax.models.protocols import Tokenizer, decoded, special_tokens_of

__all__ = ["Answer", "answer_of", "own_answer"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Holds the tokens that follow a prompt, and their text."""

    ids: tuple[int, ...]
    text: str


def answer_of(tokenizer: Tokenizer, prompt: Prompt, given: Any, vocab_size: int, role: str) -> Answer:
    """Returns a given answer.

    A text is tokenised together with the prompt before it, unless its first letters merge into the last token of the
    prompt; then it is tokenised alone.

    Args:
      tokenizer: the tokenizer of the model.
      prompt: the prompt before the answer.
      given: a text, a token id or a list of ids.
      vocab_size: ids must be below it.
      role: "target" or "contrast", for messages.

    Raises:
      ValueError: the answer has no tokens, an unknown token, or another type.
    """
    if isinstance(given, str):
        if not given:
            raise ValueError(f"{role} is an empty text; give an answer, or leave target out for the model's own")
        together, offsets = encode(tokenizer, prompt.text + given, special=not prompt.chat)
        own = prompt.ids[prompt.begun :].tolist()
        cut = next((i for i, (start, end) in enumerate(offsets) if end > len(prompt.text) and end > start), len(own))
        if together[:cut] == own[:cut] and offsets[cut:] and offsets[cut][0] >= len(prompt.text):
            inside = [end > start for start, end in offsets[cut:]]  # not an EOS that the tokenizer adds
            ids = [token for token, real in zip(together[cut:], inside, strict=True) if real]
        else:
            ids = encode(tokenizer, given, special=False)[0]
        if not ids:
            raise ValueError(f"{role} {given!r} has no tokens; the tokenizer sees nothing in it")
        unknown = special_tokens_of(tokenizer).unknown
        if unknown is not None and unknown in ids:
            raise ValueError(f"{role} {given!r} cannot be encoded: the tokenizer has no token for a part of it")
    else:
        ids = list(given) if isinstance(given, list | tuple | np.ndarray) else [given]
        if not ids:
            raise ValueError(f"{role} is an empty list; give an answer, or leave target out for the model's own")
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int | np.integer) or not 0 <= token < vocab_size:
                raise ValueError(f"{role} must be a text or ids from 0 to {vocab_size - 1}, got {token!r}")
    found = tuple(map(int, ids))
    return Answer(found, given if isinstance(given, str) else decoded(tokenizer, found))


def own_answer(model: Any, tokenizer: Tokenizer, prompt: Prompt, most: int, context: int) -> Answer:
    """Returns the model's own greedy answer; any special token ends it.

    Raises:
      ValueError: the answer is empty, or there is no room for it.
    """
    stops = special_tokens_of(tokenizer).every
    if isinstance(model, Decoder):
        ids = generate(model, prompt.ids, most=most, stops=tuple(sorted(stops)))
    else:
        ids = _continued(model, prompt.ids, min(most, context - len(prompt.ids)), stops)
    if not ids:
        raise ValueError("the model's own answer is empty (it stops at once); give target=")
    return Answer(tuple(ids), decoded(tokenizer, ids))


def _continued(model: Callable[..., jax.Array], prompt: np.ndarray, most: int, stops: frozenset[int]) -> list[int]:
    """Returns the greedy answer of a function tokens, attention_mask -> logits [B, L, V], one token for each call."""
    tokens = jnp.asarray(np.pad(prompt, (0, most))[None])
    ids: list[int] = []

    @jax.jit
    def following(tokens: jax.Array, length: jax.Array) -> jax.Array:
        return model(tokens, jnp.arange(tokens.shape[1])[None] < length)[0, length - 1].argmax()

    for length in range(len(prompt), len(prompt) + most):
        token = int(following(tokens, jnp.asarray(length)))
        if token in stops:
            break
        tokens = tokens.at[0, length].set(token)
        ids.append(token)
    return ids
