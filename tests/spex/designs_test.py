import numpy as np
import pytest

from spex_jax import spex
from spex_jax.spex.candidates import crowd


@pytest.mark.parametrize(
    ("n", "budget", "expected"), [(10, 1000, (3, 5)), (10, 450, (3, 3)), (7, 800, (3, 5)), (1000, 17_280, (7, 4))]
)
def test_plans(n, budget, expected):
    planned = spex.plan(n, budget, max_degree=4 if n == 1000 else "auto")
    assert (planned.b, planned.t) == expected
    assert planned.coded <= budget
    assert planned.coded == 3 * planned.delays * 2**planned.b


@pytest.mark.parametrize(("n", "budget", "degree"), [(6, 900, 2), (20, 1600, 4), (100, 3000, 5)])
def test_the_masks_are_those_of_the_lattice(n, budget, degree):
    made = spex.design(n, budget, max_degree=degree, seed=3)
    assert len(made.masks) == min(budget, 2**n)
    assert len(np.unique(made.masks, axis=0)) == len(made.masks)
    assert made.rows.shape == (3, made.plan.delays, 2**made.plan.b)
    rng = np.random.default_rng(0)
    for _ in range(50):
        c, p, place = (int(rng.integers(size)) for size in made.rows.shape)
        digits = np.array([place >> i & 1 for i in range(made.plan.b)])
        expected = made.matrices[c].astype(int) @ digits
        if p:
            expected = expected + made.code.parity[p - 1]
        np.testing.assert_array_equal(made.masks[made.rows[c, p, place]], expected % 2 == 1)
    for matrix in made.matrices:  # every subset of columns adds up to something
        combinations = np.arange(1, 2**made.plan.b)[:, None] >> np.arange(made.plan.b) & 1
        assert ((combinations @ matrix.T.astype(int)) % 2).any(axis=1).all()


def test_the_seed_decides():
    first, second, other = (spex.design(30, 1500, max_degree=3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.masks, second.masks)
    assert (first.masks != other.masks).any()


@pytest.mark.parametrize(
    ("n", "budget", "degree", "message"),
    [
        (10, 0, 2, "budget must be a whole number of at least 1, got 0"),
        (10, -5, 2, "budget must be a whole number"),
        (10, 1.5, 2, "budget must be a whole number"),
        (10, 450, 5, r"a budget of 450 is too small .* at least 504 ablations are needed, or a smaller max_degree"),
        (10, 20, "auto", "at least 120 ablations"),
        (1, 100, 1, "at least 2 features"),
        (4, 1000, 5, "max_degree must be from 1 to 4 for 4 features"),
        (40, 10_000, 9, "max_degree must be from 1 to 8"),
        (40, 10_000, "most", "or 'auto', got 'most'"),
    ],
)
def test_what_cannot_be_planned(n, budget, degree, message):
    with pytest.raises(ValueError, match=message):
        spex.design(n, budget, max_degree=degree)


@pytest.mark.parametrize("n", [2, 5, 30, 1000])
@pytest.mark.parametrize("degree", [1, 2, "auto"])
def test_the_least_budget_can_be_planned_and_no_smaller_one(n, degree):
    least = spex.least_budget(n, max_degree=degree)
    assert spex.plan(n, least, max_degree=degree).coded == least
    with pytest.raises(ValueError, match=f"at least {least} ablations"):
        spex.plan(n, least - 1, max_degree=degree)


def test_what_the_transforms_leave_is_uniform_or_not_asked():
    budget = 2000
    made = spex.design(40, budget, max_degree=3)
    short = spex.design(40, budget, max_degree=3, leftover=False)
    coded = len(np.unique(short.rows))
    assert coded == len(short.masks) < budget == len(made.masks)
    np.testing.assert_array_equal(made.masks[:coded], short.masks)
    assert abs(made.masks[coded:].mean() - 0.5) < 0.02


def test_no_bin_is_crowded_by_single_features():
    made = spex.design(700, 1500, max_degree=2)
    for matrix in made.matrices:
        held = np.bincount(matrix @ (1 << np.arange(made.plan.b)), minlength=2**made.plan.b)
        assert held.max() <= crowd(700, made.plan.b)
