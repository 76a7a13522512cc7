"""Everything runs, with the same answers, where a program turns on the checks of JAX or its 64 bits."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lenses.retraining_data import CLASSES, WIDTH, clouds
from models.directories import write_model

import spex_jax
from spex_jax import baselines, lenses, proxyspex, spex
from spex_jax.utils.jax_settings import own_settings

SETTINGS = {
    "checks": {
        "jax_numpy_dtype_promotion": "strict",
        "jax_numpy_rank_promotion": "raise",
        "jax_transfer_guard": "disallow",
    },
    "nans": {"jax_debug_nans": True},
    "x64": {"jax_enable_x64": True},
}
N = 8
pytestmark = pytest.mark.usefixtures("quick_compilation", "_few_steps")


@contextlib.contextmanager
def settings(name):
    """Of all threads, as a program sets them when it begins."""
    before = {option: jax.config.values[option] for option in SETTINGS[name]}
    for option, value in SETTINGS[name].items():
        jax.config.update(option, value)
    try:
        yield
    finally:
        for option, value in before.items():
            jax.config.update(option, value)


@pytest.fixture(scope="module")
def _few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spex_jax.proxyspex.perceptrons._STEPS", 20)
        patch.setattr("spex_jax.proxyspex.walsh_gp.scales._STEPS", 20)
        yield


def function(masks):
    """A game with a pair and a triple."""
    signs = 1.0 - 2 * masks
    return 2 * signs[:, 0] + signs[:, 1] * signs[:, 2] - masks[:, 3:6].all(axis=1) + 0.1 * signs @ np.arange(N)


def table(rows=60, seed=0):
    masks = np.random.default_rng(seed).permutation(spex_jax.core.masks.all_masks(N))[:rows]
    return masks, function(masks) + 0.1 * np.random.default_rng(seed).normal(size=rows)


def spectrum_of(found):
    return found.coefficients_at(spex_jax.core.masks.all_masks(found.n))


def fit(**options):
    return spectrum_of(proxyspex.fit(*table(), **options))


def fits_side_by_side():
    return [spectrum_of(one) for one in proxyspex.fit_many(*zip(table(), table(seed=1), strict=True), proxy="linear")]


def packed():
    masks, values = table(200)
    return spectrum_of(proxyspex.fit(spex_jax.PackedMasks(np.packbits(masks, axis=1), N), values, proxy="linear"))


def trained_network():
    network = proxyspex.train_mlp(*table())
    return network(table()[0]), spectrum_of(network.spectrum())


def decoded():
    design = spex.design(20, 600, max_degree=3)
    found = spex.decode(design, function(design.masks[:, :N]))
    return found.support, found.coefficients


def decoded_residual():
    found = spex_jax.explain(function, N, budget=200, method="spex", residual_of="linear", progress=False)
    return spectrum_of(found.spectrum)


def explained(**options):
    """With its correction, metrics and validation."""
    found = spex_jax.explain(function, N, budget=200, progress=False, **options)
    measured = found.validate(top=2, contexts=16)
    shapley = found.interactions("SV", 1)
    return [shapley[i,] for i in range(N)], found.faithfulness.r2, [row.measured for row in measured.rows]


def asked(value_fn):
    masks = np.random.default_rng(0).random((5, value_fn.n)) < 0.5
    return spex_jax.evaluate(value_fn, masks, progress=False), value_fn(masks)


def words(tiny):
    return asked(lenses.text(*tiny, "It never fails to impress .", value="logit_diff", contrast="negative"))


def decoder(folder):
    model, tokenizer = spex_jax.models.load(folder)
    text = lenses.text(model, tokenizer, "a b c d", target="e", removal="delete")
    heads = lenses.components(model, [[1, 2, 3]], value="logit", target=3)
    gradients = baselines.attribution_patching(heads, progress=False)
    return asked(text), asked(heads), asked(lenses.joint(text, heads)), spectrum_of(gradients)


def classify(images):
    return jnp.stack([images.mean(axis=(1, 2, 3)), images.max(axis=(1, 2, 3))], axis=1)


def picture():
    image = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
    return asked(lenses.patches(classify, image, grid=2))


def row():
    rows = np.random.default_rng(0).normal(size=(3, 4))
    make = functools.partial(lenses.tabular, row=rows[0], background=rows, removal="marginal")
    return asked(make(lambda x: x.sum(axis=1), on_device=True)), asked(make(lambda x: np.asarray(x).sum(axis=1)))


def training():
    rng = np.random.default_rng(0)
    value_fn = lenses.training_data(
        lambda key: jax.random.normal(key, (WIDTH, CLASSES), jnp.float32),
        lambda params, x: jnp.matmul(x, params, precision="highest"),
        clouds(20, rng),
        clouds(2, rng),
        groups=np.arange(20) % 5,
        steps=3,
    )
    found = [*baselines.influence(value_fn, damping=1.0), *baselines.trak(value_fn, size=4, models=2)]
    return asked(value_fn), [spectrum_of(one) for one in found]


RUNS = {
    **{f"fit {proxy}": functools.partial(fit, proxy=proxy) for proxy in proxyspex.PROXIES},
    "fit lasso": functools.partial(fit, proxy="linear", solver="lasso"),
    "fit_many": fits_side_by_side,
    "packed": packed,
    "train_mlp": trained_network,
    "spex": decoded,
    "spex residual": decoded_residual,
    "adaptive": functools.partial(explained, proxy="walsh_gp", sampling="adaptive", refits=1),
    **{f"explain {name}": functools.partial(explained, method=name) for name in spex_jax.methods.METHODS},
    "words": words,
    "decoder": decoder,
    "picture": picture,
    "row": row,
    "training": training,
}
# What the others share most programs with.
LONG = (
    "fit auto",
    "fit lasso",
    "fit_many",
    "train_mlp",
    "spex residual",
    "adaptive",
    "explain spex",
    "explain proxyspex",
)
IN_FLOAT32 = [name for name in RUNS if name.startswith(("fit", "packed", "train_", "spex", "adaptive", "explain"))]


def tier_of(name):
    if name in LONG or name in ("decoder", "training"):
        return [pytest.mark.nightly]
    return [pytest.mark.slow] if name in ("packed", "words") else []


CASES = [pytest.param(chosen, name, marks=tier_of(name)) for chosen in SETTINGS for name in RUNS]


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    arguments = {"words": (tiny,), "decoder": (write_model(tmp_path_factory.mktemp("model"), "gemma3"),)}
    calls = {name: functools.partial(run, *arguments.get(name, ())) for name, run in RUNS.items()}
    return calls, functools.cache(lambda name: calls[name]())


@pytest.mark.filterwarnings("ignore:conjugate gradients left")
@pytest.mark.parametrize(("chosen", "name"), CASES)
def test_answers_are_the_same_under_settings(chosen, name, plain):
    calls, expected = plain
    expected = expected(name)
    with settings(chosen):
        found = calls[name]()
    tolerance = 0 if name in IN_FLOAT32 else 2e-5
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_the_settings_are_those_of_the_caller_again():
    with settings("checks"), pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        jnp.asarray(np.ones(3))
    with settings("checks"):
        with own_settings():
            assert (jnp.asarray(np.ones(3, np.float32)) + jnp.arange(3)).dtype == np.float32
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            jnp.asarray(np.ones(3))
