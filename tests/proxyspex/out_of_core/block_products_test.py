import itertools

import numpy as np
import pytest

from spex_jax import PackedMasks
from spex_jax.proxyspex.out_of_core import block_products

N, ROWS = 21, 203
TERMS = [(), (0, 5), (1, 2, 20)]


def features(masks, made):
    return ((1 - 2 * masks.astype(float)) - made.mean) * made.inverse


def characters(u):
    return np.stack([u[:, list(members)].prod(axis=1) for members in TERMS], axis=1)


@pytest.fixture(params=[0.5, 0.3], ids=["half", "share of 0.3"])
def table(request, rng):
    masks = rng.random((ROWS, N)) < request.param
    masks[:, 11] = True  # a feature that never changes
    made = block_products.design(PackedMasks(np.packbits(masks, axis=1), N))
    assert made.mean.any() == (request.param != 0.5)
    assert made.inverse[11] == 0
    return masks, made, features(masks, made)


@pytest.fixture(params=[2**26, 8 * 4 * 24], ids=["one block", "blocks of 8 rows"], autouse=True)
def block(request, monkeypatch):
    monkeypatch.setattr(block_products, "BLOCK_BYTES", request.param)


def test_features_have_mean_0_and_variance_1_where_the_share_is_not_a_half(table):
    _, made, u = table
    if made.mean.any():
        changing = np.arange(N) != 11
        np.testing.assert_allclose(u.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(u.std(axis=0)[changing], 1, atol=1e-6)
    else:
        np.testing.assert_array_equal(made.inverse[:11], 1)


def test_gradients_and_predictions_are_those_of_the_whole_matrix(table, rng):
    _, made, u = table
    design = np.concatenate([u, characters(u)], axis=1)
    coefficients = rng.normal(size=(N + 3, 4))
    coefficients[11] = 0
    weight = np.stack([rng.random(ROWS) < 0.8, np.ones(ROWS)], axis=1).astype(float)
    which = np.array([0, 1, 1, 0])
    for targets in (rng.normal(size=(ROWS, 1)), rng.normal(size=(ROWS, 4))):  # one for all columns, or several outputs
        slope, squares = block_products.gradient(made, TERMS, targets, weight, which, coefficients)
        residual = targets - design @ coefficients
        np.testing.assert_allclose(slope, design.T @ (residual * weight[:, which]), atol=2e-3)
        np.testing.assert_allclose(squares, weight.T @ residual**2, rtol=1e-5)
    np.testing.assert_allclose(block_products.predictions(made, TERMS, coefficients), design @ coefficients, atol=1e-4)


@pytest.mark.parametrize("tile", [2048, 8])
def test_every_pair_once(table, rng, monkeypatch, tile):
    monkeypatch.setattr(block_products, "_TILE", tile)
    _, made, u = table
    residual, rows = rng.normal(size=ROWS), np.flatnonzero(rng.random(ROWS) < 0.8)
    truth = (u[rows] * residual[rows, None]).T @ u[rows]
    found = np.zeros((N, N))
    for i, j, part in block_products.pairs(made, residual, rows):
        place = np.s_[i : i + part.shape[0], j : j + part.shape[1]]
        assert not found[place].any()
        found[place] = part
    np.testing.assert_allclose(found, np.triu(truth, 1), atol=1e-3)


def test_products_with_terms(table, rng):
    _, made, u = table
    chi, residual = characters(u), rng.normal(size=ROWS)
    weight = (rng.random((ROWS, 2)) < 0.5).astype(float)
    np.testing.assert_allclose(
        block_products.extensions(made, TERMS, residual), (chi * residual[:, None]).T @ u, atol=1e-3
    )
    np.testing.assert_allclose(
        block_products.correlations(made, TERMS, residual, weight), (weight * residual[:, None]).T @ chi, atol=1e-3
    )
    grams, targets = block_products.gram(made, TERMS, residual, weight)
    for part in (0, 1):
        np.testing.assert_allclose(grams[part], (chi * weight[:, [part]]).T @ chi, atol=2e-3)
        np.testing.assert_allclose(targets[part], chi.T @ (weight[:, part] * residual), atol=1e-3)


def test_terms_are_padded_to_shapes_that_are_shared(table):
    _, made, _ = table
    sets = list(itertools.combinations(range(5), 2))
    assert block_products.on_device(made, sets).place.shape == (64, 2)
    assert block_products.on_device(made, [()]).place.shape == (1, 2)
