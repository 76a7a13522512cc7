"""What is found out about a model when a lens is made: rows that act on one another, noise, other shapes and forms."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from lenses.retraining_data import apply, clouds, init

import spex_jax
from spex_jax.lenses import patches, text, training_data
from spex_jax.lenses.probes import check_rows

pytestmark = pytest.mark.usefixtures("quick_compilation")
IMAGE = np.random.default_rng(0).random((6, 9, 3)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(6, 9, 3, 4)).astype(np.float32)


def logits(images):
    return jnp.einsum("bhwc,hwck->bk", images, WEIGHTS)


def batch_norm(images):
    return logits((images - images.mean(axis=(0, 1, 2))) / (1e-3 + images.std(axis=(0, 1, 2))))


def dropout(images):
    kept = jax.random.bernoulli(jax.random.key(0), 0.5, images.shape)
    return logits(jnp.where(kept, 2 * images, 0.0))


def one_picture(image):
    return jnp.einsum("hwc,hwck->k", image, WEIGHTS)


def one_channels_first(image):
    return jnp.einsum("chw,hwck->k", image, WEIGHTS)


def channels_first(images):
    return jnp.einsum("bchw,hwck->bk", images, WEIGHTS)


class Network(nn.Module):
    """A dense network with batch norm."""

    train: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train)(nn.Dense(4)(x.reshape(len(x), -1)))
        return nn.Dense(3)(nn.relu(x))


@pytest.mark.parametrize(
    ("apply_fn", "said"),
    [
        (
            batch_norm,
            "apply_fn for an input change with the other inputs of its batch .* batch normalisation in training",
        ),
        (dropout, "apply_fn gives two outputs for the same input in one batch .* dropout or other noise"),
        (lambda images: (logits(images), images), r"but gave a tuple; .* give lambda \*given: model\(\*given\)\[0\]"),
        (lambda images: {"logits": logits(images)}, "but gave a dict; .* the keys 'logits'"),
        (one_picture, r"takes one picture and not several: give jax.vmap\(apply_fn\)"),
        (one_channels_first, r"with channels first: give lambda x: jax.vmap"),
        (channels_first, r"takes pictures with channels first: give lambda x: apply_fn"),
    ],
)
def test_picture_models_that_do_not_answer_as_they_should(apply_fn, said):
    with pytest.raises(ValueError, match=said):
        patches(apply_fn, IMAGE, grid=(2, 3))


def test_the_remedies_work():
    expected = np.asarray(logits(IMAGE[None]))[0, 0]
    for apply_fn in (
        lambda images: (logits(images), None)[0],
        jax.vmap(one_picture),
        lambda x: jax.vmap(one_channels_first)(x.transpose(0, 3, 1, 2)),
        lambda x: channels_first(x.transpose(0, 3, 1, 2)),
    ):
        value_fn = patches(apply_fn, IMAGE, grid=(2, 3), value="logit", target=0)
        np.testing.assert_allclose(value_fn(np.ones((1, 6), bool)), expected, rtol=1e-5)


def test_real_batch_norm_in_both_modes():
    variables = Network().init(jax.random.key(0), IMAGE[None])
    patches(lambda images: Network().apply(variables, images), IMAGE, grid=2)
    with pytest.raises(ValueError, match="change with the other inputs of its batch"):
        patches(lambda images: Network(train=True).apply(variables, images, mutable=["batch_stats"])[0], IMAGE, grid=2)


def test_rounding_is_no_dependence():
    rows = np.array([[10.0, -3.0], [10.0, -3.0]])
    check_rows(rows, rows + 0.05, "it")
    check_rows(rows * 1e-12, rows * 1e-12, "it")
    check_rows(np.full((2, 2), np.nan), np.full((2, 2), np.nan), "it")  # what is not finite is said elsewhere
    with pytest.raises(ValueError, match="change with the other inputs"):
        check_rows(rows, rows + 0.2, "it")
    with pytest.raises(ValueError, match="two outputs"):
        check_rows(rows + np.array([[0.0], [0.2]]), rows, "it")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("batch", "the model for an input change with the other inputs of its batch"),
        ("noise", "the model gives two outputs for the same input"),
        ("one text", r"takes one text and not several: give jax.vmap\(model\)"),
        ("object", r"but gave an object; choose the array: lambda \*given: model\(\*given\).logits"),
        ("tuple", r"but gave a tuple; .* give lambda \*given: model\(\*given\)\[0\]"),
    ],
)
def test_text_models_that_do_not_answer_as_they_should(kind, said):
    _, tokenizer = spex_jax.models.tiny()
    table = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)

    def model(tokens, mask):
        if kind == "one text":
            (length,) = tokens.shape
            return jnp.take(table, tokens, axis=0).sum(axis=0) / length
        embedded = jnp.take(table, tokens, axis=0, mode="wrap") * mask[..., None]
        if kind == "batch":
            embedded = embedded - embedded.mean(axis=0)
        if kind == "noise":
            embedded = embedded * jax.random.bernoulli(jax.random.key(0), 0.5, embedded.shape)
        found = embedded.sum(axis=1)
        return {"object": types.SimpleNamespace(logits=found), "tuple": (found, None)}.get(kind, found)

    with pytest.raises(ValueError, match=said):
        text(model, tokenizer, "Her acting never fails to impress", value="logit", target=1)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return clouds(26, rng), clouds(5, rng)


def flax_variables(key):
    return Network().init(key, jnp.zeros((1, 4)))


@pytest.mark.slow
def test_statistics_of_a_batch_norm_are_held(data):
    """The same network, its statistics once among Flax's variables and once written into it."""
    options = {"steps": 20, "optimizer": optax.adam(0.05), "groups": np.arange(26) % 4, "value": "logit"}
    (x, _), _ = data
    assert flax_variables(jax.random.key(0))["params"]["Dense_0"]["kernel"].shape == (x.shape[1], 4)
    found = training_data(flax_variables, Network().apply, *data, **options)
    held = flax_variables(jax.random.key(3))["batch_stats"]
    expected = training_data(
        lambda key: flax_variables(key)["params"],
        lambda params, x: Network().apply({"params": params, "batch_stats": held}, x),  # type: ignore[return-value]
        *data,
        **options,
    )
    masks = np.arange(16)[:, None] >> np.arange(4) & 1 > 0
    np.testing.assert_allclose(found(masks), expected(masks), rtol=1e-5, atol=1e-5)
    trained = jax.tree.leaves(jax.eval_shape(found.fn.init, jax.random.key(0)))
    assert sorted(leaf.shape for leaf in trained) == [(3,), (4,), (4,), (4,), (4, 3), (4, 4)]
    assert found.fn.apply.held["batch_stats"].keys() == held.keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"init_fn": lambda key: {"params": init(key), "heads": jnp.zeros(3)}},
            "gives 'params' and 'heads', and whether these are trained is not known",
        ),
        (
            {"init_fn": lambda key: {**init(key), "norm": {"running_mean": jnp.zeros(3)}}},
            "gives 'running_mean', statistics of a batch norm",
        ),
        (
            {"init_fn": lambda key: (init(key), {"batch_stats": jnp.zeros(3)})},
            "gives 'batch_stats', statistics of a batch norm",
        ),
        ({"apply_fn": lambda params, x: (apply(params, x), None)}, r"but gave a tuple; .* give lambda \*given"),
        (
            {"apply_fn": lambda params, x: apply(params, x[None])[0] if x.ndim == 1 else x[:, :, None]},
            r"shape \[B, C\]",
        ),
        (
            {
                "apply_fn": lambda params, x: (
                    apply(params, x) * (0.5 + jax.random.uniform(jax.random.key(0), (len(x), 1)))
                )
            },
            "apply_fn gives two outputs for the same input",
        ),
    ],
)
def test_trainings_that_are_refused(changes, said, data):
    given = {"init_fn": init, "apply_fn": apply, "train": data[0], "test": data[1], "steps": 2, **changes}
    with pytest.raises(ValueError, match=said):
        training_data(**given)


def test_a_network_of_one_example_is_recognised(data):
    def one(params, x):
        (_,) = x.shape
        return apply(params, x[None])[0]

    with pytest.raises(ValueError, match=r"give jax.vmap\(apply_fn, in_axes=\(None, 0\)\)"):
        training_data(init, one, *data, steps=2)
    training_data(init, jax.vmap(one, in_axes=(None, 0)), *data, steps=2)
