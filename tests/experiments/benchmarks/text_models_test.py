"""Every part runs at toy size and says what it should."""

import json

import pytest
from absl.testing import flagsaver
from models.directories import write_model

from spex_jax.models import generate

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("benchmarks/text_models")


def run(program, out, **given):
    with flagsaver.flagsaver(out=str(out), masks=12, rounds=1, **given):
        program.main()
    return json.loads(out.read_text())


def test_an_encoder(program, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "REVIEW", "a b c d e f")
    monkeypatch.setattr(program, "REMOVALS", ("mask", "delete"))
    folder = write_model(tmp_path / "bert", "bert")
    found = run(program, tmp_path / "out.json", model=str(folder), parts=["encoder"])["encoder"]
    assert found["words"] == 6
    assert 0 <= found["tokens of packed rows that are padding"] < 1
    assert {"mask", "delete"} <= set(found["masks per second"])


@pytest.mark.slow
def test_a_prefix_is_shared(program, tmp_path):
    folder = write_model(tmp_path / "llama", "llama3")
    # A model of random weights may stop at once; this one repeats a letter.
    program.models.generate, before = lambda model, tokens, most: [7] * most, generate
    try:
        found = run(program, tmp_path / "out.json", decoder=str(folder), parts=["prefix"])["prefix"]
    finally:
        program.models.generate = before
    assert found["tokens"] == 48
    assert set(found["gain"]) == {"mask", "attention", "delete"}
    assert max(found["largest difference"].values()) < 1e-4


@pytest.mark.slow
def test_shapes_of_llama(program, tmp_path):
    found = run(program, tmp_path / "out.json", parts=["llama"], llama="toy", tokens=40)["llama"]
    assert found["peak tflops"] > 0
    assert all(share > 0 for share in found["share of the peak"].values())
    assert "delete, half fixed" in found["masks per second"]


def test_what_a_causal_model_needs(program):
    """By hand: two layers of width 4, two heads of 2, one of keys and values, 8 hidden units, 3 tokens after 5."""
    config = program.DecoderConfig(
        vocab_size=9,
        dim=4,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=2,
        hidden_dim=8,
        max_length=9,
        attention_scale=1.0,
    )
    weights = 2 * (4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * 4 * 8)
    attention = 2 * 2 * 2 * 2 * 3 * (5 + 1.5)  # scores and their use, two heads of two
    assert program.needed_flops(config, 3, 5) == 2 * (3 * weights + attention)


def test_missing_directories(program, tmp_path):
    for part, flag in (("encoder", "model"), ("prefix", "decoder")):
        with pytest.raises(ValueError, match=f"this part needs --{flag}"):
            run(program, tmp_path / "out.json", parts=[part])
