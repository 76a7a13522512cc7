import sys
import time
import types

import numpy as np
import oracle
import pytest

from spex_jax import Interactions, Spectrum
from spex_jax.core.indices import INDICES
from spex_jax.core.spectrum import exact_spectrum


def spectrum_of(values):
    return exact_spectrum(oracle.all_masks(int(np.log2(len(values)))), values)


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize(("n", "order"), [(1, 1), (3, 2), (5, 1), (6, 3), (8, 2), (10, 3), (5, 5)])
def test_every_index_is_its_definition(index, n, order, rng):
    values = oracle.random_game(n, rng)
    expected = oracle.interactions(values, index, order)
    found = spectrum_of(values).interactions(index, order)
    assert set(found) <= set(expected)
    for members, value in expected.items():
        assert found[members] == pytest.approx(value, abs=1e-8), members


@pytest.mark.parametrize("index", INDICES)
def test_sparse_spectra_give_what_their_values_give(index, rng):
    values, terms = oracle.planted_game(9, 12, rng, 5)
    support = np.array([[i in members for i in range(9)] for members in terms])
    found = Spectrum(support, np.array(list(terms.values()))).interactions(index, 3)
    for members, value in oracle.interactions(values, index, 3).items():
        assert found[members] == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("key", [True, (True,), (False, 2), np.True_, (np.True_, 3)])
def test_a_bool_is_no_feature(key, rng):
    """Such as the result of a comparison, which would be taken for feature 0 or 1."""
    found = spectrum_of(oracle.random_game(4, rng)).interactions("SV", 1)
    with pytest.raises(KeyError, match="is not a set of features"):
        found[key]
    assert key not in found
    with pytest.raises(ValueError, match=r"k must be a whole number of at least 0, got True"):
        found.top(True)
    assert found.top(np.int64(2)) == found.top(2)


@pytest.mark.parametrize("index", ["SV", "k-SII", "STII", "FSII"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_efficient_indices_sum_to_the_value_of_everything(index, order, rng):
    values = oracle.random_game(7, rng)
    assert sum(spectrum_of(values).interactions(index, order).values()) == pytest.approx(values[-1])


@pytest.mark.parametrize("index", INDICES)
def test_a_null_player_gets_nothing_and_an_additive_game_has_no_interactions(index, rng):
    masks = oracle.all_masks(6)
    additive = masks @ np.array([1.0, -2.0, 0.0, 3.0, 0.5, 4.0]) + 2
    found = spectrum_of(additive).interactions(index, 3)
    assert found[2] == pytest.approx(0, abs=1e-12)
    assert all(abs(value) < 1e-12 for members, value in found.items() if len(members) > 1)
    single = {"Fourier": -0.5}.get(index, 1.0)
    assert found[3] == pytest.approx(3 * single)


def test_a_pure_pair_has_its_moebius_transform():
    masks = oracle.all_masks(5)
    values = masks.sum(axis=1) / 5 + masks[:, [1, 3]].all(axis=1)
    found = spectrum_of(values).interactions("Moebius", 3)
    assert {members: round(value, 12) for members, value in found.items() if abs(value) > 1e-12} == {
        (0,): 0.2, (1,): 0.2, (2,): 0.2, (3,): 0.2, (4,): 0.2, (1, 3): 1.0,
    }  # fmt: skip
    # A peer aggregates k-SII twice, which gives this game 5.0 in place of 2.0.
    assert sum(spectrum_of(values).interactions("k-SII", 2).values()) == pytest.approx(values[-1])


def test_fourier_coefficients_are_scaled_banzhaf_interactions(rng):
    spectrum = spectrum_of(oracle.random_game(6, rng))
    fourier, banzhaf = spectrum.interactions("Fourier", 4), spectrum.interactions("BII", 4)
    for members, value in fourier.items():
        assert value == pytest.approx((-0.5) ** len(members) * banzhaf[members])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_faith_banzhaf_is_the_moebius_transform_of_the_cut_series(order, rng):
    spectrum = spectrum_of(oracle.random_game(7, rng))
    cut = spectrum.take(np.flatnonzero(spectrum.support.sum(axis=1) <= order))
    faith, moebius = spectrum.interactions("FBII", order), cut.interactions("Moebius", order)
    assert all(faith[members] == pytest.approx(value) for members, value in moebius.items())


@pytest.mark.parametrize("index", INDICES)
def test_permuting_the_features_permutes_the_interactions(index, rng):
    support = rng.integers(0, 2, (30, 8)).astype(bool)
    support = np.unique(support, axis=0)
    coefficients, permutation = rng.normal(size=len(support)), rng.permutation(8)
    plain = Spectrum(support, coefficients).interactions(index, 3)
    moved = Spectrum(support[:, np.argsort(permutation)], coefficients).interactions(index, 3)
    for members, value in plain.items():
        assert moved[permutation[list(members)]] == pytest.approx(value, abs=1e-9)


def test_gains_of_high_degrees_are_exact():
    # At degree 40 a floating-point sum of alternating binomials loses every digit.
    assert INDICES["BII"].gain(40, 2, 2) == 0
    assert INDICES["SII"].gain(40, 2, 2) == pytest.approx(4 / 39)
    assert sum(INDICES["SII"].gain(r, 1, 1) for r in (2, 4, 40)) == 0


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("factor", [None, 3])
def test_standard_errors_follow_the_covariance(index, factor, rng):
    support = np.unique(rng.integers(0, 2, (25, 6)).astype(bool), axis=0)
    terms = len(support)
    low_rank = None if factor is None else rng.normal(size=(terms, factor))
    own = rng.uniform(0.1, 1, terms)
    variances = own if low_rank is None else own + (low_rank**2).sum(axis=1)
    covariance = np.diag(own) + (0 if low_rank is None else low_rank @ low_rank.T)
    spectrum = Spectrum(support, rng.normal(size=terms), variances, low_rank)
    found = spectrum.interactions(index, 2)
    units = [Spectrum(support, row).interactions(index, 2) for row in np.eye(terms)]
    for members, error in found.std_errors.items():
        weights = np.array([unit[members] for unit in units])
        assert error == pytest.approx(np.sqrt(weights @ covariance @ weights), abs=1e-9)


def test_mapping():
    found = Interactions([(), (0,), (2,), (0, 2)], np.array([9.0, 1.0, -3.0, 2.0]), n=3, index="FSII", max_order=2)
    assert found[(2, 0)] == found[0, 2] == 2.0
    assert found[2] == -3.0
    assert found[(1,)] == 0.0
    assert (1,) not in found
    assert (2, 0) in found
    assert found.get((1,)) is None
    assert found.get((0,)) == 1.0
    assert len(found) == 4
    assert dict(found)[()] == 9.0
    assert found.top(2) == [((2,), -3.0), ((0, 2), 2.0)]
    assert found.top(5, order=1) == [((2,), -3.0), ((0,), 1.0)]
    assert dict(found.order(2)) == {(0, 2): 2.0}
    assert found.std_errors is None
    assert found == Interactions(list(found), np.array(list(found.values())), n=3, index="FSII", max_order=2)
    with pytest.raises(TypeError):
        found[(0,)] = 1.0


@pytest.mark.parametrize("key", [(3,), (-1,), (0, 0), "a", None, (0.5,)])
def test_keys_that_are_no_sets(key):
    found = Interactions([()], np.zeros(1), n=3, index="FSII", max_order=2)
    assert key not in found
    with pytest.raises(KeyError, match="not a set of features"):
        found[key]


def test_interactions_across_parts(rng):
    whole = spectrum_of(oracle.random_game(6, rng)).interactions("FBII", 3, names=list("abcdef"))
    found = whole.across([2, 3, 1])
    parts = [{0, 1}, {2, 3, 4}, {5}]
    assert dict(found) == {key: value for key, value in whole.items() if key and not any(set(key) <= p for p in parts)}
    assert (found.index, found.n, found.names, found.max_order) == ("FBII", 6, whole.names, 3)
    assert found.top(1)[0] == max(found.items(), key=lambda item: abs(item[1]))
    assert found.order(2) == whole.order(2).across((2, 3, 1))
    assert len(whole.across([6])) == 0
    for wrong in ([2, 3], [7, -1], [3.0, 3.0], 6, [[3, 3]]):
        with pytest.raises(ValueError, match="add up to the 6 features"):
            whole.across(wrong)


def test_table_ranks_and_names(rng):
    found = Spectrum(np.eye(3, dtype=bool), np.array([1.0, -3.0, 2.0])).interactions(names=["a", "b", "c"])
    lines = str(found).splitlines()
    assert "FSII" in lines[0]
    assert [line.split()[1] for line in lines[1:]] == ["b", "c", "a"]
    assert found.names == ("a", "b", "c")
    constant = Spectrum(np.zeros((1, 3), bool), np.ones(1)).interactions()
    assert "no interactions" in str(constant)
    assert constant[()] == 1.0


def test_save_and_load(tmp_path, rng):
    support = np.unique(rng.integers(0, 2, (20, 5)).astype(bool), axis=0)
    spectrum = Spectrum(support, rng.normal(size=len(support)), np.ones(len(support)))
    found = spectrum.interactions("STII", 2, names=["ä", "b", "c", "<d>", "e"])
    found.save(tmp_path / "i.json")
    loaded = Interactions.load(tmp_path / "i.json")
    assert loaded == found
    assert loaded.names == found.names
    assert loaded.std_errors == found.std_errors
    assert identical(loaded, found)
    (tmp_path / "bad.json").write_text('{"index": 3}')
    with pytest.raises(ValueError, match=r"not a file of Interactions\.save"):
        Interactions.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": "Shapley"}, "unknown index 'Shapley'; expected one of SV"),
        ({"max_order": 0}, "at least 1, got 0"),
        ({"max_order": 1.5}, "whole number"),
        ({"names": ["a"]}, "3 strings, one for each feature, got 1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Spectrum(np.eye(3, dtype=bool), np.ones(3)).interactions(**options)


def test_many_features_need_no_table(rng):
    support = np.zeros((5000, 2000), bool)
    for row in support:
        row[rng.choice(2000, rng.integers(3, 7), replace=False)] = True
    start = time.perf_counter()
    found = Spectrum(support, rng.normal(size=5000)).interactions("FSII", 3)
    assert len(found) > 10_000
    # Not a benchmark: a table over 2000^3 sets would never end.
    assert time.perf_counter() - start < 60


def shapiq_values(index="FSII", order=2, baseline=0.5, **changed):
    """What stands in for shapiq.InteractionValues where shapiq is not installed, its sets in no order."""
    lookup = {(2, 0): 1, (): 3, (1,): 0, (0,): 2}
    attributes = {
        "index": index, "n_players": 3, "max_order": order, "min_order": 0, "interaction_lookup": lookup,
        "values": np.array([0.1, -0.2, 0.3, 0.5]), "baseline_value": baseline, "estimated": False,
        "estimation_budget": np.int64(70),
    }  # fmt: skip
    return types.SimpleNamespace(**{**attributes, **changed})


def test_from_shapiq():
    found = Interactions.from_shapiq(shapiq_values(), ["a", "b", "c"])
    assert dict(found) == {(): 0.5, (0,): 0.3, (1,): 0.1, (0, 2): -0.2}
    assert list(found) == [(), (0,), (1,), (0, 2)]
    assert (found.index, found.n, found.max_order, found.min_order) == ("FSII", 3, 2, 0)
    assert (found.baseline, found.estimated, found.budget) == (0.5, False, 70)
    assert found.label((0, 2)) == "a + c"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({(0,): 1.0}, "expected shapiq.InteractionValues, got dict"),
        (None, "expected shapiq.InteractionValues, got NoneType"),
        (shapiq_values(values=None), "expected shapiq.InteractionValues, got SimpleNamespace"),
        (shapiq_values(values=np.zeros(2)), "expected shapiq.InteractionValues, got SimpleNamespace"),
        (shapiq_values(interaction_lookup={0: 0}), "expected shapiq.InteractionValues, got SimpleNamespace"),
        (shapiq_values("kADD-SHAP"), "unknown index 'kADD-SHAP'; expected one of SV"),
        (shapiq_values(interaction_lookup={(0, 3): 0}), "not a set of players; expected distinct numbers from 0 to 2"),
        (shapiq_values(interaction_lookup={(1, 1): 0}), "not a set of players"),
        (shapiq_values(interaction_lookup={(0, 1): 0, (1, 0): 1}), "occurs twice"),
        (shapiq_values(values=np.array([0.1, np.nan, np.inf, 0])), r"2 values are not finite, the first at \(0, 2\)"),
        (shapiq_values(baseline=np.nan), "1 values are not finite, the first at baseline_value"),
    ],
)
def test_what_from_shapiq_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        Interactions.from_shapiq(values)


@pytest.mark.parametrize("names", [["a", "b"], "abc"])
def test_from_shapiq_needs_a_name_for_each_player(names):
    with pytest.raises(ValueError, match="3 strings, one for each feature"):
        Interactions.from_shapiq(shapiq_values(), names)


def identical(left, right):
    """Whether two have the same sets, values to the last bit, and attributes."""
    names = ("index", "n", "max_order", "min_order", "names", "baseline", "estimated", "budget")
    same = all(getattr(left, name) == getattr(right, name) for name in names)
    return same and [(key, value.hex()) for key, value in left.items()] == [(k, v.hex()) for k, v in right.items()]


def called_by_shapiq(index, order):
    """shapiq's name of an index: of order 1 it calls most of them by the value that they generalize."""
    if order > 1 or index in ("SII", "FBII", "Moebius", "Fourier"):
        return index
    return "BV" if index in ("BV", "BII") else "SV"


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_there_and_back_through_shapiq(index, order, rng):
    indices = pytest.importorskip("shapiq.game_theory.indices")
    if not indices.is_index_valid(index):
        pytest.skip(f"this shapiq does not know {index}")
    values = oracle.random_game(5, rng)
    found = spectrum_of(values).interactions(index, order)
    converted = found.to_shapiq(estimated=False, budget=32)
    assert converted.index == called_by_shapiq(index, order)
    assert (converted.n_players, converted.max_order, converted.min_order) == (5, found.max_order, 0)
    assert (converted.estimated, converted.estimation_budget) == (False, 32)
    assert converted.baseline_value == pytest.approx(values[0])
    assert converted.interaction_lookup == {members: position for position, members in enumerate(found)}
    assert converted.values.tolist() == list(found.values())
    back = Interactions.from_shapiq(converted)
    again = Interactions.from_shapiq(back.to_shapiq())
    assert identical(back, again)
    assert dict(back) == dict(found)
    assert back.index == converted.index


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("index", INDICES)
def test_what_shapiq_computes_is_the_same_index_here(index, order, rng):
    shapiq = pytest.importorskip("shapiq")
    indices = pytest.importorskip("shapiq.game_theory.indices")
    if not indices.is_index_valid(index) or (index in ("SV", "BV") and order > 1):
        pytest.skip(f"this shapiq does not know {index} of order {order}")
    values = oracle.random_game(4, rng)
    exact = shapiq.ExactComputer(lambda masks: values[masks.astype(int) @ (1 << np.arange(4))], n_players=4)
    theirs = Interactions.from_shapiq(exact(index, order))
    ours = spectrum_of(values).interactions(theirs.index, theirs.max_order)
    assert not theirs.estimated
    for members, value in theirs.items():
        if members or theirs.index == index:  # shapiq calls FBII of order 1 BV, and keeps FBII's empty set
            assert ours[members] == pytest.approx(value, abs=1e-9)


def test_shapiq_values_without_the_empty_set_or_any_set():
    shapiq = pytest.importorskip("shapiq")
    given = {(1, 0): 0.25, (2,): -1e-300}
    values = shapiq.InteractionValues(given, index="k-SII", max_order=2, min_order=1, n_players=3, baseline_value=2.0)
    found = Interactions.from_shapiq(values)
    assert dict(found) == {(2,): -1e-300, (0, 1): 0.25}
    assert (found.min_order, found.baseline, found[()]) == (1, 2.0, 0.0)
    back = found.to_shapiq()
    assert (back.min_order, back.baseline_value) == (1, 2.0)
    assert back.interactions == dict(found)
    pairs = found.order(2).to_shapiq()
    assert (pairs.min_order, pairs.interactions) == (2, {(0, 1): 0.25})
    nothing = found.order(3).to_shapiq()
    assert len(nothing) == 0
    assert identical(Interactions.from_shapiq(nothing), Interactions.from_shapiq(nothing))
    constant = Spectrum(np.zeros((0, 1), bool), np.zeros(0)).interactions("SV").to_shapiq()
    assert (constant.interactions, constant.baseline_value, constant.n_players) == ({(): 0.0}, 0.0, 1)


@pytest.mark.parametrize("n", [7, 45])
def test_shapiq_draws_what_to_shapiq_gives(n, rng):
    shapiq = pytest.importorskip("shapiq")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    support = np.zeros((12, n), bool)
    for row in support:
        row[rng.choice(n, 2, replace=False)] = True
    found = Spectrum(np.unique(support, axis=0), rng.normal(size=len(np.unique(support, axis=0)))).interactions("k-SII")
    values = found.to_shapiq()
    for draw in (values.plot_force, values.plot_upset, values.plot_network, values.plot_stacked_bar):
        assert draw(show=False) is not None
    assert shapiq.plot.bar_plot([values], show=False) is not None
    matplotlib.pyplot.close("all")
    assert "k-SII" in str(values + values)


def test_dataframe(rng):
    pandas = pytest.importorskip("pandas")
    sets, numbers = [(), (0,), (2,), (0, 2)], np.array([9.0, 1.0, -3.0, 1.0])
    found = Interactions(sets, numbers, n=3, index="FSII", max_order=2, names=["a", "b\n", "c"])
    frame = found.to_dataframe()
    assert list(frame.columns) == ["set", "features", "order", "value"]
    assert frame["set"].tolist() == [(2,), (0,), (0, 2), ()]
    assert frame["features"].tolist() == ["c", "a", "a + c", "(none)"]
    assert frame["order"].tolist() == [1, 1, 2, 0]
    assert frame["value"].tolist() == [-3.0, 1.0, 1.0, 9.0]
    known = Interactions(sets, numbers, n=3, index="FSII", max_order=2, std_errors=numbers / 10).to_dataframe()
    assert known["std_error"].tolist() == [-0.3, 0.1, 0.1, 0.9]
    nothing = found.order(3).to_dataframe()
    assert nothing.shape == (0, 4)
    assert pandas.concat([nothing, frame]).dtypes.equals(frame.dtypes)


@pytest.mark.parametrize("package", ["shapiq", "pandas"])
def test_what_is_not_installed_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    found = Interactions([()], np.zeros(1), n=3, index="FSII", max_order=2)
    convert = {"shapiq": found.to_shapiq, "pandas": found.to_dataframe}[package]
    with pytest.raises(ImportError, match=rf"needs the package {package}: pip install 'spex-jax\[{package}\]'"):
        convert()


def test_labels_are_one_line_of_what_can_be_printed():
    names = ["two\nlines", "\x1b[31mred", "", "long " * 40]
    found = Spectrum(np.eye(4, dtype=bool), np.array([4.0, 3.0, 2.0, 1.0])).interactions("Fourier", names=names)
    assert [found.label((i,)) for i in range(3)] == ["two lines", "\ufffd[31mred", ""]
    assert found.label(()) == "(none)"
    assert found.label((3,), 20) == "long long long lo..."
    assert len(str(found).splitlines()) == 5
