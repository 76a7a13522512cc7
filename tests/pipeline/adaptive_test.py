"""Adaptive sampling: what is asked, when it stops, and what it says."""

import numpy as np
import pytest

from spex_jax import PackedMasks, ValueFunction, explain, explain_many
from spex_jax.core import sampling
from spex_jax.core.sampling import ACQUISITIONS
from spex_jax.pipeline.explanation import Explanation

N = 16
OPTIONS = {"sampling": "adaptive", "proxy": "walsh_gp", "progress": False, "refits": 2}
BUDGET = 306  # parts of 128, 192 and 256 masks: few shapes to compile


class Counting:
    """A pair, a triple and single effects; counts what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, masks):
        self.asked.extend(map(bytes, masks))
        return 2.0 * masks[:, 0] * masks[:, 1] - masks[:, 2:5].all(axis=1) + masks @ np.linspace(0, 1, N)


@pytest.fixture(scope="module", params=ACQUISITIONS)
def answer(request):
    fn = Counting()
    return fn, explain(fn, N, budget=BUDGET, acquisition=request.param, **OPTIONS)


def test_the_budget_is_asked_once_each_and_held_out_masks_are_uniform_ones(answer):
    fn, found = answer
    assert len(fn.asked) == len(set(fn.asked)) == len(found.masks) == BUDGET
    assert {bytes(mask) for mask in found.masks} == set(fn.asked)
    assert len(found.ablations.tested) == 50
    # The first part: an index has need of masks of all sizes.
    first = sampling.draw("mixed" if found.settings["acquisition"] == "index" else "uniform", N, 128, 0)
    np.testing.assert_array_equal(found.masks[:128], first)
    held = {bytes(mask) for mask in found.masks[-50:]}
    assert not held & {bytes(mask) for mask in found.masks[:-50]}
    np.testing.assert_allclose(found.values, Counting()(found.masks))
    assert found.settings["stopped"] == "budget spent"
    assert found.settings["asked"] == BUDGET


def test_it_finds_the_interactions(answer):
    _, found = answer
    assert found.faithfulness.r2 > 0.99
    assert found.interactions("FBII", 2).top(1, order=2)[0][0] == (0, 1)


def test_the_same_call_continues_from_its_store(tmp_path):
    fn = Counting()
    options = {**OPTIONS, "acquisition": "information", "store": tmp_path / "f", "store_key": "f"}
    first = explain(fn, N, budget=BUDGET, **options)
    again = explain(fn, N, budget=BUDGET, **options)
    assert (len(fn.asked), again.stored) == (BUDGET, BUDGET)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert first.interactions() == again.interactions()


def test_it_stops_at_a_target(tmp_path):
    found = explain(Counting(), N, budget=2000, target_r2=0.9, **OPTIONS)
    assert found.faithfulness.r2 >= 0.9
    assert len(found.masks) < 2000
    assert found.settings["stopped"].startswith("R2 ")
    found.save(tmp_path / "answer")
    assert Explanation.load(tmp_path / "answer").settings["stopped"] == found.settings["stopped"]
    assert found.settings["stopped"] in found._repr_html_()
    wide = explain(Counting(), N, budget=2000, target_width=3.0, **OPTIONS)
    errors = wide.interactions().std_errors
    assert max(2 * 1.96 * errors[key] for key, _ in wide.interactions().top(10)) <= 3.0
    assert "interval width" in wide.settings["stopped"]


def test_a_target_that_is_not_reached_is_said():
    def noise(masks):
        return np.array([hash(bytes(mask)) % 1000 for mask in masks], np.float64)

    with pytest.warns(UserWarning, match=r"target_r2 = 0.99 was not reached within the budget of 200 ablations"):
        found = explain(noise, N, budget=200, target_r2=0.99, acquisition="uniform", **OPTIONS)
    assert len(found.masks) == 200
    assert found.settings["stopped"] == "budget spent"


def test_values_that_are_not_finite_take_no_part():
    fn = Counting()

    def failing(masks):
        return np.where(masks[:, 0] & masks[:, 15] & ~masks[:, 7], np.nan, fn(masks))

    with pytest.warns(UserWarning, match="not finite"):
        found = explain(failing, N, budget=BUDGET, nonfinite="keep", **OPTIONS)
    assert len(found.masks) + len(found.failed) == BUDGET
    assert len(found.failed) > 10


def test_every_mask_of_a_small_function_is_asked():
    found = explain(lambda masks: masks[:, 0] * 1.0, 5, budget=100, **OPTIONS)
    assert found.exact
    assert len(found.masks) == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_r2": 0.9}, r"target_r2= belongs to sampling='adaptive', got it with sampling='mixed'; leave it out"),
        (
            {"sampling": "adaptive", "target_r2": 1.5},
            "target_r2 must be a positive finite number of at most 1, got 1.5",
        ),
        (
            {"sampling": "adaptive", "target_width": -1.0},
            "target_width, in units of the value, must be a positive finite number",
        ),
        ({"sampling": "adaptive", "target_width": 1.0, "proxy": "trees"}, r"a proxy with standard errors \(auto, "),
        ({"sampling": "adaptive", "refits": 0}, "refits must be a whole number of at least 1"),
        ({"sampling": "adaptive", "acquisition": "entropy"}, "unknown acquisition 'entropy'; expected one of "),
        ({"sampling": "by size"}, "unknown sampling 'by size'; expected one of uniform, .*, adaptive"),
    ],
)
def test_options_that_do_not_fit(options, message):
    fn = Counting()
    with pytest.raises(ValueError, match=message):
        explain(fn, N, budget=200, progress=False, **options)
    assert not fn.asked


def test_a_table_cannot_be_asked(tmp_path):
    masks = np.eye(4, dtype=bool)
    np.save(tmp_path / "masks.npy", np.packbits(masks, axis=1))
    for table in ((masks, np.zeros(4)), masks, PackedMasks.open(tmp_path / "masks.npy", 4)):
        with pytest.raises(ValueError, match=r"which cannot be evaluated at new masks: fit it with proxyspex.fit"):
            explain(table, 4, sampling="adaptive")


def test_several_outputs_cannot_be_asked_by_one_of_them():
    fn = ValueFunction(lambda masks: np.stack([masks[:, 0], masks[:, 1]], axis=1) * 1.0, N, outputs=(2,))
    with pytest.raises(ValueError, match="adaptive sampling follows one value"):
        explain_many(fn, budget=200, **OPTIONS)


def test_other_methods_have_no_adaptive_sampling():
    with pytest.raises(ValueError, match="unknown options sampling; spex takes"):
        explain(Counting(), N, method="spex", sampling="adaptive")
    with pytest.raises(ValueError, match="unknown sampling 'adaptive'"):
        explain(Counting(), N, method="kernel_shap", sampling="adaptive")
