"""Answers on a device that rounds factors, against those in float32: spectra, Shapley values, variances, verdicts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from accelerator import accelerator, rms
from lenses.retraining_data import CLASSES, WIDTH, clouds

import spex_jax
import spex_jax.methods
from spex_jax import baselines
from spex_jax.baselines import influence_functions
from spex_jax.core.masks import all_masks
from spex_jax.core.walsh import walsh_hadamard

N, BUDGET = 11, 300  # 250 masks to fit, more than the 128 up to which folds learn their own scales, and 50 held out
MASKS = all_masks(N)
KINDS = ("tf32", "bfloat16")
PROXIES = ("walsh_gp", "mlp", "trees", "linear", "auto")
METHODS = {
    **{f"proxyspex {proxy}": {"proxy": proxy} for proxy in PROXIES},
    "proxyspex lasso": {"proxy": "linear", "solver": "lasso"},
    "spex": {"budget": 400},
    "spex residual": {"budget": 400, "residual_of": "walsh_gp"},
    **{name: {} for name in spex_jax.methods.METHODS if name not in ("proxyspex", "spex")},
}
WORDS = "I did not like this movie at all , it was boring"  # whose fit came out 50 times as wrong with TF32
# The others of a method share its products, all of which precision_test.py reads from the programs.
LONG = {"proxyspex trees", "proxyspex lasso", "spex residual"}


def _values(name, model_and_tokenizer):
    """The values [2^n] of a function at all masks."""
    rng, signs = np.random.default_rng(7), 1.0 - 2 * MASKS
    if name == "words":
        value_fn = spex_jax.lenses.text(*model_and_tokenizer, WORDS)
        assert value_fn.n == N
        return spex_jax.evaluate(value_fn, MASKS, progress=False)
    if name == "sparse":
        return 1.5 * signs[:, 0] * signs[:, 3] - signs[:, [1, 4, 7]].prod(axis=1) + signs[:, 2] + 0.1 * signs[:, 9]
    if name == "smooth":
        return np.tanh(0.6 * signs @ rng.normal(size=N))
    if name == "threshold":
        return (MASKS @ rng.uniform(0.5, 1.5, N) > 5.5).astype(float)
    return MASKS @ rng.normal(size=N) + np.einsum("mi,ij,mj->m", 1.0 * MASKS, rng.normal(size=(N, N)), 1.0 * MASKS)


FUNCTIONS = ("words", "sparse", "smooth", "threshold", "quadratic")


@pytest.fixture(scope="module")
def function(tiny):
    return functools.cache(lambda name: _values(name, tiny))


@pytest.fixture(scope="module")
def truth(function):
    @functools.cache
    def of(name):
        shapley = oracle.interactions(function(name), "SV", 1)
        spectrum = np.asarray(walsh_hadamard(function(name))) / 2**N
        return {"spectrum": spectrum, "shapley": np.array([shapley[i,] for i in range(N)])}

    return of


@pytest.fixture(autouse=True, scope="module")
def _few_steps():
    """Short trainings of the perceptrons: it is their products that are tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spex_jax.proxyspex.perceptrons._STEPS", 20)
        yield


def answers(values, method, options):
    """What is explained of the function of these values."""
    found = spex_jax.explain(
        lambda masks: values[masks @ (1 << np.arange(N))],
        N,
        method=method.split()[0],
        **{"budget": BUDGET, "progress": False, **options},
    )
    shapley = found.interactions("SV", 1)
    errors = found.interactions("FBII", 2).std_errors
    return {
        "spectrum": found.spectrum.coefficients_at(MASKS),
        "shapley": np.array([shapley[i,] for i in range(N)]),
        "deviations": np.array([0.0] if errors is None else list(errors.values())),
        "verdicts": [row.verdict for row in found.validate(top=4, contexts=64).rows],
    }


def compare(plain, rounded, exact):
    """At most twice the error of float32, the same variances within a factor of two, and the same verdicts."""
    for name, truth in exact.items():
        allowed = 2 * rms(plain[name] - truth) + 1e-6 * rms(truth)
        assert rms(rounded[name] - truth) <= allowed, name
    deviations = rms(plain["deviations"]), rms(rounded["deviations"])
    assert 0.5 * deviations[0] <= deviations[1] <= 2 * deviations[0]
    assert plain["verdicts"] == rounded["verdicts"]


@pytest.fixture(scope="module")
def in_float32(function):
    @functools.cache
    def of(name, method):
        return answers(function(name), method, METHODS[method])

    return of


def is_slow(name, method, kind):
    return (name, kind) != ("words", "bfloat16") or method in LONG


CASES = [
    pytest.param(name, method, kind, marks=pytest.mark.nightly if is_slow(name, method, kind) else [])
    for kind in KINDS
    for method in METHODS
    for name in FUNCTIONS
]


@pytest.mark.parametrize(("name", "method", "kind"), CASES)
def test_answers_are_those_of_float32(name, method, kind, function, truth, in_float32):
    values, exact = function(name), truth(name)
    with accelerator(kind):
        rounded = answers(values, method, METHODS[method])
    compare(in_float32(name, method), rounded, exact)


def effects(spectrum):
    """Of the units of an additive spectrum."""
    return -2 * spectrum.coefficients_at(np.eye(spectrum.n, dtype=bool))


def multilinear(values):
    """The extension of a function to masks of floats that is linear in each of them."""
    coefficients = jnp.asarray(walsh_hadamard(values) / 2**N, jnp.float32)

    def fn(masks):
        signs = 1 - 2 * masks.astype(jnp.float32)
        return (jnp.where(MASKS, signs[:, None, :], 1.0).prod(axis=2) * coefficients).sum(axis=1)

    return spex_jax.ValueFunction(fn, N, on_device=True, device=spex_jax.DeviceOptions(relaxed=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_of_float32(name, kind, function, truth):
    values = function(name)
    exact = {
        "attribution_patching": values[-1] - values[-1 - 2 ** np.arange(N)],  # leaving one out
        "integrated_gradients": truth(name)["shapley"],
    }
    for method, expected in exact.items():
        attribute = functools.partial(getattr(baselines, method), multilinear(values), progress=False)
        plain = effects(attribute())
        with accelerator(kind):
            rounded = effects(attribute())
        assert rms(plain - expected) < 0.1 * rms(expected) + 1e-3
        assert rms(rounded - expected) <= 2 * rms(plain - expected) + 1e-6 * rms(expected)


def product(x, params):
    """Of a model that states its precision."""
    return jnp.matmul(x, params, precision="highest")


def least_squares(seed, examples=30):
    """A training of three parameters, and its influence functions in closed form [T, N]."""
    rng = np.random.default_rng(seed)
    x, test = rng.normal(size=(examples, 3)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.5] + rng.normal(size=examples)).astype(np.float32)
    hessian = x.T.astype(float) @ x / examples + 0.1 * np.eye(3)
    left = x @ np.linalg.solve(hessian, x.T.astype(float) @ y / examples) - y
    value_fn = spex_jax.lenses.training_data(
        lambda key: jnp.zeros((3, 1)),
        lambda params, x: product(x, params),
        (x, y),
        (test, np.zeros(4, np.float32)),
        loss_fn=lambda out, y: 0.5 * (out[:, 0] - y) ** 2,
        value=lambda out, y: out[:, 0],
        optimizer=optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.3)),
        steps=300,
    )
    return value_fn, -(test @ np.linalg.solve(hessian, (x * left[:, None]).T)) / examples


# Each training compiles anew: one in the quick tests, five in all.
TRAININGS = [
    pytest.param(seed, kind, marks=pytest.mark.nightly if seed or kind == "tf32" else [])
    for kind in KINDS
    for seed in range(5)
]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "kind"), TRAININGS)
def test_influence_is_that_of_float32(seed, kind):
    value_fn, exact = least_squares(seed)
    for solver in influence_functions.SOLVERS:
        attribute = functools.partial(baselines.influence, value_fn, damping=0.1, solver=solver)
        plain = np.stack([effects(spectrum) for spectrum in attribute()])
        with accelerator(kind):
            rounded = np.stack([effects(spectrum) for spectrum in attribute()])
        assert rms(plain - exact) < 1e-4 * rms(exact)
        assert rms(rounded - exact) <= 2 * rms(plain - exact) + 1e-6 * rms(exact)


SIZE = 12  # of the projections of trak


def trak_by_hand(value_fn):
    """Equation 13 of the paper at the networks of the method, in float64: [T, N]."""
    fn, params = influence_functions._networks(value_fn, "trak", 2)

    def margins(x, y, weights):
        logits = np.asarray(x, float) @ weights
        own = np.take_along_axis(logits, y[:, None], axis=1)
        others = np.where(np.arange(logits.shape[1]) == y[:, None], 0.0, np.exp(logits))
        slopes = -others / others.sum(axis=1, keepdims=True)
        np.put_along_axis(slopes, y[:, None], 1.0, axis=1)
        return own[:, 0] - np.log(others.sum(axis=1)), np.einsum("bi,bj->bij", x, slopes).reshape(len(x), -1)

    kernels, weights = [], []
    for network, key in zip(np.asarray(params, float), jax.random.split(jax.random.key(0), 2), strict=True):
        projection = np.asarray(jax.random.normal(key, (network.size, SIZE)), float) / np.sqrt(SIZE)
        margin, gradients = margins(np.asarray(fn.x), np.asarray(fn.y), network)
        phi = gradients @ projection
        tests = margins(np.asarray(fn.x_test), np.asarray(fn.y_test), network)[1] @ projection
        gram = phi.T @ phi
        kernels.append(tests @ np.linalg.solve(gram + 1e-4 * np.trace(gram) / SIZE * np.eye(SIZE), phi.T))
        weights.append(1 / (1 + np.exp(margin)))
    return np.mean(kernels, axis=0) * np.mean(weights, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "kind"), TRAININGS)
def test_trak_is_that_of_float32(seed, kind):
    rng = np.random.default_rng(seed)
    value_fn = spex_jax.lenses.training_data(
        lambda key: 0.5 * jax.random.normal(key, (WIDTH, CLASSES)),
        lambda params, x: product(x, params),
        clouds(40, rng),
        clouds(3, rng),
        steps=10,
    )
    exact = trak_by_hand(value_fn)
    attribute = functools.partial(baselines.trak, value_fn, size=SIZE, models=2)
    plain = np.stack([effects(spectrum) for spectrum in attribute()])
    with accelerator(kind):
        rounded = np.stack([effects(spectrum) for spectrum in attribute()])
    assert rms(plain - exact) < 1e-2 * rms(exact)
    assert rms(rounded - exact) <= 2 * rms(plain - exact) + 1e-6 * rms(exact)
