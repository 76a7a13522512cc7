"""The shipped classifier and its tokenizer."""

import itertools
import json
import pathlib
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import TextClassifier, WordPieceTokenizer, tiny
from spex_jax.models.tiny_classifier import DATA_FOLDER

NEGATIONS = json.loads((pathlib.Path(__file__).parent / "negation_sentences.json").read_text(encoding="utf-8"))

PLAIN = [
    "Her acting never fails to impress.",
    "It isn't good, \"they\" said; I've seen (much) better -- 10/10!",
    "tabs\tand\nnewlines  and   spaces ",
    "unquestionably supercalifragilistic xyzzyqwk",
]
ODD = [
    "",
    " \t\n ",
    "İstanbul'da ÇOK güzel bir film",
    "naïve café, cafe\u0301 and Ångström",
    "great 😀😀 movie 👩‍👩‍👧 !",
    "zero\u200bwidth \u00a0 nbsp \u3000 wide\x00null",
    "这部电影 很好看",
    "привет мир",
    "ß ﬁlm ﬃ ㎏ Ⅷ",
    "[MASK] is n't [UNK] [mask]",
    "it\u2019s “not” bad — isn\u2019t it…",
    "".join(chr(c) for c in range(0x20, 0x500)),
]


@pytest.fixture(scope="module")
def loaded() -> tuple[TextClassifier, WordPieceTokenizer]:
    return tiny()


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0]


@pytest.fixture(scope="module")
def tokenizer(loaded):
    return loaded[1]


def encode(tokenizer, texts, length=32):
    tokens = np.full((len(texts), length), tokenizer.pad_token_id, np.int32)
    mask = np.zeros((len(texts), length), bool)
    for i, text in enumerate(texts):
        ids = tokenizer(text)["input_ids"]
        tokens[i, : len(ids)] = ids
        mask[i, : len(ids)] = True
    return jnp.asarray(tokens), jnp.asarray(mask)


@jax.jit
def forward(model, tokens, mask):
    return model(tokens, mask)


def margin(model, tokenizer, texts):
    logits = np.asarray(forward(model, *encode(tokenizer, texts)))
    return logits[:, 1] - logits[:, 0]


# The tokenizer.


@pytest.mark.parametrize("text", PLAIN)
def test_pieces_are_the_text_at_their_offsets(tokenizer, text):
    encoding = tokenizer(text, return_offsets_mapping=True)
    pieces = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    spans = encoding["offset_mapping"]
    assert (pieces[0], pieces[-1], spans[0], spans[-1]) == ("[CLS]", "[SEP]", (0, 0), (0, 0))
    for piece, (start, end) in zip(pieces[1:-1], spans[1:-1], strict=True):
        assert text[start:end].lower() == piece.removeprefix("##")
    assert "".join(text[start:end] for start, end in spans) == "".join(text.split())


def assert_spans_increase(text, spans):
    previous = 0
    for start, end in spans:
        assert previous <= start < end <= len(text)
        assert text[start:end].strip() == text[start:end] != ""
        previous = end


@pytest.mark.parametrize("text", PLAIN + ODD)
def test_spans_increase_within_the_text(tokenizer, text):
    encoding = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, add_special_tokens=False)
    assert_spans_increase(text, encoding["offset_mapping"])
    assert set(encoding["special_tokens_mask"]) <= {0}
    assert len({len(value) for value in encoding.values()}) == 1


def test_spans_increase_for_random_unicode(tokenizer):
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(
            chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x11000), rng.randrange(128))))
            for _ in range(40)
        )
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        previous = (0, 0)
        for span in spans:
            # One character that decomposes into several may give several pieces with the same span.
            assert span == previous or previous[1] <= span[0] or previous[1] - 1 == span[0]
            assert previous[0] <= span[0] < span[1] <= len(text)
            previous = span


@pytest.mark.parametrize("text", ["", " \t\n "])
def test_empty_text_has_only_special_tokens(tokenizer, text):
    encoding = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    assert encoding == {
        "input_ids": [tokenizer.cls_token_id, tokenizer.sep_token_id],
        "attention_mask": [1, 1],
        "offset_mapping": [(0, 0), (0, 0)],
        "special_tokens_mask": [1, 1],
    }
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == []


@pytest.mark.parametrize("raw", ["It isn't good", "it is n't good", "It isn\u2019t good", "it is n\u2019t good"])
def test_contractions_are_the_same_tokens(tokenizer, raw):
    assert tokenizer(raw)["input_ids"] == tokenizer("it isn't good")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(tokenizer(raw)["input_ids"])[2:4] == ["is", "n't"]


@pytest.mark.parametrize(
    ("one", "other"), [("can't", "ca n't"), ("cannot", "can not"), ("we'll", "we 'll"), ("film's", "film 's")]
)
def test_treebank_splits(tokenizer, one, other):
    assert tokenizer(one)["input_ids"] == tokenizer(other)["input_ids"]


def test_accents_and_case_do_not_matter(tokenizer):
    assert tokenizer("CAFÉ Cafe\u0301")["input_ids"] == tokenizer("cafe cafe")["input_ids"]


def test_one_unknown_token_per_run(tokenizer):
    encoding = tokenizer("a привет b", add_special_tokens=False, return_offsets_mapping=True)
    assert encoding["input_ids"][1:-1] == [tokenizer.unk_token_id]
    assert encoding["offset_mapping"] == [(0, 1), (2, 8), (9, 10)]


def test_ascii_is_never_unknown(tokenizer):
    text = "".join(map(chr, range(32, 127)))
    assert tokenizer.unk_token_id not in tokenizer(text + " " + " ".join(text) + " zqxj jxqz0")["input_ids"]


def test_mask_token_in_text(tokenizer):
    encoding = tokenizer("a[MASK] b", return_offsets_mapping=True)
    assert (encoding["input_ids"][2], encoding["offset_mapping"][2]) == (tokenizer.mask_token_id, (1, 7))
    assert tokenizer.mask_token == "[MASK]"


def test_truncation(tokenizer):
    text = "word " * 1000
    assert len(tokenizer(text)["input_ids"]) == 1002
    assert len(tokenizer(text, truncation=True)["input_ids"]) == tokenizer.model_max_length
    ids = tokenizer(text, truncation=True, max_length=5)["input_ids"]
    assert len(ids) == 5
    assert ids[-1] == tokenizer.sep_token_id


def test_decode(tokenizer):
    ids = tokenizer("It isn't unquestionably good")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "it isn't unquestionably good"
    assert tokenizer.decode(ids).startswith("[CLS] it")
    assert tokenizer.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(ids)) == ids


def test_tokenizer_errors(tokenizer):
    with pytest.raises(ValueError, match="once per text"):
        tokenizer(["one", "two"])
    with pytest.raises(ValueError, match=r"lacks \['\[MASK\]'\]"):
        WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]"], model_max_length=8)
    with pytest.raises(ValueError, match="repeated"):
        WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "a"], model_max_length=8)


# The model.


def test_attributes(model, tokenizer):
    assert model.class_names == ("negative", "positive")
    assert model.num_classes == 2
    assert model.max_length == tokenizer.model_max_length
    assert model.params["embedding"]["embedding"].shape[0] == tokenizer.vocab_size == len(tokenizer)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}


def test_is_small():
    assert sum(file.stat().st_size for file in DATA_FOLDER.iterdir()) < 3e6


@pytest.mark.parametrize("dtype", [bool, np.int32])
def test_padding_has_no_influence(model, tokenizer, dtype):
    tokens, mask = encode(tokenizer, PLAIN[:3])
    logits = forward(model, tokens, mask)
    assert (logits.shape, logits.dtype) == ((3, 2), jnp.float32)
    longer = [
        jnp.pad(tokens, ((0, 0), (0, 9)), constant_values=tokenizer.mask_token_id),
        jnp.pad(mask, ((0, 0), (0, 9))),
    ]
    np.testing.assert_allclose(forward(model, longer[0], longer[1].astype(dtype)), logits, atol=1e-5)


def test_another_instance_does_not_recompile(model):
    traces = []

    @jax.jit
    def counted(m, tokens, mask):
        traces.append(None)
        return m(tokens, mask)

    tokens = jnp.ones((2, 8), jnp.int32)
    first = counted(model, tokens, tokens)
    other = counted(jax.tree.map(lambda leaf: leaf * 1.5, tiny()[0]), tokens, tokens)
    assert len(traces) == 1
    assert not np.allclose(first, other)


def test_one_text_at_a_time_gives_the_same(model, tokenizer):
    tokens, mask = encode(tokenizer, PLAIN[:3])
    one_by_one = jax.jit(jax.vmap(lambda t, a: model(t[None], a[None])[0]))(tokens, mask)
    np.testing.assert_allclose(one_by_one, forward(model, tokens, mask), atol=1e-5)


def test_padded_rows_and_full_context_are_finite(model):
    tokens = jnp.ones((2, model.max_length), jnp.int32)
    mask = tokens * jnp.array([[1], [0]])
    assert jnp.isfinite(forward(model, tokens, mask)).all()


def test_model_errors(model):
    with pytest.raises(ValueError, match="max_length"):
        model(jnp.ones((1, model.max_length + 1), jnp.int32), jnp.ones((1, model.max_length + 1), bool))
    with pytest.raises(ValueError, match=r"expected \[B, L\]"):
        model(jnp.ones(3, jnp.int32), jnp.ones(3, bool))
    with pytest.raises(ValueError, match="attention_mask has shape"):
        model(jnp.ones((1, 3), jnp.int32), jnp.ones((1, 4), bool))
    with pytest.raises(ValueError, match="dtype"):
        model(jnp.ones((1, 3)), jnp.ones((1, 3), bool))


@pytest.mark.parametrize(
    ("text", "positive"),
    [
        ("A wonderful, moving film.", True),
        ("a dull and pointless mess .", False),
        ("It isn't good.", False),
        ("it is n't good .", False),
        ("The story isn\u2019t boring.", True),
        ("Her acting never fails to impress.", True),
    ],
)
def test_sentiment(model, tokenizer, text, positive):
    assert (margin(model, tokenizer, [text])[0] > 0) == positive


@pytest.mark.parametrize("sentence", NEGATIONS[::8], ids=lambda sentence: sentence["text"])
def test_the_pair_of_a_negation_interacts(model, tokenizer, sentence):
    """Against the mean size of all pairwise Banzhaf interactions, computed directly on all masks."""
    encoding = tokenizer(sentence["text"], return_offsets_mapping=True)
    starts = list(itertools.accumulate((len(word) + 1 for word in sentence["text"].split()), initial=0))[:-1]
    n = len(starts)
    word = np.searchsorted(starts, [start for start, _ in encoding["offset_mapping"]], side="right") - 1
    word[[0, -1]] = n
    kept = np.concatenate([(np.arange(2**n)[:, None] >> np.arange(n)) % 2 == 1, np.ones((2**n, 1), bool)], axis=1)
    tokens = np.where(kept[:, word], encoding["input_ids"], tokenizer.mask_token_id).astype(np.int32)
    logits = np.asarray(forward(model, tokens, np.ones_like(tokens)))
    signs = np.where(kept[:, :n], 1.0, -1.0)
    interactions = np.abs(np.einsum("m,mi,mj->ij", logits[:, 1] - logits[:, 0], signs, signs)) / 2 ** (n - 2)
    pairs = interactions[np.triu_indices(n, 1)]
    assert interactions[tuple(sentence["pair"])] > pairs.mean()


@pytest.mark.slow
def test_accuracy_on_sst2(model, tokenizer, data_folder):
    """The accuracy that provenance.json claims, on the split that no training saw; `test_sentiment` needs no data."""
    lines = (data_folder / "sst2" / "test.tsv").read_text(encoding="utf-8").splitlines()
    encoded = [tokenizer(line.rsplit("\t", 1)[0])["input_ids"] for line in lines]
    labels = np.array([int(line.rsplit("\t", 1)[1]) for line in lines])
    length = max(map(len, encoded))
    tokens = np.array([ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids in encoded])
    attention = np.arange(length) < np.array([[len(ids)] for ids in encoded])
    forward = jax.jit(lambda model, tokens, attention: model(tokens, attention))
    batches = [slice(start, start + 607) for start in range(0, len(lines), 607)]  # 1,821 lines in three equal batches
    logits = np.concatenate([forward(model, tokens[rows], attention[rows]) for rows in batches])
    accuracy = (logits.argmax(axis=1) == labels).mean()
    claimed = json.loads((DATA_FOLDER / "provenance.json").read_text())["scores"]["sst2_test_accuracy"]
    assert len(lines) == 1821
    assert accuracy >= 0.8
    assert accuracy == pytest.approx(claimed, abs=0.002)
