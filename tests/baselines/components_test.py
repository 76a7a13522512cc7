"""Baselines on networks whose mechanism is known, and on functions of which everything is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import all_masks

from spex_jax import DeviceOptions, ValueFunction, baselines, evaluate, explain, lenses

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def circuits(load_program):
    return load_program("circuits")


@pytest.fixture(scope="module")
def lens(circuits):
    def make(name, value="logprob", count=32, **options):
        tokens, following = circuits.questions(100, count)
        target = None if value == "kl" else following
        return lenses.components(circuits.load(name), tokens, value=value, target=target, **options)

    return make


def effects(spectrum):
    """Of an additive spectrum, by unit."""
    values = spectrum(np.concatenate([np.ones((1, spectrum.n), bool), ~np.eye(spectrum.n, dtype=bool)]))
    return values[0] - values[1:]


def quadratic(rng, n=6):
    """f(m) = a m + m Q m of masks, and its parts."""
    weights, matrix = rng.normal(size=n).astype(np.float32), rng.normal(size=(n, n)).astype(np.float32)

    def fn(masks):
        m = masks.astype(jnp.float32)
        return m @ weights + jnp.einsum("bi,ij,bj->b", m, matrix, m)

    return ValueFunction(fn, n, on_device=True, device=DeviceOptions(relaxed=True)), weights, matrix


def test_additive_spectrum_is_the_sum_of_its_effects(rng):
    given = rng.normal(size=7)
    spectrum = baselines.additive_spectrum(given, 3.0)
    masks = all_masks(7)
    np.testing.assert_allclose(spectrum(masks), 3.0 - (~masks) @ given, atol=1e-12)
    with pytest.raises(ValueError, match="finite numbers"):
        baselines.additive_spectrum([[1.0]], 0.0)


def test_leave_one_out_is_what_each_unit_takes_away(rng):
    value_fn, _, _ = quadratic(rng)
    full = np.ones((1, 6), bool)
    expected = value_fn(full) - value_fn(~np.eye(6, dtype=bool))
    np.testing.assert_allclose(effects(baselines.leave_one_out(value_fn, progress=False)), expected, atol=1e-5)
    host = baselines.leave_one_out(lambda masks: masks.sum(axis=1) * 2.0, 4, progress=False)
    np.testing.assert_allclose(effects(host), 2.0)
    with pytest.raises(ValueError, match="needs n"):
        baselines.leave_one_out(lambda masks: masks.sum(axis=1))


def test_gradients_of_a_quadratic_function(rng):
    value_fn, weights, matrix = quadratic(rng)
    both = matrix.sum(axis=1) + matrix.sum(axis=0)
    at_full = effects(baselines.attribution_patching(value_fn, progress=False))
    np.testing.assert_allclose(at_full, weights + both, rtol=1e-5)
    # Midpoints are exact for a quadratic function, and the effects are complete.
    along = effects(baselines.integrated_gradients(value_fn, steps=3, progress=False))
    np.testing.assert_allclose(along, weights + both / 2, rtol=1e-5)
    full, none = value_fn(np.array([[True] * 6, [False] * 6]))
    assert along.sum() == pytest.approx(full - none, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("removal", ["zero", "mean"])
def test_attribution_patching_is_what_small_changes_say(lens, removal):
    value_fn, step = lens("backup", removal=removal, count=8), 1e-2
    found = effects(baselines.attribution_patching(value_fn, progress=False))
    for unit in range(8):
        near = np.ones((2, 8), np.float32)
        near[:, unit] = [1 + step, 1 - step]
        high, low = np.asarray(value_fn.fn(jnp.asarray(near)), np.float64)
        assert found[unit] == pytest.approx((high - low) / (2 * step), rel=0.05, abs=5e-5)


@pytest.mark.slow
def test_integrated_gradients_of_a_network_are_complete(lens):
    value_fn = lens("induction", count=8)
    found = baselines.integrated_gradients(value_fn, steps=64, progress=False)
    both = np.array([[True] * 8, [False] * 8])
    np.testing.assert_allclose(found(both), evaluate(value_fn, both, progress=False), atol=0.02)


@pytest.mark.slow
def test_induction_needs_both_heads_and_singles_count_it_twice(lens):
    """Ground truth: the previous-token head and the induction head are the strongest pair, a synergy."""
    found = explain(lens("induction"), budget=256, progress=False)
    interactions = found.interactions("FSII", 2)
    (pair, strength), *rest = interactions.top(36)
    assert (pair, strength > 4) == ((3, 5), True)  # L0H3 + L1H1
    assert all(abs(value) < 0.1 * strength for _, value in rest)
    alone = effects(baselines.leave_one_out(lens("induction"), progress=False))
    whole = float(found.values[found.masks.all(axis=1)][0] - found.values[~found.masks.any(axis=1)][0])
    assert min(alone[[3, 5]]) > 0.9 * whole
    assert alone.sum() > 1.9 * whole


def test_a_backup_head_hides_from_single_ablations(lens):
    """Ground truth: two heads stand in for each other. Removed alone neither matters; their pair is a redundancy."""
    found = explain(lens("backup"), budget=256, progress=False)
    pairs = found.interactions("FSII", 2).order(2)
    assert pairs[(4, 5)] < -2  # L1H0 + L1H1
    assert all(value > -0.2 for key, value in pairs.items() if key != (4, 5))
    alone = effects(baselines.leave_one_out(lens("backup"), progress=False))
    assert np.abs(alone[[4, 5]]).max() < 0.05
    without = np.ones((1, 8), bool)
    without[0, [4, 5]] = False
    assert evaluate(lens("backup"), without, progress=False)[0] < -3


def test_acdc_finds_the_circuit(lens):
    found = baselines.acdc(lens("induction", "kl"), [0.05, 100.0])
    np.testing.assert_array_equal(found.masks[0].nonzero()[0], [3, 5])
    assert not found.masks[1].any()
    assert found.values[0] < 0.05 < found.values[1]
    assert found.asked < 2 * 8
    # Of two heads that stand in for each other it keeps the one that is tried later.
    backup = baselines.acdc(lens("backup", "kl"), 0.1)
    np.testing.assert_array_equal(backup.masks[0].nonzero()[0], [3, 4])
    turned = baselines.acdc(lens("backup", "kl"), 0.1, order=[7, 6, 4, 5, 3, 2, 1, 0])
    np.testing.assert_array_equal(turned.masks[0].nonzero()[0], [3, 5])
    # High is good of a log-probability.
    good = baselines.acdc(lens("induction"), 0.05)
    np.testing.assert_array_equal(good.masks, found.masks[:1])


def test_bad_input(lens, rng):
    value_fn, _, _ = quadratic(rng)
    with pytest.raises(ValueError, match="relaxed=True"):
        baselines.attribution_patching(ValueFunction(lambda masks: masks.sum(axis=1), 3))
    with pytest.raises(ValueError, match="no gradient"):
        baselines.attribution_patching(lens("induction", "accuracy"))
    with pytest.raises(ValueError, match="its gradient is 0"):
        baselines.attribution_patching(lens("induction", "kl"))
    each = lens("induction", count=8, per_prompt=True)
    assert len(baselines.leave_one_out(each)) == 8
    with pytest.raises(ValueError, match="one value for each mask"):
        baselines.acdc(each, 0.1)
    with pytest.raises(ValueError, match="needs a ValueFunction"):
        baselines.acdc(lambda masks: masks.sum(axis=1), 0.1)
    with pytest.raises(ValueError, match="leave n out"):
        baselines.leave_one_out(value_fn, 3)
    with pytest.raises(ValueError, match="steps"):
        baselines.integrated_gradients(value_fn, steps=0)
    with pytest.raises(ValueError, match="once"):
        baselines.acdc(value_fn, 0.1, order=[0, 0, 1, 2, 3, 4])
    with pytest.raises(ValueError, match="thresholds"):
        baselines.acdc(value_fn, [np.nan])
