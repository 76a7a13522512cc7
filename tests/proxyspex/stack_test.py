import numpy as np
import pytest
from planting import planted

from spex_jax.proxyspex import mlp, stack, trees, walsh_gp
from spex_jax.proxyspex.table import prepare


@pytest.mark.parametrize("proxy", [walsh_gp, trees, mlp])
def test_held_out_predictions_do_not_see_their_row(proxy, rng):
    masks, values, _, _ = planted(10, 120, rng, noise=3.0)
    table = prepare(masks, values)
    fitted = proxy.fit(table, max_degree=3, seed=0)
    seen = np.mean((table.values - fitted.spectrum(table.masks)) ** 2)
    left_out = np.mean((table.values - fitted.held_out()) ** 2)
    assert left_out > seen
    assert fitted.held_out().shape == (120,)


def test_the_stack_is_the_better_mixture(rng):
    values = rng.normal(size=200)
    good, bad = values + 0.3 * rng.normal(size=200), rng.normal(size=200)
    weights = stack.stack_weights(np.stack([good, bad]), values)
    assert weights.min() >= 0
    assert weights[0] > 5 * weights[1]
    mixed = np.mean((values - weights @ np.stack([good, bad])) ** 2)
    assert mixed <= min(np.mean((values - good) ** 2), np.mean(values**2)) + 1e-12
