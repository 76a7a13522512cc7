import numpy as np
import oracle
import pytest
from planting import planted

from spex_jax import proxyspex
from spex_jax.core.walsh import subset_characters
from spex_jax.proxyspex import perceptrons, stacking, trees, walsh_gp
from spex_jax.proxyspex.preprocessing import prepare
from spex_jax.proxyspex.regression import linear


# The sizes are those of other tests, whose programs these share.
@pytest.mark.parametrize(
    ("proxy", "n", "rows"), [(walsh_gp, 24, 300), (trees, 24, 300), (perceptrons, 8, 60), (linear, 24, 300)]
)
def test_held_out_predictions_do_not_see_their_row(proxy, n, rows, rng, monkeypatch):
    monkeypatch.setattr(perceptrons, "_STEPS", 200)
    masks, values, _, _ = planted(n, rows, rng, noise=3.0)
    table = prepare(masks, values)
    fitted = proxy.fit(table, max_degree=5, seed=0)
    seen = np.mean((table.values - fitted.spectrum(table.masks)) ** 2)
    left_out = np.mean((table.values - fitted.held_out()) ** 2)
    assert left_out >= seen  # equal where nothing was found
    assert fitted.held_out().shape == (rows,)


def test_the_stack_is_the_better_mixture(rng):
    values = rng.normal(size=200)
    good, bad = values + 0.3 * rng.normal(size=200), rng.normal(size=200)
    weights = stacking.stack_weights(np.stack([good, bad]), values)
    assert weights.min() >= 0
    assert weights[0] > 5 * weights[1]
    mixed = np.mean((values - weights @ np.stack([good, bad])) ** 2)
    assert mixed <= min(np.mean((values - good) ** 2), np.mean(values**2)) + 1e-12


def test_few_rows_keep_to_the_first_member(rng):
    values = rng.normal(size=20)
    members = np.stack([values + rng.normal(size=20), values + rng.normal(size=20)])
    free, drawn = stacking.stack_weights(members, values), stacking.stack_weights(members, values, 1e6)
    np.testing.assert_allclose(drawn, [1, 0], atol=1e-3)
    assert np.abs(free - drawn).max() > 0.1


def test_a_function_without_a_hierarchy_goes_to_linear(rng):
    """Triples whose parts do not matter: walsh_gp and trees see little of them, and the stack is as good as linear."""
    support = np.zeros((12, 30), bool)
    for row in support:
        row[rng.choice(30, 3, replace=False)] = True
    masks = rng.integers(0, 2, (1500, 30)).astype(bool)
    values = subset_characters(masks, support) @ rng.uniform(1, 2, 12)
    fitted = {proxy: proxyspex.fit(masks[:300], values[:300], proxy=proxy) for proxy in ("auto", "walsh_gp")}
    assert oracle.r2(values[300:], fitted["walsh_gp"](masks[300:])) < 0.9
    assert oracle.r2(values[300:], fitted["auto"](masks[300:])) > 0.99
    assert fitted["auto"].variances is not None
    found = fitted["auto"].interactions("Fourier", max_order=3)
    assert {members for members, _ in found.top(12)} == {tuple(np.flatnonzero(row)) for row in support}
