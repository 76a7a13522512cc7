"""Tasks of `head_pruning.py`: a model, questions in two halves, and the heads that may be removed.

Five small models by default: the three of `circuits.py`, and from a data folder minGPT's sorter of six digits and the
TinyStories model of 260 thousand weights. With --model, that model on a subject of MMLU.
"""

import csv
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import circuits
import jax
import jax.numpy as jnp
import llama2c
import numpy as np

from spex_jax import models
from spex_jax.models.decoder import Decoder, DecoderConfig

Questions = dict[str, Any]  # arguments of lenses.components: tokens, target, and where needed read and choices

ANIMALS = ("dog", "cat", "bird", "bear", "fish", "frog", "bunny", "duck")
NAMES = (
    "Tim",
    "Lily",
    "Sam",
    "Mia",
    "Ben",
    "Sue",
    "Max",
    "Amy",
    "Tom",
    "Anna",
    "Jack",
    "Lucy",
    "Bob",
    "Jane",
    "Leo",
    "Kate",
)
STORY = 40
LETTERS = "ABCD"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A model and its questions.

    Attributes:
      split: maps a seed to the questions on which sets are chosen, and those on which they are scored.
      layers: layers whose heads may be removed; all if None.
      value: value of the lens, by which sets are chosen and scored.
    """

    name: str
    model: Decoder
    split: Callable[[int], tuple[Questions, Questions]]
    layers: tuple[int, ...] | None = None
    value: str = "logprob"


def _circuit(name: str) -> Task:
    read = np.arange(circuits.LONGEST, circuits.LENGTH - 1)  # in the second round, whatever the period is

    def split(seed: int) -> tuple[Questions, Questions]:
        chosen, scored = (
            {"tokens": rows[:, :-1], "target": rows[:, read + 1], "read": np.tile(read, (len(rows), 1))}
            for rows in (np.asarray(circuits.sequences(jax.random.key(2 * seed + half), 128)[0]) for half in (0, 1))
        )
        return chosen, scored

    return Task(name=name, model=circuits.load(name), split=split)


def load_sorter(path: pathlib.Path) -> Decoder:
    """Loads the minGPT of a JSON file: {"config": ..., name: {"shape": ..., "data": base64 of float32}}."""
    import base64

    content = json.loads(path.read_text(encoding="utf-8"))
    c = content["config"]
    arrays = {
        name.removeprefix("transformer."): np.frombuffer(base64.b64decode(t["data"]), "<f4").reshape(t["shape"])
        for name, t in content.items()
        if isinstance(t, dict) and t.get("dtype", "").endswith("float32")
    }
    dim, count = c["n_embd"], c["n_layer"]

    def stacked(name: str, part: slice = slice(None)) -> dict[str, Any]:
        return {
            kind: jnp.stack([jnp.asarray(arrays[f"h.{layer}.{name}.{kind}"][part]) for layer in range(count)])
            for kind in ("weight", "bias")
        }

    layers = {
        name: stacked("attn.c_attn", slice(place * dim, (place + 1) * dim))
        for place, name in enumerate(("query", "key", "value"))
    }
    theirs = {
        "output": "attn.c_proj",
        "norm_attention": "ln_1",
        "norm_mlp": "ln_2",
        "up": "mlp.c_fc",
        "down": "mlp.c_proj",
    }
    layers |= {ours: stacked(name) for ours, name in theirs.items()}
    params = {
        "embedding": jnp.asarray(arrays["wte.weight"]),
        "positions": jnp.asarray(arrays["wpe.weight"]),
        "head": jnp.asarray(arrays["lm_head.weight"]),
        "norm": {kind: jnp.asarray(arrays[f"ln_f.{kind}"]) for kind in ("weight", "bias")},
        "layers": layers,
    }
    config = DecoderConfig(
        vocab_size=c["vocab_size"],
        dim=dim,
        num_layers=count,
        num_heads=c["n_head"],
        num_kv_heads=c["n_head"],
        head_dim=dim // c["n_head"],
        hidden_dim=4 * dim,
        max_length=c["block_size"],
        attention_scale=(dim // c["n_head"]) ** -0.5,
        norm="layer",
        activation="gelu_tanh",
        ropes=(),
    )
    return Decoder(params=params, config=config)


def _sorter(folder: pathlib.Path) -> Task:
    """Makes the task of sorting six digits of 0 to 2; each sorted digit is teacher-forced, and a place that is read."""
    model = load_sorter(folder / "gpt_nano_sort" / "gpt-nano-sort-model.json")
    digits = np.array(np.meshgrid(*[range(3)] * 6)).reshape(6, -1).T
    tokens = np.concatenate([digits, np.sort(digits, axis=1)], axis=1)

    def split(seed: int) -> tuple[Questions, Questions]:
        order = np.random.default_rng(seed).permutation(len(tokens))
        chosen, scored = (
            {"tokens": rows[:, :-1], "target": rows[:, 6:], "read": np.tile(np.arange(5, 11), (len(rows), 1))}
            for rows in (tokens[order[:360]], tokens[order[360:]])
        )
        return chosen, scored

    return Task(name="sorter", model=model, split=split)


def _stories(folder: pathlib.Path) -> Task:
    """Makes the task of predicting how the model itself continues the beginnings of stories."""
    with tempfile.TemporaryDirectory() as work:
        out = pathlib.Path(work)
        llama2c.convert(folder / "stories260K" / "stories260K.bin", folder / "stories260K" / "tok512.bin", out)
        model, tokenizer = models.load(out)
    assert isinstance(model, Decoder)
    rows = []
    for animal in ANIMALS:
        for name in NAMES:
            start = tokenizer(f"Once upon a time, there was a little {animal} named {name}.")["input_ids"]
            rows.append(start + models.generate(model, start, most=STORY))
    first = max(
        len(tokenizer(f"Once upon a time, there was a little {a} named {n}.")["input_ids"])
        for a in ANIMALS
        for n in NAMES
    )
    tokens = np.array([row[:STORY] for row in rows])
    places = np.arange(first, STORY - 1)

    def split(seed: int) -> tuple[Questions, Questions]:
        order = np.random.default_rng(seed).permutation(len(tokens))
        chosen, scored = (
            {"tokens": part[:, :-1], "target": part[:, places + 1], "read": np.tile(places, (len(part), 1))}
            for part in (tokens[order[:24]], tokens[order[24:]])
        )
        return chosen, scored

    return Task(name="stories260K", model=model, split=split)


SMALL: dict[str, Callable[[pathlib.Path], Task]] = {
    "induction": lambda folder: _circuit("induction"),
    "backup": lambda folder: _circuit("backup"),
    "redundant": lambda folder: _circuit("redundant"),
    "sorter": _sorter,
    "stories260K": _stories,
}
NEEDS_DATA = ("sorter", "stories260K")


def mmlu(model: Any, tokenizer: Any, path: pathlib.Path, *, layers: Sequence[int] | None, training: int) -> Task:
    """Makes the task of a subject of MMLU (Hendrycks et al. 2020, https://arxiv.org/abs/2009.03300), prompted in their
    words without examples: accuracy among the four letters, chosen on the first `training` questions and scored on the
    others.

    Raises:
      ValueError: the model is not a decoder, or the file cannot be read or has too few questions.
    """
    if not isinstance(model, Decoder):
        raise ValueError("head pruning needs a language model; --model is an encoder")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        answers = np.array([int(row["answer"]) for row in rows])
        questions = [[row["question"], *(row[f"choice{i}"] for i in range(4))] for row in rows]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"cannot read questions from {str(path)!r}: {error!r}") from error
    if not 0 < training < len(rows):
        raise ValueError(f"--training must be from 1 to {len(rows) - 1} of the {len(rows)} questions, got {training}")
    subject = path.stem.removesuffix("_test").replace("_", " ")
    opening, tokens = f"The following are multiple choice questions (with answers) about {subject}.", []
    for question, *choices in questions:
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
        text = f"{question}\n{listed}\nAnswer:"
        tokens.append(tokenizer(f"{opening}\n\n{text}")["input_ids"])
    letters = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"][-1] for letter in LETTERS]
    if len(set(letters)) < len(LETTERS):
        raise ValueError(f"the tokenizer of --model does not tell the letters {LETTERS} apart: {letters}")

    def split(seed: int) -> tuple[Questions, Questions]:
        del seed  # the published split is fixed
        halves = (slice(0, training), slice(training, None))
        chosen, scored = (
            {"tokens": tokens[half], "target": np.array(letters)[answers[half]], "choices": letters} for half in halves
        )
        return chosen, scored

    return Task(
        name=subject, model=model, split=split, layers=None if layers is None else tuple(layers), value="accuracy"
    )
