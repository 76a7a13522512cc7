"""The tokens of a prompt, and those that replace removed units."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax.lenses.text_parts.prompt import Prompt, encode
from spex_jax.lenses.text_parts.units import assign_tokens
from spex_jax.models.protocols import Tokenizer, special_tokens_of

__all__ = ["REMOVALS", "Tokens", "always", "removable"]

REMOVALS = ("mask", "attention", "delete", "replace")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    """Holds the template before it is padded: numpy arrays [L], see `layout.Template`."""

    tokens: np.ndarray
    stand_in: np.ndarray
    unit: np.ndarray
    when: np.ndarray
    branch: np.ndarray
    position: np.ndarray

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __getitem__(self, chosen: slice) -> "Tokens":
        """Returns a slice of the tokens."""
        return Tokens(**{name: array[chosen] for name, array in self.arrays.items()})

    def then(self, other: "Tokens") -> "Tokens":
        """Returns these tokens and others after them."""
        return Tokens(**{name: np.concatenate([array, other.arrays[name]]) for name, array in self.arrays.items()})


def always(ids: Sequence[int] | np.ndarray, branch: int) -> Tokens:
    """Returns tokens that are always present, of branch 0 (the prompt) or of an answer."""
    tokens = np.asarray(ids, np.int32)
    size = len(tokens)
    return Tokens(
        tokens=tokens,
        stand_in=tokens,
        unit=np.full(size, -1, np.int32),
        when=np.ones(size, np.bool_),
        branch=np.full(size, branch, np.int32),
        position=np.arange(size, dtype=np.int32),
    )


def removable(tokenizer: Tokenizer, prompt: Prompt, removal: str, replacement: Any) -> tuple[Tokens, bool]:
    """Returns the prompt's tokens with the replacements of removed ones, and whether removal keeps the length."""
    tokens = dataclasses.replace(always(prompt.ids, 0), unit=prompt.unit)
    if removal == "mask":
        stand_in = np.where(prompt.unit >= 0, _mask_token(tokenizer), prompt.ids).astype(np.int32)
        return dataclasses.replace(tokens, stand_in=stand_in), True
    if removal != "replace":
        return tokens, False
    parts = _replacements(tokenizer, prompt, replacement)
    counts = np.bincount(prompt.unit[prompt.unit >= 0], minlength=prompt.n)
    if all(len(part) == count for part, count in zip(parts, counts, strict=True)):
        stand_in = prompt.ids.copy()
        for unit, part in enumerate(parts):
            stand_in[prompt.unit == unit] = part
        return dataclasses.replace(tokens, stand_in=stand_in), True
    found, start = tokens[:0], 0
    for unit, part in enumerate(parts):
        end = int(np.flatnonzero(prompt.unit == unit)[-1]) + 1
        added = dataclasses.replace(
            always(part, 0), unit=np.full(len(part), unit, np.int32), when=np.zeros(len(part), np.bool_)
        )
        found, start = found.then(tokens[start:end]).then(added), end
    return found.then(tokens[start:]), False


def _mask_token(tokenizer: Tokenizer) -> int:
    special = special_tokens_of(tokenizer)
    for token in (special.mask, special.pad, special.unknown):
        if token is not None:
            return int(token)
    raise ValueError(
        "removal 'mask' needs a tokenizer with a mask, pad or unk token; this one has none: use removal='delete' or "
        "'attention'"
    )


def _replacements(tokenizer: Tokenizer, prompt: Prompt, given: Any) -> list[list[int]]:
    """Returns the tokens of each unit's replacement, tokenised in its place."""
    texts = [given] * prompt.n if isinstance(given, str) else list(given or ())
    if len(texts) != prompt.n or not all(isinstance(part, str) for part in texts):
        raise ValueError(
            f"removal 'replace' needs replacement=, a text or one for each of the {prompt.n} units, got {given!r:.60}"
        )
    found = []
    for (start, end), part in zip(prompt.spans, texts, strict=True):
        stop = start + len(part)
        changed = prompt.text[:start] + part + prompt.text[end:]
        ids, offsets = encode(tokenizer, changed, special=not prompt.chat)
        spans = [(0, start), (start, stop), (stop, len(changed))]
        real = [number for number, (left, right) in enumerate(spans) if right > left]
        member = assign_tokens(offsets, [spans[number] for number in real])
        own = real.index(1) if 1 in real else len(real)
        found.append([token for token, unit in zip(ids, member, strict=True) if unit == own])
    return found
