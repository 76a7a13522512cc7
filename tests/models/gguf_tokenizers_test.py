"""Tokenizers of GGUF files give the ids of the tokenizers that they were made from."""

import json

import pytest
from models.directories import write_byte_tokenizer, write_model
from models.gguf_files import write_gguf
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from spex_jax import models

CORPUS = [
    "Her acting never fails to impress , but the plot is thin .",
    "In 1999 they sold 12345 tickets ; naïve café owners weren't impressed .",
    "The trailer promised a clever thriller, and for twenty minutes the film keeps that promise.",
]
ODD = [
    *CORPUS,
    "",
    " ",
    "  two  spaces ",
    "tabs\tand\n\nlines",
    "日本語 🙂 ½",
    "I'M 1234567 we'll",
    "<|end|> the</s> <s>",
]
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture
def load(tmp_path):
    folder = write_model(tmp_path / "model", "llama2")

    def write(tokenizer, **options):
        return models.load(write_gguf(tmp_path / "model.gguf", folder, tokenizer=tokenizer, **options))[1]

    return write


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    folder = write_byte_tokenizer(tmp_path_factory.mktemp("bytes"), "\n".join(CORPUS), vocab_size=330)
    return folder / "tokenizer.json"


def writer_of(path, pre="gpt-2", **flags):
    """Writes the keys of a tokenizer.json of byte-level pairs."""
    content = json.loads(path.read_text())
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    tokens = sorted(vocab, key=vocab.get)

    def write(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token == "<|end|>" else 1 for token in tokens])
        writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
        writer.add_eos_token_id(vocab["<|end|>"])
        writer.add_chat_template(CHAT)
        for name, value in flags.items():
            getattr(writer, name)(value)

    return write


def test_byte_level_pairs(byte_level, load):
    source, found = Tokenizer.from_file(str(byte_level)), load(writer_of(byte_level))
    for text in ODD:
        ids = source.encode(text).ids
        assert found(text).input_ids == ids
        assert found.decode(ids) == source.decode(ids, skip_special_tokens=False) == text
    assert found.eos_token == "<|end|>"
    assert found.eos_token_id in found("<|end|> the").input_ids
    assert found.apply_chat_template([{"role": "user", "content": "the plot"}], tokenize=False) == "the plot"


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["Ġ1234567", "'", "LL"]),
        ("smollm", ["Ġ", "1", "2", "3", "4", "5", "6", "7", "'", "LL"]),
        ("llama-bpe", ["Ġ", "123", "456", "7", "'LL"]),
        ("qwen2", ["Ġ", "1", "2", "3", "4", "5", "6", "7", "'LL"]),
        ("tekken", ["Ġ", "1", "2", "3", "4", "5", "6", "7", "'LL"]),
    ],
)
def test_texts_are_split_before_pairs_are_merged(pre, pieces, byte_level, load):
    found = load(writer_of(byte_level, pre))
    split = found.backend_tokenizer.pre_tokenizer.pre_tokenize_str(" 1234567'LL")
    assert [piece for piece, _ in split] == pieces


def test_tokens_around_a_text(byte_level, load):
    found = load(writer_of(byte_level, add_bos_token_id=5, add_add_bos_token=True, add_add_eos_token=True))
    alone = load(writer_of(byte_level))("the plot").input_ids
    assert found("the plot").input_ids == [5, *alone, found.eos_token_id]
    assert found("the plot", add_special_tokens=False).input_ids == alone


@pytest.fixture(scope="module")
def pieces():
    """SentencePiece pairs with bytes for unknown characters, as Llama 2 has them."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] in ("<unk>", "<s>", "</s>")]
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    return tokenizer


def write_pieces(tokenizer, architecture="llama", *, prefix=True):
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merged = {"".join(pair): rank for rank, pair in reversed(list(enumerate(model["merges"])))}

    def write(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(merged[token]) if token in merged else -1e4 for token in tokens])
        kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
        writer.add_token_types([kinds.get(token, 6 if token.startswith("<0x") else 1) for token in tokens])
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        if not prefix:
            writer.add_add_space_prefix(False)

    return write


def test_sentencepiece_pairs(pieces, load):
    found = load(write_pieces(pieces))
    for text in ODD:
        if "</s>" in text:  # tokens of their own begin a text anew, with or without a space
            continue
        ids = pieces.encode(text).ids
        assert found(text).input_ids == [1, *ids]  # older files say nothing of it and begin with <s>
        assert found.decode(ids) == pieces.decode(ids)
    assert 2 in found("the</s>").input_ids
    assert found("\u2603", add_special_tokens=False).tokens()[-3:] == ["<0xE2>", "<0x98>", "<0x83>"]


def test_sentencepiece_pairs_without_a_space_in_front(pieces, load):
    found = load(write_pieces(pieces, prefix=False))
    assert found("the plot", add_special_tokens=False).tokens()[0] != "▁the"
    assert found.decode(found(" the", add_special_tokens=False).input_ids) == " the"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"add_tokenizer_pre": "viking"}, r"splits texts by 'viking' .* models.load knows .*llama-bpe"),
        ({"add_tokenizer_model": "rwkv"}, r"tokenizer of the kind 'rwkv'; models.load knows 'gpt2'"),
        ({"add_bos_token_id": 9999}, r"bos_token_id = 9999, and 330 tokens"),
        ({"add_add_bos_token": True}, r"puts bos_token around texts and does not say which token"),
        ({"add_token_types": [1, 1]}, r"330 tokens and 2 kinds of them"),
        ({"add_token_list": ["a"] * 330}, r"330 tokens, of which only 1 differ"),
    ],
)
def test_tokenizers_that_are_not_known_are_refused(change, message, byte_level, load):
    class Changed:
        """A writer whose calls of some names write something else, in the place of what they are given."""

        def __init__(self, writer):
            self.writer = writer

        def __getattr__(self, name):
            call = getattr(self.writer, name)
            return (lambda _: call(change[name])) if name in change else call

    def write(writer):
        original = writer_of(byte_level)
        original(Changed(writer))
        for name, value in change.items():
            if name in ("add_bos_token_id", "add_add_bos_token"):
                getattr(writer, name)(value)

    with pytest.raises(ValueError, match=message):
        load(write)
