"""Training texts of the tiny model: reviews without the test sentences, encoded, masked and batched.

SST-2 (Socher et al. 2013, https://aclanthology.org/D13-1170) in `sst2/{train,dev,test}.tsv`, one
"sentence<TAB>label" per line, and rt-polarity (Pang and Lee 2005, https://arxiv.org/abs/cs/0506075) in
`rt_polarity/rt-polarity.{pos,neg}`.
"""

import pathlib
import random
import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from spex_jax.models import WordPieceTokenizer

Example = tuple[str, int]

# Batches are padded to one of these lengths, so that few shapes are compiled; longer texts are cut.
LENGTHS = (12, 16, 24, 32, 48, 64)


def read_sst2(folder: pathlib.Path, split: str) -> list[Example]:
    """Reads the sentences and labels (1 positive) of the split "train", "dev" or "test"."""
    lines = (folder / "sst2" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.rsplit("\t", 1) for line in lines]
    return [(text, int(label)) for text, label in pairs]


def read_rt_polarity(folder: pathlib.Path) -> list[Example]:
    """Reads the sentences of both files with labels (1 positive)."""
    examples = []
    for label, name in enumerate(("neg", "pos")):
        # Lines end at "\n" only: some hold other characters that splitlines() would break at.
        lines = (folder / "rt_polarity" / f"rt-polarity.{name}").read_text(encoding="latin-1").split("\n")
        examples += [(line.strip(), label) for line in lines if line.strip()]
    return examples


def comparable(text: str) -> list[str]:
    """Returns the words of a text, the same for both data sets: without accents, punctuation and split contractions."""
    text = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    text = text.replace(" n't", "n't").replace(" '", "'").replace("'", "")
    return re.sub(r"[^a-z0-9]+", " ", text).split()


def without_overlap(examples: Sequence[Example], held_out: Sequence[str], *, shared_words: int) -> list[Example]:
    """Drops every example that contains a held-out text or shares `shared_words` consecutive words with one."""
    grams: set[tuple[str, ...]] = set()
    short: set[tuple[str, ...]] = set()
    for text in held_out:
        words = tuple(comparable(text))
        if len(words) <= shared_words:
            short.add(words)
        grams |= {words[i : i + shared_words] for i in range(len(words) - shared_words + 1)}
    lengths = {len(words) for words in short if words}

    def overlaps(text: str) -> bool:
        words = tuple(comparable(text))
        return any(words[i : i + shared_words] in grams for i in range(len(words))) or any(
            words[i : i + n] in short for n in lengths for i in range(len(words) - n + 1)
        )

    return [example for example in examples if not overlaps(example[0])]


def as_written(text: str, rng: random.Random) -> str:
    """Rewrites a treebank text as people write, half of the time: joined contractions and commas, maybe a full stop."""
    if rng.random() < 0.5:
        text = re.sub(r" (?=n't\b|'(?:s|re|ve|ll|d|m)\b|[,.?!])", "", text)
    if rng.random() < 0.4 and text[-1:].isalnum():
        text += rng.choice((" .", ".", ".", "!"))
    return text


def encode(tokenizer: WordPieceTokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns token ids int32 [L] and the index of every token's whitespace-separated word (-1 for [CLS] and [SEP])."""
    encoding = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=LENGTHS[-1])
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    words = np.searchsorted(starts, [start for start, _ in encoding["offset_mapping"]], side="right") - 1
    words[0] = words[-1] = -1
    return np.array(encoding["input_ids"], np.int32), words.astype(np.int32)


def keep_words(ids: np.ndarray, words: np.ndarray, kept: np.ndarray, mask_token_id: int) -> np.ndarray:
    """Replaces every token of a word i with kept[i] false; kept bool [number of words] -> int32 [L]."""
    return np.where((words >= 0) & ~np.append(kept, True)[words], mask_token_id, ids).astype(np.int32)


def mask_at_random(ids: np.ndarray, words: np.ndarray, mask_token_id: int, rng: np.random.Generator) -> np.ndarray:
    """Removes whole words, at a rate that is itself uniform, so that all sizes of the kept set are as frequent."""
    return keep_words(ids, words, rng.random(words.max() + 1) >= rng.random(), mask_token_id)


def batches(lengths: Sequence[int], batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields indices of texts of similar length, in random order; every batch is full, and the rest is left out."""
    order = rng.permutation(len(lengths))
    found = []
    for chunk in np.array_split(order, max(len(order) // (50 * batch_size), 1)):
        chunk = chunk[np.argsort(np.asarray(lengths)[chunk], kind="stable")]
        found += [chunk[i : i + batch_size] for i in range(0, len(chunk) - batch_size + 1, batch_size)]
    for i in rng.permutation(len(found)):
        yield found[i]


def pad(texts: Sequence[np.ndarray], pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads to the least of LENGTHS that fits: tokens int32 [B, L] and mask bool [B, L]."""
    length = next(n for n in LENGTHS if n >= max(map(len, texts)))
    tokens = np.full((len(texts), length), pad_token_id, np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    return tokens, np.arange(length) < np.array([len(text) for text in texts])[:, None]
