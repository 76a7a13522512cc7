"""A small decoder that answers two-hop questions, and the little world that they are about.

Every person is in a room and every room in a city; a context states this in shuffled sentences, some of which training
leaves out. "city Ann" needs two of them, "Ann kitchen ." and "kitchen Paris ."; "room Ann" and "city kitchen", on which
it is trained too, need one.
"""

import functools
import pathlib
import re
from typing import Any

import attention_only
import jax
import jax.numpy as jnp
import numpy as np
import optax

from spex_jax.models.decoder import Decoder, DecoderConfig

WEIGHTS, STEPS = pathlib.Path(__file__).parent / "two_hops.npz", 1500
PEOPLE = ["Ann", "Ben", "Cora", "Dan", "Eva", "Finn", "Gil", "Hana"]
ROOMS = ["kitchen", "attic", "cellar", "garage", "library", "studio", "pantry", "nursery"]
CITIES = ["Paris", "Oslo", "Rome", "Cairo", "Lima", "Delhi", "Quito", "Seoul"]
WORDS = ["<pad>", "<s>", *PEOPLE, *ROOMS, *CITIES, "<unused>", ".", "room", "city"]
IDS = {word: number for number, word in enumerate(WORDS)}
CHAINS, SENTENCE, QUESTION = 3, 3, 2
FACTS, QUESTIONS = 2 * CHAINS, 3 * CHAINS
LENGTH = 1 + FACTS * SENTENCE + QUESTIONS * QUESTION
CONFIG = DecoderConfig(
    vocab_size=len(WORDS),
    dim=64,
    num_layers=3,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    hidden_dim=0,
    max_length=LENGTH + 2,
    attention_scale=16**-0.5,
    norm="layer",
    ropes=(),
)


class WordTokenizer:
    """A tokenizer with one id for each word, called as the fast tokenizers of Hugging Face are."""

    pad_token_id, bos_token_id, bos_token = 0, 1, "<s>"
    all_special_ids = (0, 1)
    model_max_length = CONFIG.max_length

    def __len__(self) -> int:
        """Returns the number of words."""
        return len(WORDS)

    def __call__(self, text: str, *, add_special_tokens: bool = True, **_: Any) -> dict[str, Any]:
        """Returns the ids and offsets of a text whose words are separated by white space."""
        found = list(re.finditer(r"\S+", text))
        if unknown := [match.group() for match in found if match.group() not in IDS]:
            raise ValueError(f"the two-hop world has no words {unknown}")
        ids, spans = [IDS[match.group()] for match in found], [match.span() for match in found]
        if add_special_tokens:
            ids, spans = [1, *ids], [(0, 0), *spans]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "offset_mapping": spans}

    def decode(self, ids: Any, **_: Any) -> str:
        """Returns the words of ids, joined by spaces."""
        return " ".join(WORDS[int(number)] for number in ids)


def draw(rng: np.random.Generator) -> tuple[list[str], str, str, tuple[int, int]]:
    """Draws the sentences of a context, a question, its answer, and the places of the two sentences that it needs."""
    people, rooms, cities = (rng.permutation(names)[:CHAINS] for names in (PEOPLE, ROOMS, CITIES))
    facts = [f"{a} {b} ." for a, b in (*zip(people, rooms, strict=True), *zip(rooms, cities, strict=True))]
    order = rng.permutation(len(facts))
    first, second = sorted(int(np.flatnonzero(order == fact)[0]) for fact in (0, CHAINS))
    return [facts[fact] for fact in order], f"city {people[0]}", str(cities[0]), (first, second)


def batch(key: jax.Array, size: int, dropped: float) -> tuple[jax.Array, ...]:
    """Draws tokens int32 [size, LENGTH] of sentences followed by questions, padded at the end; the places [size,
    QUESTIONS] after which answers would come; and the answers. The questions are for the city of each person and room,
    and for the room of each person. Answers are not in the tokens, so that the questions of a row are independent.
    """

    def one(key: jax.Array) -> tuple[jax.Array, ...]:
        keys = jax.random.split(key, 8)
        count = len(PEOPLE)
        people, rooms, cities = (
            first + jax.random.permutation(k, count)[:CHAINS]
            for first, k in zip((2, 2 + count, 2 + 2 * count), keys[:3], strict=True)
        )
        left, right = jnp.concatenate([people, rooms]), jnp.concatenate([rooms, cities])
        facts = jnp.stack([left, right, jnp.full(FACTS, IDS["."])], axis=1)
        rate = dropped * jax.random.uniform(keys[3]) * jax.random.bernoulli(keys[4])
        keep = jax.random.uniform(keys[5], (FACTS,)) >= rate
        facts = facts[jnp.argsort(jax.random.uniform(keys[6], (FACTS,)) + 10.0 * ~keep)].reshape(-1)
        filled = keep.sum() * SENTENCE
        order = jax.random.permutation(keys[7], QUESTIONS)
        kind = jnp.repeat(jnp.array([IDS["city"], IDS["city"], IDS["room"]]), CHAINS)
        subjects = jnp.concatenate([left, people])
        questions = jnp.stack([kind[order], subjects[order]], axis=1).reshape(-1)
        tokens = jnp.zeros(LENGTH, jnp.int32).at[0].set(1)
        tokens = tokens.at[1 : 1 + len(facts)].set(jnp.where(jnp.arange(len(facts)) < filled, facts, 0))
        tokens = jax.lax.dynamic_update_slice(tokens, questions.astype(jnp.int32), (1 + filled,))
        places = filled + QUESTION * (1 + jnp.arange(QUESTIONS))
        return tokens, places, jnp.concatenate([cities, cities, rooms])[order]

    return jax.vmap(one)(jax.random.split(key, size))


def logits_at(model: Decoder, tokens: jax.Array, places: jax.Array) -> jax.Array:
    """Returns logits [B, K, V] after places [B, K]; later tokens have no influence."""
    segments = jnp.where(jnp.arange(tokens.shape[1])[None] <= places.max(axis=1)[:, None], 0, -1)
    return model.logits(model.states(tokens, jnp.arange(tokens.shape[1]), segments, read=places))


@functools.partial(jax.jit, static_argnames=("steps", "size", "rate"))
def train(model: Decoder, key: jax.Array, *, steps: int, size: int = 64, rate: float = 3e-3) -> Any:
    """Trains a model; returns it and its losses [steps]."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 20), steps, rate / 20)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.1))

    def step(state: Any, key: jax.Array) -> Any:
        model, optimized = state
        tokens, places, answers = batch(key, size, 0.7)

        def objective(model: Decoder) -> jax.Array:
            logits = logits_at(model, tokens, places)
            return optax.softmax_cross_entropy_with_integer_labels(logits, answers).mean()

        found, gradient = jax.value_and_grad(objective)(model)
        updates, optimized = optimizer.update(gradient, optimized, model)
        return (optax.apply_updates(model, updates), optimized), found

    (model, _), losses = jax.lax.scan(step, (model, optimizer.init(model)), jax.random.split(key, steps))
    return model, losses


@jax.jit
def accuracy(model: Decoder, key: jax.Array) -> jax.Array:
    """Returns the shares of right answers in 512 whole contexts to three kinds of questions: for the city of a person
    (two hops), for the city of a room, and for the room of a person (one hop each).
    """
    tokens, places, answers = batch(key, 512, 0.0)
    subjects = jnp.take_along_axis(tokens, places, axis=1)
    right = logits_at(model, tokens, places).argmax(axis=-1) == answers
    person, city = subjects < 2 + len(PEOPLE), answers >= 2 + len(PEOPLE) + len(ROOMS)
    return jnp.stack([(right & kind).sum() / kind.sum() for kind in (person & city, ~person, ~city)])


def trained(steps: int, seed: int) -> tuple[Decoder, float]:
    """Trains a new model; returns it and its mean loss over the last 20 steps."""
    model, losses = train(attention_only.new_model(CONFIG, seed), jax.random.key(seed), steps=steps)
    return model, float(losses[-20:].mean())


def load(path: pathlib.Path = WEIGHTS) -> Decoder:
    """Loads a model that `trained` made; the one of STEPS steps with seed 0 comes with the project."""
    return attention_only.load(CONFIG, path)
