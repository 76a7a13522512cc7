import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import ValueFunction


def test_call_and_describe():
    value_fn = ValueFunction(lambda m: m.sum(axis=1), 3, names=["a", "b", "c"])
    assert value_fn([[True, False, True]]).tolist() == [2.0]
    assert value_fn.describe() == "n = 3 features, on the host, one value a mask: a, b, c"
    device = ValueFunction(lambda m: m[:, :3].sum(axis=1) * 1.5, 3, on_device=True, width=8)
    assert device(jnp.array([[True, True, False]])).tolist() == [3.0]
    assert device.names == ("0", "1", "2")
    assert device.outputs == ()
    assert "on the device" in device.describe()


@pytest.mark.parametrize(
    ("fn", "n", "options", "message"),
    [
        (3, 3, {}, "must be callable"),
        (len, 0, {}, "at least 1 feature"),
        (len, 2.0, {}, "whole number"),
        (len, 3, {"names": ["a"]}, "names must be 3 strings"),
        (len, 3, {"names": "abc"}, "names must be 3 strings"),
        (len, 3, {"width": 2}, "width must be at least n = 3"),
    ],
)
def test_wrong_arguments(fn, n, options, message):
    with pytest.raises(ValueError, match=message):
        ValueFunction(fn, n, **options)


def test_values_are_checked():
    with pytest.raises(ValueError, match="not finite"):
        ValueFunction(lambda m: np.full(len(m), np.nan), 2)(np.ones((1, 2), bool))
    with pytest.raises(ValueError, match="masks must have shape"):
        ValueFunction(lambda m: m.sum(axis=1), 2)(np.ones((1, 3), bool))
