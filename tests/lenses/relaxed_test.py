"""Removal as a differentiable function of how far each unit is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.directories import write_model

import spex_jax
from spex_jax import ValueFunction, baselines, evaluate, lenses
from spex_jax.engine.value_function import DeviceOptions
from spex_jax.lenses.component_lens import components

TEXT = "Her acting never fails to impress"
pytestmark = pytest.mark.usefixtures("quick_compilation")

call = jax.jit(lambda fn, masks: fn(masks))
slopes = jax.jit(lambda fn, point: jax.grad(lambda point: fn(point)[0])(point))

CASES = {
    "tiny, mask": ("tiny", {"removal": "mask"}),
    "tiny, attention": ("tiny", {"removal": "attention"}),
    "tiny, replace": ("tiny", {"removal": "replace", "replacement": "x"}),
    "bert, mask": ("bert_classifier", {"removal": "mask"}),
    "bert, attention": ("bert_classifier", {"removal": "attention"}),
    "llama, mask": ("llama3", {"removal": "mask", "target": "a b"}),
    "llama, attention": ("llama3", {"removal": "attention", "target": "a b"}),
    "llama, prefix": ("llama3", {"removal": "attention", "target": "a", "within": ["e t y"]}),
    "gemma, attention": ("gemma2", {"removal": "attention", "target": "a"}),
}


@pytest.fixture(scope="module")
def value_fns(tiny, tmp_path_factory):
    def made(case):
        kind, options = CASES[case]
        if kind == "tiny":
            return lenses.text(*tiny, TEXT, value="margin", **options)
        model, tokenizer = spex_jax.models.load(write_model(tmp_path_factory.mktemp("model"), kind))
        text = "q w " * 12 + "e t y" if "within" in options else "q w e r t y"
        value = "logprob" if "target" in options else "logit"
        return lenses.text(model, tokenizer, text, value=value, **options)

    return made


@pytest.mark.parametrize("case", CASES)
def test_units_that_are_wholly_kept_or_removed_have_the_same_values(case, value_fns, rng):
    value_fn = value_fns(case)
    masks = rng.integers(0, 2, (8, value_fn.n)).astype(bool)
    masks[0], masks[1] = True, False
    if case == "tiny, replace":  # a replacement of another length keeps the positions of the whole text
        masks = masks[:1]
    padded = np.ones((len(masks), value_fn.width), np.float32)
    padded[:, : value_fn.n] = masks
    found = call(value_fn.fn, padded)
    np.testing.assert_allclose(found, evaluate(value_fn, masks, progress=False), atol=2e-5)


@pytest.mark.parametrize(
    "case", ["tiny, attention", "tiny, replace", "bert, mask", "llama, attention", "llama, prefix"]
)
def test_derivatives_are_finite_differences(case, value_fns, rng):
    value_fn = value_fns(case)
    with jax.enable_x64(True):
        fn = jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf, value_fn.fn)
        point = np.ones((1, value_fn.width))
        point[0, : value_fn.n] = rng.uniform(0.2, 0.8, value_fn.n)
        value = functools.partial(call, fn)
        found = slopes(fn, point)[0]
        for unit in range(value_fn.n):
            step = np.zeros_like(point)
            step[0, unit] = 1e-3
            expected = (value(point + step)[0] - value(point - step)[0]) / 2e-3
            # The models keep some parts in float32, so that differences of values are good to about 1e-4.
            assert found[unit] == pytest.approx(float(expected), rel=2e-2, abs=2e-3)


def test_no_key_that_counts_leaves_derivatives_finite(value_fns):
    value_fn = value_fns("llama, attention")
    for kept in (0.0, 1.0):
        point = np.full((1, value_fn.width), kept, np.float32)
        assert np.isfinite(slopes(value_fn.fn, point)).all()


@pytest.fixture(scope="module")
def linear():
    """A function of known derivatives: f(m) = 3 m_0 - 2 m_1 + 0 m_2 + m_3 m_4."""

    def fn(masks):
        m = masks.astype(jnp.float32)
        return 3 * m[:, 0] - 2 * m[:, 1] + m[:, 3] * m[:, 4]

    return ValueFunction(fn, 5, on_device=True, device=DeviceOptions(width=8, relaxed=True))


def test_relevance_is_the_root_mean_square_of_derivatives(linear):
    found = linear.relevance(masks=4000)
    np.testing.assert_allclose(found.values, [3, 2, 0, 3**-0.5, 3**-0.5], rtol=0.03, atol=1e-7)
    np.testing.assert_allclose(found.slopes, [3, -2, 0, 0.5, 0.5], rtol=0.03, atol=1e-7)
    assert found.passes == 3 * 4000  # without products that can be counted
    np.testing.assert_array_equal(linear.relevance().values, linear.relevance(8).values)
    assert (linear.relevance(seed=1).values != linear.relevance().values).any()


def test_the_cost_of_relevance_is_counted_in_forward_passes(value_fns):
    value_fn = value_fns("bert, mask")
    few, many = value_fn.relevance(4), value_fn.relevance(8)
    # Forward and backward by the input, without the products for derivatives by weights.
    assert 4 * 1.9 < few.passes <= 4 * 3
    assert many.passes == pytest.approx(2 * few.passes, abs=1)


def test_pictures_and_networks_have_relevance(llama, rng):
    def classifier(images):
        return jnp.stack([jnp.tanh(images.sum(axis=(1, 2, 3))), images[:, 0, 0, 0]], axis=1)

    picture = lenses.patches(classifier, rng.normal(size=(4, 4, 1)), grid=2, target=1, value="logit")
    found = picture.relevance()
    assert found.values[0] > 0
    np.testing.assert_array_equal(found.values[1:], 0)
    masks = np.array([[True, False, True, True], [False] * 4])
    np.testing.assert_allclose(
        picture.fn(masks.astype(np.float32)), evaluate(picture, masks, progress=False), atol=1e-6
    )
    heads = components(llama, [[1, 2, 3], [4, 5]], value="loss")
    assert (heads.relevance(2).values > 0).any()
    effects = baselines.integrated_gradients(picture, progress=False)
    ends = evaluate(picture, np.array([[True] * 4, [False] * 4]), progress=False)
    assert effects(np.ones((1, 4), bool))[0] - effects(np.zeros((1, 4), bool))[0] == pytest.approx(ends[0] - ends[1])


def test_what_has_no_derivatives_is_refused(tiny, llama, linear):
    for value_fn in (
        lenses.text(*tiny, TEXT, removal="delete"),
        lenses.text(lambda tokens, seen: tiny[0](tokens, seen), tiny[1], TEXT),
        ValueFunction(lambda masks: masks.sum(axis=1), 3),
        components(llama, [[1, 2, 3]], value="loss", per_prompt=True),
        components(llama, [[1, 2, 3]], value="accuracy"),
    ):
        assert not value_fn.has_relevance
        with pytest.raises(ValueError, match="relevance needs a value function of one differentiable value"):
            value_fn.relevance()
    with pytest.raises(ValueError, match="masks must be a whole number of at least 1"):
        linear.relevance(0)
    options = {"on_device": True, "device": DeviceOptions(relaxed=True)}
    with pytest.raises(ValueError, match="does not change where units are kept"):
        ValueFunction(lambda masks: 0.0 * masks[:, 0] + 1.0, 3, **options).relevance()
    with pytest.raises(ValueError, match="derivative of the value by unit 1 is nan"):
        ValueFunction(lambda masks: masks[:, 0] + jnp.sqrt(masks[:, 1] - 2.0), 3, **options).relevance()
