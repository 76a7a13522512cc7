"""Several devices in one process and several processes: the answers are those of one device."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from models.directories import write_model

import spex_jax

SET_UP = """
import json, sys
import jax, numpy as np, jax.numpy as jnp
import spex_jax
from spex_jax.core import masks as masks_lib
from spex_jax.engine.device import DeviceFunction

TEXT = "Her acting never fails to impress , but the plot is thin ."
model, tokenizer = spex_jax.models.tiny()

def text(model=model):
    return spex_jax.lenses.text(model, tokenizer, TEXT, value="margin")

def asked(count):
    return masks_lib.uniform(11, count, np.random.default_rng(0))

found = {}
"""

ONE_PROCESS = (
    """
jax.config.update("jax_num_cpu_devices", 4)
assert jax.device_count() == 4
"""
    + SET_UP
    + """
from jax.sharding import NamedSharding, PartitionSpec as P

one = jax.make_mesh((1,), ("masks",), devices=jax.devices()[:1])
for count in (1, 3, 90, 333):
    found[f"one {count}"] = spex_jax.evaluate(text(), asked(count), mesh=one).tolist()
    found[f"four {count}"] = spex_jax.evaluate(text(), asked(count)).tolist()
    found[f"four, batches of 7 {count}"] = spex_jax.evaluate(text(), asked(count), batch_size=7).tolist()
found["devices"] = DeviceFunction(text()).devices
found["batches"] = [DeviceFunction(text()).batch_size(*counts) for counts in ((333, None), (1, None), (9, 6))]

mesh = jax.make_mesh((2, 2), ("masks", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

def rule(leaf):  # a model's own rules
    spec = P(None, "model") if leaf.ndim == 2 and leaf.shape[1] % 2 == 0 else P()
    return jax.device_put(leaf, NamedSharding(mesh, spec))

sharded = text(jax.tree.map(rule, model))
placed = DeviceFunction(sharded)
found["mesh of the model"] = [placed.devices, dict(placed.mesh.shape), placed.mesh == mesh]
found["sharded"] = spex_jax.evaluate(sharded, asked(333)).tolist()
kernel = placed._fn.model.params["up_0"]["kernel"]
found["parts of a kernel"] = [len({str(shard.index) for shard in kernel.addressable_shards}), list(kernel.shape)]

llama, words = spex_jax.models.load(sys.argv[1], mesh=mesh)
alone, _ = spex_jax.models.load(sys.argv[1])
layers = llama.params["layers"]
parts = {name: layers[name]["weight"] for name in ("query", "key", "output", "down", "norm_mlp")}
parts["embedding"] = llama.params["embedding"]
found["parts of a decoder"] = {
    name: [len({str(shard.index) for shard in part.addressable_shards}), list(part.addressable_shards[0].data.shape)]
    for name, part in parts.items()
}
PROMPT = "a b c d e f g h i j k l m n o p q r s t u v w"
for removal in ("mask", "delete"):
    for name, model_of in (("sharded", llama), ("alone", alone)):
        prompt = spex_jax.lenses.text(
            model_of, words, PROMPT, within="s t u v", removal=removal, target="x y", share_prefix=removal == "mask"
        )
        masks = np.unpackbits(np.arange(16, dtype=np.uint8)[:, None], axis=1)[:, 4:].astype(bool)
        where = mesh if name == "sharded" else one
        found[f"{removal} {name}"] = spex_jax.evaluate(prompt, masks, mesh=where).tolist()
    found[f"mesh {removal}"] = DeviceFunction(
        spex_jax.lenses.text(llama, words, PROMPT, removal=removal, target="x")
    ).mesh == mesh
found["answers"] = [spex_jax.models.generate(model_of, [1, 7, 9], most=5) for model_of in (llama, alone)]

weights = jnp.arange(11.0)
closure = spex_jax.ValueFunction(lambda masks: masks @ weights, 11, on_device=True)
found["closure"] = float(np.abs(spex_jax.evaluate(closure, asked(333)) - asked(333) @ np.arange(11.0)).max())

sys.path.insert(0, sys.argv[2])
from lenses.retraining_data import apply, clouds, init
draw = np.random.default_rng(0)
trainings = spex_jax.lenses.training_data(init, apply, clouds(33, draw), clouds(3, draw), epochs=2, batch=8, seeds=2)
halves = draw.random((13, 33)) < 0.5
found["trainings"] = [spex_jax.evaluate(trainings, halves, mesh=where).tolist() for where in (one, None)]

e = spex_jax.explain(text(), budget=300, proxy="linear")
found["explained"] = [e.spectrum.coefficients.tolist(), e.noise]
try:
    spex_jax.evaluate(text(), asked(3), mesh=jax.make_mesh((4,), ("data",)))
except ValueError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""
)

TWO_PROCESSES = (
    """
import jax
coordinator, process, store = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(coordinator, num_processes=2, process_id=process)
assert jax.device_count() == 4 and jax.local_device_count() == 2
"""
    + SET_UP
    + """
calls = []

def host(masks):
    calls.append(len(masks))
    return masks @ np.arange(11.0) / 7

for count in (3, 333):
    found[f"device {count}"] = spex_jax.evaluate(text(), asked(count)).tolist()
found["host"] = spex_jax.evaluate(host, asked(333)).tolist()
found["calls"] = sum(calls)
for count in (200, 333):
    found["stored"] = spex_jax.evaluate(host, asked(count), store=store, store_key="f").tolist()
found["calls with a store"] = sum(calls) - found["calls"]
try:
    spex_jax.evaluate(host, asked(3), store="/dev/full", store_key="f")
except ValueError as error:
    found["no store"] = str(error)
bad = lambda masks: masks[:, 0] / 0.0
try:
    with np.errstate(all="ignore"):
        spex_jax.evaluate(bad, asked(3))
except ValueError as error:
    found["not finite"] = str(error)

def broken(masks):
    raise KeyError("no such thing")

try:
    spex_jax.evaluate(broken, asked(3))
except (KeyError, RuntimeError) as error:
    found["broken"] = type(error).__name__
found["process"] = jax.process_index()
print(json.dumps(found), flush=True)
jax.distributed.shutdown()
"""
)


def start(program, *arguments):
    # The test's own XLA settings, if any, are not those of its processes.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def result(process, seconds=240):
    with process:
        try:
            out, errors = process.communicate(timeout=seconds)
        finally:
            process.kill()
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def four_devices(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("llama"), "llama3")
    return result(start("import jax\n" + ONE_PROCESS, str(folder), str(pathlib.Path(__file__).parent)))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 90, 333])
def test_four_devices_answer_as_one(count, four_devices):
    one = four_devices[f"one {count}"]
    assert len(one) == count
    np.testing.assert_allclose(four_devices[f"four {count}"], one, atol=1e-5)
    np.testing.assert_allclose(four_devices[f"four, batches of 7 {count}"], one, atol=1e-5)


def test_batches_are_divided_among_the_devices(four_devices):
    assert four_devices["devices"] == 4
    assert four_devices["batches"] == [256, 4, 8]


def test_a_model_that_is_sharded_by_its_own_rules(four_devices):
    assert four_devices["mesh of the model"] == [2, {"masks": 2, "model": 2}, True]
    assert four_devices["parts of a kernel"] == [2, [128, 512]]
    np.testing.assert_allclose(four_devices["sharded"], four_devices["one 333"], atol=1e-4)


def test_a_decoder_divided_over_devices(four_devices):
    assert four_devices["parts of a decoder"] == {
        "query": [2, [3, 12, 24]],
        "key": [2, [3, 6, 24]],
        "output": [2, [3, 24, 12]],
        "down": [2, [3, 24, 18]],
        "norm_mlp": [1, [3, 24]],
        "embedding": [2, [20, 24]],
    }
    for removal in ("mask", "delete"):
        assert four_devices[f"mesh {removal}"]
        values = four_devices[f"{removal} alone"]
        assert np.ptp(values) > 0.01
        np.testing.assert_allclose(four_devices[f"{removal} sharded"], values, atol=1e-4)
    sharded, alone = four_devices["answers"]
    assert sharded == alone


def test_trainings_are_divided_over_devices(four_devices):
    one, four = four_devices["trainings"]
    assert np.std(one, axis=0).min() > 1e-4
    np.testing.assert_allclose(four, one, atol=1e-5)


def test_functions_that_are_no_pytrees(four_devices):
    assert four_devices["closure"] < 1e-5


def test_an_explanation_on_four_devices(four_devices, tiny):
    text = "Her acting never fails to impress , but the plot is thin ."
    alone = spex_jax.explain(spex_jax.lenses.text(*tiny, text, value="margin"), budget=300, proxy="linear")
    coefficients, noise = four_devices["explained"]
    np.testing.assert_allclose(coefficients, alone.spectrum.coefficients, atol=1e-4)
    assert noise < 1e-5


def test_a_mesh_without_an_axis_for_masks(four_devices):
    assert "the mesh has the axes ('data',); one of them must be 'masks'" in four_devices["error"]


@pytest.mark.slow
def test_two_processes(four_devices, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    store = str(tmp_path / "store")
    processes = [start("import sys\n" + TWO_PROCESSES, coordinator, str(index), store) for index in range(2)]
    with processes[0], processes[1]:
        try:
            first, second = map(result, processes)
        finally:
            for process in processes:
                process.kill()
    assert (first["process"], second["process"]) == (0, 1)
    for found in (first, second):
        for count in (3, 333):
            np.testing.assert_allclose(found[f"device {count}"], four_devices[f"one {count}"], atol=1e-5)
        assert found["host"] == found["stored"] == first["host"]
        assert "3 of 3 values are not finite" in found["not finite"]
    assert len(first["host"]) == 333
    assert (first["calls"], second["calls"]) == (333, 0)  # the first process asks for all
    assert (first["calls with a store"], second["calls with a store"]) == (333, 0)
    assert "not a regular file" in first["no store"]
    assert "the first process could not open the store" in second["no store"]
    assert (first["broken"], second["broken"]) == ("KeyError", "RuntimeError")
