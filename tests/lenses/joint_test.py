"""Two lenses in one mask, against the units of one of them removed by hand and the other lens made for what is left."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lenses import trained_decoder
from lenses.trained_decoder import COPY, HEADS, four_groups, learning_alone, model_of, sequences
from models.directories import write_model, write_word_tokenizer
from transformers import AutoTokenizer

import spex_jax
from spex_jax import models
from spex_jax.core.masks import all_masks
from spex_jax.fingerprints import fingerprint
from spex_jax.lenses import components, joint, patches, text, training_data

pytestmark = pytest.mark.usefixtures("quick_compilation")

LONG = "a b c d e f g h i j k l m n o p q r s t"  # its first tokens are a prefix, which is computed apart
TEXT = f"{LONG} u v w , x y . z"
WITHIN = "u v w , x y ."
ANSWER = "c d a"
WORDS = 5  # units of WITHIN
REFERENCE = [[1, 4, 19], [1, 35, 2, 16, 24, 3]]
PROMPTS, NEXT = sequences(COPY, 3)
BATCH = 8


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    return functools.cache(lambda name: models.load(write_model(tmp_path_factory.mktemp(name), name)))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(write_word_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def data():
    """A few steps on four groups, of two seeds."""
    (x, y), groups = four_groups(4)
    options = {"groups": groups, "optimizer": optax.sgd(0.3), "steps": 6, "seeds": 2, "identity": "a few steps"}
    return functools.partial(training_data, trained_decoder.init, trained_decoder.apply, (x, y), (x, y), **options)


def ask(value_fn, masks):
    return spex_jax.evaluate(value_fn, masks, batch_size=BATCH, progress=False)


def some_masks(n, first, count=5, seed=0):
    """All kept, all of the first so many kept, all others kept, none, and masks at random."""
    masks = np.random.default_rng(seed).integers(0, 2, (count + 4, n)).astype(bool)
    masks[0], masks[1, :first], masks[2, first:], masks[3] = True, True, True, False
    return masks


def without_heads(model, kept):
    """A decoder in which what the heads mix has weights of zero, bool [layers, heads]."""
    columns = jnp.asarray(np.repeat(kept, model.config.head_dim, axis=1))[:, None]
    layers = model.params["layers"]
    output = {**layers["output"], "weight": layers["output"]["weight"] * columns}
    return dataclasses.replace(model, params={**model.params, "layers": {**layers, "output": output}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "removal"),
    [*(("llama3", removal) for removal in ("mask", "attention", "delete", "replace")), ("gpt2", "delete")],
)
def test_words_of_networks_without_heads(name, removal, load):
    model, tokenizer = load(name)
    options = {"within": WITHIN, "removal": removal, "target": ANSWER}
    options |= {"replacement": "a b"} if removal == "replace" else {}
    words = text(model, tokenizer, TEXT, **options)
    heads = components(model, [[1, 2, 3]], removal="zero", value="logit", target=3)
    both = joint(words, heads)
    assert (both.n, both.outputs, both.on_device, both.device.packing) == (WORDS + 12, (), True, None)
    assert both.names == (*words.names, *heads.names)
    assert words.fn.prefix is not None
    masks = some_masks(both.n, WORDS)
    found = ask(both, masks)
    expected = [
        ask(text(without_heads(model, mask[WORDS:].reshape(3, 4)), tokenizer, TEXT, **options), mask[None, :WORDS])[0]
        for mask in masks
    ]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(found[0], ask(words, masks[:1, :WORDS])[0], atol=1e-4)
    assert len(np.unique(found.round(4))) == len(masks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "removal", "options"),
    [
        ("gemma2", "mask", {"units": "heads", "removal": "mean", "reference": REFERENCE}),
        ("llama3", "delete", {"units": ["L0MLP", ["L1KV1", "L2N0:30"], "L2ATTN"], "removal": "mean"}),
        ("gpt2", "mask", {"units": "heads", "layers": [1, 2], "removal": "zero_rescaled"}),
    ],
    ids=["mean of a reference", "groups", "rescaled"],
)
def test_components_of_prompts_without_words(name, removal, options, load):
    model, tokenizer = load(name)
    words = text(model, tokenizer, TEXT, within=WITHIN, removal=removal, target=ANSWER)
    prompt = np.array(tokenizer(TEXT)["input_ids"])
    unit = np.full(len(prompt), -1)
    unit[21:28] = [0, 1, 2, 2, 3, 4, 4]
    answer = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    lens = functools.partial(components, model, value="logprob", **options)
    if options["removal"] == "mean":  # over these prompts, whatever the prompts are
        lens = functools.partial(lens, reference=options.get("reference", [prompt]))
    parts = lens([prompt], target=3)
    both = joint(parts, words)
    masks = some_masks(both.n, parts.n)
    expected = []
    for mask in masks:
        kept = (unit < 0) | mask[parts.n :][unit]
        edited = prompt[kept] if removal == "delete" else np.where(kept, prompt, tokenizer.unk_token_id)
        read = [[len(edited) - 1 + i for i in range(len(answer))]]
        by_hand = lens([[*edited, *answer[:-1]]], read=read, target=[answer])
        expected.append(len(answer) * ask(by_hand, mask[None, : parts.n])[0])
    np.testing.assert_allclose(ask(both, masks), expected, atol=1e-4)


@pytest.mark.slow
def test_the_order_of_the_arguments_is_that_of_the_mask_alone(load, data):
    model, tokenizer = load("llama3")
    words = text(model, tokenizer, TEXT, within=WITHIN, target=ANSWER)
    heads = components(model, [[1, 2, 3]], removal="zero", value="logit", target=3)
    trained = components(model_of(trained_decoder.init(jax.random.key(5))), PROMPTS, value="logit", target=NEXT)
    for a, b in ((words, heads), (data(), trained)):
        one, two = joint(a, b), joint(b, a)
        assert two.names == (*b.names, *a.names)
        assert two.details.lens_sizes == (b.n, a.n)
        assert jax.tree.structure(one.fn) == jax.tree.structure(two.fn)  # and so one compiled program
        masks = some_masks(one.n, a.n)
        turned = np.concatenate([masks[:, a.n :], masks[:, : a.n]], axis=1)
        np.testing.assert_allclose(ask(one, masks), ask(two, turned), atol=1e-5)


def retrained(value_fn, mask, seed):
    """Parameters after plain steps on the examples that are kept."""
    fn = value_fn.fn
    kept = np.flatnonzero(mask[np.asarray(fn.group)])
    params = fn.init(jax.random.split(fn.keys[seed])[0])
    return _descended(params, fn.x[kept], fn.y[kept], steps=fn.steps) if len(kept) else params


@functools.partial(jax.jit, static_argnames="steps")
def _descended(params, x, y, *, steps):
    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(trained_decoder.apply(params, x), y).mean()

    for _ in range(steps):
        params = jax.tree.map(lambda leaf, gradient: leaf - 0.3 * gradient, params, jax.grad(loss)(params))
    return params


def by_retraining(training, lens, masks, first):
    """Values of lenses made of models that are trained on what the first columns of the masks keep."""
    found = []
    for mask in masks:
        of_seeds = [lens(retrained(training, mask[:first], seed)) for seed in range(2)]
        found.append(np.mean([ask(one, mask[None, first:])[0] for one in of_seeds], axis=0))
    return np.array(found)


CORRUPTED = PROMPTS[:, ::-1].copy()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"removal": "mean", "value": "logprob", "target": NEXT},
        {"removal": "resample", "corrupted": CORRUPTED, "positions": [1, 3], "value": "loss", "per_prompt": True},
    ],
    ids=["mean", "resample"],
)
def test_heads_of_retrained_networks(options, data):
    def lens(params):
        return components(model_of(params), PROMPTS, **options)

    training = data()
    both = joint(training, lens(trained_decoder.init(jax.random.key(5))))
    assert both.outputs == ((3,) if "per_prompt" in options else ())
    masks = some_masks(both.n, 4)
    masks[5, :4] = masks[4, :4]  # one training for both
    expected = by_retraining(training, lens, masks, 4)
    np.testing.assert_allclose(ask(both, masks), expected, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("removal", ["mask", "delete"])
def test_words_read_by_retrained_networks(removal, data, tokenizer):
    def lens(params):
        return text(model_of(params), tokenizer, TEXT, within=WITHIN, removal=removal, target="q r")

    training = data()
    both = joint(training, lens(trained_decoder.init(jax.random.key(5))))
    masks = some_masks(both.n, 4)
    expected = by_retraining(training, lens, masks, 4)
    np.testing.assert_allclose(ask(both, masks), expected, atol=1e-4)
    assert np.ptp(expected) > 1e-2


def classify(params, tokens, attention):
    """Two classes, by the mean of the tokens that are there."""
    there = attention[..., None].astype(jnp.float32)
    mean = (params["embedding"][tokens] * there).sum(axis=1) / there.sum(axis=1)
    return mean @ params["classes"]


@pytest.mark.slow
def test_any_pytree_can_be_retrained_whole(tokenizer, tmp_path):
    """A classifier that is no dataclass with `params`: the parameters that are trained are the whole pytree."""

    def model_from(key):
        first, second = jax.random.split(key)
        params = {"embedding": jax.random.normal(first, (32, 4)), "classes": jax.random.normal(second, (4, 2))}
        return jax.tree_util.Partial(classify, params)

    x = np.random.default_rng(0).integers(6, 32, (12, 5)).astype(np.int32)
    data = (x, (x[:, 0] > 18).astype(np.int32))
    training = training_data(
        model_from, lambda model, x: model(x, x >= 0), data, data, groups=np.arange(12) % 3, steps=4
    )
    words = text(model_from(jax.random.key(3)), tokenizer, "a b c d", removal="delete", target=1, value="margin")
    both = joint(words, training)
    masks = some_masks(7, 4)
    models_of = training.fn.trained(masks[:, 4:])
    for i, mask in enumerate(masks):
        model = jax.tree.map(lambda leaf, i=i: leaf[i], models_of)
        alone = text(model, tokenizer, "a b c d", removal="delete", target=1, value="margin")
        np.testing.assert_allclose(ask(both, mask[None]), ask(alone, mask[None, :4]), atol=1e-5)
    other = training_data(model_from, lambda model, x: model(x, x >= 0), data, data, groups=np.arange(12) % 3, steps=5)
    found = [spex_jax.evaluate(made, masks, store=tmp_path) for made in (both, both, joint(words, other))]
    np.testing.assert_array_equal(found[0], found[1])
    assert len(list(tmp_path.iterdir())) == 2  # what is trained, and how, is known by its code and its data


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "training_data"])
def test_values_do_not_depend_on_the_batch(kind, load, data):
    model, tokenizer = load("llama3")
    if kind == "text":
        words = text(model, tokenizer, TEXT, within=WITHIN, removal="delete", target=ANSWER)
        both = joint(words, components(model, [[1, 2, 3]], removal="zero", value="logit", target=3))
    else:
        base = model_of(trained_decoder.init(jax.random.key(5)))
        both = joint(components(base, PROMPTS, value="logit", target=NEXT), data())
        assert both.device.packing.slots == 16
    masks = np.random.default_rng(2).integers(0, 2, (21, both.n)).astype(bool)
    expected = spex_jax.evaluate(both, masks, batch_size=32, progress=False)
    order = np.random.default_rng(1).permutation(len(masks))
    found = spex_jax.evaluate(both, masks[order], batch_size=1, progress=False)
    np.testing.assert_allclose(found, expected[order], atol=1e-5)


@pytest.mark.slow
def test_masks_that_agree_in_what_is_trained_on_share_rows(data):
    heads = components(model_of(trained_decoder.init(jax.random.key(5))), PROMPTS, value="logit", target=NEXT)
    training = data(steps=None, epochs=2)
    masks = np.random.default_rng(0).permutation(all_masks(8))
    for both, part in ((joint(training, heads), slice(0, 4)), (joint(heads, training), slice(4, 8))):
        for most in (None, 5):
            rows = both.device.packing.rows(masks, most)
            assert sorted(rows[rows >= 0]) == list(range(256))
            assert (rows[:, 0] >= 0).all()
            sizes = [masks[row[row >= 0]][:, part] for row in rows]
            assert all((of == of[0]).all() for of in sizes)
            assert len(rows) == (16 if most is None else 16 * 4)
            # Trainings that take long stand together.
            assert (np.diff([of[0].sum() for of in sizes]) >= 0).all()
    many = data(groups=None)
    assert joint(many, heads).device.packing.slots == 1
    x, y = trained_decoder.sequences(7, 1100)
    thousand = training_data(trained_decoder.init, trained_decoder.apply, (x, y), (x[:1], y[:1]), steps=1)
    assert joint(thousand, heads).device.packing.slots == 1


def test_names_that_both_lenses_have(data, tokenizer):
    model = model_of(trained_decoder.init(jax.random.key(5)))
    both = joint(data(), text(model, tokenizer, "a nine b", target="c"))
    assert both.names == ("copy", "eight", "nine (training data)", "seven", "a", "nine (text)", "b")


def refused(kind, load, data, tokenizer):
    """A pair of lenses that is not joined."""
    llama, words_of = load("llama3")
    base = model_of(trained_decoder.init(jax.random.key(5)))
    even = [[1, 7, 22], [1, 31, 8]]
    words = functools.partial(text, llama, words_of, TEXT, within=WITHIN, target="c")
    heads = functools.partial(components, llama, even, value="logit", target=3)
    moved = jax.tree.map(lambda leaf: leaf + 1e-3, llama)
    narrow = dataclasses.replace(trained_decoder.CONFIG, max_length=40)
    short = {**base.params, "positions": base.params["positions"][:40]}
    return {
        "same kind": lambda: (words(), words()),
        "function": lambda: (words(), lambda masks: masks.sum(axis=1)),
        "picture": lambda: (patches(lambda x: x.mean(axis=(1, 2)), np.zeros((4, 4, 3), np.float32), grid=2), heads()),
        "joint": lambda: (joint(words(), heads()), data()),
        "other parameters": lambda: (words(), components(moved, even, value="logit", target=3)),
        "other config": lambda: (components(base, even, value="logit", target=3), words()),
        "resample": lambda: (words(), heads(removal="resample", corrupted=even[::-1])),
        "mean of prompts": lambda: (words(), heads(mean_over="prompts")),
        "positions": lambda: (heads(positions=[1]), words()),
        "kl": lambda: (data(), components(base, PROMPTS, value="kl")),
        "own target": lambda: (data(), components(base, PROMPTS, value="logit")),
        "own answer": lambda: (text(base, tokenizer, "a b c"), data()),
        "structure": lambda: (data(), heads()),
        "shape": lambda: (
            components(models.Decoder(params=short, config=narrow), PROMPTS, value="logit", target=NEXT),
            data(),
        ),
    }[kind]()


REFUSALS = {
    "same kind": "two lenses of different kinds, .* got text and text",
    "function": "got text and function, which is not a lens",
    "picture": r"got another value function \(_MaskedImage\) and components",
    "joint": r"got another value function \(AskedAblated\) and training_data",
    "other parameters": "of one model, got two of one config with different parameters",
    "other config": "of one model, got a Decoder and a Decoder of different configs",
    "resample": "'resample'.* use removal 'zero', 'zero_rescaled' or 'mean'",
    "mean of prompts": "use mean_over='tokens'",
    "positions": "leave positions= out",
    "kl": "'kl' compares .* use a value with a target",
    "own target": "the components lens was given no target.* give target=",
    "own answer": "the text lens was given no target.* give target=",
    "structure": r"model of the components lens.*: \['embedding'\] is of shape \(40, 24\) in the model and of shape",
    "shape": r"\['positions'\] is of shape \(40, 16\) in the model and of shape \(48, 16\) in what init_fn gives",
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_is_refused(kind, load, data, tokenizer):
    pair = refused(kind, load, data, tokenizer)
    with pytest.raises(ValueError, match=REFUSALS[kind]):
        joint(*pair)


def test_identities(load, data):
    model, tokenizer = load("llama3")

    def words(target="c", **options):
        return text(model, tokenizer, TEXT, within=WITHIN, target=target, **options)

    heads = functools.partial(components, model, [[1, 7, 22]], value="logit", target=3)
    made = [
        lambda: joint(words(), heads()),
        lambda: joint(heads(), words()),
        lambda: joint(words("d"), heads()),
        lambda: joint(words(), heads(removal="zero")),
        lambda: joint(words(removal="delete"), heads()),
        lambda: joint(words(), heads(reference=REFERENCE)),
    ]
    found = [fingerprint(one().fn, 4) for one in made]
    assert len({*found, None}) == len(found) + 1
    assert [fingerprint(one().fn, 4) for one in made] == found
    moved = joint(words(), heads())
    instead = jax.tree.map(lambda leaf: leaf + 1e-7, moved.fn.changing.instead)
    changing = dataclasses.replace(moved.fn.changing, instead=instead)
    assert fingerprint(dataclasses.replace(moved.fn, changing=changing), 4) == found[0]

    def trained(seed=5, **options):
        base = model_of(trained_decoder.init(jax.random.key(seed)))
        return components(base, PROMPTS, **{"value": "logit", "target": NEXT, **options})

    one = joint(data(), trained()).identity
    assert one == joint(data(), trained(seed=6)).identity  # whatever the model was before
    others = [
        joint(trained(), data()),
        joint(data(identity="other"), trained()),
        joint(data(), trained(removal="zero")),
    ]
    assert len({one, None, *(other.identity for other in others)}) == 5
    assert joint(data(identity=None), trained()).identity is None


def test_an_explanation_of_words_and_heads(load, tmp_path):
    model, tokenizer = load("llama3")
    words = text(model, tokenizer, TEXT, within=WITHIN, removal="delete", target=ANSWER, value="margin")
    both = joint(words, components(model, [[1, 2, 3]], layers=[0, 2], removal="zero", value="logit", target=3))
    options = {"budget": 150, "proxy": "linear", "store": tmp_path / "store"}
    e = spex_jax.explain(both, **options)
    assert e.details.lens_sizes == (5, 8)
    assert [lens.units for lens in e.details.lenses] == ["word", "head"]
    assert (e.details.units, e.details.value, e.details.removal) == ("unit", "margin", "delete; zero")
    e.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(shown in page for shown in ("L2H3", "w ,", f"Margin of \u201c{ANSWER}", "13 units", "delete; zero"))
    assert "150 ablations" in str(e)
    e.save(tmp_path / "saved")
    across = spex_jax.Explanation.load(tmp_path / "saved").interactions("FSII", 2).across(e.details.lens_sizes)
    assert all(min(key) < 5 <= max(key) for key in across)
    again = joint(words, components(model, [[1, 2, 3]], layers=[0, 2], removal="zero", value="logit", target=3))
    assert spex_jax.explain(again, **options).stored == 150


@pytest.mark.slow
@pytest.mark.parametrize("head", [2, 0])
def test_the_group_that_makes_a_head_is_the_strongest_pair_across(head):
    """Of four groups of sequences one can only be learned by attention, and of the heads only one learns."""
    (x, y), groups = four_groups()
    training = training_data(
        trained_decoder.init, trained_decoder.apply, (x, y), (x, y), groups=groups,
        optimizer=learning_alone(head), steps=80,
    )  # fmt: skip
    asked, expected = sequences(COPY, 6, seed=1)
    heads = components(
        model_of(trained_decoder.init(jax.random.key(5))), asked, removal="zero", value="logprob", target=expected
    )
    both = joint(training, heads)
    e = spex_jax.explain(both, budget=2**both.n)
    assert e.exact
    assert e.values[e.masks.all(axis=1)] > -0.1  # learned
    (pair, value), (_, second) = e.interactions("FBII", 2).across([4, HEADS]).top(2)
    assert [both.names[unit] for unit in pair] == ["copy", f"L0H{head}"]
    assert value > 1.3 * abs(second)
    assert "Log-probability over 6 prompts" in e._repr_html_()
