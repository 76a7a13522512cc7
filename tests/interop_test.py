import ast
import pathlib
import pickle
import sys

import numpy as np
import pytest

import spex_jax
from spex_jax import interop


@pytest.fixture(scope="module")
def shapiq():
    return pytest.importorskip("shapiq")


class Game:
    """A game on n players that keeps the coalitions it was asked."""

    def __init__(self, n):
        self.n, self.asked = n, np.zeros((0, n), bool)

    def __call__(self, coalitions):
        assert coalitions.dtype == np.bool_
        self.asked = np.concatenate([self.asked, coalitions])
        return 2.5 + coalitions[:, 0] - 3.0 * coalitions[:, 1] * coalitions[:, 4] + 0.01 * coalitions[:, :5].all(axis=1)


@pytest.mark.parametrize("index", ["SV", "k-SII", "SII", "BII", "FBII", "Moebius"])
def test_estimates(shapiq, index):
    game = Game(9)
    approximator = interop.ShapiqApproximator(9, 2, index, random_state=0, proxy="linear")
    assert isinstance(approximator, shapiq.approximator.base.Approximator)
    found = approximator.approximate(120, game)
    assert len(np.unique(game.asked, axis=0)) == len(game.asked) == 120
    assert (found.index, found.n_players, found.max_order) == (index, 9, 1 if index == "SV" else 2)
    assert (found.estimated, found.estimation_budget, found.min_order) == (True, 120, 0)
    assert found.baseline_value == 2.5
    if index in ("SV", "k-SII", "Moebius"):
        assert found[()] == 2.5
    truth = shapiq.ExactComputer(Game(9), n_players=9)(index, 2)
    assert found[(0,)] == pytest.approx(truth[(0,)], abs=0.02)
    assert found[(4, 1)] == pytest.approx(truth[(1, 4)], abs=0.02)
    assert approximator.explanation.faithfulness.r2 > 0.99
    assert approximator.interaction_lookup == found.interaction_lookup
    again = interop.ShapiqApproximator(9, 2, index, random_state=0, proxy="linear")(120, Game(9))
    assert again.interactions == found.interactions


def test_all_coalitions_give_the_exact_values(shapiq):
    for index in interop.ShapiqApproximator.valid_indices:
        found = interop.ShapiqApproximator(n=6, max_order=2, index=index).approximate(budget=1000, game=Game(6))
        truth = shapiq.ExactComputer(Game(6), n_players=6)(index, 1 if index in ("SV", "BV") else 2)
        assert (found.estimated, found.estimation_budget) == (False, 64)
        for members, value in truth.interactions.items():
            if len(members) <= 2:
                assert found[members] == pytest.approx(value, abs=1e-9), (index, members)


def test_top_order_and_a_single_player(shapiq):
    found = interop.ShapiqApproximator(6, 2, "STII", top_order=True).approximate(64, Game(6))
    assert (found.min_order, found.max_order, found.baseline_value) == (2, 2, 2.5)
    assert {len(members) for members in found.interactions} == {2}
    with pytest.warns(UserWarning, match="there is one feature"):
        single = interop.ShapiqApproximator(1, 1, "SV").approximate(10, lambda masks: 3.0 * masks[:, 0] + 1)
    assert (single[(0,)], single[()], single.estimation_budget) == (3.0, 1.0, 2)


def test_no_seed_is_another_answer_each_time(shapiq):
    approximator = interop.ShapiqApproximator(9, 1, "SV", proxy="linear")
    asked = []
    for _ in range(2):
        game = Game(9)
        approximator.approximate(100, game)
        asked.append({tuple(row) for row in game.asked.tolist()})
    assert asked[0] != asked[1]
    approximator.set_random_state(3)
    assert approximator.approximate(100, Game(9)).interactions == approximator.approximate(100, Game(9)).interactions


def test_a_budget_that_is_too_small(shapiq):
    game = Game(9)
    with pytest.raises(
        ValueError, match="a budget of 40 is too small for 9 features; the smallest possible budget is 62"
    ):
        interop.ShapiqApproximator(9).approximate(40, game)
    assert not len(game.asked)


def test_wrong_questions(shapiq):
    make = interop.ShapiqApproximator
    with pytest.raises(ValueError, match="unknown method 'magic'; expected one of proxyspex"):
        make(5, method="magic")
    with pytest.raises(ValueError, match="CHII"):
        make(5, index="CHII")
    with pytest.raises(ValueError, match="max_order must be a whole number of at least 1"):
        make(5, max_order=0)
    with pytest.raises(ValueError, match="n must be a whole number of at least 1"):
        make(0)
    with pytest.raises(ValueError, match="unknown options colour"):
        make(5, colour="red").approximate(32, Game(5))
    with pytest.raises(ValueError, match="not finite"):
        make(5).approximate(32, lambda masks: np.where(masks[:, 0], np.nan, 1.0))


def test_large_games_are_cheap_to_ask(shapiq):
    approximator = interop.ShapiqApproximator(1100, 2, "FSII")
    assert approximator.n == 1100
    assert pickle.loads(pickle.dumps(approximator)) == approximator


def test_explainers_of_shapiq_take_it(shapiq):
    class Normalized(shapiq.Game):  # type: ignore[name-defined]
        def value_function(self, coalitions):
            return Game(6)(coalitions)

    game = Normalized(6, normalize=True, normalization_value=2.5)
    approximator = interop.ShapiqApproximator(6, 2, "FSII", random_state=0)
    explainer = shapiq.AgnosticExplainer(game=game, index="FSII", max_order=2, approximator=approximator)
    values = explainer.explain(budget=64)
    assert values[(1, 4)] == pytest.approx(-3.0, abs=0.05)
    assert values.baseline_value == 0.0


def test_the_benchmark_of_shapiq_scores_it(shapiq):
    benchmark = pytest.importorskip("shapiq_benchmark", reason="shapiq has its benchmark from 1.8 on, for Python 3.12")

    class Nine(shapiq.Game):  # type: ignore[name-defined]
        def value_function(self, coalitions):
            return Game(9)(coalitions)

    class Linear(interop.ShapiqApproximator):
        def __init__(self, n, max_order, index, random_state):
            super().__init__(n, max_order, index, proxy="linear", random_state=random_state)

    made = benchmark.Benchmark(Nine(9, normalize=False))
    results = benchmark.run(made, {"ours": Linear}, [40, 120, 512], index="k-SII", order=2, with_faithfulness=True)
    assert results["status"].tolist() == ["failed", "ok", "ok"]
    assert "the smallest possible budget" in results["error"][0]
    assert results["mse"][1] < 1e-4
    assert results["mse"][2] < 1e-20
    assert results["scored_orders"][1] == "1-2"


def test_without_shapiq_the_class_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapiq", None)
    monkeypatch.setitem(sys.modules, "shapiq.approximator.base", None)
    with pytest.raises(ImportError, match=r"ShapiqApproximator needs the package shapiq: pip install"):
        interop._approximator_class.__wrapped__()
    with pytest.raises(AttributeError, match="no attribute 'Approximator'"):
        interop.Approximator  # noqa: B018


def test_nothing_imports_shapiq_or_pandas_when_it_is_loaded():
    for path in pathlib.Path(spex_jax.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in named} & {"shapiq", "pandas"}, path
