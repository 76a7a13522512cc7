import shutil

import numpy as np
import oracle
import pytest
from planting import planted

from spex_jax import proxyspex
from spex_jax.core.spectrum import exact_spectrum


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    masks, values, held_out, truth = planted(12, 500, rng, degree=2)
    return proxyspex.train_mlp(masks, values), held_out, truth


@pytest.mark.slow
def test_the_network_predicts(trained):
    network, held_out, truth = trained
    assert oracle.r2(truth, network(held_out)) > 0.8
    np.testing.assert_allclose(network(held_out[:3]), network(held_out)[:3], rtol=1e-5)
    assert network(held_out[:0]).shape == (0,)


def test_its_spectrum_is_the_transform_of_all_its_answers(trained):
    network, _, _ = trained
    masks = oracle.all_masks(12)
    expected = exact_spectrum(masks, network(masks))
    found = network.spectrum(max_degree=12, max_terms=600)
    truth = {bytes(row): value for row, value in zip(expected.support, expected.coefficients, strict=True)}
    for row, value in zip(found.support, found.coefficients, strict=True):
        assert truth[bytes(row)] == pytest.approx(value, abs=1e-5)
    largest = np.sort(np.abs(expected.coefficients))[::-1]
    assert np.abs(found.coefficients).min() == pytest.approx(largest[599], abs=1e-5)


@pytest.mark.nightly
def test_the_growing_search_finds_what_the_transform_finds(trained, monkeypatch):
    """As for more features than 2^n answers can be asked of, at an n where they can."""
    network, held_out, _ = trained
    exact = network.spectrum(max_degree=4)
    monkeypatch.setattr("spex_jax.proxyspex.extraction._MOST_COMPLETE", 1)
    monkeypatch.setattr("spex_jax.proxyspex.extraction._ANSWERS", 2**16)
    searched = network.spectrum(max_degree=4)
    truth = {bytes(row): value for row, value in zip(exact.support, exact.coefficients, strict=True)}
    got = {bytes(row): value for row, value in zip(searched.support, searched.coefficients, strict=True)}
    large = [name for name, value in truth.items() if abs(value) > 0.02 * network.scale]
    assert len(large) > 5
    assert np.mean([name in got for name in large]) > 0.95
    assert max(abs(got[name] - truth[name]) for name in large if name in got) < 0.01 * network.scale
    assert oracle.r2(exact(held_out), searched(held_out)) > 0.99


def test_saved_and_loaded(trained, tmp_path):
    network, held_out, _ = trained
    network.save(tmp_path / "network")
    again = proxyspex.TrainedMLP.load(tmp_path / "network")
    np.testing.assert_array_equal(again(held_out), network(held_out))
    assert (again.n, again.mean, again.scale) == (12, network.mean, network.scale)
    with pytest.raises(ValueError, match="exists; give the path of a new folder"):
        network.save(tmp_path / "network")
    with pytest.raises(ValueError, match="does not exist; create it first"):
        network.save(tmp_path / "nowhere" / "network")


@pytest.mark.parametrize("case", ["nothing", "folder", "file", "torn"])
def test_what_is_no_checkpoint(trained, tmp_path, case):
    path = tmp_path / "network"
    if case == "folder":
        path.mkdir()
    if case == "file":
        path.write_text("a file")
    if case == "torn":
        trained[0].save(path)
        shutil.rmtree(path / "state")
    with pytest.raises(ValueError, match=r"is not a checkpoint of TrainedMLP\.save"):
        proxyspex.TrainedMLP.load(path)


def test_a_constant_teaches_nothing():
    with pytest.raises(ValueError, match="the values are all 2: there is nothing to learn"):
        proxyspex.train_mlp(np.eye(4, dtype=bool), np.full(4, 2.0))
