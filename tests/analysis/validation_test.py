"""Validation: what is measured is the index, nothing is asked twice, and the verdicts follow their rules."""

import json
import pickle
from itertools import combinations

import numpy as np
import oracle
import pytest
from originals import last_held_out

import spex_jax
from spex_jax import Explanation, explain
from spex_jax.analysis.derivatives import draw
from spex_jax.analysis.validation import Validation, validate
from spex_jax.core import masks as masks_lib
from spex_jax.core.indices import INDICES
from spex_jax.core.spectrum import exact_spectrum
from spex_jax.engine.details import PlainDetails
from spex_jax.engine.evaluator import Evaluator


def lookup(values):
    """A game as a value function that counts what it is asked."""
    n = len(values).bit_length() - 1

    def ask(masks):
        ask.calls.append(masks.copy())
        return values[masks @ (1 << np.arange(n))]

    ask.calls = []
    return ask


def spectrum_of(n, terms):
    support = np.zeros((len(terms), n), np.bool_)
    for row, key in zip(support, terms, strict=True):
        row[list(key)] = True
    return spex_jax.Spectrum(support, np.array(list(terms.values()), float))


def mean_derivatives(values, members):
    """Means over all contexts of each size, by the definition."""
    n = len(values).bit_length() - 1
    others = [i for i in range(n) if i not in members]
    return [
        np.mean([oracle.discrete_derivative(values, members, T) for T in combinations(others, size)])
        for size in range(len(others) + 1)
    ]


@pytest.mark.parametrize("index", oracle.INDICES)
@pytest.mark.parametrize("n", [1, 3, 5])
def test_contexts_weighed_by_size_give_the_index(index, n, rng):
    values = oracle.random_game(n, rng)
    for order in range(1, min(n, 4) + 1):
        truth = oracle.interactions(values, index, order)
        for members in (key for key in truth if key):
            plan = INDICES[index].contexts(len(members), n, INDICES[index].order(order))
            weights = plan.by_size()
            assert weights.sum() == pytest.approx(plan.scale, abs=1e-9)
            assert weights @ mean_derivatives(values, members) == pytest.approx(truth[members], abs=1e-9)


@pytest.mark.parametrize("how", ["uniform", "size"])
def test_contexts_are_drawn_as_said(how):
    masks = draw(how, 6, 20_000, 0)
    expected = [1 / 64 * np.array([1, 6, 15, 20, 15, 6, 1]), np.full(7, 1 / 7)][how == "size"]
    np.testing.assert_allclose(np.bincount(masks.sum(axis=1)) / len(masks), expected, atol=0.015)
    np.testing.assert_array_equal(draw(how, 6, 10, 0), masks[:10])
    # Outside a set the same holds, so that one draw serves all sets.
    inner = [np.array([1, 4, 6, 4, 1]) / 16, np.full(5, 1 / 5)][how == "size"]
    np.testing.assert_allclose(np.bincount(masks[:, 2:].sum(axis=1)) / len(masks), inner, atol=0.015)


@pytest.mark.parametrize("index", oracle.INDICES)
def test_all_contexts_measure_the_index_exactly(index, rng):
    n, order = 5, 3
    values = oracle.random_game(n, rng)
    truth = oracle.interactions(values, index, order)
    wrong = exact_spectrum(masks_lib.all_masks(n), values + rng.normal(size=32))
    sets = [key for key in truth if key and wrong.interactions(index, order)[key]]
    found = validate(lookup(values), wrong, sets, index=index, max_order=order, contexts=16)
    for row in found.rows:
        assert row.measured == row.low == row.high == pytest.approx(truth[row.members], abs=1e-9)
        assert row.predicted == wrong.interactions(index, order)[row.members]
        assert row.whole
    assert found.asked <= 32


@pytest.mark.parametrize("index", [*oracle.INDICES])
def test_drawn_contexts_estimate_the_index(index):
    """The intervals of 40 draws hold the index about 19 times in 20, with half of the function unknown."""
    n, rng = 9, np.random.default_rng(3)
    values, other = (oracle.planted_game(n, 12, rng, 4)[0] for _ in range(2))
    order = 2
    wrong = exact_spectrum(masks_lib.all_masks(n), values + 0.3 * other)
    truth = exact_spectrum(masks_lib.all_masks(n), values).interactions(index, order)
    sets = [key for key, _ in wrong.interactions(index, order).top(6)]
    held, errors = [], []
    for seed in range(40):
        found = validate(lookup(values), wrong, sets, index=index, max_order=order, contexts=60, seed=seed)
        for row in found.rows:
            held.append(row.low - 1e-9 <= truth[row.members] <= row.high + 1e-9)
            errors.append((row.measured - truth[row.members]) / (row.high - row.low + 1e-9))
    assert np.mean(held) > 0.88
    assert abs(np.mean(errors)) < 0.05


def test_the_spectrum_steadies_the_mean():
    """Of a function that the spectrum knows, the fewest contexts give the index itself."""
    rng = np.random.default_rng(0)
    values = oracle.random_game(9, rng)
    spectrum = exact_spectrum(masks_lib.all_masks(9), values)
    for index in ("FSII", "FBII", "k-SII"):
        found = validate(lookup(values), spectrum, [(0,), (2, 5)], index=index, contexts=64)
        assert all(row.verdict == "confirmed" and row.size == "as predicted" for row in found.rows)
        assert all(row.measured == pytest.approx(row.predicted, abs=1e-6) for row in found.rows)
        assert all(row.contexts <= 36 for row in found.rows)


def test_what_is_claimed_may_be_other_than_the_spectrum():
    values = oracle.random_game(9, np.random.default_rng(0))
    spectrum = exact_spectrum(masks_lib.all_masks(9), values)
    truth = spectrum.interactions("SII")
    claims = (2 * spectrum).interactions("SII")
    (row,) = validate(lookup(values), spectrum, [(2, 5)], index="SII", claims=claims, contexts=64).rows
    assert row.predicted == 2 * truth[2, 5]
    assert row.measured == pytest.approx(truth[2, 5], abs=1e-6)
    assert str(row) == "confirmed, smaller"


def test_moebius_is_one_context():
    ask = lookup(oracle.random_game(8, np.random.default_rng(1)))
    found = validate(ask, spectrum_of(8, {(0, 1): 1.0, (2,): 0.5}), [(0, 1), (2,)], index="Moebius")
    assert [(row.contexts, row.whole) for row in found.rows] == [(1, True)] * 2
    assert found.asked == len(np.concatenate(ask.calls)) == 5
    assert "(one context)" in str(found)


def test_masks_are_asked_once_and_known_ones_never():
    n, rng = 10, np.random.default_rng(0)
    values = oracle.planted_game(n, 20, rng, 3)[0]
    spectrum = exact_spectrum(masks_lib.all_masks(n), values + 0.2 * rng.normal(size=2**n))
    known = masks_lib.uniform(n, 300, rng)
    ask = lookup(values)
    sets = [key for key, _ in spectrum.interactions("BII", 2).top(8)]
    found = validate(
        ask, spectrum, sets, index="BII", masks=known, values=values[known @ (1 << np.arange(n))], contexts=128
    )
    asked = np.concatenate(ask.calls)
    assert len(np.unique(np.concatenate([asked, known]), axis=0)) == len(asked) + 300
    assert found.asked == len(asked)
    assert 0 < found.known <= 300
    assert len(ask.calls) <= 3  # 32, 64 and 128 contexts
    plain = validate(lookup(values), spectrum, sets, index="BII", contexts=128)
    assert plain.rows == found.rows
    assert plain.known == 0


def claim(value, *, n=20, key=(1, 3), index="BII", noise=0.0, sigma=0.0, predicted=1.0, **options):
    """The verdict on a predicted BII of one pair, where the model has another one, and noise of its own."""
    rng = np.random.default_rng(0)

    def ask(masks):
        return masks.sum(axis=1) + value * masks[:, list(key)].prod(axis=1) + sigma * rng.normal(size=len(masks))

    spectrum = spectrum_of(n, {(): 0.0, key: predicted * (-0.5) ** len(key)})
    (row,) = validate(ask, spectrum, [key], index=index, noise=noise, **options).rows
    return row


@pytest.mark.parametrize(
    ("value", "options", "verdict"),
    [
        (1.0, {}, "confirmed, as predicted"),
        (0.6, {}, "confirmed, smaller"),
        (1.5, {}, "confirmed, larger"),
        (-1.0, {"predicted": -1.0}, "confirmed, as predicted"),
        (-1.0, {}, "reversed"),
        (-1.0, {"sigma": 0.2}, "reversed"),
        (0.0, {}, "absent"),
        (0.05, {}, "absent"),  # there, but too small for what was claimed
        (0.0, {"sigma": 0.4}, "absent"),
        (0.0, {"sigma": 5.0}, "undecided"),
        (1.0, {"sigma": 0.4}, "confirmed, as predicted"),
        (1.0, {"noise": 2.0}, "undecided"),  # below the noise, whatever the mean
        (1e-17, {"predicted": 1e-17}, "undecided"),  # the rounding of values of about 10
        (1.0, {"key": (1, 3, 5), "max_order": 3}, "confirmed, as predicted"),
        (1.0, {"key": (1,)}, "confirmed, larger"),  # with the slope of the sum
    ],
)
def test_verdicts(value, options, verdict):
    assert str(claim(value, **options)) == verdict


def test_more_contexts_are_taken_where_they_are_needed():
    assert claim(1.0).contexts == 32
    assert claim(1.0, sigma=0.4).contexts == 32
    assert 32 < claim(1.0, sigma=1.0, contexts=512).contexts <= 512
    # Derivatives that are all zero could still be others at rare contexts.
    assert claim(0.0).contexts == 256
    assert claim(0.0, contexts=100).contexts == 100
    assert claim(0.0, contexts=3000).contexts == 256
    assert claim(0.0, sigma=0.3).contexts < 256


def test_an_effect_at_rare_contexts_is_not_called_absent():
    """The and of eight features: the derivative of a pair is 1 at one context in 64."""
    values = masks_lib.all_masks(14)[:, :8].all(axis=1) * 1.0
    truth = exact_spectrum(masks_lib.all_masks(14), values).interactions("BII")[0, 1]
    claimed, verdicts = spectrum_of(14, {(0, 1): truth / 4}), []
    for seed in range(20):
        found = validate(lookup(values), claimed, [(0, 1)], index="BII", seed=seed)
        verdicts.append(found.rows[0].verdict)
    assert truth == pytest.approx(2**-6)
    assert verdicts.count("absent") <= 1
    assert "reversed" not in verdicts


def test_float32_values_have_their_own_rounding():
    def ask(masks):
        exact = 1000.0 + masks.sum(axis=1) * 0.1
        return exact.astype(np.float32)

    spectrum = spectrum_of(20, {(1, 3): 1e-6})
    (row,) = validate(ask, spectrum, [(1, 3)], index="BII").rows
    assert row.verdict == "undecided"


PLANTED, FALSE = ((0, 1), (2, 3), (4, 5)), ((6, 7), (8, 9), (10, 11))


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_planted_pairs_are_confirmed_and_false_claims_are_not(sigma):
    """Three planted pairs, three false claims in each of 8 functions of 24 features with a background of order 3."""
    n, right = 24, []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        signs = dict(zip(PLANTED, rng.choice([-1, 1], 3), strict=True))
        triples = [rng.choice(n, 3, replace=False) for _ in range(12)]
        slopes = rng.normal(size=n)

        def ask(masks, signs=signs, triples=triples, slopes=slopes, rng=rng):
            total = masks @ slopes + sigma * rng.normal(size=len(masks))
            for (i, j), sign in signs.items():
                total = total + sign * (masks[:, i] & masks[:, j])
            for triple in triples:
                parity = 1.0 - 2 * masks[:, triple]
                total = total + 0.2 * parity.prod(axis=1)
            return total

        claims = {key: 0.25 * sign * rng.uniform(0.8, 1.2) for key, sign in signs.items()}
        claims |= {key: 0.25 * rng.choice([-1, 1]) for key in FALSE}
        found = validate(ask, spectrum_of(n, claims), list(claims), index="BII", seed=seed)
        right += [(row.verdict == "confirmed") == (row.members in signs) for row in found.rows]
    assert np.mean(right) >= 0.95


def test_a_validation_is_plain_json():
    ask = lookup(oracle.random_game(8, np.random.default_rng(1)))
    names = [f"f{i}" for i in range(8)]
    found = validate(ask, spectrum_of(8, {(0, 1): 1.0, (2,): 0.5}), [(0, 1), (2,)], index="SII", names=names)
    again = Validation.from_json(json.loads(json.dumps(found.to_json())), names)
    assert again == found
    assert str(again) == str(found)
    assert found[1, 0] == found.rows[0]
    assert found[2] == found.rows[1]
    with pytest.raises(KeyError, match="was not measured"):
        found[3]
    assert "f0 + f1" in str(found)


@pytest.mark.parametrize(
    ("sets", "options", "message"),
    [
        ([(0, 1)], {"contexts": 1}, "contexts must be a whole number of at least 2"),
        ([(0, 1)], {"seed": -1}, "seed must be"),
        ([()], {}, "not a set of 1 to 2 features"),
        ([(0, 2)], {}, "not a set of 1 to 2 features with a claimed interaction"),
        ([(0, 1)], {"index": "magic"}, "unknown index"),
        ([(0,)], {"index": "k-SII", "max_order": 5}, "weighs 128 contexts of .* one by one, more than contexts=32"),
        ([(0, 1)], {"ask": None}, "no value function to evaluate"),
        ([(0, 1)], {"ask": lambda masks: np.where(masks[:, 0], np.nan, 1.0)}, "not finite; the first is nan at mask"),
        ([(0, 1)], {"ask": lambda masks: np.ones(3)}, "values must have shape"),
    ],
)
def test_what_cannot_be_validated(sets, options, message):
    options = {"ask": lambda masks: masks[:, 0] * 1.0, "index": "BII", "contexts": 32, **options}
    with pytest.raises(ValueError, match=message):
        validate(options.pop("ask"), spectrum_of(8, {(0, 1): 1.0, (0,): 0.5}), sets, **options)


def pairs(masks):
    x = np.asarray(masks, float)
    return x[:, :4] @ np.array([1.0, -2.0, 0.5, 3.0]) + 2 * x[:, 1] * x[:, 3]


@pytest.fixture
def answer():
    spectrum = exact_spectrum(masks_lib.all_masks(12), pairs(masks_lib.all_masks(12)))
    masks = masks_lib.uniform(12, 60, np.random.default_rng(0))
    return Explanation(
        spectrum=spectrum,
        ablations=last_held_out(masks, pairs(masks), 10),
        faithfulness=spex_jax.Faithfulness(0.9, 0.8, 0.95),
        exact=False,
        names=tuple(f"f{i}" for i in range(12)),
        index="FSII",
        max_order=2,
        timings={},
        settings={"method": "proxyspex"},
        details=PlainDetails(),
        evaluator=Evaluator(value_fn=spex_jax.ValueFunction(pairs, 12)),
    )


def test_an_explanation_is_validated(answer, tmp_path):
    assert answer.validation is None
    found = answer.validate(top=5)
    assert answer.validation is found
    assert [row.members for row in found.rows] == [members for members, _ in answer.interactions().top(5)]
    assert found.counts == {"confirmed": 5}
    assert "FSII, sets of up to 2 measured on the model, 5 sets: 5 confirmed" in str(answer)
    assert "f1 + f3" in str(found)
    answer.save(tmp_path / "answer")
    loaded = Explanation.load(tmp_path / "answer")
    assert loaded.validation == found
    assert str(loaded) == str(answer)
    assert loaded.evaluator is None
    with pytest.raises(ValueError, match="no value function to evaluate: give value_fn="):
        loaded.validate()
    assert loaded.validate(top=5, value_fn=spex_jax.ValueFunction(pairs, 12)).rows == found.rows
    assert loaded.validate(top=5, value_fn=pairs).rows == found.rows
    assert answer.validate(index="Moebius", max_order=3).index == "Moebius"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top must be a whole number of at least 1"),
        ({"contexts": 1}, "contexts must be"),
        ({"index": "magic"}, "unknown index"),
        ({"max_order": 0}, "max_order must be"),
        ({"value_fn": spex_jax.ValueFunction(pairs, 11)}, "has 11 features"),
        ({"value_fn": spex_jax.ValueFunction(pairs, 12, outputs=(2,))}, "one value for each mask"),
        ({"value_fn": lambda masks: np.full(len(masks), np.inf)}, "not finite"),
        ({"batch_size": 3}, "batch_size: these options need value_fn="),
    ],
)
def test_what_an_explanation_refuses(options, message, answer):
    with pytest.raises(ValueError, match=message):
        answer.validate(**options)
    assert answer.validation is None


def test_one_output_of_several(answer):
    both = spex_jax.ValueFunction(lambda masks: np.stack([-pairs(masks), pairs(masks)], axis=1), 12, outputs=(2,))
    assert answer.validate(value_fn=both, output=1).rows == answer.validate().rows
    assert set(answer.validate(value_fn=both, output=0).counts) == {"reversed"}


def test_what_asks_goes_through_the_engine_and_its_store(tmp_path, answer):
    asked = []

    def fn(masks):
        asked.append(len(masks))
        return pairs(masks)

    ask = Evaluator(value_fn=spex_jax.ValueFunction(fn, 12, identity="pairs"), batch_size=64, store=tmp_path / "store")
    first = answer.validate(value_fn=ask.value_fn, batch_size=64, store=tmp_path / "store")
    assert max(asked) == 64
    count = sum(asked)
    assert count == first.asked
    assert ask(answer.masks[:5]) == pytest.approx(answer.values[:5])
    assert answer.validate(value_fn=ask.value_fn, store=tmp_path / "store").rows == first.rows
    assert sum(asked) == count + 5
    assert pickle.loads(pickle.dumps(Evaluator(value_fn=spex_jax.ValueFunction(len, 3), output=2))).output == 2


def test_explain_leaves_what_asks_the_model():
    value_fn = spex_jax.ValueFunction(lambda masks: np.stack([-pairs(masks), pairs(masks)], axis=1), 9, outputs=(2,))
    found = spex_jax.explain_many(value_fn, budget=200, proxy="linear", progress=False)
    for answer in found:
        assert answer.validate(top=4).counts == {"confirmed": 4}
    np.testing.assert_array_equal(found[0].evaluator(found[0].masks), found[0].values)


def test_nothing_is_asked_of_what_is_exact():
    found = explain(pairs, 6)
    assert found.exact
    exact = Explanation(**{**vars(found), "evaluator": None})
    validation = exact.validate(top=5)
    assert validation.asked == 0
    assert validation.known == 64
    assert all(row.whole and str(row) == "confirmed, as predicted" for row in validation.rows)


def test_a_constant_has_nothing_to_validate(answer):
    flat = explain(lambda masks: np.full(len(masks), 0.1), 6)
    assert flat.validate().rows == ()
    assert "nothing to validate" in str(flat)
    empty = Explanation(**{**vars(answer), "spectrum": spectrum_of(12, {(): 1.0})})
    assert "nothing to validate" in str(empty.validate())
