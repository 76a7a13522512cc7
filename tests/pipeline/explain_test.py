import json
import pathlib

import numpy as np
import oracle
import pytest

import spex_jax
from spex_jax import SPEX, Explanation, ProxySPEX, explain
from spex_jax.core import masks as masks_lib
from spex_jax.pipeline.budget_split import default_budget, least_budget


def pairs(masks):
    """Five singles and the pair (1, 3)."""
    x = np.asarray(masks, float)
    return x[:, :5] @ np.array([1.0, -2.0, 0.5, 3.0, 0.0]) + 2 * x[:, 1] * x[:, 3]


@pytest.fixture(scope="module")
def answer():
    return explain(pairs, 12, budget=300, names=[f"f{i}" for i in range(12)])


def test_the_answer(answer):
    assert answer.faithfulness.r2 > 0.99
    assert answer.faithfulness.low <= answer.faithfulness.r2 <= answer.faithfulness.high
    assert not answer.exact
    found = answer.interactions("FSII", 2)
    assert found.top(1, order=2)[0][0] == (1, 3)
    assert found[1, 3] == pytest.approx(2, abs=0.1)
    assert found.names[3] == "f3"
    assert answer.interactions() == found
    assert set(answer.timings) == {"compile", "model", "fit"}
    assert all(seconds >= 0 for seconds in answer.timings.values())


def test_numpy_numbers_are_as_good_as_others(tmp_path):
    """In every place of a number, and in what is saved."""
    plain = explain(pairs, 12, budget=300, proxy="linear", max_degree=3, max_terms=50, batch_size=64, max_order=2)
    found = explain(
        pairs,
        np.int64(12),
        budget=np.int32(300),
        seed=np.uint8(0),
        proxy="linear",
        max_degree=np.int8(3),
        max_terms=np.int64(50),
        batch_size=np.int16(64),
        max_order=np.int64(2),
    )
    found.save(tmp_path / "saved")
    assert Explanation.load(tmp_path / "saved").settings == plain.settings
    np.testing.assert_array_equal(found.spectrum.coefficients, plain.spectrum.coefficients)
    assert found.interactions("SV", np.int64(1)) == plain.interactions("SV", 1)
    lime = explain(pairs, 12, budget=300, method="lime", alpha=np.float32(0.5))
    lime.save(tmp_path / "lime")
    assert Explanation.load(tmp_path / "lime").settings["alpha"] == 0.5


def test_the_budget_is_kept_and_held_out_masks_are_not_fitted(answer):
    assert answer.masks.shape == (300, 12)
    assert len(np.unique(answer.masks, axis=0)) == 300
    assert len(answer.ablations.tested) == 50
    np.testing.assert_array_equal(answer.values, pairs(answer.masks))
    fitted = spex_jax.proxyspex.fit(answer.masks[:250], answer.values[:250], seed=0)
    np.testing.assert_array_equal(fitted.coefficients, answer.spectrum.coefficients)
    assert len(explain(pairs, 12, budget=560).ablations.tested) == 56


def hidden(masks):
    """A triple that no part of it announces, on top of five singles."""
    signs = 1.0 - 2 * np.asarray(masks)
    return signs[:, :5].sum(axis=1) + 2 * signs[:, [1, 7, 9]].prod(axis=1)


@pytest.mark.parametrize(
    ("n", "options", "degree"),
    [(11, {}, 5), (24, {"max_degree": 3}, 3), (24, {"max_degree": 3, "residual_of": "walsh_gp"}, 3)],
)
def test_spex_decodes_a_design(n, options, degree):
    """In 561 ablations; designs of the same sizes are decoded in recovery_test.py and residual_test.py."""
    found = explain(hidden, n, budget=561, method="spex", **options)
    assert len(found.masks) == 561
    assert len(np.unique(found.masks, axis=0)) == 561
    assert len(found.ablations.tested) == 56
    assert found.masks.all(axis=1).any()
    assert not found.masks.any(axis=1).all()
    assert found.faithfulness.r2 > 0.999
    assert found.interactions("Fourier", 3)[1, 7, 9] == pytest.approx(2, abs=0.02)
    assert (found.settings["bins"], found.settings["degree"]) == (8, degree)
    made = spex_jax.spex.design(n, 561 - 56 - 1, max_degree=options.get("max_degree", "auto"))
    np.testing.assert_array_equal(found.masks[: len(made.masks)], made.masks)
    if not options:
        ends = np.flatnonzero(found.masks.all(axis=1) | ~found.masks.any(axis=1))
        again = spex_jax.spex.decode(made, found.values[: len(made.masks)])
        again = again.through(found.masks[ends], found.values[ends])
        np.testing.assert_array_equal(again.coefficients, found.spectrum.coefficients)
        assert "spex, bins 8, degree 5" in str(found)


@pytest.mark.filterwarnings("ignore:there is one feature")
@pytest.mark.parametrize("n", [1, 2, 6, 8])
def test_the_least_budget_of_spex_does(n):
    budget = least_budget(n, SPEX())
    found = explain(lambda masks: masks[:, 0] * 2.0 + masks[:, n - 1], n, method="spex", budget=budget)
    assert len(found.masks) == budget
    assert found.exact == (n < 8)
    assert found.exact or found.faithfulness.r2 > 0.99


def test_same_seed_same_answer(answer):
    again, other = explain(pairs, 12, budget=300), explain(pairs, 12, budget=300, seed=1)
    np.testing.assert_array_equal(again.spectrum.coefficients, answer.spectrum.coefficients)
    assert again.faithfulness == answer.faithfulness
    assert not np.array_equal(other.masks, answer.masks)


@pytest.mark.filterwarnings("ignore:there is one feature")
@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_few_features_are_asked_completely(n, rng):
    values = oracle.random_game(n, rng)
    found = explain(lambda masks: values[masks @ (1 << np.arange(n))], n, budget=2**n)
    assert found.exact
    assert np.isnan(found.faithfulness.r2)
    assert len(found.masks) == 2**n
    for members, value in oracle.interactions(values, "STII", min(2, n)).items():
        assert found.interactions("STII", 2)[members] == pytest.approx(value, abs=1e-9)
    assert "exact" in str(found)


def test_the_default_budget():
    assert default_budget(32, ProxySPEX()) == 8 * 32 * 5
    assert default_budget(24, ProxySPEX()) == 881
    assert explain(pairs, 5).exact
    assert [default_budget(n, ProxySPEX()) >= least_budget(n, ProxySPEX()) for n in range(1, 60)] == [True] * 59


@pytest.mark.parametrize("n", [7, 30, 100])
def test_a_budget_that_is_too_small_names_the_smallest(n):
    def value_fn(masks):
        raise AssertionError("nothing may be asked")

    with pytest.raises(ValueError, match=f"the smallest possible budget is {least_budget(n, ProxySPEX())}"):
        explain(value_fn, n, budget=least_budget(n, ProxySPEX()) - 1)


@pytest.mark.parametrize("n", [7, 16])
def test_the_least_budget_does(n):
    found = explain(
        lambda masks: masks[:, 0] * 2.0 + masks[:, 1], n, budget=least_budget(n, ProxySPEX()), sampling="uniform"
    )
    assert len(found.masks) == least_budget(n, ProxySPEX())
    assert found.faithfulness.r2 > 0.8  # twelve rows are fitted where n = 7


@pytest.mark.parametrize("n", [4, 30])
def test_a_constant_function(n, recwarn):
    found = explain(lambda masks: np.full(len(masks), 0.1), n)
    assert np.isnan(found.faithfulness.r2)
    assert not found.interactions().top()
    assert found.spectrum(found.masks[:1])[0] == pytest.approx(0.1)
    assert "no interactions" in str(found)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((pairs,), {}, "needs n"),
        ((pairs, 0), {}, "at least 1 feature"),
        ((pairs, 9), {"budget": 2.5}, "whole number of ablations"),
        ((pairs, 9), {"method": "magic"}, "unknown method 'magic'; expected one of proxyspex, spex"),
        ((pairs, 9), {"method": "spex", "proxy": "trees"}, "unknown options proxy; spex takes max_degree, residual_of"),
        ((pairs, 9), {"method": "spex", "residual_of": "magic"}, "unknown proxy 'magic'"),
        ((pairs, 9), {"method": "spex", "max_degree": 10}, "max_degree must be from 1 to 8 for 9 features"),
        ((pairs, 30), {"method": "spex", "budget": 200}, "the smallest possible budget is 219"),
        ((pairs, 30), {"method": "spex", "seed": -1}, "seed must be"),
        ((pairs, 9), {"index": "magic"}, "unknown index 'magic'"),
        ((pairs, 9), {"max_order": 0}, "max_order must be"),
        ((pairs, 9), {"proxy": "magic"}, "unknown proxy 'magic'"),
        ((pairs, 9), {"alpha": 3}, "unknown options alpha; proxyspex takes proxy, max_degree, max_terms"),
        ((pairs, 9), {"seed": -1}, "seed must be"),
        ((pairs, 9), {"names": ["a"]}, "names must be 9 strings"),
        ((pairs, 9), {"store": "x"}, "nothing identifies this one"),
        ((pairs, 9), {"store_key": "x"}, "without store="),
        ((spex_jax.ValueFunction(pairs, 9), 8), {}, "has 9 features"),
        ((spex_jax.ValueFunction(pairs, 9, outputs=(2,)),), {}, "one value for each mask"),
    ],
)
def test_wrong_arguments_are_refused_before_the_model_is_asked(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        explain(*arguments, **options)


@pytest.mark.parametrize("place", ["host", "device"])
def test_an_estimate(place, tmp_path, rng):
    asked = []

    def fn(masks):
        asked.append(len(masks))
        return masks.sum(axis=1) * 1.0

    value_fn = spex_jax.ValueFunction(fn, 12, on_device=place == "device", workers=1, identity="f")
    path = tmp_path / "store"
    found = spex_jax.estimate(value_fn, budget=1000, batch_size=100, store=path)
    assert (found.masks, found.stored, found.batch_size) == (1000, 0, 100)
    assert found.devices == (place == "device")
    assert found.batch_seconds > 0
    assert found.compile_seconds >= 0
    assert found.seconds == pytest.approx(10 * found.batch_seconds)
    assert "1,000 ablations, 0 of them stored; batches of 100 on" in str(found)
    again = spex_jax.estimate(value_fn, budget=1000, batch_size=100, store=path)
    assert again.stored == (100 if place == "host" else 200)  # what was asked was not for nothing
    spex_jax.evaluate(value_fn, masks_lib.all_masks(12), store=path)
    done = spex_jax.estimate(value_fn, budget=1000, store=path)
    assert (done.stored, done.seconds) == (1000, 0)
    assert str(done) == "all 1,000 ablations are stored: nothing to evaluate"
    spex_jax.estimate(value_fn, 12, index="SII", max_order=3, names=None, progress=False, check_invariance=True)
    with pytest.raises(ValueError, match="unknown index"):
        spex_jax.estimate(value_fn, index="magic")
    with pytest.raises(ValueError, match="the smallest possible budget is"):
        spex_jax.estimate(value_fn, budget=10)


def test_values_that_are_not_finite():
    with pytest.raises(ValueError, match=r"values are not finite; the first is nan at mask \d+, which removes"):
        explain(lambda masks: np.where(masks[:, 3], 1.0, np.nan), 12)


def test_save_and_load(answer, tmp_path):
    for _ in range(2):  # a second time in place of the first
        answer.save(tmp_path / "deep" / "answer")
    loaded = Explanation.load(tmp_path / "deep" / "answer")
    np.testing.assert_array_equal(loaded.spectrum.coefficients, answer.spectrum.coefficients)
    np.testing.assert_array_equal(loaded.masks, answer.masks)
    np.testing.assert_array_equal(loaded.values, answer.values)
    assert str(loaded) == str(answer)
    assert loaded.settings == answer.settings
    assert loaded.names == answer.names
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["answer"]


def test_what_is_not_defined_is_null_in_json(tmp_path):
    explain(pairs, 5).save(tmp_path / "exact")
    content = json.loads((tmp_path / "exact" / "explanation.json").read_text())
    assert content["faithfulness"] == {"r2": None, "low": None, "high": None}
    assert np.isnan(Explanation.load(tmp_path / "exact").faithfulness.r2)


def test_save_does_not_replace_what_it_did_not_write(answer, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("important")
    with pytest.raises(ValueError, match=r"not a folder of Explanation\.save"):
        answer.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "important"


@pytest.mark.parametrize("damage", ["missing", "torn", "newer"])
def test_a_damaged_folder_is_refused(damage, answer, tmp_path):
    folder = tmp_path / "answer"
    answer.save(folder)
    settings = folder / "explanation.json"
    if damage == "missing":
        (folder / "ablations.npz").unlink()
    if damage == "torn":
        settings.write_bytes(settings.read_bytes()[:100])
    if damage == "newer":
        settings.write_text(settings.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match=r"not a folder of Explanation\.save"):
        Explanation.load(folder)


def test_a_text_with_the_shipped_model(tiny):
    text = "Her acting never fails to impress , but the plot is thin ."
    found = explain(spex_jax.lenses.text(*tiny, text, value="margin"), budget=400)
    assert found.faithfulness.r2 > 0.8
    assert "held-out masks of 400 ablations" in str(found)
    assert found.details.text == text


def test_the_shipped_model_has_learned_negation(tiny):
    """The pair that carries the negation is among the top 3 pairs in at least 28 of 40 sentences, all masks asked."""
    sentences = json.loads((pathlib.Path(__file__).parents[1] / "models" / "negation_sentences.json").read_text())
    assert len(sentences) == 40
    found = 0
    for sentence in sentences:
        value_fn = spex_jax.lenses.text(*tiny, sentence["text"], value="margin", target="positive")
        top = explain(value_fn, budget=2**value_fn.n, index="FSII").interactions().top(3, order=2)
        found += tuple(sentence["pair"]) in [members for members, _ in top]
    assert found >= 28


@pytest.mark.parametrize(("text", "units"), [("Wonderful!", "word"), ("A dull film with no ideas.", "sentence")])
def test_one_unit(text, units, tiny):
    value_fn = spex_jax.lenses.text(*tiny, text, units=units, value="margin")
    with pytest.warns(UserWarning, match=f"there is one {units}, .* no interactions; take smaller units: .*'token'"):
        found = explain(value_fn)
    assert found.exact
    assert len(found.masks) == 2
    empty, full = found.values[np.argsort(found.masks[:, 0])]
    assert found.interactions()[0] == pytest.approx(full - empty)
    assert found.interactions().top(5) == [((0,), pytest.approx(full - empty))]


def test_one_feature_is_told():
    with pytest.warns(UserWarning, match="there is one feature, 'a', .* no interactions; divide it"):
        explain(lambda masks: masks[:, 0] * 2.0, 1, names=["a"], progress=False)


@pytest.mark.parametrize(
    "options", [{"max_degree": 0}, {"max_terms": 0}, {"seed": 2**63}, {"max_degree": "x"}, {"proxy": "forest"}]
)
def test_options_of_the_fit_are_checked_before_the_model_is_asked(options):
    def value_fn(masks):
        raise AssertionError("nothing may be asked")

    with pytest.raises(ValueError, match=next(iter(options))):
        explain(value_fn, 20, budget=200, **options)


@pytest.mark.parametrize("scale", [1e-200, 1e-6, 1e20, 1e200])
def test_small_and_large_values_are_reported_as_they_are(scale, recwarn):
    found = explain(lambda masks: (masks[:, 0] + 1.0) * scale, 10, budget=200)
    assert found.faithfulness.r2 == pytest.approx(1, abs=1e-4)
    assert found.interactions()[0] == pytest.approx(scale, rel=1e-2)
    row = str(found.interactions()).splitlines()[1]
    assert float(row.split()[2]) == pytest.approx(scale, rel=2e-2)
    assert len(row) < 40
    assert not recwarn.list


def test_a_large_offset_is_no_constant():
    found = explain(lambda masks: masks[:, 0] + 2.0 * (masks[:, 3] & masks[:, 7]) + 1e13, 20, budget=400)
    assert found.interactions().top(1, order=2)[0][0] == (3, 7)


def test_an_r2_that_is_not_perfect_does_not_read_as_perfect():
    assert "R2 1.000" not in str(spex_jax.Faithfulness(0.99985, 0.9998, 0.9999))
    assert "R2 1.000" in str(spex_jax.Faithfulness(1.0, 1.0, 1.0))


@pytest.mark.parametrize("name", ["link", "."])
def test_saving_through_a_link_or_into_the_folder_itself(name, answer, tmp_path, monkeypatch):
    folder = tmp_path / "answer"
    answer.save(folder)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder if name == "." else tmp_path)
    answer.save(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answer", "link"]
    assert str(Explanation.load(folder)) == str(answer)


def test_one_output_without_values_is_named():
    def values(masks):
        return np.stack([masks[:, 0], np.full(len(masks), np.nan)], axis=1)

    value_fn = spex_jax.ValueFunction(values, 4, outputs=(2,))
    with pytest.warns(UserWarning, match="not finite"), pytest.raises(ValueError, match="0 of 16") as caught:
        spex_jax.explain_many(value_fn, budget=16, nonfinite="keep", progress=False)
    assert "at output 1 of 2" in caught.value.__notes__


def test_invariance_of_several_outputs_and_of_some_that_fail():
    def values(masks):
        return np.where(masks[:, :1], np.nan, masks[:, 1:3])

    value_fn = spex_jax.ValueFunction(values, 8, outputs=(2,))
    options = {"budget": 256, "nonfinite": "keep", "check_invariance": True, "progress": False}
    with pytest.warns(UserWarning, match="not finite"):
        first, second = spex_jax.explain_many(value_fn, **options)
    assert first.noise == second.noise == 0
    assert len(first.ablations.tested) == 50
    assert first.faithfulness.r2 > 0.99
    with pytest.raises(ValueError, match="method 'spex' needs the values of all"):
        spex_jax.explain(lambda masks: masks[:, 0], 12, budget=3000, method="spex", nonfinite="keep")


@pytest.mark.filterwarnings("ignore:there is one feature")
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("method", ["leave_one_out", "kernel_shap", "lime", "banzhaf", "permutation_shapley"])
def test_a_surrogate_of_all_masks_stays_a_surrogate(method, n):
    def value_fn(masks):
        return masks @ np.arange(1.0, n + 1) + 3.0 * masks.all(axis=1)

    found = explain(value_fn, n, method=method, progress=False)
    assert not found.exact
    assert len(found.masks) == 2**n
    assert found.spectrum.support.sum(axis=1).max() == 1
    truth = found.values - found.spectrum(found.masks)
    assert found.faithfulness.r2 == pytest.approx(
        1 - (truth**2).sum() / ((found.values - found.values.mean()) ** 2).sum()
    )
    assert "every possible mask" in str(found)
    assert method in str(found)
    if method == "kernel_shap":
        exact = explain(value_fn, n, progress=False)
        assert exact.exact
        for feature in range(n):
            assert found.interactions("SV")[feature] == pytest.approx(exact.interactions("SV")[feature])


def test_reports_say_how_masks_were_drawn_and_what_was_corrected():
    def fn(masks):
        return masks @ np.arange(14.0) + 2.0 * masks[:, 3] * masks[:, 7]

    found = explain(fn, 14, budget=200, proxy="linear", progress=False)
    assert "proxy linear, sampling mixed" in str(found)
    corrected = "FSII comes from the spectrum, corrected for what it misses at the evaluated masks"
    assert (corrected in str(found)) == (found.correction is not None)
    uniform = explain(fn, 14, budget=200, proxy="linear", index="FBII", progress=False)
    assert "sampling uniform" in str(uniform)
    assert uniform.correction is None
