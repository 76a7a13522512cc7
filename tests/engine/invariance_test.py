import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax
from spex_jax import check_batch_invariance, explain


def honest(masks):
    return masks @ np.arange(1.0, masks.shape[1] + 1)


def of_neighbours(masks):
    return honest(masks) + 0.01 * masks.mean()


def of_place(masks):
    return honest(masks) + 0.01 * (np.arange(len(masks)) % 2)


def of_nothing(seed):
    rng = np.random.default_rng(seed)
    return lambda masks: honest(masks) + 0.01 * rng.normal(size=len(masks))


@pytest.mark.parametrize("place", ["host", "device"])
@pytest.mark.parametrize("n", [1, 3, 30])
def test_a_function_of_the_mask_alone(place, n):
    def fn(masks):
        return honest(masks) if place == "host" else masks @ jnp.arange(1.0, n + 1)

    found = check_batch_invariance(spex_jax.ValueFunction(fn, n, on_device=place == "device"))
    assert found.noise == found.alone == found.order == found.again == 0
    assert found.masks == min(32, 2**n)
    assert set(found.effects) <= set(np.arange(1.0, n + 1))
    assert found.spread > 0
    assert str(found).splitlines()[1].endswith("the noise exceeds a tenth of 0% of these effects")


@pytest.mark.parametrize(
    ("fn", "alone", "order", "again"),
    [(of_neighbours, True, False, False), (of_place, True, True, False), (of_nothing(0), True, True, True)],
)
def test_what_a_value_depends_on_is_told_apart(fn, alone, order, again):
    found = check_batch_invariance(fn, 20)
    assert (found.alone > 1e-4, found.order > 1e-4, found.again > 1e-4) == (alone, order, again)
    assert found.noise < 0.1
    assert f"{found.alone:.3g} when evaluated alone" in str(found)


@pytest.mark.parametrize("fn", [of_neighbours, of_place, of_nothing(1)])
def test_an_explanation_says_so(fn, tmp_path):
    def small(masks):
        return fn(masks) - 0.97 * honest(masks)  # effects of 0.03 to 0.24

    quiet = explain(small, 8, batch_size=16)
    assert np.isnan(quiet.noise)
    assert "warning" not in str(quiet)
    found = explain(small, 8, check_invariance=True, batch_size=16)
    assert 1e-4 < found.noise < 0.1
    assert "warning: Values changed by up to 0.0" in str(found)
    assert "more than a tenth of the smallest effect shown" in str(found)
    found.to_html(tmp_path / "page.html")
    assert "check_batch_invariance" in (tmp_path / "page.html").read_text()
    found.save(tmp_path / "e")
    assert spex_jax.Explanation.load(tmp_path / "e").noise == found.noise
    fine = explain(honest, 8, check_invariance=True)
    assert fine.noise == 0
    assert "warning" not in str(fine)


def test_a_device_function_is_checked_in_the_free_places_of_its_last_batch():
    def fn(masks):
        return masks @ jnp.arange(1.0, 13) + 0.5 * masks.mean()

    assert explain(spex_jax.ValueFunction(fn, 12, on_device=True), budget=310).noise > 1e-4
    assert np.isnan(explain(spex_jax.ValueFunction(fn, 12, on_device=True), budget=256).noise)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((honest,), {}, "needs n"),
        ((honest, 5), {"masks": 1}, "masks must be"),
        ((spex_jax.ValueFunction(honest, 5, outputs=(2,)),), {}, "one value for each mask"),
    ],
)
def test_wrong_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        check_batch_invariance(*arguments, **options)
