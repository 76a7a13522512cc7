import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax
from spex_jax.core import masks as masks_lib
from spex_jax.fingerprints import fingerprint
from spex_jax.lenses import patches


@jax.tree_util.register_pytree_node_class
class Twin:
    """A small convolutional classifier of pictures [6, 9, 3], with random weights."""

    class_names = ("cat", "dog", "fish")

    def __init__(self, kernel, head):
        self.kernel, self.head = kernel, head

    def tree_flatten(self):
        return (self.kernel, self.head), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)

    def __call__(self, images):
        x = jax.lax.conv_general_dilated(
            images, self.kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )
        return jnp.matmul(jnp.tanh(x).mean(axis=(1, 2)), self.head, precision="highest")


@pytest.fixture
def model(rng):
    return Twin(
        jnp.asarray(rng.normal(size=(3, 3, 3, 8)), jnp.float32), jnp.asarray(rng.normal(size=(8, 3)), jnp.float32)
    )


@pytest.fixture
def image(rng):
    return rng.normal(size=(6, 9, 3)).astype(np.float32)


def by_hand(model, image, masks, segment, replacement):
    """Logits with the pixels of removed patches replaced one at a time."""
    pictures = []
    for mask in masks:
        picture = image.copy()
        for i, j in np.ndindex(segment.shape):
            if segment[i, j] >= 0 and not mask[segment[i, j]]:
                picture[i, j] = replacement[i, j]
        pictures.append(picture)
    return np.asarray(model(jnp.asarray(np.stack(pictures))))


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("removal", ["mean", "zero", "colour", "picture", "blur"])
@pytest.mark.parametrize("value", ["margin", "logit", "logprob", "logit_diff"])
def test_values_are_those_of_pictures_changed_by_hand(removal, value, model, image, rng):
    given = {"colour": np.array([0.5, -1, 2]), "picture": rng.normal(size=image.shape)}.get(removal, removal)
    contrast = "fish" if value == "logit_diff" else None
    value_fn = patches(model, image, grid=(2, 3), removal=given, value=value, target="dog", contrast=contrast)
    assert (value_fn.n, value_fn.names[4]) == (6, "row 1, column 1")
    segment = np.repeat(np.repeat(np.arange(6).reshape(2, 3), 3, axis=0), 3, axis=1)
    if removal == "blur":
        replacement = np.asarray(value_fn.fn.replacement)
        assert replacement.std() < image.std()
        np.testing.assert_allclose(replacement.mean(), image.mean(), atol=0.1)
    else:
        replacement = {"mean": np.broadcast_to(image.mean(axis=(0, 1)), image.shape), "zero": 0 * image}.get(removal)
        replacement = np.broadcast_to(given, image.shape) if replacement is None else replacement
    masks = masks_lib.all_masks(6)
    logits = by_hand(model, image, masks, segment, replacement)
    odds = log_softmax(logits)[:, 1]
    expected = {
        "logit": logits[:, 1],
        "logprob": odds,
        "margin": odds - np.log1p(-np.exp(odds)),
        "logit_diff": logits[:, 1] - logits[:, 2],
    }[value]
    np.testing.assert_allclose(spex_jax.evaluate(value_fn, masks), expected, atol=2e-5)


def test_segments(model, image, rng):
    segments = np.array([-3, 2, 5, 9])[rng.integers(0, 4, image.shape[:2])]
    value_fn = patches(model, image, segments=segments, value="logit", target=0)
    assert value_fn.names == ("segment 2", "segment 5", "segment 9")
    masks = masks_lib.all_masks(3)
    numbered = np.select([segments == 2, segments == 5, segments == 9], [0, 1, 2], -1)
    mean = np.broadcast_to(image.mean(axis=(0, 1)), image.shape)
    expected = by_hand(model, image, masks, numbered, mean)[:, 0]
    np.testing.assert_allclose(spex_jax.evaluate(value_fn, masks), expected, atol=2e-5)


@pytest.mark.parametrize("grid", [1, 5, (6, 9), (4, 2), np.int64(3), np.array([2, 3]), [2, np.int32(4)]])
def test_grids_of_any_size_hold_every_pixel(grid, model, image):
    value_fn = patches(model, image, grid=grid)
    rows, columns = (grid, grid) if np.ndim(grid) == 0 else grid
    counts = np.bincount(np.asarray(value_fn.fn.segment).ravel())
    assert value_fn.n == len(counts) == rows * columns
    assert counts.sum() == 54
    assert value_fn.details.grid == (rows, columns)


def test_pictures_of_one_size_share_a_program_and_identify_themselves(model, image):
    one, other = patches(model, image, grid=2, target=0), patches(model, image + 1, grid=2, target=1)
    masks, traces = masks_lib.all_masks(4), []
    spex_jax.evaluate(one, masks)

    def listen(event, seconds, **kwargs):
        traces.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        spex_jax.evaluate(other, masks)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in traces if "backend_compile" in event]
    prints = {fingerprint(made.fn, made.n) for made in (one, other, patches(model, image, grid=2, target=0))}
    assert len(prints) == 2
    plain = patches(lambda images: model(images), image, grid=2, target=0)
    np.testing.assert_allclose(spex_jax.evaluate(plain, masks), spex_jax.evaluate(one, masks), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grid": (7, 3)}, "grid must be rows and columns"),
        ({"grid": 0}, "grid must be rows and columns"),
        ({"grid": True}, "grid must be rows and columns"),
        ({"grid": (2.0, 3)}, "grid must be rows and columns"),
        ({"grid": (2, 3, 1)}, "grid must be rows and columns"),
        ({"grid": "2"}, "grid must be rows and columns"),
        ({"segments": np.zeros((3, 3), int)}, "segments must be whole numbers of shape"),
        ({"segments": np.zeros((6, 9))}, "segments must be whole numbers"),
        ({"segments": np.full((6, 9), -1)}, "otherwise all pixels are always kept"),
        ({"removal": "noise"}, "unknown removal 'noise'"),
        ({"removal": np.zeros(4)}, r"a colour of shape \(3,\)"),
        ({"value": "loss"}, "unknown value 'loss'"),
        ({"value": "logit_diff"}, "needs contrast"),
        ({"target": "bird"}, "not a class of the model"),
        ({"target": 3}, "a number from 0 to 2"),
        ({"target": 1, "contrast": "dog", "value": "logit_diff"}, "the same class"),
    ],
)
def test_wrong_options(given, message, model, image):
    with pytest.raises(ValueError, match=message):
        patches(model, image, **{"grid": 2, **given})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((6, 9), np.float32), r"shape \[H, W, C\]"),
        (np.zeros((6, 9, 3), np.uint8), "must be floats"),
        (np.full((6, 9, 3), np.nan, np.float32), "not finite"),
        (np.zeros((3, 6, 9), np.float32), r"channels first \[C, H, W\]; give image.transpose\(1, 2, 0\)"),
        (np.zeros((1, 28, 28), np.float32), "really 1 pixels high give segments="),
    ],
)
def test_wrong_pictures(image, message, model):
    with pytest.raises(ValueError, match=message):
        patches(model, image, grid=1)
    with pytest.raises(ValueError, match="must be callable"):
        patches("model", image)
    with pytest.raises(ValueError, match=r"logits of shape \[B, classes\]"):
        patches(lambda images: images, np.zeros((6, 9, 3), np.float32), grid=2)


@pytest.mark.slow
def test_a_real_network(data_folder, load_program):
    resnet = load_program("resnet")
    model = resnet.ResNet20.load(data_folder / "cifar_resnet" / "resnet20.npz")
    with np.load(data_folder / "cifar10" / "cifar10_test2000.npz") as test:
        images = (test["images"][:200] / np.float32(255) - resnet.MEAN) / resnet.DEVIATION
    with np.load(data_folder / "cifar_resnet" / "golden_logits.npz") as golden:
        rows = np.flatnonzero(golden["image_index"] < 200)
        index, expected = golden["image_index"][rows], golden["resnet20"][rows]
    np.testing.assert_allclose(model(jnp.asarray(images[index])), expected, atol=1e-3)
    value_fn = patches(model, images[3], grid=(4, 3), removal=np.zeros(3))
    found = spex_jax.explain(value_fn, budget=4096)
    assert found.exact
    energy = found.spectrum.energy_by_degree()[1:]
    assert 0.3 < energy[0] / energy.sum() < 0.7  # of all models here the one that interacts most
