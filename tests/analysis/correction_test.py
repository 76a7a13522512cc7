"""What a proxy misses of a Shapley-type index: exact where everything was asked, whatever the proxy."""

from itertools import combinations

import numpy as np
import oracle
import pytest

from spex_jax import Spectrum
from spex_jax.analysis.correction import Correction, correction_of, point_weights, residual_effects
from spex_jax.core.indices import INDICES
from spex_jax.core.sampling import draw
from spex_jax.core.spectrum import exact_spectrum
from spex_jax.utils.untrusted_files import Allowance, Archive

SHAPLEY_TYPE = [name for name, index in INDICES.items() if index.shapley_type]


def first_order(n, rng):
    support = np.concatenate([np.zeros((1, n), np.bool_), np.eye(n, dtype=np.bool_)])
    return Spectrum(support, rng.normal(size=n + 1), np.full(n + 1, 1e-4))


def sets_of(n, order):
    return [key for size in range(order + 1) for key in combinations(range(n), size)]


@pytest.mark.parametrize("index", SHAPLEY_TYPE)
@pytest.mark.parametrize(("n", "order"), [(1, 1), (2, 2), (5, 1), (5, 2), (6, 3)])
def test_exact_where_every_mask_was_asked(index, n, order, rng):
    masks = rng.permutation(oracle.all_masks(n))
    values, proxy = rng.normal(size=2**n), first_order(n, rng)
    truth = exact_spectrum(masks, values).interactions(index, order)
    correction = correction_of(proxy, masks, values, proxy(masks) + rng.normal(size=2**n))
    found = correction(proxy.interactions(index, order))
    for key in sets_of(n, truth.max_order):
        assert found[key] == pytest.approx(truth[key], abs=1e-10)
    assert found.baseline == pytest.approx(values[~masks.any(axis=1)][0])
    assert found.std_errors is not None


@pytest.mark.parametrize("index", ["SV", "k-SII", "STII", "FSII"])
def test_exact_at_the_empty_and_the_full_mask(index, rng):
    n = 9
    masks = draw("mixed", n, 60, 0)
    values, proxy = rng.normal(size=60), first_order(n, rng)
    found = correction_of(proxy, masks, values, proxy(masks))(proxy.interactions(index, 2))
    assert found[()] == pytest.approx(values[1])
    assert sum(found.values()) == pytest.approx(values[0], abs=1e-10)


@pytest.mark.parametrize("index", SHAPLEY_TYPE)
def test_weights_of_one_mask_are_the_index_of_its_indicator(index):
    n, order = 5, 3
    masks = oracle.all_masks(n)
    for row in (0, 1, 6, 22, 31):
        indicator = (np.arange(2**n) == row).astype(np.float64)
        truth = exact_spectrum(masks, indicator).interactions(index, order)
        for key in sets_of(n, truth.max_order)[1:]:
            weights = point_weights(INDICES[index], len(key), n, truth.max_order)
            assert weights[masks[row, list(key)].sum(), masks[row].sum()] == pytest.approx(truth[key], abs=1e-12)


def test_all_sizes_count_alike_in_the_effects():
    """At all masks, effects that differ by size come out as their mean over the sizes: the weights of KernelSHAP."""
    n, masks = 9, oracle.all_masks(9)
    size, effects = masks.sum(axis=1), np.arange(9.0) - 4
    for of_size in 1 + 3 * np.eye(n + 1)[[2, 4, 7]]:
        residuals = (masks @ effects) * of_size[size]
        found = residual_effects(masks, residuals)
        expected = of_size[2:-2].mean()  # sizes 1 and n - 1 take no part
        assert found @ effects / (effects @ effects) == pytest.approx(expected, rel=0.02)
        np.testing.assert_allclose(found, effects * (found @ effects) / (effects @ effects), atol=1e-9)


def test_other_indices_are_left_as_they_are(rng):
    masks = draw("mixed", 8, 60, 0)
    proxy = first_order(8, rng)
    correction = correction_of(proxy, masks, rng.normal(size=60), np.zeros(60))
    for index in ("BII", "FBII", "Fourier", "Moebius", "BV"):
        before = proxy.interactions(index, 2)
        assert correction(before) is before


def test_residuals_that_say_nothing_move_nothing_and_true_effects_come_back(rng):
    n = 12
    masks = draw("kernel_shap", n, 600, 1)
    noise = rng.normal(size=600)
    assert np.abs(residual_effects(masks, noise)).max() < 0.1
    effects = rng.normal(size=n)
    effects -= effects.mean()
    found = residual_effects(masks, masks @ effects + 0.1 * noise + 3.0)  # a shift of all is no effect
    np.testing.assert_allclose(found, effects, atol=0.05)
    np.testing.assert_allclose(found.sum(), 0, atol=1e-12)
    np.testing.assert_allclose(residual_effects(masks, masks @ effects), effects, atol=1e-9)
    assert not residual_effects(masks[:2], noise[:2]).any()
    order = rng.permutation(n)
    again = residual_effects(masks[:, order], masks @ effects + 0.1 * noise)
    np.testing.assert_allclose(again, residual_effects(masks, masks @ effects + 0.1 * noise)[order], atol=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_scales_with_the_values(scale, rng):
    masks, proxy = draw("mixed", 10, 100, 0), first_order(10, rng)
    proxy = Spectrum(proxy.support, proxy.coefficients)
    values, predicted = rng.normal(size=100), rng.normal(size=100)
    plain = correction_of(proxy, masks, values, predicted)(proxy.interactions("SV", 1))
    scaled = correction_of(scale * proxy, masks, scale * values, scale * predicted)((scale * proxy).interactions("SV"))
    np.testing.assert_allclose([scaled[i] / scale for i in range(10)], [plain[i] for i in range(10)], rtol=1e-9)


def test_nothing_to_correct(rng):
    masks, proxy = draw("mixed", 10, 100, 0), first_order(10, rng)
    assert correction_of(proxy, masks, proxy(masks), proxy(masks)) is None
    constant = Spectrum(np.zeros((1, 10), np.bool_), np.array([3.0]))
    assert correction_of(constant, masks, np.full(100, 3.0), np.full(100, 3.0)) is None
    zero = Spectrum(np.zeros((1, 10), np.bool_), np.array([0.0]))
    assert correction_of(zero, masks, np.zeros(100), np.zeros(100)) is None


def test_of_many_features_the_sets_that_are_there_are_corrected(rng):
    n = 300
    masks = draw("mixed", n, 2000, 0)
    support = np.zeros((3, n), np.bool_)
    support[1, 4] = support[2, [7, 9]] = True
    proxy = Spectrum(support, np.array([1.0, -0.5, 0.25]))
    values = proxy(masks) + np.where(masks.all(axis=1), 5.0, 0.0)
    correction = correction_of(proxy, masks, values, proxy(masks))
    found = correction(proxy.interactions("FSII", 2))
    assert {key for key in found if len(key) == 2} == {(7, 9)}
    assert sum(len(key) == 1 for key in found) == n
    assert np.isfinite(list(found.values())).all()
    sums = correction(proxy.interactions("SV"))
    assert sum(sums.values()) == pytest.approx(values[0])


def test_arrays_of_a_file(rng, tmp_path):
    masks, proxy = draw("mixed", 10, 100, 0), first_order(10, rng)
    correction = correction_of(proxy, masks, rng.normal(size=100), rng.normal(size=100))
    np.savez(tmp_path / "some.npz", **correction.to_arrays())
    np.savez(tmp_path / "none.npz")
    with Archive(tmp_path / "some.npz", Allowance([tmp_path / "some.npz"])) as file:
        again = Correction.from_arrays(file, 10)
    assert again(proxy.interactions("FSII", 2)) == correction(proxy.interactions("FSII", 2))
    with Archive(tmp_path / "none.npz", Allowance([tmp_path / "none.npz"])) as file:
        assert Correction.from_arrays(file, 10) is None
