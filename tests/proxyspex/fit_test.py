import chex
import jax
import numpy as np
import oracle
import pytest

from spex_jax import proxyspex
from spex_jax.proxyspex import walsh_gp
from spex_jax.proxyspex.extract import energy_cut, grow, read_answers
from spex_jax.proxyspex.refit import refit
from spex_jax.proxyspex.table import prepare
from spex_jax.walsh import signs, subset_characters

PROXIES = ["walsh_gp", "mlp"]


def planted(n, rows, rng, terms=8, noise=0.0, degree=3):
    """A table of ablations of a sparse function and the function."""
    support = np.zeros((terms, n), bool)
    for row in support:
        row[rng.choice(n, rng.integers(1, degree + 1), replace=False)] = True
    coefficients = rng.uniform(0.5, 1.5, terms) * rng.choice([-1, 1], terms)
    masks = np.unique(rng.integers(0, 2, (rows + 1000, n)).astype(bool), axis=0)
    masks = rng.permutation(masks)
    values = subset_characters(masks, support) @ coefficients + 5 + noise * rng.normal(size=len(masks))
    return masks[:rows], values[:rows], masks[rows:], values[rows:]


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("n", [12, 24])
def test_recovers_a_sparse_function(proxy, n, rng):
    masks, values, held_out, truth = planted(n, 600, rng)
    spectrum = proxyspex.fit(masks, values, proxy=proxy)
    assert oracle.r2(truth, spectrum(held_out)) > (0.99 if proxy == "walsh_gp" else 0.9)
    assert spectrum.n == n
    assert not spectrum.support[0].any()


@pytest.mark.parametrize("proxy", PROXIES)
def test_identical_values_give_identical_fits(proxy, rng):
    masks, values, _, _ = planted(10, 100, rng)
    first, second = (proxyspex.fit(masks.copy(), values.copy(), proxy=proxy, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.support, second.support)
    np.testing.assert_array_equal(first.coefficients, second.coefficients)


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_shift_and_a_scale_pass_through(proxy, rng):
    masks, values, held_out, _ = planted(10, 120, rng)
    plain = proxyspex.fit(masks, values, proxy=proxy)(held_out)
    moved = proxyspex.fit(masks, -1e6 * values + 3e7, proxy=proxy)(held_out)
    np.testing.assert_allclose((moved - 3e7) / -1e6, plain, atol=0.02 * plain.std())


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("scale", [1e-300, 1e30, 1e300])
def test_extreme_values(proxy, scale, rng):
    masks, values, held_out, truth = planted(8, 60, rng)
    spectrum = proxyspex.fit(masks, values * scale, proxy=proxy)
    assert np.isfinite(spectrum.coefficients).all()
    assert oracle.r2(truth, spectrum(held_out) / scale) > 0


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("value", [0.0, 0.1, -3e30])
def test_a_constant_function_has_one_term(proxy, value, rng):
    spectrum = proxyspex.fit(rng.integers(0, 2, (50, 9)).astype(bool), np.full(50, value), proxy=proxy)
    assert len(spectrum) == 1
    assert spectrum.coefficients[0] == pytest.approx(value)
    assert not spectrum.interactions().top()


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("case", ["one row", "few rows", "constant column", "one feature", "outlier", "float16"])
def test_poor_tables(proxy, case, rng):
    masks, values, held_out, truth = planted(8, 60, rng)
    if case == "one row":
        masks, values = masks[:1], values[:1]
    if case == "few rows":
        masks, values = masks[:4], values[:4]
    if case == "constant column":
        keep = masks[:, 2]
        masks, values = masks[keep], values[keep]
    if case == "one feature":
        masks, values, held_out = np.array([[True], [False]]), np.array([1.0, 3.0]), np.array([[True]])
    if case == "outlier":
        values[0] += 1e4
    if case == "float16":
        values = values.astype(np.float16)
    spectrum = proxyspex.fit(masks, values, proxy=proxy)
    assert np.isfinite(spectrum(held_out)).all()
    if case == "float16":
        assert oracle.r2(truth, spectrum(held_out)) > 0.2


def test_duplicates_are_averaged_and_their_noise_reported(rng):
    masks, values, _, _ = planted(9, 80, rng)
    twice, both = np.concatenate([masks, masks]), np.concatenate([values + 1, values - 1])
    with pytest.warns(UserWarning, match="80 masks were given several times with different values") as caught:
        averaged = proxyspex.fit(twice, both)
    assert "deviation 1.41" in str(caught[0].message)
    np.testing.assert_allclose(averaged.coefficients, proxyspex.fit(masks, values).coefficients, rtol=1e-4, atol=1e-5)
    same = proxyspex.fit(twice, np.concatenate([values, values]))
    np.testing.assert_array_equal(same.coefficients, proxyspex.fit(masks, values).coefficients)


@pytest.mark.parametrize("max_terms", [1, 2, 30])
def test_max_terms_counts_the_constant(max_terms, rng):
    masks, values, _, _ = planted(12, 150, rng)
    spectrum = proxyspex.fit(masks, values, max_terms=max_terms)
    assert len(spectrum) == max_terms
    assert spectrum.coefficients[0] == pytest.approx(values.mean(), abs=1)


def test_max_degree_bounds_the_terms(rng):
    masks, values, _, _ = planted(12, 150, rng)
    assert proxyspex.fit(masks, values, max_degree=2).support.sum(axis=1).max() == 2
    assert proxyspex.fit(masks, values, max_degree=2, proxy="mlp").support.sum(axis=1).max() == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proxy": "forest"}, "unknown proxy 'forest'; expected one of auto, walsh_gp, mlp"),
        ({"max_degree": 0}, "max_degree must be a whole number of at least 1"),
        ({"max_terms": 0}, "max_terms must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_wrong_options(options, message, rng):
    masks, values, _, _ = planted(8, 40, rng)
    with pytest.raises(ValueError, match=message):
        proxyspex.fit(masks, values, **options)


@pytest.mark.parametrize(
    ("masks", "values", "message"),
    [
        (np.ones((3, 4), bool), np.ones(2), r"values must have shape \(3,\)"),
        (np.ones((3, 4)), np.ones(3), "masks must be bool"),
        (np.ones((3, 4), bool), np.array([1, np.nan, 1]), "not finite"),
        (np.ones((0, 4), bool), np.ones(0), "at least one ablation"),
    ],
)
def test_wrong_tables(masks, values, message):
    with pytest.raises(ValueError, match=message):
        proxyspex.fit(masks, values)


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
    alpha = walsh_gp.posterior(scales, padded, targets, rows, used)
    found = walsh_gp.spectrum_terms(scales, alpha, padded, used, max_degree=n)
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
        k = walsh_gp.kernel(scales, padded[:rows], padded[:rows], used) + scales.noise * np.eye(rows)
        y = targets[:rows]
        half = 0.5 * (y @ jax.numpy.linalg.solve(k, y) + jax.numpy.linalg.slogdet(k)[1])
        return half - walsh_gp._log_prior(scales, used)

    scales = jax.tree.map(jax.numpy.asarray, scales)
    found = walsh_gp._loss_gradient(scales, padded, targets, real, used)
    chex.assert_trees_all_close(found, jax.grad(loss)(scales), rtol=2e-3, atol=2e-4)


def test_padding_has_no_influence(rng):
    masks, values, _, _ = planted(9, 60, rng)
    table = prepare(masks, values)
    wide = np.pad(np.asarray(table.signs), ((0, 64), (0, 16)))
    arguments = {"kernels": 2, "rows": 60, "steps": 1}
    key = jax.random.key(0)
    used = np.arange(wide.shape[1]) < 9
    small = walsh_gp.learn_scales(key, table.signs, table.targets, table.count, table.used, **arguments)

    def widen(a):
        return np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 16)]) if a.shape[-1:] == (16,) else a

    large = jax.tree.map(widen, small)
    first = walsh_gp.posterior(small, table.signs, table.targets, table.count, table.used)
    second = walsh_gp.posterior(large, wide, np.pad(table.targets, (0, 64)), table.count, used)
    np.testing.assert_allclose(first[:60], second[:60], atol=1e-3 * np.abs(first).max())
    assert not np.asarray(second[60:]).any()


@pytest.mark.parametrize("front", [5, 64])
def test_the_search_scores_extensions_exactly(front, rng):
    n, rows = 6, 64
    masks = oracle.all_masks(n)
    weights = rng.normal(size=rows).astype(np.float32)
    log_w = np.log(rng.uniform(0.2, 0.9, (2, n))).astype(np.float32)
    support, found, prior = grow(
        signs(masks),
        weights,
        np.ones(n, bool),
        log_w,
        np.zeros(2, np.float32),
        np.zeros(n, np.float32),
        max_degree=3,
        front=front,
    )
    for degree in range(3):
        real = prior[degree] > 0
        sets = np.asarray(support[degree])[real]
        assert (sets.sum(axis=1) == degree + 1).all()
        assert len(np.unique(sets, axis=0)) == len(sets)
        expected = np.exp(log_w @ sets.T).sum(axis=0)
        np.testing.assert_allclose(prior[degree][real], expected, rtol=1e-5)
        correlation = subset_characters(masks, sets).T @ weights
        np.testing.assert_allclose(found[degree][real], expected * correlation, atol=1e-4)
        if front == 64:
            assert len(sets) == [6, 15, 20][degree]


@pytest.mark.parametrize("n", [8, 22])
def test_reading_a_function_that_can_be_asked(n, rng):
    support = np.zeros((12, n), bool)
    for row, size in zip(support, [1, 1, 1, 2, 2, 2, 3, 3, 1, 2, 4, 1], strict=True):
        row[:size] = True
        row[:] = rng.permutation(row)
    support = np.unique(support, axis=0)
    # A hierarchy for the search to climb: every part of a large set is there too, if small.
    thinned = [support & (rng.random(n) < keep) for keep in (0.3, 0.5, 0.7)]
    parts = np.unique(np.concatenate([*thinned, support]), axis=0)
    parts = parts[parts.any(axis=1)]
    coefficients = rng.uniform(0.3, 1, len(parts))

    def ask(x):
        return 0.7 + (1 - 2 * ((x[:, :n] < 0).astype(np.float32) @ parts.T.astype(np.float32) % 2)) @ coefficients

    found, values = read_answers(ask, n, 32, jax.random.key(0), max_degree=4)
    expected = {tuple(np.flatnonzero(row)): value for row, value in zip(parts, coefficients, strict=True)}
    got = {tuple(np.flatnonzero(row)): value for row, value in zip(found, values, strict=True)}
    assert got[()] == pytest.approx(0.7, abs=0.05)
    reached = [members for members in expected if members in got]
    assert len(reached) >= 0.9 * len(expected)
    for members in reached:
        assert got[members] == pytest.approx(expected[members], abs=0.02)


@pytest.mark.parametrize(("rows", "terms"), [(60, 20), (30, 90)])
def test_refit_is_ridge_with_the_leave_one_out_errors_it_claims(rows, terms, rng):
    n = 10
    masks = oracle.all_masks(n)[rng.permutation(2**n)[:rows]]
    support = oracle.all_masks(n)[rng.permutation(2**n)[:terms]]
    prior = rng.uniform(0.01, 1, terms)
    characters = subset_characters(masks, support).astype(float)
    values = characters @ (np.sqrt(prior) * rng.normal(size=terms)) + 0.1 * rng.normal(size=rows)

    def ridge(keep, noise):
        x = characters[keep]
        return np.linalg.solve(x.T @ x + noise * np.diag(1 / prior), x.T @ values[keep])

    found, noise = refit(masks, values, support, prior)
    np.testing.assert_allclose(found, ridge(np.ones(rows, bool), noise), atol=1e-7)

    def left_out(noise):
        kept = ~np.eye(rows, dtype=bool)
        return np.mean([(values[i] - characters[i] @ ridge(kept[i], noise)) ** 2 for i in range(rows)])

    assert noise == min((0.003, 0.01, 0.03, 0.1, 0.3, 1.0), key=left_out)


def test_energy_cut():
    assert energy_cut(np.array([0.1, -3.0, 2.0]), 2).tolist() == [1, 2]
    assert energy_cut(np.array([1e-3, 1.0]), None).tolist() == [1]
    assert energy_cut(np.ones(3), None).tolist() == [0, 1, 2]
    assert energy_cut(np.zeros(0), None).tolist() == []
