import numpy as np
import oracle
import pytest

from spex_jax import Spectrum
from spex_jax.core.spectrum import exact_spectrum


def planted(rng, n=9, terms=20):
    values, coefficients = oracle.planted_game(n, terms, rng, 6)
    support = np.array([[i in members for i in range(n)] for members in coefficients])
    return Spectrum(support, np.array(list(coefficients.values()))), values


def test_evaluation_is_the_sum_of_characters(rng):
    spectrum, values = planted(rng)
    np.testing.assert_allclose(spectrum(oracle.all_masks(9)), values, atol=1e-12)
    assert spectrum(oracle.all_masks(9)).dtype == np.float64
    assert spectrum(np.zeros((0, 9), bool)).shape == (0,)
    assert spectrum(np.zeros((1, 9), bool))[0] == pytest.approx(spectrum.coefficients.sum())


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 1000])
def test_evaluation_does_not_depend_on_the_batch(rows, rng):
    support = np.unique(rng.integers(0, 2, (300, 70)).astype(bool), axis=0)
    spectrum, masks = Spectrum(support, rng.normal(size=len(support))), rng.integers(0, 2, (rows, 70)).astype(bool)
    one_by_one = np.concatenate([spectrum(mask[None]) for mask in masks[:50]])
    np.testing.assert_allclose(spectrum(masks)[:50], one_by_one, atol=1e-10)


def test_exact_spectrum_is_the_transform_in_any_order(rng):
    values = oracle.random_game(7, rng)
    order = rng.permutation(2**7)
    spectrum = exact_spectrum(oracle.all_masks(7)[order], values[order])
    expected = oracle.walsh(values)
    assert len(spectrum) == 2**7
    for row, coefficient in zip(spectrum.support, spectrum.coefficients, strict=True):
        assert coefficient == pytest.approx(expected[tuple(np.flatnonzero(row))], abs=1e-12)


def test_exact_spectrum_leaves_out_rounding(rng):
    values, terms = oracle.planted_game(8, 5, rng, 4)
    assert len(exact_spectrum(oracle.all_masks(8), values)) <= len({*terms, ()})
    assert len(exact_spectrum(oracle.all_masks(4), np.full(16, 0.1))) == 1


def test_exact_spectrum_needs_every_mask(rng):
    masks = oracle.all_masks(3)[[0, 1, 2, 3, 4, 5, 6, 6]]
    with pytest.raises(ValueError, match="all 2\\^3 = 8 masks once"):
        exact_spectrum(masks, np.zeros(8))


def test_energy_by_degree_is_the_variance(rng):
    spectrum, values = planted(rng)
    assert spectrum.energy_by_degree().shape == (10,)
    assert spectrum.energy_by_degree()[1:].sum() == pytest.approx(values.var())


@pytest.mark.parametrize("factor", [3.0, -0.5, 0.0])
def test_a_factor_scales_coefficients_variances_and_covariances(factor, rng):
    spectrum, _ = planted(rng)
    deviations = rng.normal(size=(len(spectrum), 3))
    spectrum = Spectrum(spectrum.support, spectrum.coefficients, (deviations**2).sum(axis=1), deviations)
    masks = oracle.all_masks(9)
    for scaled in (factor * spectrum, spectrum * factor):
        np.testing.assert_allclose(scaled(masks), factor * spectrum(masks), atol=1e-12)
        np.testing.assert_allclose(scaled.variances, factor**2 * spectrum.variances)
        np.testing.assert_allclose((scaled.covariance_factor**2).sum(axis=1), scaled.variances)
        for key, error in spectrum.interactions("SV", 1).std_errors.items():
            assert scaled.interactions("SV", 1).std_errors[key] == pytest.approx(abs(factor) * error, abs=1e-12)
    without = Spectrum(spectrum.support, spectrum.coefficients, spectrum.variances) * factor
    np.testing.assert_allclose(without.variances, factor**2 * spectrum.variances)
    assert without.covariance_factor is None


def test_truncation_keeps_the_largest_and_the_constant(rng):
    support = oracle.all_masks(3)
    spectrum = Spectrum(support, np.array([0.1, 5.0, -7.0, 1.0, 2.0, 3.0, 0.0, 4.0]), variances=np.arange(8.0))
    cut = spectrum.truncate(3)
    assert cut.coefficients.tolist() == [0.1, -7.0, 5.0]
    assert cut.variances.tolist() == [0.0, 2.0, 1.0]
    assert len(spectrum.truncate(100)) == 8
    with pytest.raises(ValueError, match="at least one term"):
        spectrum.truncate(0)


def test_sums_and_multiples_are_linear(rng):
    (first, _), (second, _) = planted(rng), planted(rng)
    masks = oracle.all_masks(9)
    np.testing.assert_allclose((2 * first + second * -1)(masks), 2 * first(masks) - second(masks), atol=1e-12)
    with pytest.raises(ValueError, match="cannot be added"):
        first + Spectrum(np.zeros((1, 4), bool), np.ones(1))


def test_save_and_load(tmp_path, rng):
    spectrum = Spectrum(oracle.all_masks(4), rng.normal(size=16), np.ones(16), rng.normal(size=(16, 2)) * 0.1)
    spectrum.save(tmp_path / "any name")
    loaded = Spectrum.load(tmp_path / "any name")
    for name in ("support", "coefficients", "variances", "covariance_factor"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(spectrum, name))
    assert [path.name for path in tmp_path.iterdir()] == ["any name"]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_refused(content, tmp_path):
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"not a file of Spectrum\.save"):
        Spectrum.load(tmp_path / "s.npz")


def test_saving_into_no_folder(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        Spectrum(np.zeros((1, 4), bool), np.ones(1)).save(tmp_path / "none" / "s.npz")


@pytest.mark.parametrize(
    ("support", "coefficients", "message"),
    [
        (np.zeros((2, 3), bool), np.ones(2), "rows that are equal"),
        (np.eye(3, dtype=bool), np.ones(2), r"shape \(3,\)"),
        (np.eye(3, dtype=bool), np.array([1, np.nan, 1]), "finite"),
        (np.eye(3), np.ones(3), "must be bool"),
    ],
)
def test_wrong_spectra(support, coefficients, message):
    with pytest.raises(ValueError, match=message):
        Spectrum(support, coefficients)


def test_a_factor_needs_variances():
    with pytest.raises(ValueError, match="needs variances"):
        Spectrum(np.eye(3, dtype=bool), np.ones(3), covariance_factor=np.ones((3, 1)))


def test_the_arrays_are_read_only():
    spectrum = Spectrum(np.eye(3, dtype=bool), np.ones(3))
    with pytest.raises(ValueError, match="read-only"):
        spectrum.coefficients[0] = 2


def test_the_arrays_are_no_ones_else():
    support, coefficients = np.eye(3, dtype=bool), np.ones(3)
    spectrum = Spectrum(support, coefficients)
    support[0], coefficients[0] = True, 5.0  # still the caller's to change
    np.testing.assert_array_equal(spectrum.support, np.eye(3, dtype=bool))
    np.testing.assert_array_equal(spectrum.coefficients, np.ones(3))


@pytest.mark.parametrize("masks", [np.ones((2, 4), bool), np.ones((2, 3)), np.ones(3, bool)])
def test_wrong_masks(masks):
    with pytest.raises(ValueError, match="masks must"):
        Spectrum(np.eye(3, dtype=bool), np.ones(3))(masks)
