import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from planting import planted

from spex_jax import proxyspex
from spex_jax.core import sampling
from spex_jax.core.walsh import signs, subset_characters
from spex_jax.proxyspex import walsh_gp
from spex_jax.proxyspex.preprocessing import prepare
from spex_jax.proxyspex.walsh_gp import posteriors, proxy
from spex_jax.proxyspex.walsh_gp.scales import loss_gradient


def scales_of(rng, kernels, n, width):
    return walsh_gp.Scales(
        log_scale=np.log(rng.uniform(0.05, 0.6, (kernels, width))).astype(np.float32),
        log_amplitude=np.log(rng.uniform(0.2, 1, kernels)).astype(np.float32),
        log_first=np.log(rng.uniform(0.05, 0.3, width)).astype(np.float32),
        log_constant=np.float32(-1.0),
        log_noise=np.float32(-3.0),
    )


def prior_by_definition(scales, n):
    """P(S) for every S, from the formula of the module, in float64."""
    w = np.tanh(np.exp(scales.log_scale[:, :n].astype(np.float64)))
    sets = oracle.all_masks(n)
    total = np.zeros(2**n)
    for amplitude, row in zip(np.exp(scales.log_amplitude.astype(np.float64)), w, strict=True):
        total += amplitude * np.where(sets, row, 1.0).prod(axis=1) / (1 + row).prod()
    total[sets.sum(axis=1) == 1] += np.exp(scales.log_first[:n].astype(np.float64))
    total[0] += np.exp(float(scales.log_constant))
    return sets, total


def test_the_kernel_is_diagonal_in_the_walsh_basis(rng):
    n, width = 6, 16
    scales = scales_of(rng, 2, n, width)
    sets, prior = prior_by_definition(scales, n)
    characters = subset_characters(oracle.all_masks(n), sets).astype(float)
    padded = np.zeros((2**n, width), np.float32)
    padded[:, :n] = signs(oracle.all_masks(n))
    found = walsh_gp.kernel(scales, padded, padded, np.arange(width) < n)
    np.testing.assert_allclose(found, (characters * prior) @ characters.T, rtol=2e-4)


def test_the_terms_of_the_posterior_are_the_posterior(rng):
    n, width, rows = 7, 16, 40
    scales = scales_of(rng, 2, n, width)
    sets, prior = prior_by_definition(scales, n)
    masks = oracle.all_masks(n)[rng.permutation(2**n)[:rows]]
    values = rng.normal(size=rows)
    padded = np.zeros((64, width), np.float32)
    padded[:rows, :n] = signs(masks)
    targets = np.pad(values, (0, 64 - rows)).astype(np.float32)
    used = np.arange(width) < n
    alpha = walsh_gp.posterior(scales, padded, targets, np.arange(64) < rows, used).alpha
    found = posteriors.spectrum_terms(scales, alpha, padded, used, max_degree=n)
    support, coefficients, weights, empty = (np.asarray(array) for array in found)
    characters = subset_characters(masks, sets).astype(float)
    noise = np.exp(-3.0) + 1e-4
    covariance = (characters * prior) @ characters.T + noise * np.eye(rows)
    expected = prior * (characters.T @ np.linalg.solve(covariance, values))
    assert empty == pytest.approx(expected[0], abs=1e-4)
    real = weights.ravel() > 0
    codes = support.reshape(-1, width)[real][:, :n] @ (1 << np.arange(n))
    assert sorted(codes) == list(range(1, 2**n))
    np.testing.assert_allclose(coefficients.ravel()[real], expected[codes], atol=1e-4)
    np.testing.assert_allclose(weights.ravel()[real], prior[codes], rtol=1e-3)


def test_the_gradient_is_that_of_the_marginal_likelihood(rng):
    n, rows = 5, 12
    scales = scales_of(rng, 2, n, n)
    masks = oracle.all_masks(n)[rng.permutation(2**n)[:rows]]
    padded = np.pad(signs(masks), ((0, 4), (0, 0)))
    targets = np.pad(rng.normal(size=rows), (0, 4)).astype(np.float32)
    real, used = np.arange(16) < rows, np.ones(n, bool)

    def loss(scales):
        deviations = [logs - logs.mean(axis=-1, keepdims=True) for logs in (scales.log_scale, scales.log_first)]
        rows_of = jnp.asarray(padded[:rows])
        k = walsh_gp.kernel(scales, rows_of, rows_of, used) + scales.noise * np.eye(rows)
        y = targets[:rows]
        half = 0.5 * (y @ jax.numpy.linalg.solve(k, y) + jax.numpy.linalg.slogdet(k)[1])
        return half + 0.5 * 1.5 * sum((part**2).sum() for part in deviations)

    expected = jax.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, scales))
    for found in (
        loss_gradient(scales, padded, targets, real, used, 1.5),
        jax.jit(loss_gradient)(scales, padded, targets, real, used, 1.5),
    ):
        chex.assert_trees_all_close(found, expected, rtol=2e-3, atol=2e-4)


def test_padding_has_no_influence(rng):
    masks, values, _, _ = planted(9, 60, rng)
    rows = prepare(masks, values).on_device
    wide = jnp.pad(rows.signs, ((0, 64), (0, 16)))
    used = np.arange(wide.shape[1]) < 9
    real = rows.fold >= 0
    small = jax.tree.map(jnp.asarray, scales_of(rng, 2, 9, 16))

    def widen(a):
        return jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 16)]) if a.shape[-1:] == (16,) else a

    large = jax.tree.map(widen, small)
    first = walsh_gp.posterior(small, rows.signs, rows.targets, real, rows.used).alpha
    second = walsh_gp.posterior(large, wide, jnp.pad(rows.targets, (0, 64)), jnp.pad(real, (0, 64)), used).alpha
    np.testing.assert_allclose(first[:60], second[:60], atol=1e-3 * np.abs(first).max())
    assert not np.asarray(second[60:]).any()


def test_held_out_predictions_of_the_posterior_are_those_of_smaller_tables(rng):
    masks, values, _, _ = planted(8, 60, rng)
    scales = scales_of(rng, 2, 8, 16)
    for rows in (jax.tree.map(np.asarray, prepare(masks, values).on_device), prepare(masks, values).on_device):
        kernel = walsh_gp.kernel(scales, rows.signs, rows.signs, rows.used)
        found = posteriors.held_out_predictions(kernel, scales, rows.targets, rows.fold)
        k, folds, targets = np.asarray(kernel, np.float64), np.asarray(rows.fold), np.asarray(rows.targets)
        for fold in range(5):
            seen, out = (folds >= 0) & (folds != fold), folds == fold
            noisy = k[np.ix_(seen, seen)] + float(scales.noise) * np.eye(seen.sum())
            expected = k[np.ix_(out, seen)] @ np.linalg.solve(noisy, targets[seen])
            np.testing.assert_allclose(np.asarray(found)[out], expected, atol=1e-3)


def test_many_rows_are_solved_by_their_terms(rng, monkeypatch):
    """Past the rows of one posterior: the terms come from a part of the rows, the coefficients from all."""
    masks, values, held_out, truth = planted(14, 1000, rng, noise=0.5)
    monkeypatch.setattr(proxy, "SOLVE_ROWS", 512)
    monkeypatch.setattr(posteriors, "BLOCK", 256)
    spectrum = proxyspex.fit(masks, values, proxy="walsh_gp")
    table = prepare(masks, values)
    prior = np.full(len(spectrum) - 1, 0.1)
    found = posteriors.coefficients_of_all_rows(
        table.on_device.signs,
        table.on_device.targets,
        jnp.asarray(np.pad(spectrum.support[1:], ((0, 0), (0, 2)))),
        jnp.zeros(len(prior)),
        jnp.asarray(prior, jnp.float32),
        0.3,
    )
    x = subset_characters(table.masks, spectrum.support[1:]).astype(float)
    expected = np.linalg.solve(x.T @ x / 0.3 + np.diag(1 / prior), x.T @ table.values / 0.3)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert oracle.r2(truth, spectrum(held_out)) > 0.9


def test_intervals_cover_the_coefficients(rng):
    """90% intervals of the posterior, over functions drawn from a prior of the same kind."""
    n, inside, count = 9, 0, 0
    for _ in range(4):
        sets = oracle.all_masks(n)
        prior = np.where(sets, rng.uniform(0.05, 0.5, n), 1.0).prod(axis=1)
        coefficients = np.sqrt(prior) * rng.normal(size=2**n)
        masks = sets[rng.permutation(2**n)[:200]]
        values = subset_characters(masks, sets) @ coefficients + 0.3 * rng.normal(size=200)
        spectrum = proxyspex.fit(masks, values, proxy="walsh_gp")
        largest = np.argsort(-np.abs(spectrum.coefficients[1:]))[:60] + 1
        truth = coefficients[spectrum.support[largest] @ (1 << np.arange(n))]
        inside += (np.abs(spectrum.coefficients[largest] - truth) < 1.645 * np.sqrt(spectrum.variances[largest])).sum()
        count += len(largest)
    assert 0.8 <= inside / count <= 0.99


def test_deviations_are_those_of_the_posterior(rng, monkeypatch):
    """With all terms there, the covariance of many draws is the posterior's, from its formula in float64."""
    monkeypatch.setattr(posteriors, "DRAWS", 20_000)
    monkeypatch.setattr(posteriors, "_TERMS", 6)
    n, rows = 4, 10
    scales = scales_of(rng, 2, n, 16)
    sets, prior = prior_by_definition(scales, n)
    masks = sets[rng.permutation(2**n)[:rows]]
    padded = np.zeros((16, 16), np.float32)
    padded[:rows, :n] = signs(masks)
    used, real = np.arange(16) < n, np.arange(16) < rows
    factor = walsh_gp.posterior(scales, padded, np.zeros(16, np.float32), real, used).factor
    found = posteriors.deviations(0, scales, padded, real, used, factor, sets)
    x = subset_characters(masks, sets).astype(float)
    gain = (prior[:, None] * x.T) @ np.linalg.inv((x * prior) @ x.T + float(scales.noise) * np.eye(rows))
    expected = np.diag(prior) - gain @ (x * prior)
    covariance = np.asarray(found, np.float64) @ np.asarray(found).T / 20_000
    np.testing.assert_allclose(np.diag(covariance), np.diag(expected), rtol=0.06)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs((covariance - expected) / scale).max() < 0.06


def test_a_function_without_noise_that_float32_cannot_factorise():
    """Its scales once ended in NaN: hardly any noise is left beside a prior variance many times that of the values."""
    rng = np.random.default_rng(1)
    weights = rng.normal(size=9)
    terms = [(rng.choice(9, size=rng.integers(2, 4), replace=False), rng.normal()) for _ in range(8)]
    masks = sampling.draw("mixed", 9, 178, 0)
    values = masks @ weights + 1.5 + sum(weight * masks[:, members].all(axis=1) for members, weight in terms)
    spectrum = proxyspex.fit(masks, values, proxy="walsh_gp")
    assert np.abs(spectrum(masks) - values).max() < 0.1 * values.std()
    assert np.isfinite(spectrum.variances).all()


def test_more_noise_where_float32_cannot_factorise():
    k = jnp.ones((64, 64)) * 1e6
    factor = posteriors.factorise(k, jnp.asarray(1e-4), jnp.arange(64) < 60)
    assert np.isfinite(factor).all()
    np.testing.assert_allclose(np.asarray(factor)[60:, 60:], np.eye(4))
    plain = jnp.eye(64) * 2.0
    np.testing.assert_array_equal(
        posteriors.factorise(plain, jnp.asarray(0.5), jnp.arange(64) < 64),
        jnp.linalg.cholesky(plain + 0.5 * jnp.eye(64)),
    )
