"""What names a value function in a store: any two that give different values have different names, or none."""

import collections
import dataclasses
import enum
import functools
import importlib
import os
import pkgutil
import subprocess
import sys
import types
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import spex_jax
from spex_jax.fingerprints import fingerprint

P = jax.tree_util.Partial
W = np.arange(4.0)
LONG, OTHER = np.zeros(4000), np.eye(1, 4000, 2000)[0]


def of(fn):
    return fingerprint(fn, 4)


class Plain:
    def __init__(self, w):
        self.w = w

    def __repr__(self):
        return "Plain()"

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0

    def __call__(self, masks):
        return masks @ self.w


@dataclasses.dataclass(frozen=True)
class Hidden:
    w: Any = dataclasses.field(repr=False, compare=False)

    def __call__(self, masks):
        return masks @ self.w


@dataclasses.dataclass(slots=True, eq=False)
class Slots:
    w: Any

    def __call__(self, masks):
        return masks @ self.w


class Named(NamedTuple):
    w: Any

    def __call__(self, masks):
        return masks @ self.w


class Child(Hidden):
    def __call__(self, masks):
        return super().__call__(masks)


@jax.tree_util.register_pytree_node_class
class Scaled:
    def __init__(self, leaf, scale):
        self.leaf, self.scale = leaf, scale

    def tree_flatten(self):
        return (self.leaf,), self.scale

    @classmethod
    def tree_unflatten(cls, scale, leaves):
        return cls(*leaves, scale)

    def __call__(self, masks):
        return masks


class Network(nn.Module):
    width: int = 3
    activation: Any = nn.relu

    @nn.compact
    def __call__(self, x):
        return self.activation(nn.Dense(self.width)(x))


class Prepared(nn.Module):
    width: int = 3

    def setup(self):
        self.dense = nn.Dense(self.width)

    def __call__(self, x):
        return self.dense(x)


class Linear(nnx.Module):
    def __init__(self, seed):
        self.linear = nnx.Linear(3, 3, rngs=nnx.Rngs(seed))

    def __call__(self, x):
        return self.linear(x)


def closure(held):
    return lambda masks: masks * held


def default(held):
    def fn(masks, held=held):
        return masks * held

    return fn


def keyword(held):
    def fn(masks, *, held=held):
        return masks * held

    return fn


def written(text, name="fn", **known):
    """What a cell of a notebook defines."""
    space = {"__name__": "__main__", **known}
    exec(text, space)
    return space[name]


def cell_class(factor):
    cls = written(f"class Model:\n  def __call__(self, masks): return {factor} * masks\n  head = __call__", "Model")
    jax.tree_util.register_pytree_node(cls, lambda one: ((), None), lambda static, leaves: cls())
    return cls()


def derived(factor):
    fn = jax.custom_jvp(lambda x: factor * x)
    fn.defjvp(lambda primals, tangents: (primals[0], tangents[0]))
    return fn


def module(factor):
    made = types.ModuleType("helpers")
    exec(f"def inner(masks): return {factor} * masks\ndef helper(masks): return inner(masks)", made.__dict__)
    return made


CALLS = "def fn(masks): return helpers.helper(masks)"
CLASS = """
class Net:
    k = {k}
    def go(self, masks):
        return {c} * masks * self.k
def fn(masks):
    return Net().go(masks)
"""
PROPERTIES = """
class Net:
    @property
    def k(self):
        return {k}
    @staticmethod
    def c():
        return {c}
"""
DATACLASS = "import dataclasses\n@dataclasses.dataclass\nclass Net:\n  k: list = dataclasses.field"
KINDS = {"A": enum.Enum("A", {"one": 1, "two": 2}), "B": enum.Enum("B", {"one": 1, "two": 2})}

TRANSFORMS = (jax.jit, jax.vmap, jax.grad, jax.checkpoint, functools.cache)
DIFFERENT = {
    "fields that do not print": lambda: [P(Hidden(W)), P(Hidden(2 * W)), P(Hidden(W).__call__)],
    "a long field": lambda: [P(Hidden(LONG)), P(Hidden(OTHER)), P(Child(LONG)), P(Child(OTHER))],
    "slots": lambda: [P(Slots(W)), P(Slots(2 * W))],
    "a named tuple": lambda: [P(Named(LONG).__call__), P(Named(OTHER).__call__), Named(LONG), Named(OTHER)],
    "constants": lambda: [
        P(lambda m: 2 * m),
        P(lambda m: 3 * m),
        P(lambda m: 2.0 * m),
        P(lambda m: -m),
        P(lambda m: m),
    ],
    "names": lambda: [lambda m: m.sum(), lambda m: m.mean(), lambda m: jnp.sin(m), lambda m: jnp.cos(m)],
    "closures": lambda: [closure(held) for held in (1, True, 1.0, 1j, "1", b"1", None, (1,), [1], {1: 1}, 0.0, -0.0)],
    "arrays in closures": lambda: [closure(W), closure(2 * W), closure(jnp.asarray(W)), closure(W.astype(np.float32))],
    "long arrays in closures": lambda: [closure(LONG), closure(OTHER), closure([LONG]), closure({"w": OTHER})],
    "defaults": lambda: [default(1), default(2), keyword(1), keyword(2), default(LONG), default(OTHER)],
    "arguments": lambda: [P(jnp.dot, W), P(jnp.dot, 2 * W), P(jnp.dot, b=W), P(jnp.vdot, W), functools.partial(max, 1)],
    "partials of partials": lambda: [P(functools.partial(jnp.dot, held)) for held in (LONG, OTHER)],
    "static text": lambda: [P(jnp.sum, W, where) for where in ("a", "b")],
    "classes of a notebook": lambda: [cell_class(1), cell_class(2), P(cell_class(1).head), P(cell_class(2).head)],
    "static parts of a node": lambda: [Scaled(W, held) for held in (1, 2, "1", LONG, OTHER, closure(1), closure(2))],
    "types": lambda: [closure(held) for held in (jnp.float32, jnp.bfloat16, np.dtype(">f4"), np.float64, float)],
    "enums": lambda: [closure(KINDS[kind][name]) for kind in "AB" for name in ("one", "two")],
    "precisions": lambda: [closure(jax.lax.Precision.HIGHEST), closure(jax.lax.Precision.DEFAULT)],
    "sets": lambda: [closure(held) for held in ({1, 2}, {1, 3}, frozenset([1, 2]), {(1, 2)}, {"1", "2"})],
    "dictionaries": lambda: [closure(kind(a=a)) for kind in (dict, collections.OrderedDict) for a in (1, 2)],
    "slices": lambda: [closure(held) for held in (slice(3), slice(0, 3), range(3), slice(None, None, -1))],
    "keys": lambda: [closure(jax.random.key(seed, impl=how)) for seed in (0, 1) for how in ("rbg", "threefry2x32")],
    "weak types": lambda: [closure(jnp.asarray(2.0)), closure(jnp.asarray(2.0, jnp.float32)), closure(2.0)],
    "widths of Flax": lambda: [P(net(width).apply, {}) for net in (Network, Prepared) for width in (3, 4)],
    "functions of Flax": lambda: [P(Network(3, act).apply, {}) for act in (nn.relu, nn.gelu, closure(1), closure(2))],
    "layers of Flax": lambda: [P(nn.Sequential([nn.Dense(3), act]).apply, {}) for act in (nn.relu, nn.tanh)],
    "modules of nnx": lambda: [P(Linear(0)), P(Linear(1)), Linear(2)],
    "transformed": lambda: [
        *(
            how(closure(held))
            for how in (jax.jit, jax.vmap, jax.grad, jax.checkpoint, functools.cache)
            for held in (1, 2)
        ),
        jax.vmap(closure(1), in_axes=1),
    ],
    "derivatives": lambda: [derived(1), derived(2), closure(derived(1)), closure(derived(2)), jax.nn.relu],
    "optimisers": lambda: [
        optax.adam(0.1),
        optax.adam(0.2),
        optax.sgd(0.1, momentum=0.9),
        optax.sgd(0.1, momentum=0.8),
    ],
    "bound functions": lambda: [array.dot for array in (W, 2 * W, jnp.asarray(W), jnp.asarray(2 * W))],
    "functions of libraries": lambda: [np.sum, jnp.sum, jnp.add, np.add, np.matmul, jax.lax.add, max, min, str.lower],
    "globals": lambda: [written("def fn(masks): return SCALE * masks", SCALE=scale) for scale in (2, 3, LONG, OTHER)],
    "functions called": lambda: [
        written(f"def helper(masks): return {factor} * masks\ndef fn(masks): return helper(masks)") for factor in (2, 3)
    ],
    "functions called inside": lambda: [
        written(f"def helper(m): return {factor} * m\ndef fn(masks): return [helper(m) for m in masks]")
        for factor in (2, 3)
    ],
    "modules called": lambda: [written(CALLS, helpers=module(factor)) for factor in (2, 3)],
    "classes called": lambda: [written(CLASS.format(k=k, c=c)) for k, c in ((1, 1), (1, 2), (2, 1))],
    "properties": lambda: [closure(written(PROPERTIES.format(k=k, c=c), "Net")) for k, c in ((1, 1), (1, 2), (2, 1))],
    "dataclasses of a notebook": lambda: [
        closure(written(f"{DATACLASS}({given})", "Net")())
        for given in ("default=1", "default=2", "default_factory=list", "default_factory=lambda: [1]")
    ],
    "what was set on a dataclass": lambda: [P(extended(1)), P(extended(2)), P(Hidden(W))],
    "what was set on a function": lambda: [marked(1), marked(2)],
}


def extended(held):
    made = Hidden(W)
    object.__setattr__(made, "more", held)
    return made


def marked(held):
    fn = closure(1)
    fn.held = held
    return fn


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_functions_have_different_names(name):
    found = [of(fn) for fn in DIFFERENT[name]()]
    assert len(set(found)) == len(found)
    assert [of(fn) for fn in DIFFERENT[name]()] == found  # made anew, they are what they were


class Unreadable:
    def __getattr__(self, name):
        raise RuntimeError("not now")


class Ordered(collections.OrderedDict):
    pass


def circle():
    made = []
    made.append(made)
    return made


def deep():
    made = ()
    for _ in range(5000):
        made = (made,)
    return made


REFUSED = {
    "an object": (lambda: P(Plain(W)), "the class Plain may hold anything"),
    "a method of an object": (lambda: P(Plain(W).__call__), "method Plain.__call__.*the class Plain may hold anything"),
    "an object in a closure": (lambda: closure(Plain(W)), "variable 'held', the function closure.*Plain"),
    "an object in a dataclass": (lambda: P(Hidden(Plain(W))), "field 'w', a Hidden"),
    "an object as a static part": (lambda: Scaled(W, Plain(W)), "the static part of a Scaled"),
    "a global object": (lambda: written("def fn(m): return model(m)", model=Plain(W)), "global 'model'"),
    "objects in an array": (lambda: closure(np.array([{}])), "dtype object"),
    "records": (lambda: closure(np.zeros(2, [("a", "f4")])), "whose bytes are not its values"),
    "strings of any length": (lambda: closure(np.array(["a"], np.dtypes.StringDType())), "whose bytes are not"),
    "a masked array": (lambda: closure(np.ma.array([1, 2], mask=[0, 1])), "MaskedArray, which may hold more"),
    "a generator": (lambda: closure(np.random.default_rng(0)), "the class Generator may hold anything"),
    "a subclass of a dictionary": (lambda: closure(Ordered(a=1)), "the class Ordered"),
    "a subclass of a number": (lambda: closure(type("Two", (int,), {})(2)), "the class Two"),
    "a set of functions": (lambda: closure({len}), "a set with members of the class"),
    "a circle": (lambda: closure(circle()), "it contains itself"),
    "a depth": (lambda: closure(deep()), "nested too deeply"),
    "a vectorised function": (lambda: closure(np.frompyfunc(max, 2, 1)), "ufunc"),
    "a deleted array": (lambda: closure(deleted()), "deleted or donated"),
    "what cannot be read": (lambda: closure(Unreadable()), "a part of it cannot be read .*RuntimeError: not now"),
    "a bound module": (lambda: P(Network().bind({})), "Network is bound to its variables"),
}


def deleted():
    array = jnp.ones(3)
    array.delete()
    return array


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_hold_anything_is_refused(name, tmp_path):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        of(make())
    value_fn = spex_jax.ValueFunction(make(), 4, on_device=True)
    with pytest.raises(ValueError, match=rf'give store_key="\.\.\." or ValueFunction\(identity=.*{message}'):
        spex_jax.evaluate(value_fn, np.ones((1, 4), bool), store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_traced_arrays_have_no_name():
    def look(array):
        with pytest.raises(ValueError, match="is traced"):
            of(closure(array))
        return array

    jax.make_jaxpr(look)(W)


def test_leaves_are_known_by_values_dtypes_and_shapes_wherever_they_are():
    ones = jnp.ones(4)
    same = of(Scaled(ones, 1))
    assert same == of(Scaled(np.ones(4, np.float32), 1)) == of(Scaled(jnp.ones(4), 1))
    others = [ones.at[2].set(2), jnp.ones((2, 2)), ones.astype(jnp.bfloat16), ones.astype(jnp.int32), np.ones(4)]
    found = [same, *(of(Scaled(leaf, 1)) for leaf in others), of(Scaled(ones[:0], 1))]
    assert len(set(found)) == len(found)


def test_features_outputs_and_settings_are_part_of_it():
    fn = closure(1)
    found = [fingerprint(fn, 4), fingerprint(fn, 5), fingerprint(fn, 4, (1,)), fingerprint(fn, 4, (2, 1))]
    with jax.default_matmul_precision("float32"):
        found.append(of(fn))
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        found.append(of(fn))
    with jax.enable_x64(True):
        found.append(of(fn))
    assert len(set(found)) == len(found)


def test_an_array_that_numpy_changes_in_place_is_read_again():
    raw = np.zeros(4096 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    numbers = raw[start : start + 4096].view(np.float32)
    array = jax.device_put(numbers)
    before = of(P(jnp.dot, array))
    numbers[7] = 1
    assert of(P(jnp.dot, array)) == of(P(jnp.dot, jnp.array(array)))
    assert (of(P(jnp.dot, array)) == before) == (float(array[7]) == 0)


PROGRAM = """
import jax, jax.numpy as jnp, flax.linen as nn
from spex_jax.fingerprints import fingerprint

class Net(nn.Module):
    width: int = 3
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(self.width)(x))

def helper(masks):
    return masks.sum() if len(masks) else fn(masks)

def fn(masks):
    return helper(masks) * len({"a", "b"} | {"c"})

print(fingerprint(jax.tree_util.Partial(Net().apply, {"w": jnp.ones(3)}), 4), fingerprint(jax.vmap(fn), 4))
"""


@pytest.mark.slow
def test_names_are_the_same_in_another_process():
    command = [sys.executable, "-c", PROGRAM]
    found = [
        subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in "12"
    ]
    assert found[0].stdout == found[1].stdout
    assert len(set(found[0].stdout.split())) == 2


def own_classes():
    """The classes of this package that are, or are part of, a value function on the device."""
    for info in pkgutil.walk_packages(spex_jax.__path__, "spex_jax."):
        if info.name.startswith(("spex_jax.lenses", "spex_jax.models")):
            for cls in vars(importlib.import_module(info.name)).values():
                if isinstance(cls, type) and cls.__module__ == info.name and "identity_name" in vars(cls):
                    yield cls


def test_names_of_own_classes_are_their_own():
    found = {cls.identity_name: cls for cls in own_classes()}
    assert set(found) == {
        *("spex_jax.AblatedAnswer", "spex_jax.AblatedClass", "spex_jax.AblatedComponents", "spex_jax.AblatedDecoder"),
        *("spex_jax.Ablation", "spex_jax.AskedAblated", "spex_jax.AskedRetrained", "spex_jax.Decoder"),
        *("spex_jax.DecoderConfig", "spex_jax.Encoder", "spex_jax.EncoderConfig", "spex_jax.KeyValues"),
        *("spex_jax.MaskedImage", "spex_jax.MaskedRow", "spex_jax.Parameters", "spex_jax.Reading"),
        *("spex_jax.Retraining", "spex_jax.Rope", "spex_jax.Template", "spex_jax.TextClassifier"),
        *("spex_jax.TinyConfig", "spex_jax.WithCollections"),
    }
    assert len(found) == len(list(own_classes()))


PINNED = {
    ("word", "margin"): "925bfcf41ff4f91bcdb1b862fdfd862c32f2035b686bb00856809ff7487c613b",
    ("token", "logit"): "1b45f4702c83776ede20017de4e3ad1a91606ef51c77b8d5cadfa665f9476b28",
}


@pytest.mark.parametrize(("units", "value"), PINNED)
def test_moving_a_class_orphans_no_store(units, value, tiny, monkeypatch):
    """These digests name stores that people have: they may only change where values do."""
    lens = spex_jax.lenses.text(*tiny, "A dull film .", units=units, value=value)
    assert fingerprint(lens.fn, lens.n) == PINNED[units, value]
    for cls in own_classes():
        monkeypatch.setattr(cls, "__module__", "spex_jax.another.place")
    assert fingerprint(lens.fn, lens.n) == PINNED[units, value]


def test_a_class_of_somebody_else_cannot_take_a_name(monkeypatch):
    lens = spex_jax.lenses.patches(lambda images: images.sum(axis=(1, 2)), np.ones((4, 4, 3)), grid=2, target=0)
    name = type(lens.fn).identity_name
    made = [type("Model", (), {"identity_name": name, "__call__": closure(factor)}) for factor in (1, 2)]
    assert len({of(closure(cls)) for cls in made}) == 2


def test_functions_that_say_they_are_equal_have_programs_of_their_own():
    """JAX compares static parts, and a dataclass leaves out what it does not compare."""
    changed = Slots(W)
    for held, factor in ((Hidden(W), 1), (Hidden(2 * W), 2), (changed, 1), (changed, 3)):
        changed.w = factor * W
        value_fn = spex_jax.ValueFunction(P(held.__call__ if held is changed else held), 4, on_device=True)
        assert spex_jax.evaluate(value_fn, np.ones((1, 4), bool), progress=False)[0] == factor * W.sum()
