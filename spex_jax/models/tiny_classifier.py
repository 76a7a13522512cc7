"""The model that ships with the package: a small sentiment classifier with its tokenizer.

In the shape descriptions, B denotes the batch dimension, L the number of tokens and D the width of the model. The
classifier is a two-class transformer encoder in the manner of BERT (Devlin et al. 2018,
https://arxiv.org/abs/1810.04805) with narrow, projected token embeddings (Lan et al. 2019, ALBERT,
https://arxiv.org/abs/1909.11942) and a learned bias per head and clipped distance in place of position embeddings
(Raffel et al. 2019, T5, https://arxiv.org/abs/1910.10683). `experiments/train_tiny.py` makes the weights.
"""

import dataclasses
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.models.blocks import LEAST_TOTAL, PartlyKept, exponentials, largest_of
from spex_jax.models.encoder import check_tokens, one_text_a_row, pooled
from spex_jax.utils.jax_settings import own_settings
from spex_jax.utils.untrusted_files import Allowance, Archive, read_json

DATA_FOLDER = pathlib.Path(__file__).parent / "tiny_data"

Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Sizes of a `TinyEncoder`; hashable, so that it can be a static argument of jit."""

    identity_name: ClassVar[str] = "spex_jax.TinyConfig"

    vocab_size: int
    embedding_dim: int = 64
    dim: int = 128
    num_layers: int = 2
    num_heads: int = 4
    hidden_dim: int = 512
    max_distance: int = 16
    num_classes: int = 2


class TinyEncoder(nn.Module):
    """Maps tokens int32 [B, L] to logits float32 [B, slots, num_classes] of texts in rows; see `TextClassifier`."""

    config: TinyConfig
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        slots: int = 1,
        partly: PartlyKept | None = None,
    ) -> jax.Array:
        """Returns the logits; positions int32 [L] or [B, L], segments int32 [B, L] as in `TextClassifier.classify`."""
        c = self.config
        drop = nn.Dropout(self.dropout, deterministic=self.dropout == 0.0)
        embed = nn.Embed(c.vocab_size, c.embedding_dim, name="embedding")
        x = embed(tokens) if partly is None else partly.embedded(embed.embedding, tokens)
        weight = None if partly is None else partly.weight
        x = nn.LayerNorm(name="norm_embedding")(_dense(c.dim, "projection")(x))
        x = drop(x)

        between = positions[..., None, :] - positions[..., :, None]
        distance = jnp.clip(between, -c.max_distance, c.max_distance) + c.max_distance
        # A finite bias keeps a fully padded row free of NaN; in other rows exp(-1e9) is exactly zero in float32.
        hidden = jnp.where(segments[:, None, :] == segments[:, :, None], 0.0, -1e9)
        for i in range(c.num_layers):
            with jax.named_scope(f"layer_{i}"):
                table = self.param(f"distance_bias_{i}", nn.initializers.zeros, (c.num_heads, 2 * c.max_distance + 1))
                bias = table[:, distance] if positions.ndim == 1 else table[:, distance].swapaxes(0, 1)
                q, k, v = (_dense(c.dim, f"{name}_{i}")(x) for name in ("query", "key", "value"))
                attended = _attend(q, k, v, bias + hidden[:, None], c.num_heads, weight)
                x = nn.LayerNorm(name=f"norm_attention_{i}")(x + drop(_dense(c.dim, f"output_{i}")(attended)))
                up = nn.gelu(_dense(c.hidden_dim, f"up_{i}")(x))
                x = nn.LayerNorm(name=f"norm_mlp_{i}")(x + drop(_dense(c.dim, f"down_{i}")(up)))
        x = pooled(x, segments, slots, "mean", weight)
        return _dense(c.num_classes, "head")(drop(x)).astype(jnp.float32)


def _dense(features: int, name: str) -> nn.Dense:
    # On GPU and TPU the default precision rounds the factors to tf32 or bf16, which would add noise to every value.
    return nn.Dense(features, precision=jax.lax.Precision.HIGHEST, name=name)


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, num_heads: int, weight: jax.Array | None
) -> jax.Array:
    """Computes multi-head attention of q, k, v [B, L, D] with an additive bias [B, H, L, L], and weights [B, L] of the
    keys if any -> [B, L, D].
    """
    highest = jax.lax.Precision.HIGHEST
    q, k, v = (a.reshape(*a.shape[:2], num_heads, -1) for a in (q, k, v))
    scores = jnp.einsum("bihd,bjhd->bhij", q, k, precision=highest) / np.sqrt(q.shape[-1]).astype(np.float32)
    if weight is None:
        attention = jax.nn.softmax(scores + bias, axis=-1)
    else:
        counted = weight[:, None, None]
        shares = exponentials(scores + bias, largest_of(scores + bias, counted), counted)
        attention = shares / jnp.maximum(shares.sum(axis=-1, keepdims=True), LEAST_TOTAL)
    mixed = jnp.einsum("bhij,bjhd->bihd", attention, v, precision=highest)
    return mixed.reshape(*mixed.shape[:2], -1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextClassifier:
    """A text classifier as a pytree: `params` are its leaves, everything else is static.

    `jax.jit(lambda m, t, a: m(t, a))` therefore takes the weights as arguments, and another instance with the same
    shapes does not recompile.
    """

    identity_name: ClassVar[str] = "spex_jax.TextClassifier"
    takes_partly_kept: ClassVar[bool] = True

    params: Params
    config: TinyConfig = dataclasses.field(metadata={"static": True})
    class_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    max_length: int = dataclasses.field(metadata={"static": True})

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.config.num_classes

    @own_settings()
    def __call__(self, tokens: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Returns the logits of every class.

        Args:
          tokens: int32 [B, L], with L at most `max_length`.
          attention_mask: bool or int [B, L], nonzero at real tokens. Positions with 0 have no influence.

        Returns:
          float32 [B, num_classes], in the order of `class_names`.

        Raises:
          ValueError: tokens is not of rank 2 or not of an integer type, the shapes differ, or L is over `max_length`.
        """
        check_tokens(tokens, attention_mask, self.max_length, self.config.vocab_size)
        positions, segments = one_text_a_row(attention_mask)
        return self.classify(tokens, positions, segments, 1)[:, 0]

    def classify(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        slots: int,
        partly: PartlyKept | None = None,
    ) -> jax.Array:
        """Returns the logits of several texts in each row; see `Encoder.classify`.

        Args:
          tokens, segments: int32 [B, L]; tokens of segment s in 0..slots - 1 are one text, those of -1 are padding.
          positions: int32 [B, L], or [L] where all rows have the same.
          slots: S, the number of texts in a row.
          partly: how far each token is kept; None where all are.

        Returns:
          float32 [B, S, num_classes].
        """
        given = (tokens, positions, segments, slots, partly)
        found: Any = TinyEncoder(self.config).apply({"params": self.params}, *given)
        return found  # type: ignore[no-any-return]  # flax also allows for changed variables


# Contractions are split as in the Penn Treebank ("is", "n't"; "it", "'s"; "can", "not"), so that "isn't" and the
# treebank's "is n't" are the same tokens.
_WORDS = re.compile(
    r"[^\W_]+?(?=n't(?![^\W_]))|n't(?![^\W_])|'(?:s|re|ve|ll|d|m)(?![^\W_])|can(?=not(?![^\W_]))|[^\W_]+|\S"
)
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u2032": "'", "\u201c": '"', "\u201d": '"'})


class WordPieceTokenizer:
    """A lower-casing WordPiece tokenizer that follows the call protocol of Hugging Face's fast tokenizers.

    Text is split at whitespace and punctuation (contractions as in the Penn Treebank), lower-cased and stripped of
    accents; every word becomes the longest matching pieces of the vocabulary from left to right, those inside a word
    prefixed with "##" (Wu et al. 2016, https://arxiv.org/abs/1609.08144). Characters that no piece covers become one
    [UNK] per run.
    """

    pad_token, unk_token, cls_token, sep_token, mask_token = _SPECIAL

    def __init__(self, vocab: Sequence[str], *, model_max_length: int):
        """Makes the tokenizer in which `vocab[i]` is the piece of id i.

        Raises:
          ValueError: a special token is missing, or a piece occurs twice.
        """
        self._pieces = tuple(vocab)
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}
        missing = [token for token in _SPECIAL if token not in self._ids]
        if missing:
            raise ValueError(f"vocab lacks {missing}, expected all of {list(_SPECIAL)}; add them.")
        if len(self._ids) != len(self._pieces):
            raise ValueError(
                f"vocab has {len(self._pieces)} pieces, {len(self._ids)} of them distinct; remove the repeated ones."
            )
        self.model_max_length = model_max_length
        self.pad_token_id, self.unk_token_id, self.cls_token_id, self.sep_token_id, self.mask_token_id = (
            self._ids[token] for token in _SPECIAL
        )
        self.all_special_ids = sorted(self._ids[token] for token in _SPECIAL)
        self._longest = max(len(piece) for piece in self._pieces)

    @property
    def vocab_size(self) -> int:
        """The number of pieces; ids are below it."""
        return len(self._pieces)

    def __len__(self) -> int:
        """Returns `vocab_size`."""
        return self.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Returns the id of every piece, in the order of the ids."""
        return dict(self._ids)

    def __call__(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> dict[str, Any]:
        """Encodes one text.

        Args:
          text: any string; special tokens that are written out in it, such as "[MASK]", are kept as such.
          add_special_tokens: surround with [CLS] and [SEP].
          return_offsets_mapping: add "offset_mapping", the span (start, end) in `text` of every token, (0, 0) for
          added tokens.
          return_special_tokens_mask: add "special_tokens_mask", 1 for added tokens.
          truncation: drop the last pieces beyond `max_length`.
          max_length: length including special tokens; `model_max_length` by default. Only used with truncation.

        Returns:
          Lists of equal length: "input_ids" and "attention_mask" (all 1), and those that were requested.

        Raises:
          ValueError: text is not a string.
        """
        if not isinstance(text, str):
            raise ValueError(f"text is of type {type(text).__name__}, expected str; call the tokenizer once per text.")
        ids, spans = self._encode(text)
        if truncation:
            limit = self.model_max_length if max_length is None else max_length
            limit = max(limit - 2 * add_special_tokens, 0)
            ids, spans = ids[:limit], spans[:limit]
        added = [0] * len(ids)
        if add_special_tokens:
            ids = [self.cls_token_id, *ids, self.sep_token_id]
            spans = [(0, 0), *spans, (0, 0)]
            added = [1, *added, 1]
        encoding: dict[str, Any] = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if return_offsets_mapping:
            encoding["offset_mapping"] = spans
        if return_special_tokens_mask:
            encoding["special_tokens_mask"] = added
        return encoding

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Returns the pieces of ids."""
        return [self._pieces[int(i)] for i in ids]

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        """Returns the ids of pieces; that of [UNK] for pieces outside the vocabulary."""
        return [self._ids.get(token, self.unk_token_id) for token in tokens]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Joins pieces to a text; words and contractions become whole again, and the space before punctuation stays."""
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        text = " ".join(self.convert_ids_to_tokens([i for i in ids if int(i) not in skipped]))
        return re.sub(r" (?='(?:s|re|ve|ll|d|m)\b|n't\b)", "", text.replace(" ##", ""))

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        start = 0
        for match in re.finditer("|".join(map(re.escape, _SPECIAL)), text):
            self._encode_plain(text, start, match.start(), ids, spans)
            ids.append(self._ids[match.group()])
            spans.append(match.span())
            start = match.end()
        self._encode_plain(text, start, len(text), ids, spans)
        return ids, spans

    def _encode_plain(self, text: str, start: int, end: int, ids: list[int], spans: list[tuple[int, int]]) -> None:
        """Appends the pieces of text[start:end], which holds no special token."""
        characters, sources = _normalise(text, start, end)
        for word in _WORDS.finditer(characters):
            left, stop = word.span()
            unknown = False
            while left < stop:
                prefix = "" if left == word.start() else "##"
                for right in range(min(stop, left + self._longest), left, -1):
                    piece = self._ids.get(prefix + characters[left:right])
                    if piece is not None:
                        break
                else:
                    right, piece = left + 1, self.unk_token_id
                span = (sources[left], sources[right - 1] + 1)
                if piece == self.unk_token_id and unknown:
                    spans[-1] = (spans[-1][0], span[1])
                else:
                    ids.append(piece)
                    spans.append(span)
                unknown = piece == self.unk_token_id
                left = right


def _normalise(text: str, start: int, end: int) -> tuple[str, list[int]]:
    """Lower-cases, strips accents and control characters; also returns the index in `text` of every character kept."""
    characters: list[str] = []
    sources: list[int] = []
    for i in range(start, end):
        # One character can become several, as in "\u0130".lower(), or none; lower-casing the whole text would lose
        # the positions.
        for character in unicodedata.normalize("NFD", text[i].translate(_QUOTES).lower()):
            if character.isspace():
                character = " "
            elif unicodedata.category(character) in ("Mn", "Cc", "Cf"):
                continue
            characters.append(character)
            sources.append(i)
    return "".join(characters), sources


@own_settings()
def tiny() -> tuple[TextClassifier, WordPieceTokenizer]:
    """Returns the shipped movie-review sentiment classifier, of classes ("negative", "positive"), and its tokenizer.

    `experiments/train_tiny.py` trained it on SST-2 (Socher et al. 2013) and rt-polarity (Pang and Lee 2005), with whole
    words at random replaced by [MASK], so that its values on ablated texts are meaningful.
    `tiny_data/provenance.json` has the recipe and the scores.
    """
    provenance = read_json(DATA_FOLDER / "provenance.json")
    config = TinyConfig(**provenance["config"])
    params: dict[str, Any] = {}
    weights = DATA_FOLDER / "weights.npz"
    with Archive(weights, Allowance([weights])) as arrays:
        for name in arrays.names:
            *path, leaf = name.split("/")
            node = params
            for key in path:
                node = node.setdefault(key, {})
            node[leaf] = jnp.asarray(arrays.floats(name, None).astype(np.float32))
    vocab = (DATA_FOLDER / "vocab.txt").read_text(encoding="utf-8").split("\n")
    max_length = provenance["max_length"]
    model = TextClassifier(
        params=params, config=config, class_names=tuple(provenance["class_names"]), max_length=max_length
    )
    return model, WordPieceTokenizer(vocab, model_max_length=max_length)
