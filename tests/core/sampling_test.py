"""Draws of masks: what each asks, and that a larger budget asks again for all of a smaller one."""

import numpy as np
import pytest

from spex_jax.core import sampling
from spex_jax.core.indices import INDICES


@pytest.mark.parametrize("n", [1, 2, 5, 14, 21, 60])
@pytest.mark.parametrize("name", sampling.SAMPLINGS)
def test_masks_are_distinct_and_nested_and_hold_the_ends(name, n):
    count = min(2**n, 2500 if n > 20 else 300)
    masks = sampling.draw(name, n, count, 0)
    assert masks.shape == (count, n)
    assert masks.dtype == np.bool_
    assert len(np.unique(masks, axis=0)) == count
    assert masks[0].all()
    assert count < 2 or not masks[1].any()
    for fewer in (1, count // 3, count - 1):
        if fewer >= 2:
            np.testing.assert_array_equal(sampling.draw(name, n, fewer, 0), masks[:fewer])
    if n > 4:
        assert (sampling.draw(name, n, count // 2, 1) != masks[: count // 2]).any()


@pytest.mark.parametrize("n", [6, 14, 40])
@pytest.mark.parametrize("name", sampling.PAIRED)
def test_complements_follow_each_other(name, n):
    masks = sampling.draw(name, n, min(2**n, 200), 3)
    np.testing.assert_array_equal(masks[::2], ~masks[1::2])


@pytest.mark.parametrize(("name", "n"), [("size", 11), ("kernel_shap", 11), ("mixed", 11), ("mixed", 40)])
def test_sizes_follow_their_distribution(name, n):
    """Many short draws, of which few masks come again: the first pair after the ends has each size as often as said."""
    sizes = np.concatenate([sampling.draw(name, n, 4, seed)[2:].sum(axis=1) for seed in range(1000)])
    found = np.bincount(sizes, minlength=n + 1)[1:n] / len(sizes)
    all_sizes = np.arange(1, n)
    kernel = 1 / (all_sizes * (n - all_sizes))
    kernel /= kernel.sum()
    uniform = np.exp(-((all_sizes - n / 2) ** 2) / (n / 2))  # nearly binomial
    expected = {
        "size": np.ones(n - 1) / (n - 1),
        "kernel_shap": kernel,
        "mixed": (kernel + uniform / uniform.sum()) / 2,
    }
    assert np.abs(found - expected[name]).max() < 5 * np.sqrt(0.25 / (len(sizes) / 2))
    assert np.abs(np.cumsum(found - expected[name])).max() < 5 * np.sqrt(0.25 / (len(sizes) / 2))


def test_masks_of_a_size_are_equally_likely():
    n = 5
    codes = [sampling.draw("size", n, 3, seed)[2] @ (1 << np.arange(n)) for seed in range(2000)]
    counts = np.bincount(codes, minlength=2**n)
    size = np.array([code.bit_count() for code in range(2**n)])
    for s in range(1, n):
        of_size = counts[size == s]
        assert np.abs(of_size - of_size.mean()).max() < 5 * np.sqrt(of_size.mean())
        assert abs(of_size.sum() - 500) < 5 * np.sqrt(500)


@pytest.mark.parametrize("n", [6, 30])
@pytest.mark.parametrize("name", ["mixed", "kernel_shap"])
def test_each_feature_alone_is_asked_in_turns(name, n):
    masks = sampling.draw(name, n, min(4 * n + 2, 2**n), 1)
    alone = masks[masks.sum(axis=1) == 1]
    assert len(alone) == n
    sizes = masks[2:].sum(axis=1).reshape(-1, 2).min(axis=1)
    assert n == 6 or (sizes[1 : n // 2 : 2] == 1).all()


def test_leave_one_out_and_pairs_come_first():
    n = 9
    every = sampling.draw("pairs", n, 2 + n + 36 + 5, 0)
    removed = (~every).sum(axis=1)
    assert removed[:2].tolist() == [0, n]
    assert (removed[2 : 2 + n] == 1).all()
    assert (removed[2 + n : 2 + n + 36] == 2).all()
    first = sampling.draw("leave_one_out", n, 40, 0)
    np.testing.assert_array_equal(first[: 2 + n], every[: 2 + n])
    assert (~first[2 + n :]).sum(axis=1).mean() > 3  # uniform ones
    assert (sampling.draw("pairs", n, 5, 0)[2:].sum(axis=1) == n - 1).all()


def test_the_draw_follows_the_index():
    assert {sampling.for_index(index) for index in ("BV", "BII", "FBII", "Moebius", "Fourier")} == {"uniform"}
    assert {sampling.for_index(index) for index in ("SV", "SII", "k-SII", "STII", "FSII")} == {"mixed"}
    assert sampling.for_index(INDICES["SV"]) == "mixed"


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="unknown sampling 'sizes'; expected one of uniform, mixed, size"):
        sampling.draw("sizes", 5, 10, 0)
    with pytest.raises(ValueError, match="cannot draw 33 distinct masks of 5"):
        sampling.draw("size", 5, 33, 0)
    with pytest.raises(ValueError, match="cannot draw 33 distinct masks of 5"):
        sampling.draw("uniform", 5, 33, 0)
