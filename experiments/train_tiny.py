r"""Trains the shipped sentiment model, `spex_jax.models.tiny()`, and writes its weights.

1. The vocabulary: BERT's pieces that occur in the training texts, filled up with BERT's most frequent words.
2. The teacher: MiniLM fine-tuned on SST-2, the rest of rt-polarity and generated negations, with random words masked.
3. The student: a transformer with two layers whose token embeddings start from the teacher's (first principal
   components), trained to give the teacher's logits (Hinton et al. 2015, https://arxiv.org/abs/1503.02531) on original,
   masked, cropped, joined and reworded texts, single words and generated negations. A running mean of its weights is
   kept.

Lines of rt-polarity that contain a sentence of SST-2's dev or test split or share 8 consecutive words with one are
dropped, as is every text that shares 5 consecutive words with one of the 40 sentences of
tests/models/negation_sentences.json; no generated sentence has both words of the negation of one. The test split is
used for the last number only.

Data: a folder (--data, or the environment variable SPEX_JAX_DATA) with sst2/{train,dev,test}.tsv and
rt_polarity/rt-polarity.{pos,neg}; the teacher's folder (--teacher) with model.safetensors and vocab.txt of
all-MiniLM-L6-v2. Needs the package's `hf` extra for safetensors.

Expected: 45 minutes on one CPU core (teacher 18, its logits for 112,643 texts 12, student 13). Teacher 87.3% on the dev
split; student 80.2% on dev, 82.0% on test, 39 of 40 negations among the three largest interactions of their sentence,
40 of 40 with the right sentiment.

    python experiments/train_tiny.py --data=DATA --teacher=TEACHER
"""

import collections
import dataclasses
import datetime
import functools
import itertools
import json
import math
import os
import pathlib
import random
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tiny_data
import tiny_negations
import tiny_teacher
from absl import flags

from spex_jax import runtime
from spex_jax.models.encoder import one_text_a_row
from spex_jax.models.tiny_classifier import DATA_FOLDER, TextClassifier, TinyConfig, TinyEncoder, WordPieceTokenizer

_DATA = flags.DEFINE_string("data", os.environ.get("SPEX_JAX_DATA"), "Folder with sst2/ and rt_polarity/.")
_TEACHER = flags.DEFINE_string(
    "teacher", None, "Folder with the teacher's model.safetensors and vocab.txt.", required=True
)
_WORK = flags.DEFINE_string("work", "tiny_work", "Folder for intermediate results; those it holds are reused.")
_OUT = flags.DEFINE_string("out", str(DATA_FOLDER), "Folder for weights.npz, vocab.txt and provenance.json.")
_EPOCHS = flags.DEFINE_integer("epochs", 5, "Passes of the student over the pool of texts.")

VOCAB_SIZE = 12_000
TEACHER_EPOCHS = 3
EMBEDDING_RATE = 0.5
EMBEDDING_DIM = 80
MAX_LENGTH = 256
CLASS_NAMES = ("negative", "positive")

Text = tuple[np.ndarray, np.ndarray, int]  # token ids, word index of every token, label


def build_tokenizer(texts: Sequence[str], bert: Sequence[str]) -> WordPieceTokenizer:
    """Builds a vocabulary: special tokens, contractions, characters, pieces of the texts, BERT's first whole words."""
    full = WordPieceTokenizer(list(dict.fromkeys([*bert, *tiny_teacher.CONTRACTIONS])), model_max_length=512)
    counts = collections.Counter(
        piece
        for text in texts
        for piece in full.convert_ids_to_tokens(full(text, add_special_tokens=False)["input_ids"])
    )
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tiny_teacher.CONTRACTIONS]
    first += [piece for piece in bert if len(piece.removeprefix("##")) == 1 and piece.isascii()]
    used = [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    words = [piece for piece in bert if piece.isascii() and piece.isalpha()]
    vocab = list(dict.fromkeys(itertools.chain(first, used, words)))[:VOCAB_SIZE]
    print(f"vocabulary: {len(used)} pieces in the texts, {len(vocab)} kept")
    return WordPieceTokenizer(vocab, model_max_length=MAX_LENGTH)


def encode_all(tokenizer: WordPieceTokenizer, examples: Sequence[tiny_data.Example], seed: int) -> list[Text]:
    """Returns token ids, words and label of every text, half of the texts rewritten from treebank to plain style."""
    rng = random.Random(seed)
    return [(*tiny_data.encode(tokenizer, tiny_data.as_written(text, rng)), label) for text, label in examples]


def pool_texts(
    real: Sequence[Text], variants: Sequence[Text], generated: Sequence[Text], mask_id: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Returns the token ids of the texts that the student learns from: as they are, masked, cropped and joined.

    `variants` are other spellings of texts in `real`, taken as they are.
    """

    def masked(text: Text) -> np.ndarray:
        return tiny_data.mask_at_random(text[0], text[1], mask_id, rng)

    def cropped(text: Text) -> np.ndarray:
        ids, words, _ = text
        first, last = sorted(rng.integers(0, words.max() + 1, 2))
        return np.concatenate([ids[:1], ids[(words >= first) & (words <= last)], ids[-1:]])

    texts = [text[0] for text in itertools.chain(real, variants, generated)]
    texts += [masked(text) for text in itertools.chain(real, real, real, generated)]
    texts += [cropped(text) for text in real]
    for i, j in zip(rng.permutation(len(real))[:4000], rng.permutation(len(generated))[:4000], strict=True):
        parts = [cropped(real[i])[1:-1], generated[j][0][1:-1]]
        joined = np.concatenate([real[i][0][:1], *(parts[k] for k in rng.permutation(2)), real[i][0][-1:]])
        texts.append(joined[: tiny_data.LENGTHS[-1]])
    return texts


def word_texts(
    real: Sequence[Text], tokenizer: WordPieceTokenizer, table: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Makes texts that carry the teacher's knowledge of words that the reviews hold rarely or never.

    Every whole word of the vocabulary alone and between masks, and the real texts with 3 in 10 words replaced by one of
    the 12 nearest in the teacher's embeddings (Jiao et al. 2020, TinyBERT, https://arxiv.org/abs/1909.10351).
    """
    known = np.array([i for piece, i in tokenizer.get_vocab().items() if piece.isascii() and piece.isalpha()], np.int32)
    vectors = table[known] / np.linalg.norm(table[known], axis=1, keepdims=True)
    # The word itself is among the 13.
    nearest = known[np.argpartition(-vectors @ vectors.T, 13, axis=1)[:, :13]]
    row = np.full(tokenizer.vocab_size, -1)
    row[known] = np.arange(len(known))
    first, last, mask = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id
    texts = [np.array([first, i, last], np.int32) for i in known]
    for i in known:
        before, after = rng.integers(0, 6, 2)
        texts.append(np.array([first, *[mask] * before, i, *[mask] * after, last], np.int32))
    for ids, _, _ in itertools.chain(real, real):
        replace = (row[ids] >= 0) & (rng.random(len(ids)) < 0.3)
        texts.append(np.where(replace, nearest[row[ids], rng.integers(0, 13, len(ids))], ids).astype(np.int32))
    return texts


def initial_params(config: TinyConfig, table: np.ndarray, key: jax.Array) -> dict[str, Any]:
    """Draws random weights; token embeddings are leading principal components of the teacher's word embeddings."""
    tokens = jnp.zeros((1, 8), jnp.int32)
    params = dict(TinyEncoder(config).init(key, tokens, *one_text_a_row(tokens))["params"])
    centred = table - table.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    embedding = centred @ directions[:, ::-1][:, : config.embedding_dim]
    params["embedding"] = {
        "embedding": jnp.asarray(embedding / np.sqrt((embedding**2).sum(axis=1).mean()), jnp.float32)
    }
    return params


def train_student(  # noqa: PLR0913
    params: dict[str, Any],
    config: TinyConfig,
    texts: Sequence[np.ndarray],
    targets: np.ndarray,
    *,
    pad_token_id: int,
    epochs: int,
    seed: int,
    batch_size: int = 64,
    learning_rate: float = 1.5e-3,
    dropout: float = 0.15,
    log: Any = None,
) -> dict[str, Any]:
    """Fits the logit margin of the positive class to the teacher's and returns an exponential mean of the weights."""
    rng = np.random.default_rng(seed)
    total = epochs * (len(texts) // batch_size)
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(300, total // 5), total, learning_rate / 50)
    # Slow token embeddings keep words that the texts hold once or never near those that are similar for MiniLM.
    slow = {name: name == "embedding" for name in params}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=0.02),
        optax.masked(optax.scale(EMBEDDING_RATE), slow),
    )
    module = TinyEncoder(config, dropout=dropout)

    def loss(params: Any, tokens: jax.Array, mask: jax.Array, targets: jax.Array, key: jax.Array) -> jax.Array:
        logits: Any = module.apply({"params": params}, tokens, *one_text_a_row(mask), rngs={"dropout": key})
        margin = logits[:, 0, 1] - logits[:, 0, 0]
        # The cross-entropy alone hardly constrains large margins, but users look at their differences.
        return (
            optax.sigmoid_binary_cross_entropy(margin, jax.nn.sigmoid(targets)) + 0.05 * (margin - targets) ** 2
        ).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params: Any, mean: Any, state: Any, tokens: Any, mask: Any, targets: Any, key: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, tokens, mask, targets, key)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return params, optax.incremental_update(params, mean, 0.002), state, value

    params = jax.tree.map(jnp.array, params)
    mean, state, key, count, start = (
        jax.tree.map(jnp.array, params),
        optimizer.init(params),
        jax.random.key(seed),
        0,
        time.time(),
    )
    for epoch in range(epochs):
        losses = []
        for chosen in tiny_data.batches([len(text) for text in texts], batch_size, rng):
            tokens, mask = tiny_data.pad([texts[i] for i in chosen], pad_token_id)
            arguments = tokens, mask, targets[chosen], jax.random.fold_in(key, count)
            params, mean, state, value = step(params, mean, state, *arguments)
            losses.append(value)
            count += 1
        scores = "" if log is None else log(mean)
        print(f"epoch {epoch + 1}/{epochs} loss {np.mean(losses):.4f} {scores} {time.time() - start:.0f} s", flush=True)
    return mean


@jax.jit
def _margins(model: TextClassifier, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    logits = model(tokens, mask)
    return logits[:, 1] - logits[:, 0]


def margins(model: TextClassifier, texts: Sequence[np.ndarray], pad_token_id: int, batch_size: int = 128) -> np.ndarray:
    """Returns the positive class's logit minus the negative's, float32 [number of texts], for token ids."""
    found = np.zeros(len(texts), np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    for i in range(0, len(order), batch_size):
        chosen = order[i : i + batch_size]
        padded = [*(texts[j] for j in chosen), *[texts[chosen[-1]]] * (batch_size - len(chosen))]
        found[chosen] = np.asarray(_margins(model, *tiny_data.pad(padded, pad_token_id)))[: len(chosen)]
    return found


def accuracy(model: TextClassifier, tokenizer: WordPieceTokenizer, examples: Sequence[tiny_data.Example]) -> float:
    """Returns the share of texts whose more likely class is their label."""
    found = margins(model, [tiny_data.encode(tokenizer, text)[0] for text, _ in examples], tokenizer.pad_token_id)
    return float(np.mean((found > 0) == np.array([label for _, label in examples])))


def pair_interactions(values: np.ndarray) -> dict[tuple[int, int], float]:
    """Returns the Faith-Shapley interaction indices of order 2 of all pairs (Tsai et al. 2023,
    https://arxiv.org/abs/2203.00870, theorem 19).

    `values[m]` is the value with exactly the players in the bits of m kept, for all 2^n masks.
    """
    n = int(math.log2(len(values)))
    moebius = values.astype(np.float64).reshape([2] * n)
    for axis in range(n):
        moebius = np.concatenate([moebius.take([0], axis), np.diff(moebius, axis=axis)], axis)
    moebius = moebius.reshape(-1)
    index = np.arange(len(values))
    sizes = np.bitwise_count(index).astype(int)
    order = size = 2
    weights = [0.0, 0.0, 1.0] + [
        size
        / (order + size)
        * math.comb(order, size)
        * math.comb(s - 1, order)
        / math.comb(s + order - 1, order + size)
        for s in range(3, n + 1)
    ]
    return {
        (i, j): float(sum(np.array(weights)[sizes[inside]] * moebius[inside]))
        for i, j in itertools.combinations(range(n), 2)
        for inside in [(index >> i & index >> j & 1) == 1]
    }


def negation_ranks(model: TextClassifier, tokenizer: WordPieceTokenizer) -> list[int]:
    """Returns the rank, from 1, of each test sentence's negation among its pairs of words by absolute interaction."""
    ranks = []
    for sentence in tiny_negations.test_sentences():
        ids, words = tiny_data.encode(tokenizer, sentence["text"])
        n = words.max() + 1
        kept = (np.arange(2**n)[:, None] >> np.arange(n)) % 2 == 1
        masked = [tiny_data.keep_words(ids, words, row, tokenizer.mask_token_id) for row in kept]
        found = pair_interactions(margins(model, masked, tokenizer.pad_token_id))
        order = sorted(found, key=lambda pair: -abs(found[pair]))
        ranks.append(1 + order.index(tuple(sentence["pair"])))
    return ranks


def unflattened(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Inverts `flattened`, as float32."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, leaf = name.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), path, tree)[leaf] = jnp.asarray(array, jnp.float32)
    return tree


def flattened(params: Any, dtype: Any) -> dict[str, Any]:
    """Returns the leaves of a nested dict as arrays, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, dtype) for path, leaf in leaves}


def main() -> None:
    """Prepares the texts, the teacher and the pool unless they exist, trains the student, scores it and writes it."""
    if not _DATA.value:
        raise ValueError("--data is empty, expected a folder; give it or set SPEX_JAX_DATA")
    folders = (_DATA.value, _TEACHER.value, _WORK.value, _OUT.value)
    data, teacher_folder, work, out = map(pathlib.Path, folders)
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    seed, start = runtime.seed(), time.time()

    dev, test = tiny_data.read_sst2(data, "dev"), tiny_data.read_sst2(data, "test")
    held_out = [text for text, _ in dev + test]
    negations = [sentence["text"] for sentence in tiny_negations.test_sentences()]
    sst2 = tiny_data.without_overlap(tiny_data.read_sst2(data, "train"), negations, shared_words=5)
    rt = tiny_data.without_overlap(tiny_data.read_rt_polarity(data), held_out, shared_words=8)
    rt = tiny_data.without_overlap(rt, negations, shared_words=5)
    new = tiny_data.without_overlap(rt, [text for text, _ in sst2], shared_words=8)
    known = sorted(set(rt) - set(new))
    generated = tiny_data.without_overlap(tiny_negations.generate(10_000, seed), negations, shared_words=4)
    print(
        f"texts: {len(sst2)} of SST-2, {len(rt)} of rt-polarity ({len(new)} not in SST-2), {len(generated)} generated"
    )
    failures = tiny_negations.generate(1500, seed, failures=True)
    failures = tiny_data.without_overlap(failures, negations, shared_words=4)
    bert = tiny_teacher.bert_vocabulary(teacher_folder)
    tokenizer = build_tokenizer([text for text, _ in sst2 + rt + generated], bert)
    table = tiny_teacher.word_embeddings(teacher_folder, list(tokenizer.get_vocab()))

    if not (work / "teacher.npz").exists():
        draw = random.Random(seed)
        sources = [
            encode_all(tokenizer, sst2 + new + draw.sample(generated, 4000), seed + epoch)
            for epoch in range(TEACHER_EPOCHS)
        ]
        trained = tiny_teacher.fine_tune(tiny_teacher.load(teacher_folder), table, tokenizer, sources, seed=seed)
        np.savez(work / "teacher.npz", **flattened(trained, np.float32))
    if not (work / "pool.npz").exists():
        teacher = unflattened(dict(np.load(work / "teacher.npz")))
        examples = encode_all(tokenizer, dev, seed)
        found = tiny_teacher.predict(teacher, table, [ids for ids, _, _ in examples], tokenizer.pad_token_id)
        print(f"teacher: dev accuracy {np.mean((found > 0) == [label for _, _, label in examples]):.4f}", flush=True)
        real, variants, sentences = (encode_all(tokenizer, part, seed) for part in (sst2 + new, known, generated))
        rng = np.random.default_rng(seed)
        texts = pool_texts(real, variants, sentences, tokenizer.mask_token_id, rng)
        texts += word_texts(real, tokenizer, table, rng)
        for ids, words, _ in encode_all(tokenizer, failures, seed):
            texts += [ids, *(tiny_data.mask_at_random(ids, words, tokenizer.mask_token_id, rng) for _ in range(2))]
        found = tiny_teacher.predict(teacher, table, texts, tokenizer.pad_token_id)
        np.savez(work / "pool.npz", tokens=np.concatenate(texts), lengths=[len(text) for text in texts], margins=found)
    with np.load(work / "pool.npz") as pool:
        texts, targets = np.split(pool["tokens"], np.cumsum(pool["lengths"])[:-1]), pool["margins"]
    print(f"pool: {len(texts)} texts, {sum(map(len, texts))} tokens, {time.time() - start:.0f} s", flush=True)

    config = TinyConfig(vocab_size=tokenizer.vocab_size, embedding_dim=EMBEDDING_DIM)

    def classifier(params: Any) -> TextClassifier:
        return TextClassifier(params=params, config=config, class_names=CLASS_NAMES, max_length=MAX_LENGTH)

    student_start = time.time()
    params = train_student(
        initial_params(config, table, jax.random.key(seed)),
        config,
        texts,
        targets,
        pad_token_id=tokenizer.pad_token_id,
        epochs=_EPOCHS.value,
        seed=seed,
        log=lambda params: f"dev accuracy {accuracy(classifier(params), tokenizer, dev):.4f}",
    )
    student_seconds = round(time.time() - student_start)
    stored = flattened(params, np.float16)
    model = classifier(unflattened(stored))
    ranks = negation_ranks(model, tokenizer)
    scores = {
        "sst2_dev_accuracy": round(accuracy(model, tokenizer, dev), 4),
        "sst2_test_accuracy": round(accuracy(model, tokenizer, test), 4),
        "negation_pairs_in_top_3": sum(rank <= 3 for rank in ranks),
        "negation_pairs_first": sum(rank == 1 for rank in ranks),
        "negation_sentences": len(ranks),
        "negation_accuracy": accuracy(
            model, tokenizer, [(s["text"], s["positive"]) for s in tiny_negations.test_sentences()]
        ),
    }
    np.savez_compressed(out / "weights.npz", **stored)
    (out / "vocab.txt").write_text("\n".join(tokenizer.get_vocab()), encoding="utf-8")
    provenance = {
        "config": dataclasses.asdict(config),
        "class_names": CLASS_NAMES,
        "max_length": MAX_LENGTH,
        "scores": scores,
        "seed": seed,
        "epochs": _EPOCHS.value,
        "student_seconds": student_seconds,
        "date": datetime.date.today().isoformat(),
        "versions": {"jax": jax.__version__, "optax": optax.__version__, "numpy": np.__version__},
        "device": jax.devices()[0].device_kind,
        "made_by": "experiments/train_tiny.py",
        "data": "SST-2's train split, rt-polarity without lines that share text with the dev and test splits, and "
        "generated negations",
        "teacher": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), fine-tuned on the same texts",
        "licence": "The weights fall under the package's licence. They derive from MiniLM (Apache-2.0) and from texts "
        "of SST-2 (Socher et al. 2013) and rt-polarity (Pang and Lee 2005), which are published for research; no text "
        "is included.",
    }
    (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=2), "\nranks", ranks)


if __name__ == "__main__":
    runtime.run_program(main)
