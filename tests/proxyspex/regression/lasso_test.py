import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from planting import planted

from spex_jax.core.walsh import signs, subset_characters
from spex_jax.proxyspex.regression import lasso


def descend(x, y, penalty, sweeps=2000):
    """The lasso by coordinate descent on the whole design matrix, in float64."""
    c, residual = np.zeros(x.shape[1]), y.copy()
    for _ in range(sweeps):
        for k in range(x.shape[1]):
            target = c[k] + x[:, k] @ residual / len(y)
            new = np.sign(target) * max(abs(target) - penalty, 0)
            residual += x[:, k] * (c[k] - new)
            c[k] = new
    return c


@pytest.mark.parametrize("max_degree", [1, 2])
def test_the_path_is_that_of_coordinate_descent(max_degree, rng):
    n, rows, steps = 6, 60, 24
    masks, values, _, _ = planted(n, rows, rng, noise=1.0)
    rows = len(values)
    values = (values - values.mean()) / values.std()
    sets = [c for size in range(1, max_degree + 1) for c in itertools.combinations(range(n), size)]
    support = np.array([[i in c for i in range(n)] for c in sets])
    x = subset_characters(masks, support).astype(float)
    everything = jnp.ones((1, rows))
    found = lasso.lasso_path(
        signs(masks),
        values.astype(np.float32),
        everything,
        everything,
        np.ones(n, bool),
        steps,
        max_degree=max_degree,
    )
    working, both, errors, predictions, taken = map(np.asarray, found)
    assert taken == steps
    penalty = np.abs(x.T @ values / rows).max() * lasso._SMALLEST ** (steps / lasso.PENALTIES)
    expected = descend(x, values, penalty)
    got = {tuple(np.flatnonzero(row)): c for row, c in zip(working[0], both[0, 0], strict=True) if c}
    for members, value in zip(sets, expected, strict=True):
        assert got.get(members, 0.0) == pytest.approx(value, abs=2e-4)
    assert set(got) <= set(sets)
    fitted = x @ expected
    np.testing.assert_allclose(predictions[0, 0], fitted, atol=2e-3)
    assert errors[0, 0, steps - 1] == pytest.approx(np.mean((values - fitted) ** 2), abs=1e-3)
    # The other kind: least squares on what the lasso selects.
    active = x[:, [members in got for members in sets]]
    refitted = active @ np.linalg.lstsq(active, values, rcond=None)[0]
    assert errors[0, 1, steps - 1] == pytest.approx(np.mean((values - refitted) ** 2), abs=2e-3)


def test_longer_sets_grow_from_what_is_active(rng):
    """A chain {0}, {0, 1}, ..., {0, 1, 2, 3}: the optimality conditions hold for every extension of an active set."""
    support = np.tril(np.ones((4, 20), bool))[:, :20]
    masks = rng.integers(0, 2, (400, 20)).astype(bool)
    values = subset_characters(masks, support) @ np.array([2.0, 1.5, 1.2, 1.0])
    values -= values.mean()
    everything = jnp.ones((1, 400))
    found = lasso.lasso_path(
        signs(masks), values.astype(np.float32), everything, everything, np.ones(20, bool), 20, max_degree=4
    )
    sets, sizes = np.asarray(found[0])[0], np.asarray(found[1])[0, 0]
    got = {tuple(np.flatnonzero(row)): c for row, c in zip(sets, sizes, strict=True) if c}
    assert {(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)} <= set(got)
    active = np.array([[i in c for i in range(20)] for c in got])
    residual = values - subset_characters(masks, active) @ np.array(list(got.values()))
    penalty = min(abs(subset_characters(masks, active).T @ residual / 400))
    for members in got:
        if 2 <= len(members) < 4:
            for i in set(range(20)) - set(members):
                longer = np.array([[j in {*members, i} for j in range(20)]])
                assert abs(subset_characters(masks, longer).T @ residual / 400) <= 1.05 * penalty
