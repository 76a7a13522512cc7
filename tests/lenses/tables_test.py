"""Tables of any kind: what reaches the model are the row's and the background's own values, in their own types."""

import datetime
import decimal
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import spex_jax
from spex_jax.core import masks as masks_lib
from spex_jax.lenses import tabular

BERLIN = "Europe/Berlin"


def mixed():
    """A table of all kinds, with missing values."""
    return pd.DataFrame(
        {
            "age": np.array([30, 40, 41, 61], np.int64),
            "income": [1000.0, np.nan, 2500.5, 3000.0],
            "city": pd.Categorical(["Oslo", "Rome", "Rome", "Lima"], categories=["Lima", "Oslo", "Rome", "Quito"]),
            "name": pd.array(["a", "b", None, "b"], dtype="string"),
            "visits": pd.array([1, None, 3, 7], dtype="Int64"),
            "since": pd.to_datetime(["2020-01-01", "2020-01-03", None, "2020-01-05"]).as_unit("ns"),
            "seen": pd.to_datetime(["2020-01-01T10:00"] * 4).tz_localize(BERLIN),
            "member": np.array([True, False, False, False]),
            "note": pd.Series(["x", None, "y", "y"], dtype=object),
        }
    )


class Recorder:
    """A model that keeps what it was asked, and answers with sums of hashes of the values."""

    def __init__(self):
        self.asked = []

    def __call__(self, rows):
        self.asked.append(rows)
        frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(np.asarray(rows, object))
        return np.array([sum(hash(str(value)) % 97 for value in row) for row in frame.itertuples(index=False)], float)


def test_a_frame_reaches_the_model_with_its_columns_and_types():
    table = mixed()
    for removal in ("mean", "median", "marginal"):
        model = Recorder()
        value_fn = tabular(model, table.iloc[[3]], table.iloc[:3], removal=removal)
        assert value_fn.names == tuple(table.columns)
        value_fn(masks_lib.all_masks(9)[[0, 5, 511]])
        for asked in model.asked:
            assert isinstance(asked, pd.DataFrame)
            pd.testing.assert_series_equal(asked.dtypes, table.dtypes)
        kept = model.asked[-1].iloc[-1:].reset_index(drop=True)
        pd.testing.assert_frame_equal(kept, table.iloc[[3]].reset_index(drop=True))


def test_what_stands_for_the_columns_of_a_frame():
    table = mixed()
    model = Recorder()
    tabular(model, table.iloc[[3]], table.iloc[:3])
    removed = model.asked[0].iloc[1]
    assert removed["age"] == 37  # of 30, 40 and 41, to the nearest whole number
    assert removed["income"] == 1750.25  # without the missing one
    assert (removed["city"], removed["name"], removed["visits"], removed["note"]) == ("Rome", "a", 2, "x")
    assert removed["since"] == pd.Timestamp("2020-01-02")
    assert removed["seen"] == pd.Timestamp("2020-01-01T10:00", tz=BERLIN)
    assert removed["member"] == np.False_
    tabular(model, table.iloc[[3]], table.iloc[:3], removal="median")
    assert model.asked[-1].iloc[1]["age"] == 40


def test_the_values_of_a_mixed_table_are_those_of_rows_changed_by_hand():
    table = mixed()
    row, background = table.iloc[[3]], table.iloc[:3]
    model = Recorder()
    value_fn = tabular(model, row, background, removal="marginal")
    masks = masks_lib.all_masks(9)[::37]
    expected = []
    for mask in masks:
        changed = [background.iloc[k].where(~mask, row.iloc[0]) for k in range(3)]
        frame = pd.concat([one.to_frame().T for one in changed]).astype(table.dtypes)
        expected.append(model(frame).mean())
    np.testing.assert_allclose(spex_jax.evaluate(value_fn, masks), expected)


@pytest.mark.parametrize("form", ["frame", "series", "mapping", "list", "another order"])
def test_a_row_in_any_form_is_the_same_row(form):
    table = mixed()
    row = table.iloc[[3]]
    given = {
        "frame": row,
        "series": row.iloc[0],
        "mapping": dict(zip(row.columns, row.iloc[0], strict=True)),
        "list": list(row.iloc[0]),
        "another order": row[row.columns[::-1]],
    }[form]
    model, direct = Recorder(), Recorder()
    tabular(model, given, table.iloc[:3])
    tabular(direct, row, table.iloc[:3])
    pd.testing.assert_frame_equal(model.asked[0], direct.asked[0])


def forms():
    """The same four columns without pandas."""
    columns = {
        "count": np.array([2**60 + 1, 3, 5]),
        "size": np.array([0.5, np.nan, 1.5]),
        "word": np.array(["a", "bb", "bb"]),
        "day": np.array(["2020-01-01", "2020-01-03", "2020-01-03"], "datetime64[D]"),
    }
    row = {"count": 2**60 + 3, "size": 2.5, "word": "long", "day": datetime.date(2021, 1, 1)}
    fields = [(name, column.dtype if name != "word" else "U4") for name, column in columns.items()]
    structured = np.zeros(3, fields)
    objects = np.empty((3, 4), object)
    for j, (name, column) in enumerate(columns.items()):
        structured[name] = column
        objects[:, j] = list(column)
    return {
        "mapping": (row, columns, lambda rows, name: rows[name]),
        "list": (list(row.values()), list(columns.values()), lambda rows, name: rows[list(columns).index(name)]),
        "structured": (row, structured, lambda rows, name: rows[name]),
        "objects": (list(row.values()), objects, lambda rows, name: rows[:, list(columns).index(name)]),
        "nested lists": (list(row.values()), objects.tolist(), lambda rows, name: rows[:, list(columns).index(name)]),
        "frame": (row, pd.DataFrame(columns), lambda rows, name: rows[name].to_numpy()),
    }


@pytest.mark.parametrize("form", forms())
def test_mixed_tables_keep_their_form_and_values(form):
    row, background, column = forms()[form]
    asked = []

    def model(rows):
        asked.append(rows)
        return np.array([float(n % 1000) for n in column(rows, "count")])

    value_fn = tabular(model, row, background, removal="marginal")
    if form in ("mapping", "structured", "frame"):
        assert value_fn.names == ("count", "size", "word", "day")
    if form not in ("objects", "nested lists", "frame"):
        assert type(asked[0]) is type(background)
    values = value_fn(masks_lib.all_masks(4))
    expected = [float((2**60 + 1) % 1000 + 3 + 5) / 3, float((2**60 + 3) % 1000)]
    np.testing.assert_allclose(values[[0, 15]], expected)
    rows = asked[-1]
    assert [int(n) for n in column(rows, "count")[:3]] == [2**60 + 1, 3, 5]
    assert [str(w) for w in column(rows, "word")[-3:]] == ["long"] * 3
    assert [str(w) for w in column(rows, "word")[:3]] == ["a", "bb", "bb"]
    assert np.array(column(rows, "size")[:3], float).tolist() == pytest.approx([0.5, np.nan, 1.5], nan_ok=True)
    assert str(np.datetime64(column(rows, "day")[-1], "D")) == "2021-01-01"
    tabular(model, row, background)
    removed = asked[-1]
    assert int(column(removed, "count")[1]) == (2**60 + 9) // 3
    assert column(removed, "size")[1] == 1.0
    assert str(column(removed, "word")[1]) == "bb"
    assert str(np.datetime64(column(removed, "day")[1], "D")) == "2020-01-02"


@pytest.mark.parametrize("wide", [False, True])
def test_a_device_function_gets_what_differs(wide):
    row, background = np.array([1_700_000_050.0, 1.0]), np.array([[1_700_000_000.0, 3.0]])

    def age(rows):
        return (rows[:, 0] - 1_700_000_000.0) + rows[:, 1]

    host = tabular(age, row, background)
    np.testing.assert_allclose(host(masks_lib.all_masks(2)), [3, 53, 1, 51])
    with jax.enable_x64(wide):
        if wide:
            value_fn = tabular(age, row, background, on_device=True)
            np.testing.assert_allclose(spex_jax.evaluate(value_fn, masks_lib.all_masks(2)), [3, 53, 1, 51])
            assert value_fn.fn.row.dtype == np.float64
        else:
            with pytest.raises(
                ValueError, match=r"float32, which rounds column 0: 1700000050 becomes .* scale the column"
            ):
                tabular(age, row, background, on_device=True)
    if wide:
        with pytest.raises(ValueError, match="made with jax_enable_x64 and is asked without it"):
            value_fn(masks_lib.all_masks(2))


@pytest.mark.parametrize(
    ("row", "background", "refused"),
    [
        ([1_700_000_200.0], [[1_700_000_000.0]], True),  # both are rounded, and stay apart
        ([1_700_000_050.0], [[0.0], [1_700_000_000.0]], True),  # two of three become one
        ([2**24 + 1], [[2**24]], True),
        ([1e-50], [[2e-50]], True),
        ([1e300], [[0.0]], True),
        ([1.7e9], [[0.0]], False),
        ([0.1], [[0.1], [0.1], [0.1]], False),  # whose mean is another number in float64
        ([0.3], [[0.3 + 1e-9], [2.0]], False),  # a thousandth of a thousandth of what the column differs by
        ([np.nan], [[1.0]], False),
        ([5.0], [[np.nan], [4.0]], False),
    ],
)
def test_what_float32_may_round(row, background, refused):
    def make():
        return tabular(lambda rows: jnp.nan_to_num(rows[:, 0]), row, background, removal="marginal", on_device=True)

    if refused:
        with pytest.raises(ValueError, match="a device function computes in float32"):
            make()
    else:
        assert np.isfinite(spex_jax.evaluate(make(), masks_lib.all_masks(1))).all()


def test_a_numeric_frame_on_the_device():
    table = pd.DataFrame({"a": pd.array([1, 2, None], dtype="Int64"), "b": [0.5, 1.5, 2.5], "c": [True, False, True]})
    fn = jax.tree_util.Partial(lambda w, rows: jnp.nan_to_num(rows) @ w, jnp.array([1.0, 10.0, 100.0]))
    value_fn = tabular(fn, table.iloc[0], table.iloc[1:], removal="marginal")
    assert value_fn.on_device
    assert value_fn.names == ("a", "b", "c")
    np.testing.assert_allclose(spex_jax.evaluate(value_fn, masks_lib.all_masks(3)[[0, 7]]), [71.0, 106.0])
    with pytest.raises(ValueError, match="takes numbers, and column 'city' holds categories"):
        tabular(fn, mixed().iloc[[0]], mixed())


def test_whole_numbers_that_index():
    effects = np.array([0.0, 10.0, 20.0, 30.0])
    value_fn = tabular(lambda rows: effects[rows[:, 0]] + rows[:, 1], [3, 1], [[0, 0], [1, 5]], removal="marginal")
    np.testing.assert_allclose(value_fn(masks_lib.all_masks(2)), [7.5, 32.5, 6.0, 31.0])
    flags = tabular(lambda rows: np.where(rows[:, 0], 1.0, 2.0), [True], np.array([[False]]), removal="marginal")
    np.testing.assert_allclose(flags(masks_lib.all_masks(1)), [2, 1])


@pytest.mark.parametrize("kind", ["int64", "objects", "list"])
def test_whole_numbers_past_float64(kind):
    big = 2**60 + 1
    row, background = [big, 1], [[big - 1, 0], [big + 1, 2]]
    if kind != "list":
        dtype = np.int64 if kind == "int64" else object
        row, background = np.array(row, dtype), np.array(background, dtype)
    value_fn = tabular(
        lambda rows: np.array([float(x - 2**60) for x in rows[:, 0]]), row, background, removal="marginal"
    )
    np.testing.assert_allclose(value_fn(masks_lib.all_masks(2)), [1, 1, 1, 1])
    np.testing.assert_allclose(value_fn(np.array([[True, False]])), [1])
    with pytest.raises(ValueError, match=f"holds {big}, which float64 cannot hold"):
        tabular(lambda rows: rows[:, 0], row, background)
    with pytest.raises(ValueError, match="which float64 cannot hold"):
        tabular(lambda rows: rows[:, 0], row, background, removal="marginal", on_device=True)
    with pytest.raises(ValueError, match="which float64 cannot hold"):  # beside a fraction
        tabular(lambda rows: rows[:, 0], row, [[0.5, 0.0]])


def test_missing_values_reach_a_model_that_takes_them():
    seen = []

    def model(rows):
        seen.append(rows.copy())
        return np.where(np.isnan(rows[:, 0]), -1.0, rows[:, 0]) + rows[:, 1]

    value_fn = tabular(model, [np.nan, 1.0], [[2.0, 3.0], [np.nan, 5.0]])
    np.testing.assert_allclose(value_fn(masks_lib.all_masks(2)), [6.0, 3.0, 3.0, 0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        everywhere = tabular(model, [4.0, 1.0], [[np.nan, 3.0]])  # no value at all stands for the column
    np.testing.assert_allclose(everywhere(masks_lib.all_masks(2))[0], 2.0)

    def of_none(rows):
        return np.array([0.0 if a is None else float(a) for a in rows[:, 0]])

    value_fn = tabular(of_none, [None, "a"], [[2.0, "b"], [4.0, "b"]])
    np.testing.assert_allclose(value_fn(masks_lib.all_masks(2)), [3.0, 0.0, 3.0, 0.0])
    with pytest.raises(ValueError, match="gave nan for the row: it has no value in column 1"):
        tabular(lambda rows: rows.sum(axis=1), [1.0, np.nan], [[2.0, 3.0]])


def test_missing_values_of_a_frame_promote_numpy_types():
    background = pd.DataFrame({"a": [1, 2], "b": [True, False], "c": [0.5, 1.5]})
    model = Recorder()
    tabular(model, {"a": None, "b": None, "c": None}, background, removal="marginal")
    assert list(model.asked[0].dtypes.astype(str)) == ["float64", "object", "float64"]
    tabular(model, {"a": 1.5, "b": True, "c": 3}, background, removal="marginal")
    assert list(model.asked[-1].dtypes.astype(str)) == ["float64", "bool", "float64"]
    assert list(model.asked[-1].iloc[0]) == [1.5, True, 3.0]
    narrow = pd.DataFrame({"a": np.array([0.5, 1.5], np.float32)})
    tabular(model, {"a": 1_700_000_050.0}, narrow, removal="marginal")
    assert model.asked[-1]["a"].tolist() == [1_700_000_050.0, 0.5]
    tabular(model, narrow.iloc[[0]], narrow)
    assert model.asked[-1]["a"].dtype == np.float32  # of which the row's value is one


def test_rows_that_change_afterwards_change_nothing():
    row, background, table = np.ones(2), np.zeros((3, 2)), mixed()[["age", "income"]].fillna(0.0)
    arrays = tabular(lambda rows: np.asarray(rows, float).sum(axis=1), row, background)
    frames = tabular(lambda rows: np.asarray(rows, float).sum(axis=1), table.iloc[[0]], table)
    with jax.enable_x64(True):
        device = tabular(lambda rows: rows.sum(axis=1), row, background, on_device=True)
        before = [fn(masks_lib.all_masks(2)) for fn in (arrays, frames, device)]
        row[:], background[:] = 7, 9
        table.loc[:, "income"] = -1.0
        after = [fn(masks_lib.all_masks(2)) for fn in (arrays, frames, device)]
    np.testing.assert_array_equal(before, after)


def test_categories_that_only_one_of_both_knows():
    small, large = pd.CategoricalDtype(["a", "b"]), pd.CategoricalDtype(["a", "b", "c"])
    background = pd.DataFrame({"x": pd.Series(["a", "b"], dtype=small)})
    model = Recorder()
    tabular(model, pd.DataFrame({"x": pd.Series(["c"], dtype=large)}), background)
    assert model.asked[0]["x"].dtype == large
    assert list(model.asked[0]["x"]) == ["c", "a"]
    with pytest.raises(ValueError, match="is 'c', which is none of the background's categories, 'a', 'b'"):
        tabular(model, {"x": "c"}, background)
    tabular(model, {"x": "c"}, background.astype(object))  # words have no closed list
    assert list(model.asked[-1]["x"]) == ["c", "a"]


def test_time_zones():
    background = pd.DataFrame({"at": pd.to_datetime(["2020-06-01T12:00"]).tz_localize(BERLIN)})
    model = Recorder()
    tabular(model, {"at": pd.Timestamp("2020-06-01T08:00", tz="UTC")}, background)
    assert model.asked[0]["at"].dtype == background["at"].dtype
    assert model.asked[0]["at"].iloc[0] == pd.Timestamp("2020-06-01T10:00", tz=BERLIN)
    with pytest.raises(ValueError, match="dates of the background have a time zone and those of the row have none"):
        tabular(model, {"at": pd.Timestamp("2020-06-01")}, background)
    with pytest.raises(ValueError, match="dates of the row have a time zone"):
        tabular(model, {"at": pd.Timestamp("2020-06-01", tz="UTC")}, background.assign(at=pd.Timestamp("2020-01-01")))


FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
WRONG = {
    "a word for a number": (
        {"a": "5", "b": "x"},
        FRAME,
        "column 'a' of the row is '5', one of texts, and .* whole numbers",
    ),
    "a number for a word": ({"a": 5, "b": 3.0}, FRAME, "column 'b' of the row is 3.0, one of numbers, and .* texts"),
    "a flag": ({"a": 2}, pd.DataFrame({"a": [True]}), "holds True and False"),
    "a date": ({"a": pd.Timestamp(0)}, FRAME[["a"]], "one of dates"),
    "a column that is missing": ({"a": 5}, FRAME, "the row lacks 'b'"),
    "a column too many": ({"a": 5, "b": "x", "c": 1}, FRAME, "the background lacks 'c'"),
    "several rows": (FRAME, FRAME, "row must be one row, got a table of 2"),
    "a column twice": ([1, 2], pd.DataFrame([[1, 2]], columns=["a", "a"]), "has the column 'a' twice"),
    "no rows": ({"a": 5, "b": "x"}, FRAME.iloc[:0], "at least one row"),
    "a series": ({"a": 5}, FRAME["a"], "background must be a DataFrame or an array"),
    "too few values": ([1], FRAME, "one row of 2 values"),
    "names without names": ({"a": 1}, np.zeros((1, 1)), "needs a background with names"),
    "infinity in a frame": ({"c": np.inf}, pd.DataFrame({"c": [0.5]}), "column 'c' holds infinity"),
    "infinity in columns": ({"c": 1.0}, {"c": np.array([np.inf])}, "column 'c' holds infinity"),
    "a masked array": ([1.0], np.ma.masked_array([[1.0]], mask=True), "masked arrays are not supported"),
    "complex numbers": ([1.0], np.array([[1j]]), "must be real"),
    "lists of two lengths": ([1.0, 2.0], [[1.0], [1.0, 2.0]], "row must have shape"),
    "columns of two lengths": ([1, 2], {"a": [1], "b": [1, 2]}, "columns of one length"),
    "a list for a category": (
        {"a": [1]},
        pd.DataFrame({"a": pd.Categorical(["x"])}),
        "none of the background's categories",
    ),
    "a number that is too large": ({"a": 300}, pd.DataFrame({"a": np.array([1], np.int8)}), "int8 cannot hold"),
    "a date of an array": ({"a": 3}, {"a": np.array(["2020"], "datetime64[Y]")}, "holds dates there"),
    "a date that is rounded": (
        {"a": datetime.datetime(2020, 1, 1, 5)},
        {"a": np.array(["2020-01-01"], "datetime64[D]")},
        "finer unit",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_rows_that_do_not_fit_the_background(case):
    row, background, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        tabular(Recorder(), row, background)


def test_predictions_that_are_none():
    with pytest.raises(ValueError, match=r"gave 'yes', which is not a number; give probabilities \(predict_proba\)"):
        tabular(lambda rows: np.array(["yes"] * len(rows)), [1.0], [[2.0]])
    with pytest.raises(ValueError, match=r"shape \(1,\) for 2 rows; expected one for each row"):
        tabular(lambda rows: [0.5], [1.0], [[2.0]])
    with pytest.raises(ValueError, match="target must be a whole number from 0 to 1, got 'yes'"):
        tabular(lambda rows: np.zeros((len(rows), 2)), [1.0], [[2.0]], target="yes")


def test_groups_by_name_and_their_names():
    table = mixed()
    value_fn = tabular(Recorder(), table.iloc[[0]], table, groups=[["age", "member"], [1, "city"]])
    assert value_fn.names == ("age, member", "income, city")
    with pytest.raises(ValueError, match="'shoe' is unknown or occurs twice"):
        tabular(Recorder(), table.iloc[[0]], table, groups=[["shoe"]])


def test_a_large_background_is_asked_in_parts():
    sizes = []

    def model(rows):
        sizes.append(len(rows))
        return rows.sum(axis=1)

    background = np.arange(10_000.0 * 100).reshape(10_000, 100)
    value_fn = tabular(model, np.zeros(100), background, removal="marginal")
    masks = np.random.default_rng(0).random((20, 100)) < 0.5
    expected = (~masks) @ background.mean(axis=0)
    np.testing.assert_allclose(spex_jax.evaluate(value_fn, masks), expected)
    assert max(sizes) * 100 <= 2**23
    device = tabular(lambda rows: rows.sum(axis=1), np.zeros(100), background, removal="marginal", on_device=True)
    text = str(jax.make_jaxpr(device.fn)(jnp.ones((20, 100), bool)))
    assert "f32[200000,100]" not in text
    np.testing.assert_allclose(device(masks), expected, rtol=1e-4)


def test_explanations_of_frames_are_stored_and_saved(tmp_path):
    table = mixed()[["age", "city", "member"]]

    def model(rows):
        return rows["age"] * (rows["city"] == "Lima") + rows["member"]

    value_fn = tabular(model, table.iloc[[3]], table.iloc[:3])
    found = spex_jax.explain(value_fn, index="Moebius", store=tmp_path / "store", store_key="frames")
    assert found.interactions().names == ("age", "city", "member")
    assert found.interactions()[(0, 1)] == pytest.approx(61 - 37)
    found.save(tmp_path / "saved")
    assert spex_jax.Explanation.load(tmp_path / "saved").interactions().names == ("age", "city", "member")
    with pytest.raises(ValueError, match="give store_key="):
        spex_jax.explain(value_fn, store=tmp_path / "other")


def test_a_pipeline_of_scikit_learn():
    compose = pytest.importorskip("sklearn.compose")
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"age": rng.integers(20, 60, 80), "city": rng.choice(["Oslo", "Rome"], 80), "income": rng.normal(size=80)}
    )
    table.loc[::7, "income"] = np.nan
    label = (table["age"] > 40) ^ (table["city"] == "Rome")
    encode = compose.make_column_transformer((OneHotEncoder(sparse_output=False), ["city"]), remainder="passthrough")
    model = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=5)).fit(table, label)
    found = spex_jax.explain(tabular(model.predict_proba, table.iloc[0], table, target=1, removal="marginal"))
    whole = model.predict_proba(table.iloc[[0]])[0, 1]
    assert found.exact
    assert float(found.spectrum(np.ones((1, 3), bool))[0]) == pytest.approx(whole)


def test_arrays_of_jax_and_lists_of_arrays_are_numbers():
    expected = tabular(lambda rows: rows @ [1.0, 2.0], [1.0, 2.0], [[3.0, 4.0], [5.0, 6.0]])(masks_lib.all_masks(2))
    background = jnp.array([[3.0, 4.0], [5.0, 6.0]])
    for given in (
        background,
        list(background),
        [np.array([3.0, 4.0]), np.array([5.0, 6.0])],
        background.astype("bfloat16"),
    ):
        for row in (jnp.array([1.0, 2.0]), list(jnp.array([1.0, 2.0])), np.array([[1, 2]], np.uint8)):
            value_fn = tabular(lambda rows: rows @ [1.0, 2.0], row, given)
            np.testing.assert_allclose(value_fn(masks_lib.all_masks(2)), expected)


def test_objects_without_a_most_frequent_one():
    background = np.empty((2, 1), object)
    background[:, 0] = [[1], [2]]
    row = np.empty(1, object)
    row[0] = [3]
    with pytest.raises(ValueError, match="holds values of type list, which cannot be counted; use removal='marginal'"):
        tabular(lambda rows: np.array([float(x[0]) for x in rows[:, 0]]), row, background)
    value_fn = tabular(lambda rows: np.array([float(x[0]) for x in rows[:, 0]]), row, background, removal="marginal")
    np.testing.assert_allclose(value_fn(masks_lib.all_masks(1)), [1.5, 3.0])
    prices = np.array([[decimal.Decimal("1.10")], [decimal.Decimal("1.10")]], object)
    assert tabular(lambda rows: rows[:, 0].astype(float), [decimal.Decimal("2")], prices)([[False]]) == pytest.approx(
        1.1
    )
