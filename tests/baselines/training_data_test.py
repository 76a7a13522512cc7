import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from lenses.retraining_data import apply, clouds, init

import spex_jax
from spex_jax import baselines
from spex_jax.core.masks import all_masks, uniform
from spex_jax.lenses import training_data

N, T, GROUPS = 30, 4, 6
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def lens():
    rng = np.random.default_rng(0)
    train, test = clouds(N, rng), clouds(T, rng)
    return functools.partial(
        training_data, init, apply, train, test, groups=np.arange(N) % GROUPS, steps=60, optimizer=optax.adam(0.05)
    )


def linear_in_mask(masks, rng, n, noise=0.0):
    effects = rng.normal(size=n)
    return 2 + masks @ effects + noise * rng.normal(size=len(masks)), effects


@pytest.mark.parametrize("method", [baselines.banzhaf, baselines.kernel_shap, baselines.datamodels])
def test_a_linear_function_is_found(method, rng):
    masks = all_masks(7)
    values, effects = linear_in_mask(masks, rng, 7)
    spectrum = method(masks, values)
    tolerance = 0.02 if method is baselines.datamodels else 1e-9
    np.testing.assert_allclose(-2 * spectrum.coefficients[1:], effects, atol=tolerance)
    np.testing.assert_allclose(spectrum(masks), values, atol=4 * tolerance)


def test_semivalues_of_all_masks_are_those_of_the_spectrum(rng):
    masks, values = all_masks(6), rng.normal(size=64)
    exact = spex_jax.explain(lambda asked: values[asked @ (1 << np.arange(6))], 6, budget=64)
    for method, index in ((baselines.banzhaf, "BV"), (baselines.kernel_shap, "SV")):
        found = method(masks, values).interactions(index)
        expected = exact.interactions(index)
        np.testing.assert_allclose([found[i,] for i in range(6)], [expected[i,] for i in range(6)], atol=1e-9)


@pytest.mark.parametrize("ends", [True, False])
def test_shapley_of_drawn_masks_comes_near(ends, rng):
    truth = spex_jax.Spectrum(support=rng.random((12, 10)) < 0.3, coefficients=rng.normal(size=12))
    masks = uniform(10, 900, rng)
    inner = masks[(masks.sum(axis=1) > 0) & (masks.sum(axis=1) < 10)]
    masks = np.concatenate([inner, np.ones((1, 10), bool), np.zeros((1, 10), bool)]) if ends else inner
    found, exact = baselines.kernel_shap(masks, truth(masks)).interactions("SV"), truth.interactions("SV")
    error = np.array([found[i,] - exact[i,] for i in range(10)])
    assert np.sqrt((error**2).mean()) < 0.25 * np.std([exact[i,] for i in range(10)])


def test_shapley_of_too_few_masks_treats_all_units_alike(rng):
    found = baselines.kernel_shap(np.array([[1, 1, 1], [0, 0, 0]], bool), [3.0, 0.0])
    np.testing.assert_allclose(-2 * found.coefficients[1:], 1)
    masks = np.concatenate([uniform(30, 10, rng), np.ones((1, 30), bool), np.zeros((1, 30), bool)])
    np.testing.assert_allclose(-2 * baselines.kernel_shap(masks, masks.sum(axis=1)).coefficients[1:], 1)


def test_conjugate_gradients_that_fail_are_said(lens):
    with pytest.warns(UserWarning, match="conjugate gradients left"):
        baselines.influence(lens(steps=1), damping=1e-4, iterations=10)  # 100 of them end anywhere


def test_datamodels_leave_out_what_does_nothing(rng):
    masks = uniform(30, 200, rng)
    effects = np.where(np.arange(30) < 3, 2.0, 0.0)
    found = baselines.datamodels(masks, masks @ effects + 0.3 * rng.normal(size=200)).coefficients
    assert (np.abs(found[4:]) < 0.06).all()
    assert (np.abs(-2 * found[1:4] - 2) < 0.2).all()
    assert not baselines.datamodels(masks, np.full(200, 3.0)).coefficients[1:].any()


@pytest.mark.parametrize("method", [baselines.banzhaf, baselines.kernel_shap, baselines.datamodels])
def test_tables_are_checked(method):
    with pytest.raises(ValueError, match="values must have shape"):
        method(np.eye(4, dtype=bool), np.zeros(3))


def test_semivalues_need_masks_with_and_without_every_unit():
    with pytest.raises(ValueError, match="unit 2 is not"):
        baselines.banzhaf(np.array([[1, 0, 1], [0, 1, 1]]), np.zeros(2))


def test_leaving_one_out_of_several_values(lens):
    value_fn = lens()
    found = baselines.leave_one_out(value_fn, progress=False)
    values = value_fn(np.concatenate([np.ones((1, GROUPS), bool), ~np.eye(GROUPS, dtype=bool)]))
    assert len(found) == T
    np.testing.assert_allclose(-2 * found[2].coefficients[1:], values[0, 2] - values[1:, 2], atol=1e-5)


def ridge_lens(damping):
    """Least squares by gradient descent with weight decay until nothing changes, and the same in closed form."""
    rng = np.random.default_rng(1)
    x, test = rng.normal(size=(N, 3)).astype(np.float32), rng.normal(size=(T, 3)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.5] + rng.normal(size=N)).astype(np.float32)
    return (
        x,
        y,
        test,
        training_data(
            lambda key: jnp.zeros((3, 1)),
            lambda params, x: x @ params,
            (x, y),
            (test, np.zeros(T, np.float32)),
            loss_fn=lambda out, y: 0.5 * (out[:, 0] - y) ** 2,
            value=lambda out, y: out[:, 0],
            optimizer=optax.chain(optax.add_decayed_weights(damping), optax.sgd(0.3)),
            steps=300,
        ),
    )


@pytest.mark.parametrize("solver", ["cg", "exact"])
def test_influence_of_least_squares_is_the_formula(solver):
    damping = 0.1
    x, y, test, value_fn = ridge_lens(damping)
    hessian = x.T @ x / N + damping * np.eye(3)
    params = np.linalg.solve(hessian, x.T @ y / N)
    expected = -(test @ np.linalg.solve(hessian, (x * (x @ params - y)[:, None]).T)) / N
    found = baselines.influence(value_fn, damping=damping, solver=solver)
    assert len(found) == T
    np.testing.assert_allclose([-2 * s.coefficients[1:] for s in found], expected, atol=1e-4)
    # First order in 1 / N of what leaving one out does (the weight decay does not know of N).
    left_out = baselines.leave_one_out(value_fn, progress=False)
    exact = np.array([-2 * s.coefficients[1:] for s in left_out])
    assert np.corrcoef(exact.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("method", [baselines.influence, functools.partial(baselines.trak, size=12)])
def test_gradient_methods_rank_retrainings_of_a_network(method, lens):
    value_fn = lens(seeds=4)
    masks = all_masks(GROUPS)[np.random.default_rng(0).permutation(64)[:40]]
    masks = masks[masks.any(axis=1)]
    values = spex_jax.evaluate(value_fn, masks, progress=False)
    spectra = method(value_fn)
    score = spex_jax.metrics.lds(values, np.stack([spectrum(masks) for spectrum in spectra], axis=1))
    assert score.mean > 0.3


@pytest.mark.slow
def test_trak_is_its_formula(lens):
    """One projected gradient of a margin after another, of three networks, of which the lens has the first."""
    size, fn = 5, lens(seeds=1).fn
    further = [jax.random.fold_in(fn.keys[0], 1_000 + number) for number in (1, 2)]
    several = dataclasses.replace(fn, keys=jnp.concatenate([fn.keys, jnp.stack(further)]))
    networks = jax.jit(lambda masks: several.trained(masks))(np.ones((1, GROUPS), bool))
    kernels, weights = [], []
    for number, key in enumerate(jax.random.split(jax.random.key(7), 3)):
        flat, unravel = ravel_pytree(jax.tree.map(lambda leaf, number=number: leaf[number], networks))

        def margins(vector, x, y, unravel=unravel):
            logits = apply(unravel(vector), x)
            others = jnp.where(jnp.arange(logits.shape[1]) == y[:, None], -jnp.inf, logits)
            return jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0] - jax.nn.logsumexp(others, axis=1)

        projection = np.asarray(jax.random.normal(key, (len(flat), size)), np.float64) / np.sqrt(size)
        gradients = jax.jit(jax.jacrev(margins))
        phi, tests = (
            np.asarray(gradients(flat, x, y), np.float64) @ projection
            for x, y in ((fn.x, fn.y), (fn.x_test, fn.y_test))
        )
        kernels.append(tests @ np.linalg.solve(phi.T @ phi, phi.T))
        weights.append(1 - 1 / (1 + np.exp(-np.asarray(margins(flat, fn.x, fn.y), np.float64))))
    effects = np.mean(kernels, axis=0) * np.mean(weights, axis=0)
    expected = np.stack([effects[:, fn.group == group].sum(axis=1) for group in range(GROUPS)], axis=1)
    found = baselines.trak(lens(seeds=1), size=size, models=3, seed=7)
    np.testing.assert_allclose([-2 * s.coefficients[1:] for s in found], expected, atol=0.01 * np.abs(expected).max())
    everything = np.ones((1, GROUPS), bool)
    np.testing.assert_allclose([s(everything)[0] for s in found], lens(seeds=1)(everything)[0], rtol=1e-4)


@pytest.mark.slow
def test_gradients_of_the_mean_over_test_points_are_the_mean_of_those(lens):
    several, mean = baselines.influence(lens()), baselines.influence(lens(average=True))
    np.testing.assert_allclose(mean.coefficients, np.mean([s.coefficients for s in several], axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fn: baselines.influence(fn, solver="lu"), "unknown solver 'lu'"),
        (lambda fn: baselines.influence(fn, damping=-1), "damping must be a finite number that is not below 0"),
        (lambda fn: baselines.influence(fn, damping="a"), "damping must be a finite number"),
        (lambda fn: baselines.trak(fn, seed=2**40), "seed must be a whole number"),
        (lambda fn: baselines.datamodels(np.eye(3, dtype=bool), np.arange(3)), "needs at least 5 ablations, got 3"),
        (lambda fn: baselines.influence(lambda masks: masks), r"lenses\.training_data"),
        (lambda fn: baselines.trak(fn, size=0), "size must be a whole number"),
        (lambda fn: baselines.trak(lambda masks: masks), r"lenses\.training_data"),
        (lambda fn: baselines.trak(ridge_lens(0.1)[3]), "needs a classifier"),
    ],
)
def test_refuses(call, message, lens):
    with pytest.raises(ValueError, match=message):
        call(lens())
