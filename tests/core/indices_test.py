"""Indices defined outside the package come out of every part of it; an unknown one comes out of none."""

import dataclasses
import html
import json
import math
import re
import types
from fractions import Fraction
from itertools import combinations

import numpy as np
import oracle
import pytest
from scipy import stats

from spex_jax import Explanation, Interactions, Spectrum, explain
from spex_jax.analysis.correction import correction_of
from spex_jax.analysis.validation import Validation, validate
from spex_jax.core import sampling
from spex_jax.core.contexts import Contexts
from spex_jax.core.indices import INDICES, EmptySet, Index, find_index, from_moebius, register_index
from spex_jax.core.spectrum import exact_spectrum
from spex_jax.report.html import to_html

P = Fraction(3, 10)


def contexts_of_p(size, n, order):
    m = n - size
    return Contexts(draw="size", ratios=(m + 1) * stats.binom.pmf(np.arange(m + 1), m, float(P)))


# What a set does beyond its parts where each of the others is kept with probability 0.3.
PROBABILISTIC = Index(
    name="P30",
    formula=from_moebius(lambda s, t, order: P ** (s - t)),
    contexts=contexts_of_p,
    empty=EmptySet.FORMULA,
    meaning='What a set does where each of the others is kept with "probability" 0.3.',
)

# The same with a probability drawn from Beta(2, 2), for single features (Kwon and Zou, Beta Shapley, AISTATS 2022).
BETA = Index(
    name="Beta(2, 2)",
    formula=from_moebius(lambda s, t, order: Fraction(6, (s - t + 2) * (s - t + 3))),
    contexts=lambda size, n, order: Contexts.integral(n - size, {1: Fraction(6), 2: Fraction(-6)}),
    empty=EmptySet.VALUE,
    meaning="Beta Shapley value.",
    shapley_type=True,
    largest=1,
)

CORRECTED = dataclasses.replace(PROBABILISTIC, name="P30, corrected", shapley_type=True)
TOYS = [PROBABILISTIC, BETA, CORRECTED]


@pytest.fixture(autouse=True)
def _registered():
    for toy in TOYS:
        register_index(toy)
    yield
    for toy in TOYS:
        del INDICES[toy.name]


def brute_force(values, toy, order):
    """The definition: weighted sums of the discrete derivatives at all contexts."""
    n = len(values).bit_length() - 1
    found = {(): float(values[0])} if toy is BETA else {}
    for size in range(len(found), (1 if toy is BETA else order) + 1):
        m = n - size
        if toy is BETA:
            weights = [6 * math.factorial(k + 1) * math.factorial(m - k + 1) / math.factorial(m + 3) for k in range(n)]
        else:
            weights = [0.3**k * 0.7 ** (m - k) for k in range(m + 1)]
        for members in combinations(range(n), size):
            others = [i for i in range(n) if i not in members]
            found[members] = sum(
                weights[k] * oracle.discrete_derivative(values, members, context)
                for k in range(m + 1)
                for context in combinations(others, k)
            )
    return found


def lookup(values):
    n = len(values).bit_length() - 1
    return lambda masks: values[masks @ (1 << np.arange(n))]


def same(found, truth):
    assert set(found) <= set(truth)
    for members, value in truth.items():
        assert found[members] == pytest.approx(value, abs=1e-9), members


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
@pytest.mark.parametrize(("n", "order"), [(1, 1), (5, 2), (6, 3)])
def test_of_a_spectrum(toy, n, order, rng):
    values = oracle.random_game(n, rng)
    spectrum = exact_spectrum(oracle.all_masks(n), values)
    found = spectrum.interactions(toy.name, order)
    same(found, brute_force(values, toy, order))
    assert found == spectrum.interactions(toy, order)
    assert (found.index, found.max_order) == (toy.name, 1 if toy is BETA else order)
    assert found.baseline == pytest.approx(values[0])


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_of_an_exact_explanation(toy, rng, tmp_path):
    values = oracle.random_game(6, rng)
    truth = brute_force(values, toy, 2)
    for index in (toy, toy.name):
        found = explain(lookup(values), 6, budget=64, index=index, max_order=2, progress=False)
        assert found.index == toy.name
        same(found.interactions(), truth)
    same(explain(lookup(values), 6, budget=64, progress=False).interactions(toy, 2), truth)
    measured = found.validate(top=4)
    assert (measured.index, measured.asked, len(measured.rows)) == (toy.name, 0, 4)
    for row in measured.rows:
        assert row.measured == pytest.approx(truth[row.members], abs=1e-9)
        assert row.verdict == "confirmed"
    page = to_html(found)
    assert html.escape(toy.meaning) in page
    assert f"{toy.name}, " in page
    assert "raises -" not in page
    found.save(tmp_path / "answer")
    again = Explanation.load(tmp_path / "answer")
    assert again.interactions() == found.interactions()
    assert again.validation == measured
    found.interactions().save(tmp_path / "some.json")
    assert Interactions.load(tmp_path / "some.json") == found.interactions()


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_of_an_estimate(toy):
    def game(masks):
        return 1.0 + 2.0 * masks[:, 0] - 3.0 * masks[:, 1] * masks[:, 4] + masks[:, 2] * masks[:, 3]

    found = explain(game, 10, budget=300, index=toy.name, proxy="linear", progress=False)
    assert found.settings["sampling"] == sampling.for_index(toy) == ("mixed" if toy.shapley_type else "uniform")
    truth = brute_force(game(oracle.all_masks(10).astype(float)), toy, 2)
    for members, value in found.interactions().items():
        assert value == pytest.approx(truth[members], abs=0.02), members


@pytest.mark.parametrize("toy", [BETA, CORRECTED], ids=lambda toy: toy.name)
def test_one_of_shapley_type_is_exact_where_every_mask_was_asked(toy, rng):
    masks = rng.permutation(oracle.all_masks(5))
    values = rng.normal(size=32)
    proxy = Spectrum(np.eye(5, dtype=np.bool_), rng.normal(size=5))
    correction = correction_of(proxy, masks, values, proxy(masks) + rng.normal(size=32))
    same(correction(proxy.interactions(toy, 2)), brute_force(values[np.argsort(masks @ (1 << np.arange(5)))], toy, 2))


@pytest.mark.parametrize("index", [*INDICES, *(toy.name for toy in TOYS)])
def test_contexts_weigh_one_by_one_as_by_size(index):
    for size, n, order in ((1, 5, 1), (1, 6, 3), (2, 7, 3), (3, 7, 3)):
        plan = INDICES[index].contexts(size, n, order)
        counts = [math.comb(n - size, kept) for kept in range(n - size + 1)]
        np.testing.assert_allclose(plan.by_context() * counts, plan.by_size(), atol=1e-12)


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_measured_at_drawn_contexts(toy):
    rng = np.random.default_rng(3)
    values = oracle.random_game(9, rng)
    exact = exact_spectrum(oracle.all_masks(9), values)
    wrong = Spectrum(exact.support, exact.coefficients * rng.uniform(0.5, 1.5, len(exact)))
    sets = [members for members, _ in wrong.interactions(toy, 2).top(6)]
    truth = exact.interactions(toy, 2)
    away = []
    for seed in range(20):
        found = validate(lookup(values), wrong, sets, index=toy, max_order=2, contexts=120, seed=seed)
        away += [(row.measured - truth[row.members]) / (row.high - row.measured) for row in found.rows]
    assert np.mean(np.abs(away) < 1) > 0.85
    assert Validation.from_json(json.loads(json.dumps(found.to_json())), found.names) == found
    assert toy.name in str(found)


@pytest.mark.parametrize("name", ["Shapley", "fsii", "", None, 3, ["SV"]])
def test_an_unknown_index_falls_through_nowhere(name):
    spectrum = Spectrum(np.eye(3, dtype=bool), np.ones(3))
    known = re.escape(", ".join(INDICES))
    for use in (
        find_index,
        spectrum.interactions,
        sampling.for_index,
        lambda index: explain(lambda masks: masks[:, 0], 3, index=index),
        lambda index: validate(None, spectrum, [(0,)], index=index),
        lambda index: Interactions([()], np.zeros(1), n=3, index=index, max_order=1),
    ):
        with pytest.raises(ValueError, match=f"unknown index .*; expected one of {known}"):
            use(name)


def test_a_record_has_to_be_registered():
    spectrum = Spectrum(np.eye(3, dtype=bool), np.ones(3))
    stranger = dataclasses.replace(BETA, name="stranger")
    with pytest.raises(
        ValueError, match=r"the index 'stranger' is not registered; register it with .*register_index\(index\)"
    ):
        spectrum.interactions(stranger)
    with pytest.raises(ValueError, match="the index 'SV' is not registered"):
        spectrum.interactions(dataclasses.replace(BETA, name="SV"))
    register_index(BETA)  # once more changes nothing
    with pytest.raises(ValueError, match="an index 'FSII' is registered already; give this one another name"):
        register_index(dataclasses.replace(BETA, name="FSII"))
    with pytest.raises(ValueError, match=r"expected a spex_jax\.indices\.Index, got 'SV'"):
        register_index("SV")
    assert find_index("FSII") is find_index(INDICES["FSII"]) is INDICES["FSII"]


def test_shapiq_is_given_no_index_that_it_does_not_know():
    found = Spectrum(np.eye(3, dtype=bool), np.ones(3)).interactions(PROBABILISTIC)
    with pytest.raises(ValueError, match="the index 'P30' of spex_jax is not an index of shapiq"):
        found.to_shapiq()
    theirs = types.SimpleNamespace(
        index="P30", n_players=1, interaction_lookup={(): 0}, values=[1.0], max_order=1, min_order=0, baseline_value=1.0
    )
    with pytest.raises(ValueError, match="the index 'P30' of spex_jax is not an index of shapiq"):
        Interactions.from_shapiq(theirs)


def test_records_agree_with_their_names():
    assert {name: index.name for name, index in INDICES.items()} == dict(zip(INDICES, INDICES, strict=True))
    assert set(oracle.INDICES) == set(INDICES) - {toy.name for toy in TOYS}
    assert {name for name, index in INDICES.items() if index.positive_lowers} == {"Fourier"}
