"""Hugging Face directories made on the spot: models of random weights, and tokenizers of a few words."""

import json
import pathlib

import numpy as np
from models.random_weights import random_weights
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE, WordLevel

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
MODELS = json.loads((GOLDEN / "huggingface.json").read_text(encoding="utf-8"))["models"]
WORDS = list("abcdefghijklmnopqrstuvwxyz")

CHAT = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}> {{ message['content'] | trim }} </s>"
    "{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)


def write_word_tokenizer(folder, words=WORDS, *, kind="decoder", chat_template=CHAT, bos="<s>"):
    """A tokenizer with one id for each word: "decoder" begins with BOS, "encoder" is wrapped in [CLS] and [SEP]."""
    special = {
        "decoder": ["<unk>", "<s>", "</s>", "<user>", "<assistant>", "<system>"],
        "encoder": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    }[kind]
    vocab = {word: i for i, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token=special[kind == "encoder"]))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
    if kind == "decoder":
        config |= {"unk_token": "<unk>", "eos_token": "</s>", "chat_template": chat_template}
        if bos:
            config["bos_token"] = bos
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, vocab[bos])]
            )
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
        )
        names = ("pad", "unk", "cls", "sep", "mask")
        config |= {f"{name}_token": token for name, token in zip(names, special, strict=True)}
    return _write(folder, tokenizer, config)


def write_byte_tokenizer(folder, text, *, vocab_size=300, **config):
    """A byte-level BPE, as GPT-2, Llama 3 and Qwen have it: spaces belong to the words after them, no BOS."""
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "bos_token": "<|end|>"}
    return _write(folder, tokenizer, {**settings, **config})


def _write(folder, tokenizer, config):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_model(folder, name, *, config=(), dtype=np.float32, words=WORDS, **tokenizer):
    """The golden model `name` with its tokenizer; `config` changes config.json."""
    folder = pathlib.Path(folder)
    described = MODELS[name]
    kind = "encoder" if "bert" in name else "decoder"
    write_word_tokenizer(folder, words, kind=kind, **tokenizer)
    changed = {**described["config"], **dict(config)}
    (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    weights = {key: value.astype(dtype) for key, value in random_weights(described["shapes"]).items()}
    save_file(weights, folder / "model.safetensors")
    return folder
