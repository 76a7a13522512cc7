import numpy as np
import pytest

from spex_jax.core import masks


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones(4, bool), r"shape \[M, 3\]"),
        (np.ones((2, 4), bool), "one column for each of the 3 features"),
        (np.ones((2, 3)), "must be bool"),
        (np.full((2, 3), 2), "must be bool"),
    ],
)
def test_wrong_masks(given, message):
    with pytest.raises(ValueError, match=message):
        masks.check_masks(given, 3)


def test_integers_of_zero_and_one_are_masks():
    assert masks.check_masks([[0, 1], [1, 1]]).dtype == bool


def test_no_features():
    with pytest.raises(ValueError, match="at least one feature"):
        masks.check_masks(np.zeros((3, 0), bool))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_mask(bad):
    rows = np.array([[1, 1, 1], [0, 1, 0]], bool)
    with pytest.raises(ValueError, match=r"at mask 1, which removes 2 of 3 features \(0, 2\)"):
        masks.check_values([0.0, bad], rows)


@pytest.mark.parametrize("values", [[1.0], [[1.0], [2.0]], ["a", "b"], [1j, 2j]])
def test_wrong_values(values):
    with pytest.raises(ValueError, match="values must"):
        masks.check_values(np.array(values), np.ones((2, 3), bool))


def test_all_masks_are_in_the_order_of_their_codes():
    found = masks.all_masks(5)
    np.testing.assert_array_equal(found @ (1 << np.arange(5)), np.arange(32))


@pytest.mark.parametrize(("n", "degree"), [(5, 0), (5, 2), (4, 4), (3, 7)])
def test_sets_up_to_a_degree_are_those_of_all_masks(n, degree):
    found, every = masks.sets_up_to(n, degree), masks.all_masks(n)
    assert len(found) == masks.number_of_sets(n, degree)
    assert set(map(tuple, found)) == set(map(tuple, every[every.sum(axis=1) <= degree]))
    assert (np.diff(found.sum(axis=1)) >= 0).all()


@pytest.mark.parametrize("n", [1, 7, 8, 9, 70])
def test_packing_round_trip(n, rng):
    given = rng.integers(0, 2, (11, n)).astype(bool)
    np.testing.assert_array_equal(masks.unpack(masks.pack(given), n), given)


@pytest.mark.parametrize("n", [3, 40])
def test_deduplicate_keeps_the_order_of_first_appearance(n, rng):
    given = rng.integers(0, 2, (5, n)).astype(bool)[rng.integers(0, 5, 30)]
    first, inverse = masks.deduplicate(given)
    np.testing.assert_array_equal(given[first][inverse], given)
    assert (np.diff(first) > 0).all()
    assert len(np.unique(given, axis=0)) == len(first)


def test_masks_with_one_hash_are_told_apart(rng, monkeypatch):
    given = rng.integers(0, 2, (30, 90)).astype(bool)[rng.integers(0, 30, 200)]
    expected = masks.deduplicate(given)
    monkeypatch.setattr(masks, "hashes", lambda packed: packed[:, 0].astype(np.uint64) % 3)
    for found, right in zip(masks.deduplicate(given), expected, strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize(("n", "count"), [(4, 16), (10, 900), (20, 300), (21, 300), (100, 500)])
def test_uniform_masks_are_distinct_and_seeded(n, count):
    ends = np.stack([np.ones(n, bool), np.zeros(n, bool)])
    drawn = masks.uniform(n, count, np.random.default_rng(3), given=ends)
    assert drawn.shape == (count, n)
    assert len(np.unique(drawn, axis=0)) == count
    np.testing.assert_array_equal(drawn[:2], ends)
    np.testing.assert_array_equal(drawn, masks.uniform(n, count, np.random.default_rng(3), given=ends))
    assert not np.array_equal(drawn, masks.uniform(n, count, np.random.default_rng(4), given=ends))


def test_uniform_masks_keep_half():
    drawn = masks.uniform(60, 4000, np.random.default_rng(0))
    # 6 standard deviations of a mean of 4000 fair coins, for each of the 60 features and for all pairs.
    assert np.abs(drawn.mean(axis=0) - 0.5).max() < 6 * 0.5 / np.sqrt(4000)
    signs = 1 - 2 * drawn.astype(float)
    correlation = signs.T @ signs / 4000 - np.eye(60)
    assert np.abs(correlation).max() < 6 / np.sqrt(4000)


def test_more_masks_than_there_are():
    with pytest.raises(ValueError, match="cannot draw 9 distinct masks of 3"):
        masks.uniform(3, 9, np.random.default_rng(0))


def test_masks_that_are_not_among_others(rng):
    drawn, given = rng.random((60, 5)) < 0.5, rng.random((9, 5)) < 0.5
    known = {tuple(row) for row in given.tolist()}
    expected = [row for row in dict.fromkeys(map(tuple, drawn.tolist())) if row not in known]
    assert list(map(tuple, masks.not_among(drawn, given).tolist())) == expected
    assert len(masks.not_among(drawn, drawn)) == 0
    assert masks.not_among(drawn, given[:0]).shape[0] == len(np.unique(drawn, axis=0))
