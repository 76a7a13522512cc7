"""What is said to a value function that does not answer as one should, and that the likely remedy works."""

import asyncio

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax
from spex_jax import ValueFunction, evaluate

N = 6
WEIGHTS = np.arange(1.0, N + 1)
MASKS = np.arange(2**N)[:, None] >> np.arange(N) & 1 > 0


def sizes_of(values):
    return values @ WEIGHTS


async def asynchronous(masks):
    return sizes_of(masks)


ONE_MASK = {
    "reads one entry": lambda mask: mask[0] * 2.0,
    "a Python number": lambda mask: float(mask @ WEIGHTS),
    "a condition": lambda mask: 1.0 if mask[3] else 0.0,
    "weights first": lambda mask: WEIGHTS @ mask,
    "a sum": lambda mask: mask.sum(),
}


@pytest.mark.parametrize("rows", [1, N - 1, N, N + 1, 2**N])
@pytest.mark.parametrize("kind", ONE_MASK)
def test_a_function_of_one_mask_is_recognised(kind, rows):
    """Above all where there are as many masks as features, and its numbers have the right shape."""
    with pytest.raises(
        ValueError, match=r"takes one mask and not several: give np.vectorize\(f, signature='\(n\)->\(\)'"
    ):
        evaluate(ONE_MASK[kind], MASKS[:rows], progress=False)
    mapped = np.vectorize(ONE_MASK[kind], signature="(n)->()")
    expected = [ONE_MASK[kind](mask) for mask in MASKS[:rows]]
    np.testing.assert_array_equal(evaluate(mapped, MASKS[:rows], progress=False), expected)


@pytest.mark.parametrize("rows", [N, 8])
@pytest.mark.parametrize(
    "fn", [lambda mask: mask[0] * 2.0, lambda mask: jnp.dot(WEIGHTS, mask), lambda mask: mask.sum()]
)
def test_a_device_function_of_one_mask_is_recognised(fn, rows):
    with pytest.raises(ValueError, match=r"takes one mask and not several: give jax.vmap\(f\)"):
        evaluate(ValueFunction(fn, N, on_device=True), MASKS[:rows], batch_size=rows, progress=False)
    values = evaluate(ValueFunction(jax.vmap(fn), N, on_device=True), MASKS[:rows], batch_size=rows, progress=False)
    np.testing.assert_allclose(values, [fn(mask) for mask in MASKS[:rows]])


def test_a_device_function_of_even_batches_is_none_of_one_mask():
    """Which is asked with as many masks as features, and could not answer one more."""

    def fn(masks):
        return (masks.reshape(-1, 2, 4) @ jnp.arange(4.0)).reshape(-1)

    masks = np.eye(4, dtype=bool)
    values = evaluate(ValueFunction(fn, 4, on_device=True), masks, batch_size=4, progress=False)
    np.testing.assert_array_equal(values, np.arange(4.0))


@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_masks_as_features_are_no_reason_to_refuse(workers):
    asked = []

    def fn(masks):
        asked.append(len(masks))
        return sizes_of(masks)

    values = evaluate(ValueFunction(fn, N, workers=workers), MASKS[:30], batch_size=N, progress=False)
    np.testing.assert_array_equal(values, sizes_of(MASKS[:30]))
    assert sum(asked) == 30
    if workers == 1:
        assert asked == [N - 1, 1, N, N, N, N]


def test_several_outputs_of_one_mask_are_recognised():
    fn = ValueFunction(lambda mask: mask[:2] * 1.0, N, outputs=(2,))
    with pytest.raises(ValueError, match=r"signature='\(n\)->\(a\)'"):
        evaluate(fn, MASKS, progress=False)


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        (lambda values: (values, {"loss": 1.0}), r"a tuple for masks .* give lambda masks: f\(masks\)\[0\]"),
        (lambda values: (values, values), r"shape \(2, 64\) .* give lambda masks: f\(masks\)\[0\]"),
        (lambda values: [values, None], r"a list .* give lambda masks: f\(masks\)\[0\]"),
        (lambda values: {"logits": values}, "a dict .* the keys 'logits'"),
        (lambda values: None, "returned nothing"),
        (lambda values: np.stack([values] * 3, 1), r"f\(masks\)\[:, 0\], or explain each: .*outputs=\(3,\)"),
        (lambda values: values[:, None], r"choose one, lambda masks: f\(masks\)\[:, 0\]"),
        (
            lambda values: values[:-1],
            r"shape \(63,\) for masks \(64, 6\); expected shape \(64,\), one value for each mask$",
        ),
    ],
)
def test_other_answers_get_advice(returns, said):
    for fn in (lambda masks: returns(sizes_of(masks)), ValueFunction(lambda masks: returns(sizes_of(masks)), N)):
        with pytest.raises(ValueError, match=said):
            evaluate(fn, MASKS, progress=False)
    with pytest.raises(ValueError, match=said):
        fn(MASKS)


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        (lambda values: (values, 1.0), r"a tuple .* give lambda masks: f\(masks\)\[0\]"),
        (lambda values: {"logits": values}, "the keys 'logits'"),
        (lambda values: jnp.stack([values] * 3, 1), r"f\(masks\)\[:, 0\], or explain each"),
    ],
)
def test_other_answers_of_a_device_function_get_advice(returns, said):
    fn = ValueFunction(lambda masks: returns(masks @ WEIGHTS), N, on_device=True)
    with pytest.raises(ValueError, match=said):
        evaluate(fn, MASKS, progress=False)


def test_asynchronous_functions_are_recognised():
    with pytest.raises(ValueError, match=r"asyncio.run\(f\(masks\)\)"):
        evaluate(asynchronous, MASKS, progress=False)
    values = evaluate(lambda masks: asyncio.run(asynchronous(masks)), MASKS, progress=False)
    np.testing.assert_array_equal(values, sizes_of(MASKS))


@pytest.mark.parametrize("kind", ["host", "thread", "device", "asynchronous iterator"])
def test_an_iterator_that_ends_is_named(kind):
    def fn(masks):
        if kind == "asynchronous iterator":
            raise StopAsyncIteration
        return next(iter(()))

    options = {"device": {"on_device": True}, "thread": {"workers": 2, "timeout": 10.0}}.get(kind, {})
    with pytest.raises(
        ValueError, match=r"raised Stop(Async)?Iteration: an iterator that it reads has come to its end"
    ):
        evaluate(ValueFunction(fn, N, **options), MASKS, progress=False)


def test_what_is_traced_is_refused():
    def explained(x):
        return spex_jax.explain(
            lambda masks: sizes_of(masks) * x, N, method="banzhaf", budget=64, progress=False
        ).values

    with pytest.raises(ValueError, match=r"call it outside of jax\.jit"):
        jax.jit(explained)(2.0)
    with pytest.raises(ValueError, match="returned a traced value"):
        jax.vmap(explained)(jnp.arange(3.0))
    design = spex_jax.spex.design(10, 200, max_degree=1)
    for call in (
        lambda x: spex_jax.proxyspex.fit(MASKS, x * sizes_of(MASKS)).coefficients,
        lambda x: spex_jax.spex.decode(design, x * design.masks.sum(axis=1)).coefficients,
    ):
        with pytest.raises(ValueError, match="traced"):
            jax.jit(call)(2.0)
        with pytest.raises(ValueError, match="values are traced"):
            jax.grad(lambda x, call=call: call(x)[0])(2.0)
    with pytest.raises(ValueError, match=r"a fit works on the host, .* call it outside of jax\.jit"):
        jax.jit(lambda x: x * spex_jax.proxyspex.fit(MASKS, sizes_of(MASKS)).coefficients)(2.0)
