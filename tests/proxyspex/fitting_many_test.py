import numpy as np
import pytest
from host_only import nothing_compiled
from planting import planted

from spex_jax import ProxySPEX, proxyspex
from spex_jax.core.ablations import Ablations
from spex_jax.core.packed_masks import PackedMasks
from spex_jax.proxyspex import fitting_many, trees, walsh_gp
from spex_jax.proxyspex.regression import linear


def assert_equal(found, expected):
    """To the last bit."""
    for name in ("support", "coefficients", "variances", "covariance_factor"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def assert_close(found, expected, rng):
    """To the rounding of float32 over all steps of learning the scales. Terms that are nearly equal may change places,
    and their random deviations with them.
    """
    asked = rng.integers(0, 2, (300, found.n)).astype(bool)
    np.testing.assert_allclose(found(asked), expected(asked), atol=1e-3 * max(expected(asked).std(), 1e-9))
    assert sorted(map(bytes, found.support)) == sorted(map(bytes, expected.support))
    if expected.variances is None:
        assert found.variances is None
        return
    np.testing.assert_allclose(found.variances.sum(), expected.variances.sum(), rtol=0.02)
    if np.array_equal(found.support, expected.support):
        # Rounding turns the factors, which differ where the covariances that they stand for are the same.
        of_found, of_expected = (one.covariance_factor @ one.covariance_factor.T for one in (found, expected))
        np.testing.assert_allclose(of_found, of_expected, atol=0.01 * np.abs(of_expected).max())


def mixed(rng):
    """Tables of two buckets of rows, several numbers of features, one constant, one that is noise."""
    sizes = [(8, 60, 0.3), (24, 120, 0.1), (8, 52, 3.0), (7, 40, 0.0), (24, 110, 3.0)]
    tables = [planted(n, rows, rng, noise=noise)[:2] for n, rows, noise in sizes]
    tables.insert(2, (tables[0][0], np.full(60, 2.5)))
    return [list(part) for part in zip(*tables, strict=True)]


@pytest.mark.slow
def test_tables_side_by_side_are_those_one_by_one(rng, monkeypatch):
    monkeypatch.setattr(fitting_many, "cores", lambda: 2)
    masks, values = mixed(rng)
    found = proxyspex.fit_many(masks, values, seed=3)
    for b, spectrum in enumerate(found):
        assert_equal(spectrum, proxyspex.fit(masks[b], values[b], seed=3))
    assert len(found[2]) == 1
    again = proxyspex.fit_many(masks[::-1], values[::-1], seed=3)
    for first, second in zip(found, again[::-1], strict=True):
        assert_equal(first, second)


@pytest.mark.nightly
@pytest.mark.usefixtures("on_an_accelerator")
def test_tables_in_one_program_are_close_to_those_one_by_one(rng):
    masks, values = mixed(rng)
    for b, spectrum in enumerate(proxyspex.fit_many(masks, values, seed=3)):
        assert_close(spectrum, proxyspex.fit(masks[b], values[b], seed=3), rng)


@pytest.mark.nightly
@pytest.mark.usefixtures("on_an_accelerator")
def test_chunks_have_no_influence(rng, monkeypatch):
    masks, values = mixed(rng)
    masks, values = masks[:4] + masks[:1], values[:4] + values[:1]
    whole = proxyspex.fit_many(masks, values, proxy="walsh_gp")
    sizes = []
    together = walsh_gp.WalshGP.fit_together

    def counted(self, tables, size, **options):
        sizes.append((len(tables), size))
        return together(self, tables, size, **options)

    monkeypatch.setattr(walsh_gp.WalshGP, "fit_together", counted)
    monkeypatch.setattr(fitting_many, "_BYTES", 2 * walsh_gp.bytes_of(64, 16, 5))
    for first, second in zip(whole, proxyspex.fit_many(masks, values, proxy="walsh_gp"), strict=True):
        assert_close(first, second, rng)
    assert sizes == [(2, 2), (1, 2)]


def test_outputs_of_the_same_masks(rng):
    masks, values, _, _ = planted(8, 60, rng, noise=0.3)
    outputs = np.stack([values, np.full(60, -1.0), -3 * values], axis=1)
    first, constant, third = proxyspex.fit_many(masks, outputs, proxy="walsh_gp")
    assert_equal(first, proxyspex.fit(masks, values, proxy="walsh_gp"))
    assert constant.coefficients.tolist() == [-1.0]
    asked = rng.integers(0, 2, (50, 8)).astype(bool)
    np.testing.assert_allclose(third(asked), -3 * first(asked), atol=0.05 * values.std())


@pytest.mark.slow
@pytest.mark.parametrize("path", ["side by side", "in one program"])
def test_other_tables_of_the_same_buckets_compile_nothing(path, rng, request, monkeypatch):
    if path == "in one program":
        request.getfixturevalue("on_an_accelerator")
    monkeypatch.setattr(linear, "_POOLS", linear._POOLS[-1:])  # how many triples there are depends on the values

    def fit(sizes):
        tables = [planted(n, rows, rng, noise=0.3)[:2] for n, rows in sizes]
        proxyspex.fit_many([table[0] for table in tables], [table[1] for table in tables])

    for depth in trees._DEPTHS:  # each may be the best for the other tables
        with monkeypatch.context() as patch:
            patch.setattr(trees, "_DEPTHS", (depth,))
            fit([(24, 120), (24, 110)])
    with nothing_compiled():
        fit([(22, 124), (26, 100)])


@pytest.mark.parametrize("proxy", ["linear", "trees"])
def test_other_proxies(proxy, rng):
    masks, values = mixed(rng)
    for b, spectrum in enumerate(proxyspex.fit_many(masks[:3], values[:3], proxy=proxy, max_terms=9)):
        expected = proxyspex.fit(masks[b], values[b], proxy=proxy, max_terms=9)
        assert_equal(spectrum, expected)


def test_tables_of_many_rows_run_one_at_a_time(rng, monkeypatch):
    begun = []
    monkeypatch.setattr(fitting_many, "SMALL_ROWS", 64)
    monkeypatch.setattr(
        fitting_many, "each", lambda call, items, at_once: begun.extend(items) or [call(b) for b in items]
    )
    masks, values = mixed(rng)
    found = proxyspex.fit_many(masks[:3], values[:3], proxy="linear")
    assert begun == [0]
    assert_equal(found[1], proxyspex.fit(masks[1], values[1], proxy="linear"))


MASKS = np.random.default_rng(0).integers(0, 2, (20, 5)).astype(bool)


@pytest.mark.parametrize(
    ("masks", "values", "message"),
    [
        ([], [], "at least one table, got none"),
        (MASKS, np.ones((20, 0)), "at least one table, got none"),
        ([MASKS], [np.ones(20)] * 2, "got 1 arrays of masks and 2 of values"),
        (MASKS, np.ones(20), r"must have shape \(20, T\), got \(20,\)"),
        (MASKS, np.ones((19, 2)), r"must have shape \(20, T\), got \(19, 2\)"),
        (MASKS[0], np.ones(20), r"one array \[M, n\] or a list of such arrays, got shape \(5,\)"),
        (PackedMasks(np.packbits(MASKS, axis=1), 5), np.ones((20, 2)), "got PackedMasks; fit such tables one by one"),
    ],
)
def test_wrong_arguments(masks, values, message):
    with pytest.raises(ValueError, match=message):
        proxyspex.fit_many(masks, values)


def test_a_wrong_table_is_named():
    with pytest.raises(ValueError, match=r"values must have shape \(20,\)") as caught:
        proxyspex.fit_many([MASKS, MASKS], [np.ones(20), np.ones(19)])
    assert caught.value.__notes__ == ["in table 1 of 2"]
    with pytest.raises(ValueError, match="unknown proxy 'forest'"):
        proxyspex.fit_many([MASKS], [np.ones(20)], proxy="forest")


@pytest.mark.slow
@pytest.mark.parametrize("path", ["side by side", pytest.param("in one program", marks=pytest.mark.nightly)])
def test_cross_fits(path, rng, request):
    if path == "in one program":
        request.getfixturevalue("on_an_accelerator")
    masks, values = mixed(rng)
    for b, (found, predicted) in enumerate(proxyspex.cross_fit_many(masks, values, seed=3)):
        spectrum, expected = proxyspex.cross_fit(masks[b], values[b], seed=3)
        assert_close(found, spectrum, rng)
        np.testing.assert_allclose(predicted, expected, atol=1e-3 * values[b].std())
    twice = np.concatenate([masks[0], masks[0]])
    with pytest.raises(ValueError, match="cross-fitting needs distinct masks, got 60 of 120") as caught:
        proxyspex.cross_fit_many([masks[0], twice], [values[0], np.tile(values[0], 2)])
    assert caught.value.__notes__ == ["in table 1 of 2"]


@pytest.mark.parametrize("sampling", ["uniform", "size"])
def test_the_method_fits_many(sampling, rng):
    masks, values = [part[:2] for part in mixed(rng)]
    method = ProxySPEX(proxy="linear", sampling=sampling)
    tables = [Ablations.to_fit(*table) for table in zip(masks, values, strict=True)]
    crossed = method.cross_fit_many(tables, 0)
    for b, (found, predicted) in enumerate(crossed):
        assert_equal(found, method.fit(tables[b], 0))
        if sampling == "uniform":
            assert predicted is None
        else:
            spectrum, expected = proxyspex.cross_fit(masks[b], values[b], proxy="linear")
            assert_equal(found, spectrum)
            np.testing.assert_array_equal(predicted, expected)
