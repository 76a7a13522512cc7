"""Methods in one form: what they predict for a function that they can represent."""

import dataclasses
import importlib.util
import sys

import numpy as np
import oracle
import pytest

from spex_jax import lenses
from spex_jax.core.walsh import subset_characters

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def compared(load_program):
    load_program("faithfulness")
    return sys.modules["compared"]


@pytest.fixture(scope="module")
def game(compared):
    """Ten features; singles and pairs."""
    masks = np.random.default_rng(0).permutation(oracle.all_masks(10))
    support = np.zeros((4, 10), bool)
    for row, members in zip(support, ((), (0,), (1, 2), (3,)), strict=True):
        row[list(members)] = True
    values = subset_characters(masks, support) @ np.array([0.5, 1.0, 2.0, -0.7])
    return sys.modules["games"].Game(name="planted", masks=masks, values=values)


def test_sums_of_sets(compared, rng):
    sets = {(): 0.5, (0,): 1.0, (1, 3): -2.0}
    masks = rng.random((9, 4)) < 0.5
    expected = 0.5 + masks[:, 0] - 2.0 * (masks[:, 1] & masks[:, 3])
    np.testing.assert_allclose(compared.peers.of_sets(sets, 4)(masks), expected)


@pytest.mark.parametrize(
    ("name", "own_masks", "exact"),
    [
        ("linear", False, True),
        ("lasso", False, False),
        ("lime", False, False),
        ("banzhaf", False, False),
        ("faith_banzhaf", False, True),
        ("kernel_shap", True, False),
        ("faith_shapley", True, True),
        ("permutation_shapley", True, False),
        ("leave_one_out", True, False),
        ("spex", True, True),
    ],
)
def test_own(compared, game, name, own_masks, exact):
    contender = compared.CONTENDERS[name]
    assert contender.same_masks != own_masks
    answer = contender.run(game, 500, 0)
    assert len(answer.masks) <= 500
    assert answer.seconds >= 0
    assert answer.terms == len(answer.spectrum)
    if not own_masks:
        np.testing.assert_array_equal(answer.masks, game.masks[:500])
    error = np.square(answer.predict(game.masks) - game.values).mean() / game.values.var()
    assert (error < 1e-3) == exact


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("spectralexplain", "lightgbm", "galois")),
    reason="the packages of the extra peers are not installed",
)
@pytest.mark.parametrize("place", range(7))
def test_peers(compared, game, place):
    contender = compared.PEERS[place]
    answer = contender.run(game, 500, 0)
    assert len(np.unique(answer.masks, axis=0)) <= 500
    error = np.square(answer.predict(game.masks) - game.values).mean() / game.values.var()
    additive = contender.name.startswith("KernelSHAP (")
    assert error < (10 if additive else 0.05)


def test_too_few_masks(compared, game):
    with pytest.raises(compared.Unsuitable, match="needs 56 masks"):
        compared.CONTENDERS["faith_banzhaf"].run(game, 20, 0)
    table = sys.modules["games"].Game(name="table", masks=game.masks[:600], values=game.values[:600])
    with pytest.raises(compared.Unsuitable, match="chooses its own masks"):
        compared.CONTENDERS["kernel_shap"].run(table, 200, 0)


def test_places_of_a_game_reach_the_proxies(compared, tmp_path):
    games, rng = sys.modules["games"], np.random.default_rng(0)
    masks = rng.random((1300, 16)) < 0.5
    values = (2.0 * masks[:, :-1] - 1) * (2.0 * masks[:, 1:] - 1) @ rng.normal(size=15)
    for name, more in (("line", {"coordinates": np.arange(16.0)[:, None]}), ("scattered", {})):
        np.savez(tmp_path / f"{name}.npz", masks=np.packbits(masks, axis=1), n=16, values=values, **more)
    line, scattered = games.load(str(tmp_path))
    assert line.coordinates.shape == (16, 1)
    assert scattered.coordinates is None
    assert line.content != scattered.content
    answers = {
        (game.name, name): compared.CONTENDERS[name].run(game, 100, 0).predict(masks[100:])
        for game in (line, scattered)
        for name in ("walsh_gp", "walsh_gp, no places")
    }
    truth = values[100:]
    without = answers["line", "walsh_gp, no places"]
    assert oracle.r2(truth, answers["line", "walsh_gp"]) > oracle.r2(truth, without) + 0.05
    np.testing.assert_array_equal(without, answers["scattered", "walsh_gp"])
    np.testing.assert_array_equal(without, answers["scattered", "walsh_gp, no places"])


@pytest.mark.slow
def test_gradients_count_as_masks(compared, tiny):
    games = sys.modules["games"]
    value_fn = lenses.text(*tiny, "Nobody will miss the dull plot of a film that a cast cannot save", value="margin")
    game, contender = games.of_value_function("text", value_fn, 1), compared.CONTENDERS["auto, relevance"]
    passes = value_fn.relevance().passes
    answer = contender.run(game, 60, 0)
    np.testing.assert_array_equal(answer.masks, game.masks[: 60 - passes])
    without = compared.CONTENDERS["auto"].run(game, 60, 0)
    scores = [oracle.r2(game.values[60:], found.predict(game.masks[60:])) for found in (answer, without)]
    assert scores[0] > scores[1]
    with pytest.raises(compared.Unsuitable, match=f"gradients cost {passes}"):
        contender.run(game, passes + game.n - 1, 0)
    table = dataclasses.replace(game, live=None)
    with pytest.raises(compared.Unsuitable, match="has no gradients"):
        contender.run(table, 60, 0)
