"""Windows of neighbouring units in walsh_gp."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from host_only import nothing_on_a_device
from planting import neighbours

from spex_jax import Spectrum, proxyspex
from spex_jax.core.side_information import side_information
from spex_jax.core.walsh import signs, subset_characters
from spex_jax.proxyspex import walsh_gp
from spex_jax.proxyspex.preprocessing import prepare
from spex_jax.proxyspex.walsh_gp import neighbours as neighbours_module
from spex_jax.proxyspex.walsh_gp import posteriors
from spex_jax.proxyspex.walsh_gp.prior import prior_variances
from spex_jax.proxyspex.walsh_gp.scales import loss_gradient
from spex_jax.proxyspex.walsh_gp.windows import Windows, padded, windows_of

SETS = [(0, 2, 3), (5, 1)]


def random_scales(rng, width):
    """Two kernels."""
    return walsh_gp.Scales(
        log_scale=np.log(rng.uniform(0.05, 0.6, (2, width))).astype(np.float32),
        log_amplitude=np.log(rng.uniform(0.2, 1, 2)).astype(np.float32),
        log_first=np.log(rng.uniform(0.05, 0.3, width)).astype(np.float32),
        log_constant=np.float32(-1.0),
        log_noise=np.float32(-3.0),
    )


def scales_with_windows(rng, width):
    """Two kernels over six features, and windows of three, of two and of no units."""
    units, inside = np.zeros((3, 4), np.int32), np.zeros((3, 4), bool)
    for row, members in enumerate(SETS):
        units[row, : len(members)], inside[row, : len(members)] = members, True
    return dataclasses.replace(
        random_scales(rng, width),
        log_window_scale=np.log(rng.uniform(0.1, 0.9, (3, 4))).astype(np.float32),
        log_window_amplitude=np.log(rng.uniform(0.3, 1, 3)).astype(np.float32),
        windows=Windows(units, inside),
    )


def prior_by_definition(scales, n):
    """P(S) for every S, from the formulas in float64."""
    a = np.exp(scales.log_scale[:, :n].astype(np.float64))
    kernels = [(amplitude, row, range(n)) for amplitude, row in zip(np.exp(scales.log_amplitude), a, strict=True)]
    for members, amplitude, row in zip(
        SETS, np.exp(scales.log_window_amplitude), np.exp(scales.log_window_scale.astype(np.float64)), strict=False
    ):
        kernels.append((amplitude, row[: len(members)], members))
    total = np.zeros(2**n)
    sets = oracle.all_masks(n)
    for amplitude, row, members in kernels:
        w = np.zeros(n)
        w[list(members)] = np.tanh(row)
        total += amplitude * np.where(sets, w, 1.0).prod(axis=1) / (1 + w).prod()
    total[sets.sum(axis=1) == 1] += np.exp(scales.log_first[:n].astype(np.float64))
    total[0] += np.exp(float(scales.log_constant))
    return sets, total


@pytest.mark.parametrize("device", [False, True])
def test_the_kernel_and_its_prior_are_those_of_the_definition(rng, device):
    n, width = 6, 16
    scales = scales_with_windows(rng, width)
    sets, prior = prior_by_definition(scales, n)
    characters = subset_characters(sets, sets).astype(float)
    rows = np.zeros((2**n, width), np.float32)
    rows[:, :n] = signs(sets)
    used = np.arange(width) < n
    support = np.pad(sets, ((0, 0), (0, width - n)))
    if device:
        scales, rows, used, support = jax.tree.map(jnp.asarray, (scales, rows, used, support))
    np.testing.assert_allclose(
        walsh_gp.kernel(scales, rows, rows, used), (characters * prior) @ characters.T, rtol=2e-4
    )
    np.testing.assert_allclose(prior_variances(scales, used, support), prior, rtol=1e-3, atol=1e-9)


def test_the_terms_of_the_posterior_are_the_posterior(rng):
    n, rows = 6, 30
    scales = scales_with_windows(rng, n)
    sets, prior = prior_by_definition(scales, n)
    masks = sets[rng.permutation(2**n)[:rows]]
    values = rng.normal(size=rows).astype(np.float32)
    used = np.ones(n, bool)
    alpha = walsh_gp.posterior(scales, signs(masks), values, np.ones(rows, bool), used).alpha
    found = posteriors.spectrum_terms(scales, alpha, signs(masks), used, max_degree=n)
    characters = subset_characters(masks, sets).astype(float)
    covariance = (characters * prior) @ characters.T + float(scales.noise) * np.eye(rows)
    expected = prior * (characters.T @ np.linalg.solve(covariance, values))
    codes = found.support @ (1 << np.arange(n))
    assert sorted(codes) == list(range(1, 2**n))
    np.testing.assert_allclose(found.coefficients, expected[codes], atol=2e-4)
    assert float(found.constant) == pytest.approx(expected[0], abs=2e-4)


def test_the_gradient_is_that_of_the_marginal_likelihood(rng):
    n, rows = 6, 14
    scales = scales_with_windows(rng, n)
    padded_rows = np.pad(signs(oracle.all_masks(n)[rng.permutation(2**n)[:rows]]), ((0, 2), (0, 0)))
    targets = np.pad(rng.normal(size=rows), (0, 2)).astype(np.float32)
    real, used = np.arange(16) < rows, np.ones(n, bool)
    inside = scales.windows.inside

    def loss(free):
        known = dataclasses.replace(free, windows=jax.tree.map(jnp.asarray, scales.windows))
        k = walsh_gp.kernel(known, jnp.asarray(padded_rows[:rows]), jnp.asarray(padded_rows[:rows]), used)
        k += known.noise * np.eye(rows)
        y = targets[:rows]
        found = 0.5 * (y @ jnp.linalg.solve(k, y) + jnp.linalg.slogdet(k)[1])
        for logs in (free.log_scale, free.log_first):
            found += 0.5 * 1.5 * ((logs - logs.mean(axis=-1, keepdims=True)) ** 2).sum()
        for row, members in zip(free.log_window_scale, inside[:2], strict=False):
            found += 0.5 * 1.5 * ((row[members] - row[members].mean()) ** 2).sum()
        amplitudes = free.log_window_amplitude[:2]
        return found + 0.5 * ((amplitudes - amplitudes.mean()) ** 2).sum()

    free = dataclasses.replace(scales, windows=None)
    expected = jax.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, free))
    for gradient in (loss_gradient, jax.jit(loss_gradient)):
        found = gradient(scales, padded_rows, targets, real, used, 1.5)
        chex.assert_trees_all_close(found, expected, rtol=2e-3, atol=3e-4)


def of(coordinates):
    found = windows_of(np.asarray(coordinates, float).reshape(len(coordinates), -1))
    return None if found is None else [row[inside].tolist() for row, inside in zip(*found, strict=True)]


def test_windows_of_a_line():
    assert of(np.arange(8)) is None
    assert of(np.arange(17)) == [list(range(8)), list(range(4, 12)), list(range(8, 16)), list(range(9, 17))]
    order = np.random.default_rng(0).permutation(17)
    places = np.empty(17)
    places[order] = np.arange(17) ** 2
    assert of(places) == [order[list(row)].tolist() for row in of(np.arange(17))]
    assert of(np.stack([np.full(17, 3), np.arange(17)], axis=1)) == of(np.arange(17))


def test_windows_of_a_grid():
    grid = np.stack(np.divmod(np.arange(20), 5), axis=1)
    squares = [[top * 5 + left + i for i in (0, 1, 5, 6)] for top in range(3) for left in range(4)]
    wide = [[(top + i) * 5 + left + j for i in range(3) for j in range(3)] for top in range(2) for left in range(3)]
    assert of(grid) == squares + wide
    assert of(grid * [0.5, 7.0] + 3) == squares + wide
    assert len(of(np.stack(np.divmod(np.arange(64), 8), axis=1))) == 49 + 36


def test_windows_of_points_are_nearest_neighbours():
    points = np.random.default_rng(0).normal(size=(40, 3))
    found = of(points)
    count = np.bincount(np.concatenate(found), minlength=40)
    assert (count >= 2).mean() > 0.8
    assert {len(row) for row in found} == {8}
    assert count.min() >= 1
    assert len(found) <= 25
    for row in found:
        distance = np.sort(np.square(points[:, None] - points[None]).sum(axis=-1), axis=1)
        inside = np.square(points[row][:, None] - points[row][None]).sum(axis=-1).max(axis=1)
        assert np.isclose(inside, distance[row, 7]).any()  # the seven nearest of one of them


def test_padding_keeps_the_windows():
    windows = windows_of(np.arange(21.0)[:, None])
    wide = padded(windows)
    assert wide.units.shape == (16, 8)
    np.testing.assert_array_equal(wide.units[: len(windows.units)], windows.units)
    assert wide.inside[: len(windows.units)].all()
    assert not wide.inside[len(windows.units) :].any()


@pytest.mark.parametrize("proxy", ["walsh_gp", "auto"])
def test_places_help_where_neighbours_act_together(proxy):
    masks, values, others, truth = neighbours(24, 220)
    alone = oracle.r2(truth, proxyspex.fit(masks, values, proxy=proxy)(others))
    placed = proxyspex.fit(masks, values, proxy=proxy, coordinates=np.arange(24))
    assert oracle.r2(truth, placed(others)) > alone + 0.1
    assert placed.variances is not None
    scattered = np.random.default_rng(5).permutation(24)
    misled = oracle.r2(truth, proxyspex.fit(masks, values, proxy=proxy, coordinates=scattered)(others))
    assert misled > alone - 0.03


def test_intervals_cover_the_coefficients_with_windows():
    """90% intervals of the mixture, against the coefficients of functions of neighbours."""
    inside, count = 0, 0
    for seed in range(3):
        masks, values, *_ = neighbours(16, 250, seed, noise=0.5)
        rng = np.random.default_rng(seed)
        rng.random((750, 16))
        truth = {(i,): 0.5 * weight for i, weight in enumerate(rng.normal(size=16))}
        for start in range(14):
            truth[start, start + 1] = rng.normal()
            truth[start, start + 1, start + 2] = rng.normal() * 0.7
        found = proxyspex.fit(masks, values, proxy="walsh_gp", coordinates=np.arange(16))
        largest = np.argsort(-np.abs(found.coefficients[1:]))[:60] + 1
        for row in largest:
            members = tuple(np.flatnonzero(found.support[row]).tolist())
            expected = truth.get(members, 0.0) * (-1) ** len(members)  # chi_S is the product of 1 - 2 m
            inside += abs(found.coefficients[row] - expected) < 1.645 * np.sqrt(found.variances[row])
            count += 1
    assert 0.8 <= inside / count <= 0.99


def test_the_order_of_the_features_has_no_influence():
    masks, values, others, _ = neighbours(20, 150)
    order = np.random.default_rng(1).permutation(20)
    first = proxyspex.fit(masks, values, proxy="walsh_gp", coordinates=np.arange(20))
    second = proxyspex.fit(masks[:, order], values, proxy="walsh_gp", coordinates=order)
    assert np.abs(first(others) - second(others[:, order])).max() < 0.3 * values.std()


def test_a_fit_with_places_compiles_nothing():
    masks, values, *_ = neighbours(18, 140, noise=2.0)
    options = {"proxy": "walsh_gp", "coordinates": np.arange(18)}
    with nothing_on_a_device():
        found = proxyspex.fit(masks, values, **options)
    many = proxyspex.fit_many([masks, masks], [values, -values], **options)
    np.testing.assert_array_equal(many[0].coefficients, found.coefficients)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [100, 140])  # out-of-fold predictions of the first have scales of their own
def test_host_and_device_agree(rows, request):
    masks, values, others, _ = neighbours(18, rows, noise=2.0)
    options = {"proxy": "walsh_gp", "coordinates": np.arange(18)}
    host = proxyspex.fit(masks, values, **options)
    request.getfixturevalue("on_an_accelerator")
    device = proxyspex.fit(masks, values, **options)
    assert np.abs(host(others) - device(others)).max() < 0.01 * values.std()


@pytest.mark.slow
def test_tables_in_one_program_have_places_of_their_own(on_an_accelerator):
    masks, values, others, _ = neighbours(18, 140, noise=2.0)
    places = [None, np.arange(18)[:, None]]
    many = proxyspex.fit_many([masks] * 2, [values] * 2, proxy="walsh_gp", coordinates=places)
    for found, coordinates in zip(many, places, strict=True):
        alone = proxyspex.fit(masks, values, proxy="walsh_gp", coordinates=coordinates)
        assert np.abs(found(others) - alone(others)).max() < 0.01 * values.std()


def test_few_features_and_few_rows_have_no_windows():
    masks, values, _, _ = neighbours(7, 60)
    first = proxyspex.fit(masks, values, proxy="walsh_gp")
    second = proxyspex.fit(masks, values, proxy="walsh_gp", coordinates=np.arange(7))
    np.testing.assert_array_equal(first.coefficients, second.coefficients)
    assert prepare(masks, values, 0, side_information(7, coordinates=np.arange(7))).known.coordinates.shape == (7, 1)


def partners(rows, seed=0, noise=0.05):
    """A sum of unanimity games of three scattered groups of 5 of 15 features, as a table and other masks."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(15).reshape(3, 5)
    masks = rng.permutation(oracle.all_masks(15))[: rows + 1000]
    values = masks @ rng.normal(size=15) * 0.2
    for _ in range(30):
        members = rng.permutation(groups[rng.integers(3)])[: rng.integers(2, 6)]
        values = values + rng.normal() * masks[:, members].all(axis=1)
    return masks[:rows], values[:rows] + noise * rng.normal(size=rows), masks[rows:], values[rows:]


@pytest.mark.parametrize("proxy", ["walsh_gp", "auto"])
def test_learned_partners_help_and_are_left_out_where_they_do_not(proxy, monkeypatch):
    gains = []
    for seed in range(3):
        masks, values, others, truth = partners(220, seed)
        found = oracle.r2(truth, proxyspex.fit(masks, values, proxy=proxy)(others))
        with monkeypatch.context() as without:
            without.setattr(neighbours_module, "_LEARNED_FEATURES", 0)
            alone = oracle.r2(truth, proxyspex.fit(masks, values, proxy=proxy)(others))
        gains.append(np.log((1 - found) / (1 - alone)))
    assert np.mean(gains) < np.log(0.9)
    rng = np.random.default_rng(0)
    masks = rng.permutation(oracle.all_masks(12))
    support = rng.random((200, 12)) < 0.15
    values = subset_characters(masks, np.unique(support, axis=0)).astype(float) @ rng.normal(
        size=len(np.unique(support, axis=0))
    )
    found = oracle.r2(values[300:], proxyspex.fit(masks[:300], values[:300], proxy=proxy)(masks[300:]))
    monkeypatch.setattr(neighbours_module, "_LEARNED_FEATURES", 0)
    assert found > oracle.r2(values[300:], proxyspex.fit(masks[:300], values[:300], proxy=proxy)(masks[300:])) - 0.005


def test_partners_are_the_features_of_common_sets():
    support = np.zeros((4, 12), bool)
    for row, members in enumerate([(0, 1, 2), (0, 1), (5,), (7, 8, 9)]):
        support[row, list(members)] = True
    windows = neighbours_module._partners(Spectrum(support, np.array([1.0, 2.0, 100.0, 0.5])))
    sets = [set(units[inside].tolist()) for units, inside in zip(windows.units, windows.inside, strict=True)]
    assert any({0, 1, 2} <= found for found in sets)
    assert any({7, 8, 9} <= found for found in sets)
    assert all(len(found) == 5 for found in sets)


def test_partners_are_learned_of_few_features_from_many_rows():
    for n, rows, learned in ((15, 199, False), (15, 230, True), (25, 230, False), (8, 230, False)):
        rng = np.random.default_rng(0)
        masks = np.unique(rng.random((2 * rows, n)) < 0.5, axis=0)[:rows]
        table = prepare(
            masks, masks @ rng.normal(size=n) + masks[:, 0] * masks[:, 1] * masks[:, 2] + rng.normal(size=len(masks))
        )
        smooth = walsh_gp.fit(table, max_degree=3, seed=0)
        asked = []
        watched = dataclasses.replace(smooth, held_out=lambda: asked.append(1) or smooth.held_out())  # noqa: B023
        walsh_gp.with_neighbours(table, watched, max_degree=3, seed=0)
        assert bool(asked) == (learned and table.count >= 200), (n, rows)


@pytest.mark.nightly
def test_host_and_device_agree_on_learned_partners(request):
    masks, values, others, _ = partners(400, noise=1.0)
    host = proxyspex.fit(masks, values, proxy="walsh_gp")
    request.getfixturevalue("on_an_accelerator")
    device = proxyspex.fit(masks, values, proxy="walsh_gp")
    assert np.abs(host(others) - device(others)).max() < 0.02 * values.std()
