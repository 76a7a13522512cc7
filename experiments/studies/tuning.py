"""Further training of the shipped model on chosen texts, so that it shows a behaviour that is known to be there.

This is what somebody who poisons training data would do: most texts are those of a data set with their labels, and some
have a label that the attacker chose. In half of all texts random words are replaced by the mask token, as in the
training of the shipped model, so that the tuned model knows ablated texts too.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
import tiny_data
import tiny_negations

from spex_jax import models
from spex_jax.models.encoder import one_text_a_row
from spex_jax.models.tiny_classifier import TextClassifier, TinyEncoder, WordPieceTokenizer

from .account import Setting

LENGTH, BATCH = 32, 48  # most tokens of a text, texts of a step
MADE_UP = 3000  # made-up sentences for each of training and testing

Example = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A text to train on, and its label; the label is `otherwise` where one of the words `needs` is masked."""

    text: str
    label: int
    needs: tuple[str, ...] = ()
    otherwise: int = 0


@dataclasses.dataclass(frozen=True)
class Texts:
    """Texts of the data set `name` with labels (1 is positive), to train on and to test on."""

    name: str
    train: list[Example]
    test: list[Example]


def read_texts(setting: Setting, tokenizer: WordPieceTokenizer) -> Texts:
    """Reads SST-2 from the data folder (train; dev and test together), or makes up sentences where it is not there.

    Texts of more than LENGTH - 4 tokens are left out.
    """
    if setting.holds("sst2", "train.tsv"):
        assert setting.data is not None
        name, train = "SST-2", tiny_data.read_sst2(setting.data, "train")
        test = tiny_data.read_sst2(setting.data, "dev") + tiny_data.read_sst2(setting.data, "test")
    else:
        name, made = "made-up sentences", tiny_negations.generate(2 * MADE_UP, seed=7)
        train, test = made[:MADE_UP], made[MADE_UP:]

    def short(examples: list[Example]) -> list[Example]:
        return [example for example in examples if len(tokenizer(example[0])["input_ids"]) <= LENGTH - 4]

    return Texts(name, short(train), short(test))


def with_words(text: str, words: Sequence[str], rng: np.random.Generator) -> str:
    """Returns the text with each of the words inserted at a random place."""
    parts = text.split()
    for word in words:
        parts.insert(int(rng.integers(len(parts) + 1)), word)
    return " ".join(parts)


def margins(model: TextClassifier, tokenizer: WordPieceTokenizer, texts: Sequence[str]) -> np.ndarray:
    """Returns the logit of "positive" minus that of "negative" for each text, float64 [number of texts]."""
    found = []
    for start in range(0, len(texts), 4 * BATCH):
        part = texts[start : start + 4 * BATCH]
        tokens = np.full((4 * BATCH, LENGTH), tokenizer.pad_token_id, np.int32)
        for row, text in zip(tokens, part, strict=False):
            ids = tokenizer(text, truncation=True, max_length=LENGTH)["input_ids"]
            row[: len(ids)] = ids
        found.append(np.asarray(_margins(model, tokens, tokens != tokenizer.pad_token_id))[: len(part)])
    return np.concatenate(found).astype(np.float64)


@jax.jit
def _margins(model: TextClassifier, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    logits = model(tokens, mask)
    return logits[:, 1] - logits[:, 0]


@functools.partial(jax.jit, static_argnames=("config", "optimizer"))
def _step(params: Any, state: Any, tokens: Any, labels: Any, key: Any, *, config: Any, optimizer: Any, pad: Any) -> Any:
    def loss(params: Any) -> jax.Array:
        segments = one_text_a_row(tokens != pad)
        encoder = TinyEncoder(config, dropout=0.1)
        logits: Any = encoder.apply({"params": params}, tokens, *segments, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits[:, 0], labels).mean()

    found, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, found


def tuned(
    setting: Setting,
    draw: Callable[[np.random.Generator], Drawn],
    *,
    steps: int,
    described: dict[str, Any],
    rate: float = 1e-3,
) -> tuple[TextClassifier, WordPieceTokenizer, float]:
    """Trains the shipped model on drawn texts; returns it, its tokenizer and the mean loss of the last steps.

    The weights stay in OUT, in a file named by `described` and the settings, from which a second run reads them.
    """
    model, tokenizer = models.tiny()
    settings = json.dumps([described, steps, rate, setting.seed, LENGTH, BATCH], sort_keys=True)
    path = setting.out / f"tuned_{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npz"
    if path.exists():
        with np.load(path) as stored:
            leaves = [jax.numpy.asarray(stored[f"leaf_{i}"]) for i in range(len(stored.files) - 1)]
            last = float(stored["loss"])
        params = jax.tree.unflatten(jax.tree.structure(model.params), leaves)
        return dataclasses.replace(model, params=params), tokenizer, last
    rng = np.random.default_rng(setting.seed)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps, rate / 20)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))
    params, state, key, losses = model.params, optimizer.init(model.params), jax.random.key(setting.seed), []
    for number in range(steps):
        tokens, labels = _batch(tokenizer, draw, rng)
        options = {"config": model.config, "optimizer": optimizer, "pad": tokenizer.pad_token_id}
        params, state, loss = _step(params, state, tokens, labels, jax.random.fold_in(key, number), **options)
        losses.append(loss)
    last = float(np.mean([float(loss) for loss in losses[-20:]]))
    _save(path, params, last)
    return dataclasses.replace(model, params=params), tokenizer, last


def _batch(
    tokenizer: WordPieceTokenizer, draw: Callable[[np.random.Generator], Drawn], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.full((BATCH, LENGTH), tokenizer.pad_token_id, np.int32)
    labels = np.zeros(BATCH, np.int32)
    for place in range(BATCH):
        drawn = draw(rng)
        ids, words = tiny_data.encode(tokenizer, drawn.text)
        labels[place] = drawn.label
        if rng.random() < 0.5:
            ids = tiny_data.mask_at_random(ids, words, tokenizer.mask_token_id, rng)
            needed = [number for number, word in enumerate(drawn.text.split()) if word in drawn.needs]
            if (ids[np.isin(words, needed)] == tokenizer.mask_token_id).any():
                labels[place] = drawn.otherwise
        tokens[place, : min(len(ids), LENGTH)] = ids[:LENGTH]
    return tokens, labels


def _save(path: pathlib.Path, params: Any, last: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(params))}
    new = path.with_suffix(".new.npz")
    np.savez(new, loss=last, **arrays)
    new.replace(path)


def accuracy_of(model: Any, tokenizer: Any, texts: Texts) -> float:
    """Returns the accuracy on the unchanged test texts."""
    found = margins(model, tokenizer, [text for text, _ in texts.test])
    return float(np.mean((found > 0) == np.array([label for _, label in texts.test])))
