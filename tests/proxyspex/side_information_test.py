"""Fits that know which features matter, or another spectrum of them."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from planting import neighbours, planted
from proxyspex.walsh_gp_windows_test import scales_with_windows

from spex_jax import Spectrum, explain, proxyspex
from spex_jax.core.side_information import side_information
from spex_jax.core.walsh import signs, subset_characters
from spex_jax.proxyspex import walsh_gp
from spex_jax.proxyspex.preprocessing import prepare
from spex_jax.proxyspex.walsh_gp.scales import log_relevance, loss_gradient


def test_the_gradient_is_that_of_a_prior_around_powers_of_the_relevance(rng):
    n, rows = 6, 14
    relevance = rng.normal(size=n).astype(np.float32)
    scales = scales_with_windows(rng, n)
    scales = dataclasses.replace(scales, power=rng.uniform(0.3, 1.5, 4).astype(np.float32), relevance=relevance)
    x = signs(oracle.all_masks(n)[rng.permutation(2**n)[:rows]])
    targets = rng.normal(size=rows).astype(np.float32)
    real, used = np.ones(rows, bool), np.ones(n, bool)
    units, inside = scales.windows

    def loss(free):
        known = dataclasses.replace(free, windows=jax.tree.map(jnp.asarray, scales.windows))
        k = walsh_gp.kernel(known, jnp.asarray(x), jnp.asarray(x), used) + known.noise * np.eye(rows)
        found = 0.5 * (targets @ jnp.linalg.solve(k, targets) + jnp.linalg.slogdet(k)[1])
        rest = [free.log_scale[r] - free.power[r] * relevance for r in range(2)]
        rest += [
            (row - free.power[2] * relevance[members])[chosen]
            for row, members, chosen in zip(free.log_window_scale[:2], units, inside, strict=False)
        ]
        rest.append(free.log_first - 2 * free.power[3] * relevance)
        found += sum(0.5 * 1.5 * ((logs - logs.mean()) ** 2).sum() for logs in rest)
        amplitudes = free.log_window_amplitude[:2]
        found += 0.5 * ((amplitudes - amplitudes.mean()) ** 2).sum()
        return found + 0.5 * 4 * ((free.power - 1) ** 2).sum()

    free = dataclasses.replace(scales, windows=None, relevance=None)
    expected = jax.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, free))
    found = loss_gradient(scales, x, targets, real, used, np.float32(1.5))
    found = dataclasses.replace(found, log_window_amplitude=found.log_window_amplitude * np.array([1, 1, 0]))
    chex.assert_trees_all_close(found, jax.device_get(expected), atol=2e-3)


def relevant(rows, seed=0, noise=0.2):
    """A function of 6 of 24 features, and how much each matters."""
    rng = np.random.default_rng(seed)
    masks = rng.random((rows + 500, 24)) < 0.5
    size = np.where(np.arange(24) < 6, 1.0, 0.03)
    x = 2.0 * masks - 1
    values = x @ (rng.normal(size=24) * size)
    for i in range(6):
        for j in range(i):
            values = values + rng.normal() * x[:, i] * x[:, j]
    order = rng.permutation(24)
    return (
        masks[:rows, order],
        values[:rows] + noise * rng.normal(size=rows),
        masks[rows:, order],
        values[rows:],
        size[order],
    )


@pytest.mark.parametrize("proxy", ["walsh_gp", "auto"])
def test_relevance_helps_where_it_is_right_and_hardly_harms_where_it_is_wrong(proxy):
    gains, losses = [], []
    for seed in range(3):
        masks, values, others, truth, relevance = relevant(70, seed)
        alone = oracle.r2(truth, proxyspex.fit(masks, values, proxy=proxy)(others))
        helped = oracle.r2(truth, proxyspex.fit(masks, values, proxy=proxy, relevance=relevance)(others))
        wrong = np.random.default_rng(seed).permutation(np.geomspace(1, 1e3, 24))
        misled = oracle.r2(truth, proxyspex.fit(masks, values, proxy=proxy, relevance=wrong)(others))
        gains.append(helped - alone)
        losses.append(alone - misled)
    assert np.mean(gains) > 0.1
    assert np.mean(losses) < (0.12 if proxy == "auto" else 0.3)  # the other members of "auto" do not know of it


def test_what_relevance_leaves_open_has_no_influence():
    masks, values, others, _, relevance = relevant(90)
    first = proxyspex.fit(masks, values, proxy="walsh_gp", relevance=relevance)
    for same in (1e-200 * relevance, 1e200 * relevance, np.maximum(relevance, 0.021)):
        again = proxyspex.fit(masks, values, proxy="walsh_gp", relevance=same)
        np.testing.assert_allclose(again(others), first(others), atol=0.02 * values.std())
    # The same number for all features says nothing: the fit is that without.
    alone = proxyspex.fit(masks, values, proxy="walsh_gp")
    equal = proxyspex.fit(masks, values, proxy="walsh_gp", relevance=np.full(24, 7.0))
    np.testing.assert_allclose(equal(others), alone(others), atol=0.02 * values.std())


def test_one_giant_leaves_the_others_alike():
    masks, values, others, truth, relevance = relevant(90)
    giant = np.where(relevance == relevance.max(), 1e-3, 0.0)
    giant[np.argmax(giant)] = 1e9
    table = prepare(masks, values, 0, side_information(24, relevance=giant))
    logs = log_relevance(table)
    assert len(np.unique(logs)) == 2
    assert np.ptp(logs) == pytest.approx(np.log(50), rel=1e-5)
    alone = oracle.r2(truth, proxyspex.fit(masks, values)(others))
    assert oracle.r2(truth, proxyspex.fit(masks, values, relevance=giant)(others)) > alone - 0.1


def test_zeros_and_few_features_are_taken():
    masks, values, others, truth, relevance = relevant(90)
    zeros = np.where(relevance == 1, 1.0, 0.0)
    assert oracle.r2(truth, proxyspex.fit(masks, values, relevance=zeros)(others)) > 0.8
    two = oracle.all_masks(2)
    assert np.isfinite(proxyspex.fit(two, [0.0, 1.0, 2.0, 7.0], relevance=[1, 0], coordinates=[0, 1])(two)).all()


def test_many_tables_know_what_is_given_for_each(rng):
    masks, values, _, _, relevance = relevant(90)
    prior = Spectrum(np.eye(24, dtype=bool)[:2], np.array([1.0, -1.0]))
    known = {"relevance": [relevance, None], "prior": [None, prior]}
    many = proxyspex.fit_many([masks] * 2, [values] * 2, **known)
    for b, found in enumerate(many):
        alone = proxyspex.fit(masks, values, **{name: given[b] for name, given in known.items()})
        np.testing.assert_array_equal(found.coefficients, alone.coefficients)
    same = proxyspex.fit_many([masks] * 2, [values] * 2, relevance=list(relevance), coordinates=list(range(24)))
    np.testing.assert_array_equal(same[0].coefficients, same[1].coefficients)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [70, pytest.param(140, marks=pytest.mark.nightly)])
def test_host_and_device_agree(rows, request):
    masks, values, others, _, relevance = relevant(rows, noise=1.0)
    options = {"proxy": "walsh_gp", "relevance": relevance, "coordinates": np.arange(24)}
    host = proxyspex.fit(masks, values, **options)
    request.getfixturevalue("on_an_accelerator")
    device = proxyspex.fit(masks, values, **options)
    assert np.abs(host(others) - device(others)).max() < 0.02 * values.std()
    del options["relevance"]
    many = proxyspex.fit_many([masks] * 2, [values] * 2, relevance=[relevance, None], **options)
    assert np.abs(many[0](others) - device(others)).max() < 0.02 * values.std()
    alone = proxyspex.fit(masks, values, **options)
    assert np.abs(many[1](others) - alone(others)).max() < 0.02 * values.std()


def other_model(rng, terms=60):
    """A function of 20 features, and a spectrum that is much like it."""
    masks, *_ = planted(20, 1500, rng)
    support = np.zeros((terms, 20), bool)
    for row in support:
        row[rng.choice(20, rng.integers(1, 4), replace=False)] = True
    support = np.unique(support, axis=0)
    coefficients = rng.normal(size=len(support))
    prior = Spectrum(support, -0.4 * (coefficients + 0.2 * rng.normal(size=len(support))))
    return masks, subset_characters(masks, support) @ coefficients + 3.0, prior, support, coefficients


@pytest.mark.parametrize("proxy", ["auto", "walsh_gp", "linear", "trees"])
def test_a_prior_saves_ablations(proxy, rng):
    masks, values, prior, *_ = other_model(rng)
    first = proxyspex.fit(masks[:120], values[:120], proxy=proxy)
    found = proxyspex.fit(masks[:120], values[:120], proxy=proxy, prior=prior)
    assert oracle.r2(values[500:], first(masks[500:])) < 0.6
    assert oracle.r2(values[500:], found(masks[500:])) > 0.9


def test_a_prior_that_is_the_function_is_found_whatever_its_scale(rng):
    masks, values, _, support, coefficients = other_model(rng)
    for scale in (1.0, -2e-9, 1e12):
        prior = Spectrum(support, scale * coefficients)
        found = proxyspex.fit(masks[:40], values[:40], prior=prior)
        np.testing.assert_allclose(found(masks), values, atol=1e-5 * values.std())


def test_the_weight_of_a_prior_is_that_of_james_and_stein(rng):
    masks, values, prior, *_ = other_model(rng)
    masks, values = masks[:60], values[:60] + rng.normal(size=60) * 8
    table = prepare(masks, values, 0, side_information(20, prior=prior))
    x, y = prior(masks) - prior(masks).mean(), values - values.mean()
    slope = x @ y / (x @ x)
    error = np.sqrt(np.mean((y - slope * x) ** 2) / (x @ x))  # of least squares, with as many rows as residuals
    assert 1.5 < abs(slope / error) < 15
    weight = slope * (1 - (error / slope) ** 2)
    expected = Spectrum(prior.support, prior.coefficients * weight / table.scale)
    varied = expected.take(expected.support.any(axis=1))
    np.testing.assert_allclose(table.base.coefficients_at(varied.support), varied.coefficients, rtol=1e-9)
    assert table.doubt == pytest.approx(abs(error / weight))


def test_a_prior_of_nothing_is_left_out(rng):
    masks, values, *_ = other_model(rng)
    alone = proxyspex.fit(masks[:100], values[:100])
    for support in (np.zeros((1, 20), bool), np.eye(20, dtype=bool)[:1]):
        nothing = Spectrum(support, np.array([0.0 if support.any() else 4.0]))
        found = proxyspex.fit(masks[:100], values[:100], prior=nothing)
        np.testing.assert_array_equal(found.coefficients, alone.coefficients)
    losses, alone = [], proxyspex.fit(masks[:200], values[:200], proxy="walsh_gp")
    for seed in range(6):
        other = np.random.default_rng(seed)
        unrelated = Spectrum(other.permutation(np.eye(20, dtype=bool)), other.normal(size=20))
        found = proxyspex.fit(masks[:200], values[:200], proxy="walsh_gp", prior=unrelated)
        losses.append(oracle.r2(values[500:], alone(masks[500:])) - oracle.r2(values[500:], found(masks[500:])))
    assert np.mean(losses) < 0.02


def test_intervals_cover_the_coefficients_with_a_prior():
    inside, count = 0, 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        masks, values, prior, support, coefficients = other_model(rng)
        values = values + 0.5 * rng.normal(size=len(values))
        found = proxyspex.fit(masks[:300], values[:300], proxy="walsh_gp", prior=prior)
        truth = Spectrum(support, coefficients).coefficients_at(found.support)
        largest = np.argsort(-np.abs(found.coefficients[1:]))[:40] + 1
        inside += (np.abs(found.coefficients - truth) < 1.645 * np.sqrt(found.variances))[largest].sum()
        count += len(largest)
    assert 0.8 <= inside / count <= 0.99


def test_a_fit_with_a_prior_keeps_its_promises(rng):
    masks, values, prior, *_ = other_model(rng)
    masks[:2] = [[True] * 20, [False] * 20]
    found = proxyspex.fit(masks[:150], values[:150], prior=prior, max_terms=30)
    assert len(found) <= 30
    through = proxyspex.fit(masks[:150], values[:150], prior=prior)
    np.testing.assert_allclose(through(masks[:2]), values[:2], atol=1e-8)
    order = rng.permutation(150)
    again = proxyspex.fit(masks[order], values[order], prior=prior)
    np.testing.assert_array_equal(again.coefficients, through.coefficients)
    found, predicted = proxyspex.cross_fit(masks[:150], values[:150], prior=prior)
    assert oracle.r2(values[:150], predicted) > 0.8
    assert proxyspex.fit(masks[:150], np.full(150, 2.0), prior=prior)(masks[:3]) == pytest.approx([2.0] * 3)


def test_an_explanation_is_a_prior(rng):
    _, _, prior, support, coefficients = other_model(rng)
    function = Spectrum(support, coefficients)
    first = explain(prior, 20, budget=900, proxy="walsh_gp", progress=False)
    found = explain(function, 20, budget=170, proxy="walsh_gp", prior=first, progress=False)
    assert found.settings["prior"] == f"a spectrum of {len(first.spectrum)} terms"
    alone = explain(function, 20, budget=170, proxy="walsh_gp", progress=False)
    assert found.faithfulness.r2 > alone.faithfulness.r2 + 0.2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"relevance": np.ones(5)}, r"relevance must have shape \(24,\)"),
        (
            {"relevance": np.r_[np.ones(23), np.nan]},
            "relevance must be finite and not negative, got nan for feature 23",
        ),
        ({"relevance": np.r_[np.inf, np.ones(23)]}, "got inf for feature 0"),
        ({"relevance": np.r_[1.0, -0.5, np.ones(22)]}, "got -0.5 for feature 1"),
        ({"relevance": np.zeros(24)}, "relevance is 0 for all features"),
        ({"relevance": "gradient"}, "relevance must be"),
        ({"prior": Spectrum(np.ones((1, 5), bool), np.ones(1))}, "prior has 5 features and the function has 24"),
        ({"prior": np.ones(24)}, "prior must be a Spectrum, or an Explanation, which has one, got ndarray"),
    ],
)
@pytest.mark.parametrize("call", ["fit", "fit_many", "explain", "cross_fit"])
def test_what_cannot_be_known_is_refused(call, given, message):
    masks, values, *_ = relevant(70)
    calls = {
        "fit": lambda: proxyspex.fit(masks, values, **given),
        "fit_many": lambda: proxyspex.fit_many([masks], [values], **given),
        "cross_fit": lambda: proxyspex.cross_fit(masks, values, **given),
        "explain": lambda: explain(lambda masks: masks.sum(axis=1), 24, **given),
    }
    with pytest.raises(ValueError, match=message):
        calls[call]()


def test_methods_without_a_proxy_refuse_what_they_cannot_use():
    for given in ({"relevance": np.ones(6)}, {"prior": Spectrum(np.ones((1, 6), bool), np.ones(1))}):
        for method in ("lasso", "spex"):
            with pytest.raises(ValueError, match="relevance= and prior= are for methods that fit a proxy"):
                explain(lambda masks: masks.sum(axis=1), 6, method=method, **given)


def test_neighbours_that_matter_are_found_with_both():
    masks, values, others, truth = neighbours(24, 120)
    relevance = np.ones(24)
    found = proxyspex.fit(masks, values, coordinates=np.arange(24), relevance=relevance)
    placed = proxyspex.fit(masks, values, coordinates=np.arange(24))
    assert abs(oracle.r2(truth, found(others)) - oracle.r2(truth, placed(others))) < 0.02
