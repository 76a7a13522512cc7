import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import DeviceOptions, ValueFunction
from spex_jax.engine.value_function import HostOptions, as_value_function


def test_call_and_describe():
    value_fn = ValueFunction(lambda m: m.sum(axis=1), 3, names=["a", "b", "c"])
    assert value_fn([[True, False, True]]).tolist() == [2.0]
    assert value_fn.describe() == "n = 3 features, on the host, one value a mask: a, b, c"
    device = ValueFunction(lambda m: m[:, :3].sum(axis=1) * 1.5, 3, on_device=True, device=DeviceOptions(width=8))
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
        (len, 3, {"on_device": True, "device": DeviceOptions(width=2)}, "width must be at least n = 3"),
        (len, 3, {"device": DeviceOptions(relaxed=True)}, "device= is for functions on the device"),
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


def several(masks):
    return np.stack([masks[:, 0], masks[:, 1]], axis=1)


def test_the_plain_arguments_mean_the_record():
    value_fn = ValueFunction(len, 3, workers=4, timeout=10, retries=2, backoff=0.5)
    assert value_fn.host == HostOptions(workers=4, timeout=10, retries=2, backoff=0.5)
    assert ValueFunction(len, 3).host == HostOptions()
    with pytest.raises(ValueError, match="workers must be"):
        HostOptions(workers=0)


def test_the_width_is_that_of_the_record_or_n():
    assert ValueFunction(len, 3, on_device=True).width == 3
    assert ValueFunction(len, 3, on_device=True, device=DeviceOptions(width=8)).width == 8


def test_a_value_function_passes_the_border_as_it_is():
    value_fn = ValueFunction(several, 3, outputs=(2,))
    assert as_value_function(value_fn, None, "f", several=True) is value_fn
    assert as_value_function(value_fn, 3, "f", several=True) is value_fn


def test_a_callable_becomes_host_code():
    class WithN:
        n = 7  # of its own, which says nothing

        def __call__(self, masks):
            return masks.sum(axis=1)

    for fn in (WithN(), len):
        found = as_value_function(fn, 3, "f")
        assert (found.fn, found.n, found.on_device, found.outputs, found.identity) == (fn, 3, False, (), None)


@pytest.mark.parametrize(
    ("value_fn", "n", "message"),
    [
        (len, None, r"f needs n, the number of features, for a bare callable: f\(value_fn, n\)"),
        (len, 0, "at least 1 feature"),
        (3, 3, "must be callable"),
        (np.eye(3, dtype=bool), 3, "f evaluates a value function, and was given a table"),
        (ValueFunction(len, 4), 3, "n = 3 was given, but the value function has 4 features; leave n out"),
        (ValueFunction(several, 4, outputs=(2,)), None, r"f needs one value for each mask.* shape \(2,\)"),
    ],
)
def test_what_does_not_pass_the_border(value_fn, n, message):
    with pytest.raises(ValueError, match=message):
        as_value_function(value_fn, n, "f")
