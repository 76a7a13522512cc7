"""Masks near the full one, and how faithful a fit is there."""

import numpy as np
import oracle
import pytest

from spex_jax import Explanation, ProxySPEX, explain, lenses
from spex_jax.core import sampling


@pytest.mark.parametrize("n", [3, 5, 9, 12, 40, 300])
def test_masks_near_the_full_one_are_distinct_and_of_all_numbers(n):
    given = ~np.eye(n, dtype=bool)[:2]
    found = sampling.near_full(n, 200, 0, given)
    removed = (~found).sum(axis=1)
    most = min(4, (n - 1) // 2)
    assert set(removed) == set(range(1, most + 1)) - ({1} if n == 3 and len(found) < 1 else set())
    assert sampling.nearly_full(found).all()
    assert len({*map(bytes, found), *map(bytes, given)}) == len(found) + 2
    if n >= 40:
        assert len(found) == 200
        counts = np.bincount(removed, minlength=5)[1:]
        assert counts[1:].min() > 30  # those that remove one feature run out
    np.testing.assert_array_equal(sampling.near_full(n, 50, 0, given), found[:50])


@pytest.mark.parametrize("n", [1, 2])
def test_few_features_have_none(n):
    assert len(sampling.near_full(n, 10, 0, np.zeros((0, n), bool))) == 0
    assert not sampling.nearly_full(oracle.all_masks(n)).any()


def test_what_is_near():
    masks = np.ones((6, 20), bool)
    for row, removed in enumerate([0, 1, 4, 5, 10, 20]):
        masks[row, :removed] = False
    assert sampling.nearly_full(masks).tolist() == [False, True, True, False, False, False]
    assert sampling.nearly_full(~np.eye(4, dtype=bool)).all()
    assert not sampling.nearly_full(np.array([[False, False, True, True]])).any()  # half of them is far


@pytest.mark.parametrize("options", [{}, {"sampling": "uniform"}, {"sampling": "adaptive", "acquisition": "uniform"}])
def test_a_focus_moves_masks_and_keeps_the_budget(options, rng):
    n, budget = 24, 400
    method = ProxySPEX(focus="full", **options).complete("FSII")
    masks, _ = method.draw(n, budget, 0)
    plain, _ = ProxySPEX(**options).complete("FSII").draw(n, budget, 0)
    assert len(masks) == len(plain) == len(np.unique(masks, axis=0))
    assert masks[0].all()
    assert not masks[1].any()
    near = sampling.nearly_full(masks).sum()
    assert near >= len(masks) // 3
    assert near > sampling.nearly_full(plain).sum()
    weights = rng.normal(size=n)
    found = explain(lambda masks: np.tanh(masks @ weights), n, budget=budget, focus="full", progress=False, **options)
    assert len(found.masks) == budget
    assert found.settings["focus"] == "full"


def test_small_games_run_out_of_masks_near_the_full_one():
    masks, _ = ProxySPEX(focus="full").complete("FBII").draw(6, 60, 0)
    assert len(masks) == len(np.unique(masks, axis=0)) == 60


def test_faithfulness_near_the_full_mask_is_reported(tiny, tmp_path):
    text = "The plot is thin , the cast is dull and nobody will miss the sequel that it promises at the end"
    value_fn = lenses.text(*tiny, text, value="margin")
    found = explain(value_fn, budget=500, focus="full", proxy="walsh_gp", progress=False)
    near = found.near_full
    assert near.masks >= 150
    assert near.score.low <= near.score.r2 <= near.score.high
    fresh = sampling.near_full(value_fn.n, 150, 7, found.masks)
    measured = oracle.r2(value_fn(fresh), found.spectrum(fresh))
    assert near.score.low - 0.05 < measured
    assert f"on {near.masks} masks with 1 to 4 features removed" in str(found)
    assert f"on {near.masks} masks" in found._repr_html_()
    found.save(tmp_path / "found")
    assert Explanation.load(tmp_path / "found").near_full == near
    uniform = explain(value_fn, budget=200, sampling="uniform", proxy="walsh_gp", progress=False)
    assert uniform.near_full.masks == 0
    assert np.isnan(uniform.near_full.score.r2)
    assert "1 to 4 features removed" not in str(uniform)


def test_an_unknown_focus_is_refused():
    with pytest.raises(ValueError, match="focus"):
        explain(lambda masks: masks.sum(axis=1), 20, focus="empty")
