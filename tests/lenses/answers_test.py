"""Prompts of language models: ablated, answered and read, against forwards of prompts edited by hand."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.directories import write_byte_tokenizer, write_model
from transformers import AutoTokenizer

import spex_jax
from spex_jax import evaluate, lenses, models
from spex_jax.fingerprints import fingerprint
from spex_jax.lenses.values import value_of_answers

pytestmark = pytest.mark.usefixtures("quick_compilation")

forward = jax.jit(lambda model, tokens, attention: model(tokens, attention))
states = jax.jit(lambda model, *rows: model.logits(model.states(*rows)))
LONG = "a b c d e f g h i j k l m n o p q r s t"  # its first tokens are a prefix worth sharing
TEXT = f"{LONG} u v w , x y . z"
WITHIN = "u v w , x y ."
MESSAGES = [
    {"role": "system", "content": "a b c d e f g h i j k l m n o p q"},
    {"role": "user", "content": " r s t "},
    {"role": "assistant", "content": "u v"},
    {"role": "user", "content": "w x y z"},
]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    return functools.cache(lambda name: models.load(write_model(tmp_path_factory.mktemp(name), name)))


@pytest.fixture(scope="module")
def llama(load):
    return load("llama3")


def log_probabilities(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def of_prompt(model, prompt, answer):
    """log p of an answer after a prompt, token by token, by the model's plain forward."""
    whole = np.array([[*prompt, *answer]])
    logits = forward(model, np.pad(whole, ((0, 0), (0, 48 - whole.shape[1]))), np.arange(48)[None] < whole.shape[1])
    scores = log_probabilities(logits[0, len(prompt) - 1 : whole.shape[1] - 1])
    return sum(scores[i, token] for i, token in enumerate(answer))


def of_hidden(model, prompt, kept, answer):
    """The same with tokens that nobody sees; positions stay, and what is read is the last that is there."""
    tokens, size = np.zeros((1, 48), np.int32), len(prompt) + len(answer)
    tokens[0, :size] = [*prompt, *answer]
    segments = np.full((1, 48), -1, np.int32)
    segments[0, :size] = np.where([*kept, *[True] * len(answer)], 0, -1)
    scores = log_probabilities(states(model, tokens, np.arange(48), segments))[0]
    places = [int(np.flatnonzero(kept)[-1]), *range(len(prompt), size - 1)]
    return sum(scores[place, token] for place, token in zip(places, answer, strict=True))


def by_hand(model, tokenizer, value_fn, masks, removal, answer, stand_in=(6,)):
    """Values of masks, each by a forward of its own."""
    text, spans = value_fn.details.text, value_fn.details.spans
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    unit = [next((u for u, (a, b) in enumerate(spans) if a <= s and e <= b and e > s), -1) for s, e in offsets]
    if not text.startswith("<s>"):
        ids, unit = [tokenizer.bos_token_id, *ids], [-1, *unit]
    values = []
    for mask in masks:
        kept = [u < 0 or mask[u] for u in unit]
        if removal == "mask":
            prompt = [token if k else tokenizer.unk_token_id for token, k in zip(ids, kept, strict=True)]
            values.append(of_prompt(model, prompt, answer))
        elif removal == "delete":
            values.append(of_prompt(model, [token for token, k in zip(ids, kept, strict=True) if k], answer))
        elif removal == "replace":
            prompt, seen = [], set()
            for token, k, u in zip(ids, kept, unit, strict=True):
                if k:
                    prompt.append(token)
                elif u not in seen:
                    prompt += stand_in
                    seen.add(u)
            values.append(of_prompt(model, prompt, answer))
        else:
            values.append(of_hidden(model, ids, kept, answer))
    return np.array(values)


def some_masks(n, rng, count=7):
    masks = rng.integers(0, 2, (count, n)).astype(bool)
    masks[0], masks[1] = True, False
    return masks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "removal", "share_prefix"),
    [
        *itertools.product(["llama3"], ["mask", "attention", "delete", "replace"], [True, False]),
        *itertools.product(["gemma3", "gpt2"], ["attention", "delete"], [True]),
    ],
)
def test_values_are_those_of_prompts_edited_by_hand(name, removal, share_prefix, load, rng):
    model, tokenizer = load(name)
    options = {"replacement": "a b"} if removal == "replace" else {}
    value_fn = lenses.text(
        model, tokenizer, TEXT, within=WITHIN, removal=removal, target="c d a", share_prefix=share_prefix, **options
    )
    assert value_fn.names == ("u", "v", "w ,", "x", "y .")
    assert (value_fn.fn.prefix is not None) == share_prefix
    assert (value_fn.device.packing is None) == (removal == "mask")
    masks = some_masks(value_fn.n, rng)
    answer = tokenizer("c d a", add_special_tokens=False)["input_ids"]
    stand_in = tokenizer("a b", add_special_tokens=False)["input_ids"]
    expected = by_hand(model, tokenizer, value_fn, masks, removal, answer, stand_in)
    np.testing.assert_allclose(evaluate(value_fn, masks, progress=False), expected, atol=1e-4)


@pytest.mark.parametrize("removal", ["mask", "attention", "delete"])
def test_conversations(removal, llama, rng):
    model, tokenizer = llama
    value_fn = lenses.text(model, tokenizer, MESSAGES, removal=removal, target="c", units="word")
    assert value_fn.names == tuple("rstuvwxyz")  # the system's words are protected
    assert value_fn.details.text.endswith("w x y z </s><assistant> ")
    masks = some_masks(9, rng)
    answer = tokenizer("c", add_special_tokens=False)["input_ids"]
    expected = by_hand(model, tokenizer, value_fn, masks, removal, answer)
    np.testing.assert_allclose(evaluate(value_fn, masks, progress=False), expected, atol=1e-4)


@pytest.mark.parametrize("removal", ["mask", "attention", "delete", "replace"])
def test_a_removed_unit_has_no_influence(removal, load, rng):
    """Whatever stands in a unit that all masks remove, the values are the same, and those of kept units differ."""
    model, tokenizer = load("gemma3" if removal == "attention" else "llama3")
    options = {"replacement": "q q"} if removal == "replace" else {}
    masks = rng.integers(0, 2, (12, 5)).astype(bool)
    masks[:, 3] = False
    found = [
        evaluate(
            lenses.text(model, tokenizer, f"{LONG} u v w {word} y z", within=f"u v w {word} y", target="c d",
                        removal=removal, **options),
            masks,
            progress=False,
        )
        for word in ("x", "s")
    ]  # fmt: skip
    np.testing.assert_allclose(*found, atol=1e-5)
    assert np.ptp(found[0]) > 1e-3


@pytest.mark.slow
def test_values_of_answers(llama):
    model, tokenizer = llama
    full = np.ones((1, 28), bool)

    def value(**options):
        value_fn = lenses.text(model, tokenizer, TEXT, **{"target": "c d a", **options})
        return evaluate(value_fn, full[:, : value_fn.n], progress=False)[0]

    prompt = tokenizer(TEXT)["input_ids"]
    target, contrast = (tokenizer(a, add_special_tokens=False)["input_ids"] for a in ("c d a", "b e"))
    log_p, other = of_prompt(model, prompt, target), of_prompt(model, prompt, contrast)
    assert value() == pytest.approx(log_p, abs=1e-4)
    assert value(value="margin") == pytest.approx(log_p - np.log1p(-np.exp(log_p)), abs=1e-4)
    assert value(value="logit_diff", contrast="b e") == pytest.approx(log_p - other, abs=1e-4)
    assert value(value="logit_diff", contrast="c e") == pytest.approx(
        log_p - of_prompt(model, prompt, [target[0], contrast[1]]), abs=1e-4
    )
    whole = [*prompt, *target]
    logits = np.asarray(forward(model, np.array([whole]), np.ones((1, len(whole)), bool)))[0]
    raw = sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(target))
    assert value(value="logit") == pytest.approx(raw, abs=1e-4)
    first = logits[len(prompt) - 1]
    assert value(value="logit_diff", target="c", contrast="b") == pytest.approx(
        first[target[0]] - first[contrast[0]], abs=1e-4
    )
    assert value(target=target) == value(target=tuple(target)) == pytest.approx(log_p, abs=1e-4)
    assert value(target=target[0]) == pytest.approx(of_prompt(model, prompt, target[:1]), abs=1e-4)


@pytest.mark.parametrize("margin", [-120.0, -3.0, 0.0, 5.0, 25.0, 300.0])
def test_the_margin_of_a_single_token_is_its_own(margin):
    weight = jnp.array([1.0, 0.0])
    found = value_of_answers("margin", jnp.zeros(2), jnp.array([margin, 77.0]), weight)
    assert float(found) == pytest.approx(margin, rel=1e-5, abs=1e-5)
    both = value_of_answers("margin", jnp.zeros(2), jnp.array([margin, margin]), jnp.ones(2))
    p = 2 * -np.logaddexp(0, -margin)
    expected = p - np.log(-np.expm1(p)) if margin < 25 else margin - np.log(2)
    assert float(both) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_the_models_own_answer(llama):
    model, tokenizer = llama
    value_fn = lenses.text(model, tokenizer, MESSAGES, max_new_tokens=4)
    ids = tokenizer(value_fn.details.text, add_special_tokens=False)["input_ids"]
    expected = models.generate(model, ids, most=4, stops=tuple(tokenizer.all_special_ids))
    assert value_fn.details.target == tokenizer.decode(expected)
    # Any JAX model gives the same answer and the same values; its positions cannot be set, its lengths can.
    for removal in ("mask", "delete"):
        mine = lenses.text(model, tokenizer, MESSAGES, max_new_tokens=4, removal=removal)
        plain = lenses.text(
            lambda tokens, attention: model(tokens, attention), tokenizer, MESSAGES, max_new_tokens=4, removal=removal
        )
        masks = some_masks(9, np.random.default_rng(1))
        assert plain.details == mine.details
        np.testing.assert_allclose(
            evaluate(plain, masks, progress=False), evaluate(mine, masks, progress=False), atol=1e-4
        )


@pytest.mark.slow
def test_long_answers_are_scored_in_parts(llama, monkeypatch, rng):
    model, tokenizer = llama
    masks = some_masks(5, rng)

    def values():
        value_fn = lenses.text(model, tokenizer, TEXT, within=WITHIN, removal="delete", target="c d a b e f g")
        return evaluate(value_fn, masks, progress=False)

    whole = values()
    monkeypatch.setattr("spex_jax.lenses.text_parts.ablated_text._LOGITS", 40 * 5)
    jax.clear_caches()
    np.testing.assert_allclose(values(), whole, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 200])
def test_values_do_not_depend_on_the_batch(batch_size, llama, rng):
    value_fn = lenses.text(*llama, TEXT, removal="delete", target="c d")
    masks = rng.integers(0, 2, (70, value_fn.n)).astype(bool)
    found = evaluate(value_fn, masks, batch_size=batch_size, progress=False)
    np.testing.assert_allclose(found, evaluate(value_fn, masks, progress=False), rtol=0, atol=1e-5)


def test_an_explanation_of_a_conversation(llama, tmp_path):
    value_fn = lenses.text(*llama, MESSAGES, removal="delete", target="c")
    options = {"budget": 200, "proxy": "linear", "store": tmp_path}
    e = spex_jax.explain(value_fn, **options)
    same, other = (lenses.text(*llama, MESSAGES, removal="delete", target=target) for target in "cd")
    assert spex_jax.explain(same, **options).stored == len(e.masks)
    assert spex_jax.explain(other, **options).stored == 0
    page = e._repr_html_()
    assert "assistant" in page
    assert str(e).count("removal 'delete'") == 1


def test_what_is_computed_apart_does_not_identify(llama):
    one = lenses.text(*llama, TEXT, within=WITHIN, target="c")
    two = lenses.text(*llama, TEXT, within=WITHIN, target="c")
    moved = jax.tree.map(lambda leaf: leaf + 1e-7, two.fn.prefix)
    assert fingerprint(one.fn, 4) == fingerprint(dataclasses.replace(two.fn, prefix=moved), 4)
    changed = lenses.text(*llama, TEXT.replace("a b", "b a"), within=WITHIN, target="c")
    assert fingerprint(changed.fn, 4) != fingerprint(one.fn, 4)


def test_a_tokenizer_with_bytes(tmp_path, llama):
    """Answers are tokenised behind the prompt: the space belongs to the word, as in GPT-2, Llama 3 and Qwen."""
    text = "the capital of France is Paris and the capital of Spain is Madrid. Zoë said: naïve 東京 😀 "
    tokenizer = AutoTokenizer.from_pretrained(write_byte_tokenizer(tmp_path, text * 3))
    model = jax.tree_util.Partial(lambda tokens, attention: jax.nn.one_hot(tokens + 1, len(tokenizer)) * 5.0)
    for prompt, target in (("the capital of France is", " Paris"), ("Zoë said:", " naïve 東京"), ("😀", "😀 ")):
        value_fn = lenses.text(model, tokenizer, prompt, target=target, removal="delete")
        assert tokenizer.decode(np.asarray(value_fn.fn.tokens)[np.asarray(value_fn.fn.weight) > 0]) == target
        assert value_fn.fn.template.tokens[0] == tokenizer.bos_token_id  # added: the tokenizer itself adds none
    # "Par|is" melts into one token with what stands before it: the answer is tokenised alone.
    value_fn = lenses.text(model, tokenizer, "the capital of France is Par", target="is", removal="delete")
    assert tokenizer.decode(np.asarray(value_fn.fn.tokens)[np.asarray(value_fn.fn.weight) > 0]) == "is"
    # Every character of several tokens is one unit, whatever it is cut into.
    assert lenses.text(model, tokenizer, "東 😀", units="token", target=" ", removal="delete").names == (
        "東",
        " ",
        "😀",
    )


def test_a_single_word(llama):
    value_fn = lenses.text(*llama, "a", removal="delete", target="b")
    assert evaluate(value_fn, np.array([[True], [False]]), progress=False).shape == (2,)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TEXT, {"target": ""}, "target is an empty text"),
        (TEXT, {"target": " "}, "has no tokens"),
        (TEXT, {"target": "c hello"}, "target 'c hello' cannot be encoded"),
        (TEXT, {"target": []}, "target is an empty list"),
        (TEXT, {"target": [7, 40]}, "ids from 0 to 39, got 40"),
        (TEXT, {"target": 2.5}, "ids from 0 to 39, got 2.5"),
        (TEXT, {"target": "c", "contrast": "", "value": "logit_diff"}, "contrast is an empty text"),
        ("a " * 64, {"target": "c"}, "the text has 65 tokens and the model's context is 64"),
        ("a " * 60, {"target": "c d e f"}, "the prompt has 61 tokens, the target 4, .* context is 64"),
        (TEXT, {"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1"),
        (TEXT, {"target": "c", "removal": "replace"}, "'replace' needs replacement="),
        (TEXT, {"target": "c", "replacement": "x"}, "and only it does"),
        ("a b", {"target": "c", "removal": "replace", "replacement": ["x"]}, "one for each of the 2 units"),
        ("a b", {"target": "c", "within": "z"}, "'z' of within= occurs 0 times"),
        ("a b a", {"target": "c", "within": ["a"]}, "'a' of within= occurs 2 times"),
        ("a b", {"target": "c", "within": []}, "within= is empty"),
        ("a b", {"target": "c", "units": "document"}, "units='document' needs within="),
        ("a b", {"target": "c", "units": "turn"}, "units='turn' needs messages"),
        ("a b", {"target": "c", "units": [(0, 2), (1, 3)]}, r"spans \(0, 2\) and \(1, 3\) of units= overlap"),
        ("a b", {"target": "c", "units": [(0, 4)]}, r"the span \(0, 4\) of units= is empty or leaves the text"),
        ("a b", {"target": "c", "units": [(0, "x")]}, "must be pairs"),
        ("a b", {"target": "c", "units": [(1, 2)]}, r"the unit ' ' at \(1, 2\) has no token of its own"),
        ("a b", {"target": "c", "units": re.compile("z")}, "no phrases to remove"),
        ("a b", {"target": "c", "units": re.compile(" ")}, "has no token of its own"),
        (
            MESSAGES,
            {"target": "c", "units": [(0, 2)]},
            "spans count the characters .* here 3 are not",
        ),
        (MESSAGES[:1], {"target": "c"}, "no words to remove"),
        ([], {"target": "c"}, "no messages"),
        (["a"], {"target": "c"}, 'message 0 must be {"role": ..., "content": ...}'),
        ([{"role": "user", "content": [{"type": "text"}]}], {}, "content of message 0 must be a string, got list"),
    ],
)
def test_wrong_input(text, options, message, llama):
    with pytest.raises(ValueError, match=message):
        lenses.text(*llama, text, **options)


def test_models_and_tokenizers_that_lack_something(tmp_path, llama):
    model, tokenizer = llama
    plain = models.load(write_model(tmp_path / "plain", "llama3", bos=None, chat_template=None))
    with pytest.raises(ValueError, match="has no chat template"):
        lenses.text(*plain, MESSAGES, target="c")
    with pytest.raises(ValueError, match="nothing is left for the model to answer when all units are removed"):
        lenses.text(*plain, "a b", target="c", removal="delete")
    assert lenses.text(*plain, "a b z", within="a b", target="c", removal="delete").n == 2
    assert evaluate(lenses.text(*plain, "a b", target="c"), np.ones((1, 2), bool), progress=False).shape == (1,)
    nothing = models.load(write_model(tmp_path / "refusing", "llama3", chat_template="{{ raise_exception('no') }}"))
    with pytest.raises(ValueError, match="the chat template refuses these messages: no"):
        lenses.text(*nothing, MESSAGES, target="c")
    stops = jax.tree.map(lambda leaf: leaf * 0, model)  # all logits alike: the first token, which is special, ends it
    with pytest.raises(ValueError, match="own answer is empty"):
        lenses.text(stops, tokenizer, "a b")

    class NoSpares:
        bos_token_id = 1

        def __call__(self, *arguments, **options):
            return tokenizer(*arguments, **options)

        def __len__(self):
            return len(tokenizer)

    with pytest.raises(ValueError, match="a mask, pad or unk token; this one has none: use removal='delete'"):
        lenses.text(model, NoSpares(), "a b", target="c")
