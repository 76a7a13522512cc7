import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import spex
from spex_jax.core.walsh import subset_characters
from spex_jax.spex import candidates
from spex_jax.spex import lattice as lattice_lib

bins, same, score, solve, views = map(
    jax.jit, (lattice_lib.bins, lattice_lib.same, lattice_lib.score, lattice_lib.solve, lattice_lib.views)
)
model = jax.jit(lattice_lib.model, static_argnums=2)
lattice = jax.jit(lattice_lib.lattice, static_argnums=2)
Residual = lattice_lib.Residual
all_pairs, aligned = map(jax.jit, (candidates.all_pairs, candidates.aligned))
from_sums = jax.jit(candidates.from_sums, static_argnums=(1, 2, 3))
singles_and_pairs = jax.jit(candidates.singles_and_pairs, static_argnums=3)


@pytest.fixture(scope="module")
def made():
    return spex.design(9, 400, max_degree=2, seed=4)


def of(made):
    return lattice(jnp.asarray(made.matrices), jnp.asarray(uniform(made)), made.code)


def uniform(made):
    return made.masks[made.rows.max() + 1 :]


def seen(made, values):
    """Values as the decoder sees them, and the masks behind all that it sees."""
    coded = made.rows.max() + 1
    values = jnp.asarray(values, jnp.float32)
    asked = np.concatenate([made.rows.ravel(), np.arange(coded, len(made.masks))])
    return Residual(bins(values, made.rows), values[coded:]), asked


def some_sets(n, count, rng, degree=2):
    support = np.zeros((count, n), bool)
    for row in support:
        row[rng.choice(n, rng.integers(1, degree + 1), replace=False)] = True
    return np.unique(support, axis=0)


def test_a_model_is_the_transform_of_its_function(made, rng):
    sets = some_sets(9, 12, rng, degree=5)
    coefficients = rng.normal(size=len(sets))
    values = subset_characters(made.masks, sets) @ coefficients
    found = model(views(of(made), jnp.asarray(sets)), jnp.asarray(coefficients, jnp.float32), made.plan.b)
    expected = seen(made, values)[0]
    assert len(expected.values) > 30
    np.testing.assert_allclose(found.bins, expected.bins, atol=1e-5)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)


def test_a_score_is_the_correlation_over_the_masks_asked(made, rng):
    values = rng.normal(size=len(made.masks))
    sets = some_sets(9, 12, rng)
    left, asked = seen(made, values)
    expected = (subset_characters(made.masks, sets)[asked] * values[asked, None]).mean(axis=0)
    np.testing.assert_allclose(score(left, views(of(made), jnp.asarray(sets))), expected, atol=1e-5)
    np.testing.assert_allclose(left.standard_error(), np.sqrt(np.mean(values[asked] ** 2) / len(asked)), rtol=1e-4)


def test_least_squares_are_those_on_the_masks_asked(made, rng):
    sets = some_sets(9, 14, rng)
    values = rng.normal(size=len(made.masks))
    active = rng.integers(0, 2, len(sets)).astype(bool)
    left, asked = seen(made, values)
    start = jnp.asarray(rng.normal(size=len(sets)), jnp.float32)
    found = solve(left, views(of(made), jnp.asarray(sets)), jnp.asarray(active), start)
    expected = np.zeros(len(sets))
    expected[active] = np.linalg.lstsq(subset_characters(made.masks, sets[active])[asked], values[asked])[0]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_signs_tell_sets_apart(made):
    n = made.n
    sets = np.array([[i in (a, b) for i in range(n)] for a in range(n) for b in range(a, n)])
    at = views(of(made), jnp.asarray(sets))
    np.testing.assert_array_equal(same(at, at), np.eye(len(sets), dtype=bool))


@pytest.mark.parametrize(("n", "budget"), [(9, 400), (200, 1300)])
def test_the_single_and_the_pair_that_stand_out_are_found(n, budget, rng):
    design = spex.design(n, budget, max_degree=2, seed=1)
    sets = np.zeros((2, n), bool)
    sets[0, n // 2] = sets[1, [1, n - 2]] = True
    values = subset_characters(design.masks, sets) @ [0.7, 1.0] + 0.3 * rng.normal(size=len(design.masks))
    found = singles_and_pairs(seen(design, values)[0], of(design), jnp.ones(2), 2)
    assert {bytes(row) for row in np.asarray(found)} == {bytes(row) for row in sets}


def test_all_pairs_are_scored_as_one_by_one(made, rng):
    left = Residual(jnp.asarray(rng.normal(size=(3, 2**made.plan.b, made.plan.delays)), jnp.float32), jnp.zeros(0))
    found = np.asarray(all_pairs(left.bins, of(made))) / (3 * made.plan.delays)
    first, second = np.triu_indices(9, 1)
    sets = np.zeros((len(first), 9), bool)
    sets[np.arange(len(first)), first] = sets[np.arange(len(first)), second] = True
    expected = score(left, views(of(made).coded(), jnp.asarray(sets)))
    np.testing.assert_allclose(found[first, second], expected, atol=1e-5)


def test_a_lone_set_is_decoded_from_its_sum(rng):
    design = spex.design(50, 3000, max_degree=4, seed=2)
    sets = np.zeros((1, 50), bool)
    sets[0, [3, 17, 20, 44]] = True
    values = subset_characters(design.masks, sets)[:, 0] + 2.0 * rng.normal(size=len(design.masks))
    left = bins(jnp.asarray(values, jnp.float32), design.rows)
    found = from_sums(aligned(left), design.code, 5, 1024)
    assert (np.asarray(found) == sets[0]).all(axis=1).any()
    assert not np.asarray(from_sums(0 * aligned(left), design.code, 5, 1024)).any()
