"""Where to ask next: greedy information gain against its definition, and corners of uncertain sets."""

import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from spex_jax import Spectrum
from spex_jax.proxyspex.walsh_gp import Scales, acquisition, kernel
from spex_jax.proxyspex.walsh_gp.acquisition import corners, greedy_information, most_informative, uncertain_sets

N, WIDTH = 7, 16


@pytest.fixture(scope="module")
def scales():
    rng = np.random.default_rng(3)
    return Scales(
        log_scale=jnp.asarray(rng.normal(-1.5, 1.0, (4, WIDTH)), jnp.float32),
        log_amplitude=jnp.asarray(rng.normal(-1.0, 0.5, 4), jnp.float32),
        log_first=jnp.asarray(rng.normal(-2.0, 0.5, WIDTH), jnp.float32),
        log_constant=jnp.asarray(-2.0, jnp.float32),
        log_noise=jnp.asarray(-3.0, jnp.float32),
    )


def padded(masks, rows):
    signs = np.zeros((rows, WIDTH), np.float32)
    signs[: len(masks), :N] = 1.0 - 2 * masks
    return jnp.asarray(signs), jnp.arange(rows) < len(masks)


def test_each_choice_is_the_one_of_the_largest_gain(scales):
    masks = np.random.default_rng(5).permutation(oracle.all_masks(N))
    asked, pool = masks[:20], masks[20:70]
    used = jnp.arange(WIDTH) < N
    every = padded(masks[:70], 70)[0]
    k = np.asarray(kernel(scales, every, every, used), np.float64)
    noise = float(scales.noise)

    def information(rows):
        return np.linalg.slogdet(np.eye(len(rows)) + k[np.ix_(rows, rows)] / noise)[1] / 2

    rows, gains = greedy_information(scales, *padded(asked, 64), *padded(pool, 64), used, count=16)
    rows, chosen = np.asarray(rows), list(range(20))
    assert len(set(rows.tolist())) == 16
    for row, gain in zip(rows, np.asarray(gains), strict=True):
        before = information(chosen)
        possible = np.array([information([*chosen, 20 + other]) - before for other in range(50)])
        possible[[taken - 20 for taken in chosen if taken >= 20]] = 0
        assert gain == pytest.approx(possible[row], abs=1e-3)
        assert possible[row] >= possible.max() - 1e-3
        chosen.append(20 + int(row))
    assert (np.diff(gains) <= 1e-4).all()  # submodular: what comes later says less


def test_no_mask_is_chosen_twice(scales):
    """Of two features, with one setting known well from ten others: a second look at the rest would say more."""
    masks = oracle.all_masks(N)
    setting = masks[:, 0] + 2 * masks[:, 1]
    pool = np.stack([masks[setting == number][-1] for number in range(4)])
    asked = masks[setting == 0][:10]
    used = jnp.arange(WIDTH) < 2
    rows, gains = greedy_information(scales, *padded(asked, 64), *padded(pool, 4), used, count=4)
    assert sorted(np.asarray(rows).tolist()) == [0, 1, 2, 3]
    assert rows[-1] == 0
    assert gains[-1] < 0.1


@pytest.mark.usefixtures("on_an_accelerator")
def test_padding_is_not_taken_for_what_was_asked(monkeypatch):
    given = []

    def spied(scales, asked, real, *rest, **options):
        given.append(np.asarray(asked)[np.asarray(real), :N])
        return greedy_information(scales, asked, real, *rest, **options)

    monkeypatch.setattr(acquisition, "greedy_information", spied)
    masks = np.random.default_rng(0).permutation(oracle.all_masks(N))
    values = masks @ np.arange(N) + 3.0 * masks[:, 0] * masks[:, 1]
    most_informative(masks[:60], values[:60], masks[60:], 12)
    np.testing.assert_array_equal(np.unique(given[0], axis=0), np.unique(1.0 - 2 * masks[:60], axis=0))
    assert len(given[0]) == 60


def test_candidates_and_their_number():
    rng = np.random.default_rng(0)
    masks = rng.permutation(oracle.all_masks(N))
    values = masks @ np.arange(N) + 3.0 * masks[:, 0] * masks[:, 1]
    chosen = most_informative(masks[:60], values[:60], masks[60:], 12)
    assert chosen.shape == (12, N)
    left = {bytes(mask) for mask in masks[60:]}
    assert len({bytes(mask) for mask in chosen} & left) == 12
    again = most_informative(masks[:60], values[:60], masks[60:], 12)
    np.testing.assert_array_equal(chosen, again)
    np.testing.assert_array_equal(most_informative(masks[:60], np.ones(60), masks[60:], 5), masks[60:65])
    np.testing.assert_array_equal(most_informative(masks[:60], values[:60], masks[60:63], 3), masks[60:63])
    with pytest.raises(ValueError, match="cannot choose 4 of 3 candidates"):
        most_informative(masks[:60], values[:60], masks[60:63], 4)


def test_uncertain_sets_are_large_and_not_yet_sure():
    support = np.zeros((5, 6), np.bool_)
    for row, members in enumerate([(), (0, 1), (2, 3), (1, 4), (5,)]):
        support[row, list(members)] = True
    coefficients = np.array([1.0, 2.0, 0.5, 0.1, 3.0])
    sure = Spectrum(support, coefficients, variances=np.array([0.1, 0.01, 0.09, 0.04, 9.0]))
    found = sure.interactions("Fourier", 2)
    assert uncertain_sets(found, 10) == [(2, 3), (1, 4), (0, 1)]  # the open ones by size, then the sure one
    assert uncertain_sets(found, 1) == [(2, 3)]
    assert uncertain_sets(Spectrum(support, coefficients).interactions("Fourier", 2), 2) == [(0, 1), (2, 3)]
    assert uncertain_sets(Spectrum(support[:1], coefficients[:1]).interactions("Fourier", 2), 2) == []


def test_corners_are_complete():
    sets = [(0, 3), (1, 2, 5)]
    masks = corners(sets, 12, 60, np.random.default_rng(1))
    assert len(np.unique(masks, axis=0)) == len(masks)
    for members in sets:
        others = np.setdiff1d(np.arange(12), members)
        groups = {}
        for mask in masks:
            groups.setdefault(bytes(mask[others]), set()).add(bytes(mask[list(members)]))
        assert sum(len(group) == 2 ** len(members) for group in groups.values()) >= 5
