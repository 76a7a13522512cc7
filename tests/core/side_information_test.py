import numpy as np
import pytest

import spex_jax
from spex_jax import ProxySPEX, ValueFunction, explain, explain_many, proxyspex
from spex_jax.core.side_information import check_coordinates

MASKS = np.random.default_rng(0).random((40, 6)) < 0.5


def test_coordinates_are_columns_of_float64():
    assert check_coordinates(None, 3) is None
    found = check_coordinates([2, 0, 1], 3)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [[2], [0], [1]])
    np.testing.assert_array_equal(check_coordinates([[1.5, 0.0]], 1), [[1.5, 0]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.arange(5), r"shape \(6, d\), one row for each feature, got \(5,\)"),
        (np.zeros((6, 0)), r"shape \(6, d\)"),
        (np.zeros((6, 1, 2)), r"shape \(6, d\)"),
        ([0, 1, 2, 3, np.nan, 5], r"finite, got \[nan\] for feature 4"),
        ([0, 1, 2, 3, 4, np.inf], r"finite, got \[inf\] for feature 5"),
        (np.full((6, 2), 3.0), r"all 6 features in one place, \[3.0, 3.0\]"),
        (list("abcdef"), "must be numbers"),
        ([[0], [1, 2], [3], [4], [5], [6]], "must be numbers"),
        (3, r"shape \(6, d\)"),
    ],
)
@pytest.mark.parametrize("call", ["fit", "fit_many", "ValueFunction", "explain"])
def test_what_is_no_place_is_refused(call, given, message):
    values = MASKS.sum(axis=1)
    calls = {
        "fit": lambda: proxyspex.fit(MASKS, values, coordinates=given),
        "fit_many": lambda: (
            proxyspex.fit_many([MASKS], [values], coordinates=[np.asarray(given, object)])
            if np.ndim(np.asarray(given, object)) > 1
            else proxyspex.fit_many([MASKS], [values], coordinates=given)
        ),
        "ValueFunction": lambda: ValueFunction(lambda masks: masks.sum(axis=1), 6, coordinates=given),
        "explain": lambda: explain(lambda masks: masks.sum(axis=1), 6, coordinates=given),
    }
    with pytest.raises(ValueError, match=message):
        calls[call]()


def test_many_tables_have_places_of_their_own():
    with pytest.raises(
        ValueError, match="there must be coordinates for every table, or the same for all, got a list of 1 for 2"
    ):
        proxyspex.fit_many([MASKS, MASKS], [MASKS.sum(axis=1)] * 2, coordinates=[np.arange(6)[:, None]])


def test_explanations_of_other_places_are_others(tmp_path):
    def fn(masks):
        return masks @ np.arange(1.0, 13) + 3 * (masks[:, 2] & masks[:, 3]) + np.sin(7.0 * masks.sum(axis=1))

    def answer(coordinates):
        value_fn = ValueFunction(fn, 12, identity="sum", coordinates=coordinates)
        options = {"store": tmp_path, "budget": 200, "proxy": "walsh_gp", "progress": False}
        return explain_many([value_fn], **options)[0]

    alone, line = answer(None), answer(np.arange(12))
    assert len(list(tmp_path.glob("*/explanation.json"))) == 2
    assert len(list(tmp_path.glob("*.ablations"))) == 1  # the values are the same
    assert np.abs(alone.spectrum(MASKS_12) - line.spectrum(MASKS_12)).max() > 1e-6
    again = answer(np.arange(12))
    np.testing.assert_array_equal(again.spectrum.coefficients, line.spectrum.coefficients)
    given = explain(fn, 12, budget=200, method=ProxySPEX(proxy="walsh_gp"), coordinates=np.arange(12), progress=False)
    np.testing.assert_array_equal(given.spectrum.coefficients, line.spectrum.coefficients)


MASKS_12 = np.random.default_rng(1).random((50, 12)) < 0.5


def test_lenses_know_where_their_units_are(tiny):
    text = spex_jax.lenses.text(*tiny, "a film without a plot , but with a heart")
    np.testing.assert_array_equal(text.coordinates, np.arange(text.n)[:, None])

    def classes(images):
        return images.mean(axis=(1, 2))

    image = np.random.default_rng(0).random((9, 10, 3)).astype(np.float32)
    patches = spex_jax.lenses.patches(classes, image, grid=(2, 3))
    rows, columns = patches.coordinates.T
    assert len(np.unique(rows)) == 2
    assert len(np.unique(columns)) == 3
    np.testing.assert_array_equal(np.lexsort((columns, rows)), np.arange(6))
    rings = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]).repeat(3, 0).repeat(3, 1)
    around = spex_jax.lenses.patches(classes, image[:, :9], segments=rings)
    assert around.coordinates is None  # one around the other
    halves = spex_jax.lenses.patches(classes, image, segments=np.arange(10) // 5 + np.zeros((9, 1), int))
    np.testing.assert_array_equal(halves.coordinates, [[4, 2], [4, 7]])
