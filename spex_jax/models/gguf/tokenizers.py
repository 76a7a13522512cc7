"""Builds the tokenizer of a GGUF file with the libraries tokenizers and transformers."""

from typing import Any

from spex_jax.models.checkpoints.transformers_library import tokenizer_class
from spex_jax.models.gguf.settings import Keys

__all__ = ["tokenizer_of"]

_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How llama.cpp splits a text before its pairs are merged, by tokenizer.ggml.pre: a pattern, None for that of GPT-2, and
# "digits" for that of GPT-2 with every digit alone.
_SPLITS: dict[str, str | None] = {
    **dict.fromkeys(("default", "gpt-2"), None),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), "digits"),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe", "dbrx"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
    "tekken": _TEKKEN,
}
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_of(keys: Keys) -> Any:
    """Returns the fast tokenizer of a file, with its special tokens and its chat template.

    Byte-level pairs ("gpt2") and SentencePiece pairs ("llama") are known.

    Raises:
      ValueError: another kind of tokenizer, an unknown way to split texts, or lists that do not fit each other.
      ImportError: transformers is not installed.
    """
    fast = tokenizer_class("PreTrainedTokenizerFast")
    from tokenizers import AddedToken

    kind, tokens = keys.text("tokenizer.ggml.model", "no kind"), keys.texts("tokenizer.ggml.tokens")
    if kind not in ("gpt2", "llama"):
        raise ValueError(
            f"the file has a tokenizer of the kind {kind!r}; models.load knows 'gpt2' (byte-level pairs) and 'llama' "
            "(SentencePiece pairs). Give the Hugging Face directory that the file was made from"
        )
    if len(set(tokens)) != len(tokens):
        raise ValueError(f"the file has {len(tokens)} tokens, of which only {len(set(tokens))} differ")
    built = _byte_level(keys, tokens) if kind == "gpt2" else _sentencepiece(keys, tokens)
    kinds = keys.numbers("tokenizer.ggml.token_type") if "tokenizer.ggml.token_type" in keys else [1] * len(tokens)
    if len(kinds) != len(tokens):
        raise ValueError(f"the file has {len(tokens)} tokens and {len(kinds)} kinds of them")
    added = [
        AddedToken(token, normalized=False, special=number == _CONTROL)
        for token, number in zip(tokens, kinds, strict=True)
        if number in (_CONTROL, _USER_DEFINED)
    ]
    built.add_special_tokens([token for token in added if token.special])
    built.add_tokens([token for token in added if not token.special])
    special = _special(keys, tokens)
    _wrap(built, keys, special, begins=kind == "llama")
    options = {"chat_template": keys.text("tokenizer.chat_template")} if "tokenizer.chat_template" in keys else {}
    options |= {name: tokens[number] for name, number in special.items()}
    return fast(tokenizer_object=built, clean_up_tokenization_spaces=False, **options)


def _special(keys: Keys, tokens: list[str]) -> dict[str, int]:
    """Returns the ids of special tokens by transformers' names."""
    found = {}
    for name, theirs in _SPECIAL.items():
        key = f"tokenizer.ggml.{theirs}_token_id"
        if key in keys:
            number = int(keys.number(key))
            if not 0 <= number < len(tokens):
                raise ValueError(f"the file has {key} = {number}, and {len(tokens)} tokens")
            found[name] = number
    return found


def _byte_level(keys: Keys, tokens: list[str]) -> Any:
    """Returns byte-level pairs, as GPT-2, Llama 3 and Qwen have them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    name = keys.text("tokenizer.ggml.pre", "default")
    if name not in _SPLITS:
        raise ValueError(
            f"the file splits texts by {name!r} before it merges pairs; models.load knows {', '.join(sorted(_SPLITS))}"
        )
    pairs = [merge.partition(" ") for merge in keys.texts("tokenizer.ggml.merges")]
    merges = [(left, right) for left, _, right in pairs]
    vocab = {token: number for number, token in enumerate(tokens)}
    split = _SPLITS[name]
    # Llama 3 takes a word that is one token as it is, whatever its pairs would become.
    built = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=split == _LLAMA3))
    if split is None:
        built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif split == "digits":
        built.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        built.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if split == _QWEN2:
        from tokenizers import normalizers

        built.normalizer = normalizers.NFC()
    built.decoder = decoders.ByteLevel()
    return built


def _sentencepiece(keys: Keys, tokens: list[str]) -> Any:
    """Returns SentencePiece pairs, as Llama 1 and 2, Mistral and Gemma have them: the file has a score for each token,
    and the best pair of pieces that make a token is merged first.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    gemma = keys.architecture.startswith("gemma")
    if gemma:  # its files keep runs of spaces as they are
        tokens = ["▁" * len(token) if token and not token.strip(" ") else token for token in tokens]
    vocab = {token: number for number, token in enumerate(tokens)}
    # Scores of Gemma do not follow the order of its merges; the order of its tokens does.
    scores = [-float(number) for number in range(len(tokens))] if gemma else keys.numbers("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise ValueError(f"the file has {len(tokens)} tokens and {len(scores)} scores")
    unknown = tokens[int(keys.number("tokenizer.ggml.unknown_token_id", 0))]
    built = Tokenizer(
        models.BPE(vocab=vocab, merges=_merges(vocab, scores), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefix = keys.flag("tokenizer.ggml.add_space_prefix", default=not gemma)
    spaces = normalizers.Replace(" ", "▁")
    built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    built.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)] if prefix else steps)
    return built


def _merges(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Returns every pair of tokens that makes a token, the best token first."""
    found = []
    for token, number in vocab.items():
        pairs = [
            (token[:cut], token[cut:]) for cut in range(1, len(token)) if token[:cut] in vocab and token[cut:] in vocab
        ]
        pairs.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        found += [(-scores[number], number, pair) for pair in pairs]
    found.sort(key=lambda one: one[:2])
    return [pair for *_, pair in found]


def _wrap(built: Any, keys: Keys, special: dict[str, int], *, begins: bool) -> None:
    """Adds the tokens at the beginning and the end of a text that the file asks for."""
    from tokenizers import processors

    before = keys.flag("tokenizer.ggml.add_bos_token", default=begins)
    after = keys.flag("tokenizer.ggml.add_eos_token", default=False)
    parts = [("bos_token", before), ("eos_token", after)]
    for name, asked in parts:
        if asked and name not in special:
            raise ValueError(f"the file puts {name} around texts and does not say which token it is")
    if not (before or after):
        return
    names = {name: built.id_to_token(special[name]) for name, asked in parts if asked}
    single = [*([names["bos_token"]] if before else []), "$A", *([names["eos_token"]] if after else [])]
    built.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=single, special_tokens=[(token, special[name]) for name, token in names.items()]
            ),
        ]
    )
