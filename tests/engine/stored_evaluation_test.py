"""The engine with a store: nothing is asked twice, and nothing that was answered is lost."""

import functools
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax
from spex_jax import evaluate, explain
from spex_jax.core import masks as masks_lib
from spex_jax.fingerprints import fingerprint
from spex_jax.methods import METHODS, CrossFit
from spex_jax.pipeline.plan import make_plan
from spex_jax.spex.designs import least_budget
from spex_jax.store import read


class Counting:
    """A host function that remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, masks):
        self.asked.extend(map(bytes, masks))
        x = np.asarray(masks, float)
        return x[:, :5] @ np.array([1.0, -2.0, 0.5, 3.0, 0.0]) + 2 * x[:, 1] * x[:, 3]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.ablations"


def test_what_is_stored_is_not_asked(path, rng):
    masks, fn = masks_lib.uniform(12, 300, rng), Counting()
    first = evaluate(fn, masks[:200], store=path, store_key="f")
    both = evaluate(fn, masks[[*range(300), 5, 5]], store=path, store_key="f")
    assert len(fn.asked) == len(set(fn.asked)) == 300
    np.testing.assert_array_equal(both, Counting()(masks[[*range(300), 5, 5]]))
    np.testing.assert_array_equal(both[:200], first)


def test_vector_values_and_device_functions(path, rng):
    masks = masks_lib.uniform(12, 300, rng)
    fn = jax.tree_util.Partial(lambda w, m: m @ w, jnp.ones((12, 2)))
    value_fn = spex_jax.ValueFunction(fn, 12, on_device=True, outputs=(2,), identity="w")
    for _ in range(2):
        found = evaluate(value_fn, masks, store=path)
        np.testing.assert_array_equal(found, np.stack([masks.sum(1)] * 2, axis=1))
    assert len(read(path).values) == 300
    with pytest.raises(ValueError, match="another value function"):
        evaluate(spex_jax.ValueFunction(fn, 12, on_device=True, outputs=(2,), identity="v"), masks, store=path)


@pytest.mark.parametrize("place", ["host", "device"])
def test_of_a_batch_with_nan_the_rest_is_kept(place, path, rng):
    masks = masks_lib.uniform(12, 300, rng)
    xp = np if place == "host" else jnp

    def fn(m):
        return xp.where((m == xp.asarray(masks[100])).all(axis=1), xp.nan, m.sum(axis=1))

    value_fn = spex_jax.ValueFunction(fn, 12, on_device=place == "device", identity="f")
    with pytest.raises(ValueError, match=r"1 of 64 values are not finite; the first is nan at mask 100") as raised:
        evaluate(value_fn, masks, store=path, batch_size=64)
    assert "run the same call again to continue there" in raised.value.__notes__[0]
    found = read(path)
    assert len(found.values) == (127 if place == "host" else 255)  # with the two batches that were on their way
    assert np.isfinite(found.values).all()


class FirstOrder(spex_jax.ProxySPEX):
    """The masks of ProxySPEX and a fit that compiles nothing."""

    def fit(self, ablations, seed):
        masks = ablations.masks
        support = np.concatenate([np.zeros((1, masks.shape[1]), bool), np.eye(masks.shape[1], dtype=bool)])
        signs = np.concatenate([np.ones((len(masks), 1)), 1.0 - 2 * masks], axis=1)
        return spex_jax.Spectrum(support, np.linalg.lstsq(signs, ablations.values, rcond=None)[0])

    def cross_fit_many(self, tables, seed):
        return [CrossFit(self.fit(table, seed)) for table in tables]


def test_a_larger_budget_asks_what_it_has_more(path):
    fn = Counting()
    explain = functools.partial(spex_jax.explain, method=FirstOrder())
    small = explain(fn, 30, budget=400, store=path, store_key="f")
    assert (len(fn.asked), small.stored) == (400, 0)
    again = explain(fn, 30, budget=400, store=path, store_key="f", index="SII", method=FirstOrder(proxy="trees"))
    assert (len(fn.asked), again.stored) == (400, 400)  # another index, another proxy: nothing is asked
    assert "400 ablations (400 from the store)" in str(again)
    np.testing.assert_array_equal(again.spectrum.coefficients, small.spectrum.coefficients)
    large = explain(fn, 30, budget=1000, store=path, store_key="f")
    assert (len(fn.asked), len(set(fn.asked)), large.stored) == (1000, 1000, 400)
    without = explain(Counting(), 30, budget=1000)
    np.testing.assert_array_equal(large.spectrum.coefficients, without.spectrum.coefficients)


def drawn(n, budget, method, **options):
    record = METHODS.record(method, options)
    value_fn = spex_jax.ValueFunction(Counting(), n)
    plan = make_plan(value_fn, budget=budget, method=record, index="FSII", max_order=2, seed=0, names=None)
    return plan.masks


@pytest.mark.parametrize("n", [7, 12, 20, 21, 40])
def test_budgets_of_proxyspex_are_nested(n):
    budgets = [budget for budget in (100, 300, 1000, 4000) if budget < 2**n]
    for small, large in itertools.pairwise([drawn(n, budget, "proxyspex") for budget in budgets]):
        assert {bytes(mask) for mask in small} < {bytes(mask) for mask in large}


@pytest.mark.parametrize("n", [12, 30])
def test_designs_of_spex_are_nested(n):
    least = least_budget(n, max_degree=2)
    designs = [spex_jax.spex.design(n, least << more, max_degree=2, leftover=False) for more in range(3)]
    assert [made.plan.b for made in designs] == [3, 4, 5]
    for small, large in itertools.pairwise(made.masks for made in designs):
        assert {bytes(mask) for mask in small} < {bytes(mask) for mask in large}


def test_a_bare_callable_needs_a_key(path):
    with pytest.raises(ValueError, match="nothing identifies this one: give store_key"):
        explain(Counting(), 12, store=path)
    assert not path.exists()
    with pytest.raises(ValueError, match="store_key and identity must be strings"):
        explain(Counting(), 12, store=path, store_key=3)
    explain(Counting(), 6, store=path, store_key="f")
    for key, n in (("g", 6), ("f", 5)):
        with pytest.raises(ValueError, match="another value function"):
            explain(Counting(), n, store=path, store_key=key)


def test_a_text_identifies_itself(tiny, tmp_path):
    texts = ["A dull film .", "A fine film ."]
    folder = tmp_path / "stores"
    folder.mkdir()
    for text in [*texts, *texts]:
        explain(spex_jax.lenses.text(*tiny, text), store=folder)
    assert len(list(folder.iterdir())) == 2
    prints = [
        fingerprint(spex_jax.lenses.text(*tiny, text, units=units, value=value).fn, 4)
        for text in texts
        for units in ("word", "token")
        for value in ("margin", "logit")
    ]
    assert len(set(prints)) == len(prints)
    assert prints[0] == fingerprint(spex_jax.lenses.text(*tiny, texts[0], value="margin").fn, 4)


# A run that is killed again and again.

SLOW = """
import sys, time
import numpy as np
import spex_jax.core.masks

log = open(sys.argv[2], "a", buffering=1)

def slow(masks):
    time.sleep(0.02)
    return masks @ np.arange(masks.shape[1]) / 7

class Told(spex_jax.store.Store):
    def append(self, masks, values):
        super().append(masks, values)
        for mask in masks:
            log.write(np.packbits(mask).tobytes().hex() + "\\n")  # acknowledged: it may never be asked again

sys.modules["spex_jax.engine.evaluation"].Store = Told
asked = open(sys.argv[3], "a", buffering=1)

def told(masks):
    for mask in masks:
        asked.write(np.packbits(mask).tobytes().hex() + "\\n")
    return slow(masks)

print("ready", flush=True)
masks = spex_jax.core.masks.uniform(14, 600, np.random.default_rng(0))
values = spex_jax.evaluate(told, masks, store=sys.argv[1], store_key="f", batch_size=8, progress=False)
print(values.tolist(), flush=True)
"""


@pytest.mark.slow
def test_killed_runs_continue_to_the_same_answer(tmp_path):
    program = tmp_path / "run.py"
    program.write_text(SLOW)
    files = [str(tmp_path / name) for name in ("store", "acknowledged", "asked")]
    rng = np.random.default_rng(0)

    def start(arguments):
        return subprocess.Popen([sys.executable, program, *arguments], stdout=subprocess.PIPE, text=True)

    for _ in range(2):
        process = start(files)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.2, 0.8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert process.returncode == -signal.SIGKILL
    with start(files) as process:
        answer = process.stdout.read().splitlines()[1]
    with start([str(tmp_path / name) for name in ("store2", "acknowledged2", "asked2")]) as process:
        assert answer == process.stdout.read().splitlines()[1]
    assert len(json.loads(answer)) == 600
    stored = [bytes(row).hex() for row in read(files[0]).packed]
    assert len(set(stored)) == len(stored) == 600
    acknowledged = pathlib.Path(files[1]).read_text().split()  # less what was stored just before the signal came
    assert set(acknowledged) <= set(stored)
    assert len(set(acknowledged)) >= 600 - 2 * 8
    asked = pathlib.Path(files[2]).read_text().split()
    assert len(asked) <= 600 + 2 * 8  # at most the batch in flight of each killed run was asked again


def test_ctrl_c_says_how_to_continue(path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background may not have
    try:
        interrupt_and_look(path)
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt_and_look(path):
    def fn(masks):
        if masks.sum() % 2 or len(masks) < 16:
            os.kill(os.getpid(), signal.SIGINT)
        return masks.sum(axis=1)

    with pytest.raises(KeyboardInterrupt) as raised:
        explain(fn, 12, store=path, store_key="f", batch_size=16)
    kept = len(read(path).values)
    assert f"{kept} of 345 ablations are in the store" in raised.value.__notes__[0]
    assert "run the same call again to continue there" in raised.value.__notes__[0]
