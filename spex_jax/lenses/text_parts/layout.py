"""Lays out masks as rows of tokens, on the device.

In the shape descriptions, B denotes rows, S texts of a row, L tokens of the template, R places of a row.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.engine.packing import Packing
from spex_jax.models.blocks import PartlyKept

__all__ = ["Rows", "Template", "pack", "template_of"]

BUCKET = 16  # lengths are rounded up to multiples, so that texts of similar length share one program
_WIDE = 256
_PROMPT = 0  # branch of the prompt; answers are branches 1 and 2


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["tokens", "stand_in", "unit", "when", "branch", "position", "start"],
    meta_fields=["kind", "capacity", "move"],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """Holds all tokens that a row may have, and when they are present.

    Attributes:
      tokens: int32 [L].
      stand_in: int32 [L], the token that replaces a removed one ("in_place").
      unit: int32 [L], the unit of each token; -1 where it is always kept.
      when: bool [L], True for tokens that are present when their unit is kept, False for those of replacements.
      branch: int32 [L], 0 for the prompt, 1 and 2 for answers, -1 for padding.
      position: int32 [L], in the whole text; for tokens of an answer the distance from the end of the prompt.
      start: int32 [], the number of positions before the template: a prefix that is computed separately.
      kind: "in_place": removed tokens become their stand-ins; "hidden": they stay where they are, in no segment;
        "packed": present tokens are moved together, several texts to a row.
      capacity: R.
      move: whether positions close up too ("packed").
    """

    identity_name: ClassVar[str] = "spex_jax.Template"

    tokens: jax.Array
    stand_in: jax.Array
    unit: jax.Array
    when: jax.Array
    branch: jax.Array
    position: jax.Array
    start: jax.Array
    kind: str
    capacity: int
    move: bool

    def present(self, masks: jax.Array, used: jax.Array) -> jax.Array:
        """Returns which tokens each text has, bool [B, S, L], for masks bool [B, S, width]."""
        kept = masks[..., jnp.maximum(self.unit, 0)] == self.when
        return ((self.unit < 0) | kept) & (self.branch >= 0) & used[..., None]

    def rows(self, masks: jax.Array, used: jax.Array) -> "Rows":
        """Lays out masks bool [B, S, width], of which those `used` bool [B, S] count."""
        present = self.present(masks, used)
        if self.kind == "packed":
            return self._packed(present)
        shape = present[:, 0].shape
        places = jnp.broadcast_to(jnp.arange(shape[1]), present.shape)
        there = (self.branch >= 0) if self.kind == "in_place" else present[:, 0]
        tokens = jnp.where(present[:, 0], self.tokens, self.stand_in) if self.kind == "in_place" else self.tokens
        return Rows(
            tokens=jnp.broadcast_to(tokens, shape),
            positions=self.start + self._whole(),
            segments=jnp.broadcast_to(jnp.where(there, 0, -1), shape),
            branches=jnp.broadcast_to(jnp.maximum(self.branch, 0), shape),
            places=places,
            present=present if self.kind == "hidden" else jnp.broadcast_to(self.branch >= 0, present.shape),
        )

    def partly(self, masks: jax.Array) -> tuple["Rows", PartlyKept]:
        """Lays out masks float32 [B, width], one text a row, with every token in its place.

        The value of a row is that of `rows` where all shares are 0 or 1, but for positions: a text that gets shorter or
        longer keeps those that it has with all units kept.
        """
        share = masks[:, jnp.maximum(self.unit, 0)]
        share = jnp.where(self.unit < 0, 1.0, jnp.where(self.when, share, 1 - share))
        real, shape = self.branch >= 0, share.shape
        kept = ((self.unit < 0) | self.when) & real
        positions = self.start + self._whole()
        if self.move:
            prompt = kept & (self.branch == _PROMPT)
            own = jnp.where(self.branch > _PROMPT, prompt.sum() + self.position, jnp.maximum(prompt.cumsum() - 1, 0))
            positions = self.start + own
        rows = Rows(
            tokens=jnp.broadcast_to(self.tokens, shape),
            positions=positions,
            segments=jnp.broadcast_to(jnp.where(real, 0, -1), shape),
            branches=jnp.broadcast_to(jnp.maximum(self.branch, 0), shape),
            places=jnp.broadcast_to(jnp.arange(shape[1]), (shape[0], 1, shape[1])),
            present=jnp.broadcast_to(kept, (shape[0], 1, shape[1])),
        )
        in_place = self.kind == "in_place"
        stand_in = jnp.broadcast_to(self.stand_in, shape) if in_place else None
        return rows, PartlyKept(share=share, stand_in=stand_in)

    def sources(self, sources: jax.Array, partly: PartlyKept) -> jax.Array:
        """Returns the weights float32 [B, K, L] of the states from which tokens with `sources` int32 [K] are predicted.

        Source -1, the prompt's last token that is present, is each token of the prompt as far as it is kept and those
        after it are not.
        """
        prompt = self.branch == _PROMPT
        there = partly.share if partly.stand_in is None else jnp.ones_like(partly.share)
        there = jnp.where(prompt, there, 0.0)
        none_after = jnp.flip(jnp.cumprod(jnp.flip(1 - there, axis=1), axis=1), axis=1)
        last = there * jnp.pad(none_after[:, 1:], ((0, 0), (0, 1)), constant_values=1.0)
        fixed = sources[:, None] == jnp.arange(len(self.tokens))
        return jnp.where(sources[:, None] < 0, last[:, None], fixed)

    def _whole(self) -> jax.Array:
        """Returns the positions int32 [L] with nothing removed."""
        end = jnp.where(self.branch == _PROMPT, self.position + 1, 0).max()
        return jnp.where(self.branch > _PROMPT, end + self.position, self.position)

    def _packed(self, present: jax.Array) -> "Rows":
        count, slots = present.shape[:2]
        flat = present.reshape(count, -1)
        places = jnp.where(flat, jnp.cumsum(flat, axis=1) - 1, self.capacity)  # what is absent falls off the row

        def scatter(values: jax.Array, fill: int) -> jax.Array:
            empty = jnp.full((count, self.capacity), fill, jnp.int32)
            values = jnp.broadcast_to(values, present.shape).reshape(count, -1)
            return empty.at[jnp.arange(count)[:, None], places].set(values.astype(jnp.int32), mode="drop")

        if self.move:
            prompt = present & (self.branch == _PROMPT)
            own = jnp.where(self.branch > _PROMPT, prompt.sum(-1, keepdims=True) + self.position, prompt.cumsum(-1) - 1)
        else:
            own = jnp.broadcast_to(self._whole(), present.shape)
        return Rows(
            tokens=scatter(self.tokens, 0),
            positions=scatter(self.start + own, 0),
            segments=scatter(jnp.arange(slots)[:, None], -1),
            branches=scatter(jnp.maximum(self.branch, 0), 0),
            places=places.reshape(present.shape),
            present=present,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Holds rows in the form that models take.

    Attributes:
      tokens, segments, branches: int32 [B, R].
      positions: int32 [B, R], or [R] where all rows have the same.
      places: int32 [B, S, L], the place of each token of the template in its row.
      present: bool [B, S, L], whether it is there.
    """

    tokens: jax.Array
    positions: jax.Array
    segments: jax.Array
    branches: jax.Array
    places: jax.Array
    present: jax.Array

    def read(self, sources: jax.Array, branch: jax.Array) -> jax.Array:
        """Returns the places int32 [B, S, K] of the tokens `sources`; -1 is the prompt's last token that is present."""
        order = jnp.arange(self.present.shape[-1])
        last = jnp.where(self.present & (branch == _PROMPT), order, 0).max(axis=-1, keepdims=True)  # [B, S, 1]
        chosen = jnp.where(sources < 0, last, sources)
        # A slot that is not used has no tokens: any place of the row will do.
        return jnp.minimum(jnp.take_along_axis(self.places, chosen, axis=-1), self.tokens.shape[1] - 1)


def bucket_of(length: int, width: int) -> int:
    """Returns the number to whose multiples lengths are padded: coarse, so that texts share programs, but finer for
    short texts of wide models, for which computing padding soon costs more than compiling.
    """
    if length > 16 * BUCKET:
        return 4 * BUCKET
    return BUCKET // 4 if width >= _WIDE and length <= 8 * BUCKET else BUCKET


def rounded(length: int, width: int) -> int:
    """Returns the padded length for a model of this width."""
    bucket = bucket_of(length, width)
    return -(-length // bucket) * bucket


def template_of(  # noqa: PLR0913
    *,
    tokens: np.ndarray,
    stand_in: np.ndarray,
    unit: np.ndarray,
    when: np.ndarray,
    branch: np.ndarray,
    position: np.ndarray,
    start: int,
    kind: str,
    capacity: int,
    move: bool,
    length: int,
) -> Template:
    """Returns a template padded to `length`."""

    def padded(values: np.ndarray, fill: int, dtype: type = np.int32) -> jax.Array:
        return jnp.asarray(np.pad(values, (0, length - len(values)), constant_values=fill).astype(dtype))

    return Template(
        tokens=padded(tokens, 0),
        stand_in=padded(stand_in, 0),
        unit=padded(unit, -1),
        when=padded(when, True, np.bool_),
        branch=padded(branch, -1),
        position=padded(position, 0),
        start=jnp.asarray(start, jnp.int32),
        kind=kind,
        capacity=capacity,
        move=move,
    )


def pack(unit: np.ndarray, when: np.ndarray, n: int, *, width: int, alone: int | None = None) -> Packing:
    """Chooses the length of the rows and the number of texts in each, so that uniform masks cost least.

    The cost of a row of R places is taken as R (1 + R / 6 width): products with weights, and attention within the row.

    Args:
      unit, when: int [L] and bool [L] of the template's tokens.
      n: the number of units.
      width: the width of the model.
      alone: for a model that takes one text per row, the largest number of tokens that it takes.
    """
    kept = np.bincount(unit[(unit >= 0) & when], minlength=n)
    removed = np.bincount(unit[(unit >= 0) & ~when], minlength=n)
    fixed = int((unit < 0).sum())
    longest = fixed + int(np.maximum(kept, removed).sum())
    masks = np.random.default_rng(0).integers(0, 2, (512, n)).astype(np.bool_)
    best, least = None, np.inf
    middle = max(1.0, fixed + (kept.sum() + removed.sum()) / 2)
    step = bucket_of(longest, width)
    sizes = sorted({rounded(longest + add, width) for add in range(0, 2 * step + int(3 * middle), step)})
    if alone is not None:
        return Packing(min(rounded(longest, width), alone), 1, fixed, kept, removed)
    for capacity in sizes:
        most = 1 << int(np.ceil(np.log2(max(2.0, 1.5 * capacity / middle))))
        tried = Packing(capacity, most, fixed, kept, removed)
        cost = len(tried.rows(masks)) * capacity * (1 + capacity / (6 * width))
        if cost < least:
            best, least = tried, cost
    assert best is not None
    return best
