"""A llama2.c checkpoint becomes a Hugging Face directory with the same logits and tokens."""

import itertools
import struct

import jax
import numpy as np
import pytest

from spex_jax import models

forward = jax.jit(lambda model, tokens, attention: model(tokens, attention))


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("convert_llama2c")


def write_checkpoint(path, rng, *, tied):
    """dim 16, hidden 20, 2 layers, 4 heads, 2 of keys and values, 270 tokens, context 24; returns the arrays."""
    shapes = {
        "embed": (270, 16),
        "att_norm": (2, 16),
        "wq": (2, 16, 16),
        "wk": (2, 8, 16),
        "wv": (2, 8, 16),
        "wo": (2, 16, 16),
        "ffn_norm": (2, 16),
        "w1": (2, 20, 16),
        "w2": (2, 16, 20),
        "w3": (2, 20, 16),
        "norm": (16,),
    }
    if not tied:
        shapes |= {"tables": (24, 4), "head": (270, 16)}
    arrays = {name: rng.normal(size=shape).astype("<f4") * 0.3 + ("norm" in name) for name, shape in shapes.items()}
    header = struct.pack("7i", 16, 20, 2, 4, 2, 270 if tied else -270, 24)
    path.write_bytes(header + b"".join(array.astype("<f4").tobytes() for array in arrays.values()))
    return arrays


def oracle(w, tokens):
    """Logits by the formulas of llama2.c's run.c, in float64: pairs of neighbours are rotated."""
    length = len(tokens)
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(2) / 2)
    turn = np.exp(1j * angles)[:, None]

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight

    def rotated(x):
        turned = (x[..., ::2] + 1j * x[..., 1::2]) * turn
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    x = w["embed"][tokens].astype(np.float64)
    for layer in range(2):
        h = norm(x, w["att_norm"][layer])
        q = rotated((h @ w["wq"][layer].T).reshape(length, 4, 4))
        k = np.repeat(rotated((h @ w["wk"][layer].T).reshape(length, 2, 4)), 2, axis=1)
        v = np.repeat((h @ w["wv"][layer].T).reshape(length, 2, 4), 2, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) / 2 - 1e9 * np.triu(np.ones((length, length)), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("hij,jhd->ihd", weights, v).reshape(length, 16) @ w["wo"][layer].T
        h = norm(x, w["ffn_norm"][layer])
        gate = h @ w["w1"][layer].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["w3"][layer].T)) @ w["w2"][layer].T
    return norm(x, w["norm"]) @ w.get("head", w["embed"]).T


def write_tokenizer(path):
    """unk, BOS, EOS, the bytes, and eleven pieces of which the later ones are made by merges."""
    pieces = ["ab", "ba", " a", " ab", "aba", " aba"]
    entries = ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)], *pieces, " ", "a", "b", "c", "."]
    scores = [0.0] * 259 + [-float(i) for i in range(len(entries) - 259)]
    packed = b"".join(struct.pack("<fi", s, len(e)) + e.encode() for s, e in zip(scores, entries, strict=True))
    path.write_bytes(struct.pack("i", 6) + packed)
    return entries, scores


def greedy(text, entries, scores):
    """The tokens of llama2.c's encode: the neighbours whose union scores best are merged, again and again."""
    ids = []
    for character in " " + text:
        known = [entries.index(character)] if character in entries else [b + 3 for b in character.encode()]
        ids += known
    while True:
        pairs = [
            (scores[entries.index(entries[a] + entries[b])], -i)
            for i, (a, b) in enumerate(itertools.pairwise(ids))
            if entries[a] + entries[b] in entries[259:]
        ]
        if not pairs:
            return [1, *ids]
        place = -max(pairs)[1]
        ids[place : place + 2] = [entries.index(entries[ids[place]] + entries[ids[place + 1]])]


@pytest.mark.parametrize("tied", [True, False])
def test_logits_and_tokens_of_a_made_checkpoint(tied, program, tmp_path, rng):
    arrays = write_checkpoint(tmp_path / "model.bin", rng, tied=tied)
    entries, scores = write_tokenizer(tmp_path / "tok.bin")
    program.convert(tmp_path / "model.bin", tmp_path / "tok.bin", tmp_path / "out")
    model, tokenizer = models.load(tmp_path / "out")
    tokens = rng.integers(0, 270, 15)
    found = forward(model, tokens[None], np.ones((1, 15), bool))[0]
    np.testing.assert_allclose(found, oracle(arrays, tokens), atol=1e-4)
    for text in ("ababa cab", "a", "éa", "c  ba."):
        assert tokenizer(text)["input_ids"] == greedy(text, entries, scores)
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_real_stories_model(program, tmp_path, data_folder):
    stories = data_folder / "stories260K"
    program.convert(stories / "stories260K.bin", stories / "tok512.bin", tmp_path)
    model, tokenizer = models.load(tmp_path)
    with np.load(stories / "golden.npz") as golden:
        tokens, logits = golden["tokens"].astype(np.int32), golden["logits"]
    found = forward(model, tokens[None], np.ones((1, len(tokens)), bool))[0]
    np.testing.assert_allclose(found, logits, atol=1e-4)
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    assert tokenizer(text)["input_ids"] == tokens.tolist()
    assert models.generate(model, tokens[:1], most=len(tokens) - 1) == tokens[1:].tolist()


def test_files_that_are_cut_short(program, tmp_path, rng):
    write_checkpoint(tmp_path / "model.bin", rng, tied=True)
    write_tokenizer(tmp_path / "tok.bin")
    path = tmp_path / "model.bin"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"ends after 7\d+ weights, and its header promises more"):
        program.convert(path, tmp_path / "tok.bin", tmp_path / "out")
    assert not (tmp_path / "out").exists()
