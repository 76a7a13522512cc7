import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax
from spex_jax.core import masks as masks_lib
from spex_jax.lenses import tabular

WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0])


def regression(rows):
    rows = np.asarray(rows)
    return rows @ WEIGHTS + rows[:, 0] * rows[:, 3]


def classification(rows):
    odds = 1 / (1 + np.exp(-0.2 * regression(rows)))
    return np.stack([1 - odds, odds], axis=1)


@pytest.fixture
def table(rng):
    return rng.normal(size=4), rng.normal(size=(9, 4))


def by_hand(predict, row, background, removal, masks):
    values = []
    for mask in masks:
        if removal == "marginal":
            values.append(np.mean([predict(np.where(mask, row, other)[None])[0] for other in background], axis=0))
        else:
            values.append(predict(np.where(mask, row, getattr(np, removal)(background, axis=0))[None])[0])
    return np.array(values)


@pytest.mark.parametrize("removal", ["mean", "median", "marginal"])
@pytest.mark.parametrize("kind", ["regression", "classification", "log_odds", "device", "pytree"])
def test_values_are_those_of_rows_changed_by_hand(removal, kind, table):
    row, background = table
    masks = masks_lib.all_masks(4)
    if kind == "regression":
        value_fn, expected = tabular(regression, row, background, removal=removal), regression
    elif kind in ("classification", "log_odds"):
        value = "prediction" if kind == "classification" else "log_odds"
        value_fn = tabular(classification, row, background, removal=removal, target=1, value=value)
        expected = classification
    else:
        weights = jnp.asarray(WEIGHTS, jnp.float32)

        def predict(weights, rows):
            return jnp.matmul(rows, weights, precision="highest") + rows[:, 0] * rows[:, 3]

        if kind == "pytree":
            value_fn = tabular(jax.tree_util.Partial(predict, weights), row, background, removal=removal)
        else:
            value_fn = tabular(lambda rows: predict(weights, rows), row, background, removal=removal, on_device=True)
        expected = regression
    wanted = by_hand(expected, row, background, removal, masks)
    if kind in ("classification", "log_odds"):
        wanted = wanted[:, 1]
    if kind == "log_odds":
        wanted = np.log(wanted / (1 - wanted))
    assert value_fn.on_device == (kind in ("device", "pytree"))
    np.testing.assert_allclose(
        spex_jax.evaluate(value_fn, masks, batch_size=5), wanted, atol=1e-5 if value_fn.on_device else 1e-12
    )


def test_groups_of_columns(table):
    row, background = table
    value_fn = tabular(regression, row, background, groups=[[3, 0], [2]], names=["outer", "inner"])
    assert value_fn.names == ("outer", "inner")
    masks = masks_lib.all_masks(2)
    columns = np.stack([masks[:, 0], np.ones(4, bool), masks[:, 1], masks[:, 0]], axis=1)
    np.testing.assert_allclose(
        spex_jax.evaluate(value_fn, masks), by_hand(regression, row, background, "mean", columns), atol=1e-12
    )


def test_an_interaction_is_found(table):
    row, background = table
    found = spex_jax.explain(tabular(regression, row, background, names=["a", "b", "c", "d"]), index="Moebius")
    change = row - background.mean(axis=0)
    assert found.exact
    assert found.interactions().top(1, order=2) == [((0, 3), pytest.approx(change[0] * change[3]))]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"removal": "zero"}, "unknown removal 'zero'"),
        ({"value": "margin"}, "unknown value 'margin'"),
        ({"value": "log_odds"}, "needs predictions between 0 and 1"),
        ({"target": 1}, "leave target= out"),
        ({"predict_fn": classification}, "target= must choose one"),
        ({"predict_fn": classification, "target": 2}, "target must be a whole number from 0 to 1"),
        ({"predict_fn": "model"}, "must be callable"),
        ({"row": np.zeros(3)}, r"row must have shape \[d\]"),
        ({"background": np.zeros((0, 4))}, "with at least one row"),
        (
            {"background": np.full((2, 4), np.nan)},
            "gave nan for the row with its columns replaced: it has no value in column 0",
        ),
        ({"background": np.full((2, 4), np.inf)}, "must not hold infinity"),
        ({"groups": [[0], [0]]}, "at most once"),
        ({"groups": [[7]]}, "at most once"),
        ({"groups": []}, "groups must hold"),
        ({"names": ["a"]}, "names must be 4 strings"),
    ],
)
def test_wrong_arguments(given, message, table):
    row, background = table
    arguments = {"predict_fn": regression, "row": row, "background": background, **given}
    with pytest.raises(ValueError, match=message):
        tabular(**arguments)
