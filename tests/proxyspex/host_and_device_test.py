"""On a CPU a fit runs in NumPy, on an accelerator in programs: the same functions, the same spectra."""

import jax
import numpy as np
import pytest
from host_only import nothing_on_a_device
from planting import planted

from spex_jax import proxyspex
from spex_jax.core import masks as masks_lib
from spex_jax.proxyspex.preprocessing import FOLDS, prepare
from spex_jax.utils import array_api


@pytest.fixture(scope="module")
def table():
    masks, values, *_ = planted(13, 240, np.random.default_rng(2), noise=0.5)
    return masks, values


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(3).random((400, 13)) < 0.5


@pytest.mark.parametrize("proxy", ["walsh_gp", "linear", "trees", "auto"])
def test_both_give_the_same_spectrum(proxy, table, queries, request):
    host = proxyspex.fit(*table, proxy=proxy)
    request.getfixturevalue("on_an_accelerator")
    device = proxyspex.fit(*table, proxy=proxy)
    spread = host(queries).std()
    assert np.abs(host(queries) - device(queries)).max() < 0.01 * spread
    if host.variances is not None:
        common = device.coefficients_at(host.support) != 0
        largest = np.flatnonzero(common & (np.abs(host.coefficients) > 0.05 * spread))[:20]
        places = [int(np.flatnonzero((device.support == host.support[k]).all(axis=1))[0]) for k in largest]
        np.testing.assert_allclose(device.variances[places], host.variances[largest], rtol=0.05)


@pytest.mark.parametrize("proxy", ["walsh_gp", "linear", "trees", "auto"])
@pytest.mark.parametrize("rows", [60, 200])
def test_a_fit_on_a_cpu_compiles_nothing(proxy, rows, table):
    masks, values = table
    first = masks_lib.deduplicate(masks[:rows, :11])[0]
    with nothing_on_a_device():
        proxyspex.fit(masks[first, :11], values[first], proxy=proxy)


def test_rows_on_a_device_are_those_on_the_host_with_padding(table, monkeypatch):
    prepared = prepare(*table)
    host, device = prepared.on_host, prepared.on_device
    assert prepared.rows is host
    for here, there in zip(host, device, strict=True):
        assert isinstance(here, np.ndarray)
        assert isinstance(there, jax.Array)
        part = tuple(slice(size) for size in here.shape)
        np.testing.assert_array_equal(here, np.asarray(there)[part])
    rows, n = prepared.count, prepared.n
    assert not np.asarray(device.signs)[rows:].any()
    assert not np.asarray(device.signs)[:, n:].any()
    assert (np.asarray(device.fold)[rows:] == -1).all()
    assert not np.asarray(device.used)[n:].any()
    assert set(host.fold) == set(range(FOLDS))
    monkeypatch.setattr(array_api, "host_is_best", lambda: False)
    assert prepared.rows is device
