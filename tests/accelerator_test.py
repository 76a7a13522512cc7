"""Answers on a device that rounds factors, against those in float32: spectra, Shapley values, variances, verdicts."""

import functools

import numpy as np
import oracle
import pytest
from accelerator import accelerator, rms

import spex_jax
import spex_jax.methods
from spex_jax.masks import all_masks
from spex_jax.walsh import walsh_hadamard

N, BUDGET = 11, 178  # 128 masks to fit, 50 held out
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
    """Short trainings: it is their products that are tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spex_jax.proxyspex.mlp._STEPS", 20)
        patch.setattr("spex_jax.proxyspex.walsh_gp.scales._STEPS", 50)
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
    pytest.param(name, method, kind, marks=pytest.mark.slow if is_slow(name, method, kind) else [])
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
