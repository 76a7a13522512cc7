"""Prompts of token ids as one padded batch, and places in them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.lenses.text_parts.layout import rounded
from spex_jax.models.decoder import Decoder

__all__ = ["PromptBatch", "at_places", "prompt_batch", "token_ids"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Holds P prompts.

    Attributes:
      tokens, segments: int32 [P, L], padded on the right; segments are 0, and -1 for padding.
      lengths: int64 [P].
      columns: for each prompt, the places of its tokens in the array that was given.
      width: the width of that array; for lists, of the longest.
    """

    tokens: jax.Array
    segments: jax.Array
    lengths: np.ndarray
    columns: tuple[np.ndarray, ...]
    width: int

    @property
    def count(self) -> int:
        """The number of prompts, P."""
        return len(self.lengths)

    def shown_lengths(self) -> str:
        """Returns the lengths, for messages."""
        return ", ".join(map(str, self.lengths[:8])) + (", ..." if self.count > 8 else "")

    def chosen(self, positions: Any) -> np.ndarray:
        """Returns the positions of each prompt as bool [P, L]; they are given as numbers for all prompts, negative ones
        from the end, or as bool in the shape in which the prompts were given.

        Raises:
          ValueError: there is none, or one is outside of a prompt.
        """
        given = _array(positions, "positions")
        found = np.zeros(self.tokens.shape, np.bool_)
        if given.dtype == np.bool_:
            if given.shape != (self.count, self.width):
                raise ValueError(f"positions as bool must have the shape {(self.count, self.width)}, got {given.shape}")
            for row, (flags, columns) in enumerate(zip(given, self.columns, strict=True)):
                found[row, : len(columns)] = flags[columns]
            if found.sum() < given.sum():
                raise ValueError("positions has entries outside of the prompts, where there is padding")
        else:
            for position in np.atleast_1d(given).reshape(-1):
                found[np.arange(self.count), self._place(position, self.lengths, "positions")] = True
        if not found.any():
            raise ValueError("positions is empty: nothing would be removed; leave it out for all positions")
        return found

    @staticmethod
    def _place(given: Any, lengths: np.ndarray, role: str) -> np.ndarray:
        """Returns places int64 in the shape of `lengths`; negative numbers count from the end."""
        if isinstance(given, bool | np.bool_) or not np.issubdtype(np.asarray(given).dtype, np.integer):
            raise ValueError(f"{role} must be whole numbers, got {given!r}")
        place = np.broadcast_to(np.where(np.asarray(given) < 0, lengths + given, given), lengths.shape)
        wrong = (place < 0) | (place >= lengths)
        if wrong.any():
            raise ValueError(
                f"{role} has {np.broadcast_to(given, lengths.shape)[wrong][0]}, outside of a prompt of "
                f"{lengths[wrong][0]} tokens, 0 to {lengths[wrong][0] - 1}"
            )
        return place

    def places(self, read: Any, *, successors: bool) -> tuple[np.ndarray, np.ndarray]:
        """Returns places int32 [P, K] and their weights float32 [P, K], which sum to 1 for each prompt.

        Args:
          read: a number, one for each prompt, or [P, K]; None is the last place, or all that have a next token.
          successors: whether a place needs a next token in its prompt.

        Raises:
          ValueError: the shape is another, or a place is outside of its prompt or has no next token.
        """
        if read is None and not successors:
            read = -1
        if read is None:
            if self.lengths.min() < 2:
                raise ValueError("value 'loss' is read where a token has a next one; give prompts of at least 2 tokens")
            places = np.broadcast_to(np.arange(self.lengths.max() - 1), (self.count, self.lengths.max() - 1))
            there = places < self.lengths[:, None] - 1
            weight = there / there.sum(axis=1, keepdims=True)
            return np.where(there, places, 0).astype(np.int32), weight.astype(np.float32)
        given = _array(read, "read")
        if given.ndim == 1:
            given = given[:, None]
        if given.ndim not in (0, 2) or (given.ndim == 2 and len(given) != self.count) or not given.size:
            raise ValueError(
                f"read must be a number, one for each of the {self.count} prompts, or [{self.count}, K]; got shape "
                f"{np.shape(read)}"
            )
        lengths = np.broadcast_to(self.lengths[:, None], (self.count, given.shape[1] if given.ndim else 1))
        places = self._place(given, lengths, "read")
        if successors and (places + 1 >= lengths).any():
            raise ValueError("read has the last token of a prompt, which has no next one to be the target; give target")
        return places.astype(np.int32), np.full(places.shape, 1 / places.shape[1], np.float32)

    def next_of(self, places: np.ndarray) -> np.ndarray:
        """Returns the tokens int32 [P, K] after places [P, K]."""
        return np.take_along_axis(np.asarray(self.tokens), places + 1, axis=1)


def _array(given: Any, role: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{role} must be numbers of one shape, got lists of different lengths") from error


def token_ids(given: Any, vocabulary: int, role: str) -> np.ndarray:
    """Returns checked ids, int32 of any shape.

    Raises:
      ValueError: there are none, they are not whole numbers, or one is outside of the vocabulary.
    """
    found = _array(given, role)
    if not found.size or not np.issubdtype(found.dtype, np.integer):
        shown = "nothing" if not found.size else f"{given!r}" if found.size < 8 else f"dtype {found.dtype}"
        raise ValueError(f"{role} must be token ids (whole numbers), got {shown}; call the tokenizer first")
    if found.min() < 0 or found.max() >= vocabulary:
        wrong = found.min() if found.min() < 0 else found.max()
        raise ValueError(f"{role} has the token {wrong}; the model's vocabulary is 0 to {vocabulary - 1}")
    return found.astype(np.int32)


def at_places(given: Any, shape: tuple[int, ...], vocabulary: int, role: str) -> np.ndarray:
    """Returns tokens int32 [P, K], given as one id, one for each prompt, or [P, K].

    Raises:
      ValueError: the shape is another; see `token_ids`.
    """
    found = token_ids(given, vocabulary, role)
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim > 2 or (found.ndim == 2 and (len(found) != shape[0] or found.shape[1] not in (1, shape[1]))):
        raise ValueError(
            f"{role} must be one token id, one for each of the {shape[0]} prompts, or {list(shape)} for each place "
            f"that is read; got shape {np.shape(given)}"
        )
    return np.broadcast_to(found, shape)


def prompt_batch(model: Decoder, tokens: Any, attention_mask: Any, role: str) -> PromptBatch:
    """Returns prompts padded to a common length.

    Args:
      model: a decoder.
      tokens: ids: [P, L], [L], or P lists.
      attention_mask: nonzero at real tokens of [P, L], or None.
      role: what the prompts are called in messages.

    Raises:
      ValueError: there are no prompts; one is empty, longer than the context or not of ids; the mask has another shape.
    """
    if hasattr(tokens, "keys"):
        raise ValueError(f"{role} must be token ids; of a tokenizer's output give its 'input_ids'")
    if isinstance(tokens, np.ndarray) and tokens.dtype.kind == "O":  # rows of different lengths
        tokens = list(tokens)
    nested = isinstance(tokens, list | tuple) and len(tokens) > 0 and not np.isscalar(tokens[0])
    given = [np.asarray(row) for row in (tokens if nested else np.atleast_2d(np.asarray(tokens)))]
    if any(row.ndim != 1 for row in given) or np.ndim(tokens if not nested else given[0]) == 0:
        raise ValueError(f"{role} must be token ids [P, L], [L] or P lists of them, got {tokens!r:.80}")
    columns = tuple(np.arange(len(row)) for row in given)
    width = max((len(row) for row in given), default=0)
    if attention_mask is not None:
        mask = np.atleast_2d(_array(attention_mask, "attention_mask")) != 0
        if mask.shape != (len(given), width) or any(len(row) != width for row in given):
            raise ValueError(
                f"attention_mask has shape {mask.shape}; expected that of {role}, {(len(given), width)}; pad both "
                "alike, or give lists of different lengths and no mask"
            )
        columns = tuple(np.flatnonzero(kept) for kept in mask)
    if not given:
        raise ValueError(f"{role} has no prompts; give at least one")
    rows = []
    for number, (row, kept) in enumerate(zip(given, columns, strict=True)):
        if not len(kept):
            raise ValueError(f"prompt {number} of {role} has no tokens; give at least one prompt of one token or more")
        rows.append(token_ids(row[kept], model.config.vocab_size, role))
    lengths = np.array([len(row) for row in rows])
    if lengths.max() > model.max_length:
        raise ValueError(
            f"a prompt of {role} has {lengths.max()} tokens and the model's context is {model.max_length}; shorten it"
        )
    size = min(rounded(int(lengths.max()), model.config.dim), model.max_length)
    padded = np.stack([np.pad(row, (0, size - len(row))) for row in rows])
    segments = np.where(np.arange(size) < lengths[:, None], 0, -1)
    return PromptBatch(
        tokens=jnp.asarray(padded),
        segments=jnp.asarray(segments, jnp.int32),
        lengths=lengths,
        columns=columns,
        width=width,
    )
