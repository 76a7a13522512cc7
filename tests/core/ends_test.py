"""The values at the full and the empty mask, which every spectrum goes through."""

import types

import numpy as np
import oracle
import pytest
from originals import last_held_out
from planting import planted

import spex_jax
from spex_jax import Spectrum, explain, proxyspex
from spex_jax.core.ends import ends_first, known_ends, through_ends, with_spare_terms
from spex_jax.engine.details import PlainDetails


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    monkeypatch.setattr("spex_jax.proxyspex.perceptrons._STEPS", 200)


def ends(n):
    return np.stack([np.ones(n, bool), np.zeros(n, bool)])


def with_ends(n, rows, rng, noise):
    """A table of `planted` whose first rows are the ends, with values that its sparse function does not give them."""
    masks, values, held_out, truth = planted(n, rows, rng, noise=noise)
    first = masks_of(masks)
    masks, values = masks[first], values[first]
    masks = np.concatenate([ends(n), masks])
    values = np.concatenate([[values.max() + 1.0, values.mean() - 2.0], values])
    return masks, values, held_out, truth


def masks_of(masks):
    return np.setdiff1d(np.arange(len(masks)), known_ends(masks))


def brute_force(spectrum, masks, values):
    """The least move in coefficients that meets the values: the pseudo-inverse of the characters, in float64."""
    characters = np.array([[(-1.0) ** np.sum(mask & row) for row in spectrum.support] for mask in masks])
    return spectrum.coefficients + np.linalg.pinv(characters) @ (values - characters @ spectrum.coefficients)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_least_move_is_that_of_the_pseudo_inverse(count, rng):
    support = oracle.all_masks(6)[rng.permutation(64)[:30]]
    spectrum = Spectrum(support, rng.normal(size=30), rng.uniform(size=30), rng.normal(size=(30, 2)))
    masks, values = oracle.all_masks(6)[rng.permutation(64)[:count]], rng.normal(size=count)
    moved = spectrum.through(masks, values)
    np.testing.assert_allclose(moved(masks), values, atol=1e-12)
    np.testing.assert_allclose(moved.coefficients, brute_force(spectrum, masks, values), atol=1e-12)
    np.testing.assert_array_equal(moved.support, spectrum.support)
    move = moved.coefficients - spectrum.coefficients
    np.testing.assert_allclose(moved.variances, spectrum.variances + move**2, atol=1e-12)
    np.testing.assert_allclose(moved.covariance_factor[:, -1], move, atol=1e-12)
    assert Spectrum(support, spectrum.coefficients).through(masks, values).variances is None


def test_values_that_no_move_can_meet_are_refused():
    one = Spectrum(np.zeros((1, 4), bool), np.array([1.0]))
    np.testing.assert_allclose(one.through(ends(4), [3.0, 3.0]).coefficients, 3.0)
    with pytest.raises(ValueError, match="the 1 sets of this spectrum cannot take 2 given values"):
        one.through(ends(4), [3.0, 1.0])
    even = Spectrum(np.array([[0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], bool), np.ones(3))
    with pytest.raises(ValueError, match="sets of other parities"):
        even.through(ends(4), [3.0, 1.0])


@pytest.mark.parametrize("proxy", ["auto", "walsh_gp", "mlp", "trees", "linear"])
@pytest.mark.parametrize("noise", [0.3, 30.0])
def test_every_proxy_goes_through_both_ends(proxy, noise, rng):
    """Where the rest of the table is explained as well as where it is noise."""
    masks, values, held_out, truth = with_ends(8, 60, rng, noise)
    spectrum = proxyspex.fit(masks, values, proxy=proxy)
    np.testing.assert_allclose(spectrum(ends(8)), values[:2], rtol=1e-9)
    without = proxyspex.fit(masks[2:], values[2:], proxy=proxy)
    lost = oracle.r2(truth, without(held_out)) - oracle.r2(truth, spectrum(held_out))
    if noise < 1:
        assert lost < 0.1
    share = spectrum.interactions("SV", 1)
    assert sum(value for key, value in share.items() if key) == pytest.approx(values[0] - values[1])


def test_one_end_is_met_alone(rng):
    masks, values, _, _ = with_ends(8, 60, rng, 0.3)
    for kept in (0, 1):
        rows = np.delete(np.arange(len(masks)), 1 - kept)
        spectrum = proxyspex.fit(masks[rows], values[rows], proxy="linear")
        assert spectrum(masks[[kept]])[0] == pytest.approx(values[kept])


def test_tables_fitted_together_go_through_their_ends(rng):
    tables = [with_ends(8, rows, rng, noise)[:2] for rows, noise in ((60, 0.3), (50, 3.0))]
    found = proxyspex.fit_many([masks for masks, _ in tables], [values for _, values in tables], proxy="walsh_gp")
    for (masks, values), spectrum in zip(tables, found, strict=True):
        np.testing.assert_allclose(spectrum(masks[:2]), values[:2], rtol=1e-9)


@pytest.mark.parametrize("max_terms", [1, 2, 3, 210])
def test_max_terms_is_kept(max_terms, rng):
    """Few terms are not bent until they fit where that would spoil the rest of the answer."""
    masks, values, held_out, truth = with_ends(8, 60, rng, 0.0)
    spectrum = proxyspex.fit(masks, values, proxy="linear", max_terms=max_terms)
    assert len(spectrum) <= max_terms
    change = np.abs(spectrum(ends(8)) - values[:2]) / values.std()
    assert (change < 1e-9).all() if max_terms == 210 else change.max() > 0.1
    assert oracle.r2(truth, spectrum(held_out)) > -0.1


def test_spare_terms_come_in_order_and_none_twice(rng):
    masks = oracle.all_masks(6)
    spectrum = Spectrum(masks[:10][::-1], np.arange(10, 0, -1.0))
    values = spectrum(ends(6)) + np.array([1.0, -3.0])

    def largest(count):
        return spectrum.take(np.arange(min(count, len(spectrum))))

    found = with_spare_terms(largest(4), largest, ends(6), values, 1.0)
    np.testing.assert_array_equal(found.support[:10], spectrum.support)
    assert len(np.unique(found.support, axis=0)) == len(found)
    assert found.support.sum(axis=1).max() <= spectrum.support.sum(axis=1).max()
    assert not found.coefficients[10:].any()
    unknown = with_spare_terms(largest(4), largest, masks[1:2], values[:1], 1.0)
    assert len(unknown) == 4


def test_a_move_that_would_cost_too_much_is_left():
    spectrum = Spectrum(np.array([[0, 0], [1, 0]], bool), np.array([1.0, 0.5]))
    near, far = np.array([0.6, 1.6]), np.array([3.0, -3.0])
    np.testing.assert_allclose(through_ends(spectrum, ends(2), near, 1.0, limited=True)(ends(2)), near)
    np.testing.assert_allclose(through_ends(spectrum, ends(2), far, 1.0)(ends(2)), far)
    assert through_ends(spectrum, ends(2), far, 1.0, limited=True) is spectrum


def test_ends_come_first(rng):
    masks = oracle.all_masks(3)[rng.permutation(8)]
    ordered = masks[ends_first(masks)]
    assert sorted(ordered[:2].sum(axis=1)) == [0, 3]
    np.testing.assert_array_equal(ordered[2:], masks[masks_of(masks)])


def jump(masks):
    """Sparse everywhere but at the ends, where it jumps, and with noise that no spectrum of few terms holds."""
    x = np.asarray(masks, float)
    hashed = np.modf(np.abs(np.sin(x @ np.arange(1.0, x.shape[1] + 1.0) * 12.9898) * 43758.5453))[0]
    return x[:, 0] - 2 * x[:, 1] * x[:, 3] + 0.3 * hashed + 1.5 * masks.all(axis=1) - 1.0 * (~masks.any(axis=1))


@pytest.mark.parametrize(
    "options",
    [
        {"index": "SV"},
        {"sampling": "uniform"},
        {"sampling": "adaptive", "proxy": "walsh_gp", "budget": 150},
        {"method": "spex", "max_degree": 2, "budget": 350},
        {"method": "spex", "max_degree": 2, "budget": 350, "residual_of": "walsh_gp"},
    ],
    ids=str,
)
def test_an_explanation_goes_through_both_ends(options):
    found = explain(jump, 10, **{"budget": 150, "proxy": "walsh_gp"} | options if "method" not in options else options)
    np.testing.assert_allclose(found.spectrum(ends(10)), jump(ends(10)), rtol=1e-9)
    assert "the spectrum predicts" not in str(found)


def test_a_table_with_failures_goes_through_both_ends():
    def fails(masks):
        return np.where(masks[:, 0] & ~masks[:, 2] & masks[:, 4], np.nan, jump(masks))

    with pytest.warns(UserWarning, match="16 of 128 values are not finite"):
        found = explain(fails, 7, budget=128, proxy="walsh_gp", nonfinite="keep")
    np.testing.assert_allclose(found.spectrum(ends(7)), jump(ends(7)), rtol=1e-9)


def test_both_ends_are_evaluated_by_every_method():
    for method in spex_jax.methods.METHODS:
        found = explain(jump, 10, method=method, budget=350, **({"max_degree": 2} if method == "spex" else {}))
        assert len(known_ends(found.masks)) == 2, method


def test_a_surrogate_that_misses_an_end_says_so():
    found = explain(jump, 10, method="lime", budget=150)
    predicted = found.spectrum(ends(10))
    for text in (str(found), found._repr_html_()):
        assert f"the value is {jump(ends(10))[0]:.4g}, but the spectrum predicts {predicted[0]:.4g}" in text


def low(r2, **given):
    """An explanation that a report can show, with this R2."""
    spectrum = Spectrum(np.eye(6, dtype=bool), np.arange(1.0, 7.0))
    masks = np.concatenate([ends(6), oracle.all_masks(6)[1:41]])
    content = {
        "spectrum": spectrum,
        "faithfulness": types.SimpleNamespace(r2=r2[0], low=r2[1], high=r2[2]),
        "exact": False,
        "names": tuple("abcdef"),
        "index": "FSII",
        "max_order": 2,
        "timings": {"compile": 0.0, "model": 0.0, "fit": 0.0},
        "settings": {"method": "proxyspex", "seed": 0},
        "details": PlainDetails(),
    }
    ablations = last_held_out(masks, given.pop("values", spectrum(masks)), given.pop("held_out", 10))
    return spex_jax.Explanation(ablations=ablations, **{**content, **given})


@pytest.mark.parametrize(
    ("r2", "given", "said"),
    [
        ((0.3, 0.1, 0.45), {}, "R2 0.30 is low"),
        ((-0.2, -0.5, 0.1), {}, "R2 -0.20 is low"),
        ((0.6, 0.4, 0.8), {}, "The interval of R2 includes 0.5"),
        ((0.4, 0.2, 0.6), {}, "budget=64, all masks"),
        ((0.4, 0.2, 0.6), {"settings": {"method": "lime", "seed": 0}}, "method='proxyspex'"),
        (
            (0.4, 0.2, 0.6),
            {"details": PlainDetails(units="word", removal="mask")},
            "fewer and larger units than 6 words",
        ),
        ((0.4, 0.2, 0.6), {"details": PlainDetails(units="word", removal="mask")}, "another removal than 'mask'"),
    ],
)
def test_a_low_score_says_what_to_do(r2, given, said):
    explanation = low(r2, **given)
    lines = [line for line in str(explanation).splitlines() if "Try " in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert said.replace("'", "&#x27;") in explanation._repr_html_()


def test_a_good_score_says_nothing():
    for given in ({}, {"exact": True, "faithfulness": types.SimpleNamespace(r2=np.nan, low=np.nan, high=np.nan)}):
        explanation = low((0.8, 0.6, 0.9), **given)
        assert "Try " not in str(explanation)
        assert "is low" not in explanation._repr_html_()
