"""A question that needs two paragraphs: the two should be the strongest pair, and with one of them nothing is known."""

import dataclasses
import math
from typing import Any

import attention_only
import jax
import numpy as np
import questions as hotpot

from spex_jax import Explanation, ValueFunction, lenses
from spex_jax.models.decoder import Decoder

from . import two_hops
from .account import Account, Setting, rank_of, top_of, verdict_on

TITLE = "A question of two hops: the two paragraphs that are needed together"
TAKES = ("model", "texts", "example", "steps")
TEXTS, BUDGET, DOCUMENTS = 40, 256, 10
KNOWN = 0.5  # probability of the answer above which it is known


def run(setting: Setting, account: Account) -> None:
    """The small world of `two_hops`, or HotpotQA with --model."""
    if setting.load_model is None:
        small_world(setting, account)
    else:
        real_questions(*setting.load_model(), setting, account)


def small_world(setting: Setting, account: Account) -> None:
    """A decoder trained on nothing but such questions."""
    model, where = world_model(setting)
    tokenizer = two_hops.WordTokenizer()
    rng = np.random.default_rng([setting.seed, 17])
    questions = [two_hops.draw(rng) for _ in range(max(setting.texts or TEXTS, setting.example + 1))]
    sentences, question, answer, needed = questions[setting.example]
    accuracy = dict(
        zip(
            ("two hops", "one hop"),
            map(float, two_hops.accuracy(model, jax.random.key(1000 + setting.seed))[:2]),
            strict=True,
        )
    )
    account.step(
        "Question",
        f"{' '.join(sentences)} -> {question!r}: {answer}. The answer needs {sentences[needed[0]]!r} and "
        f"{sentences[needed[1]]!r}. Does the model use these two together, and is anything known with one of them?",
        sentences=sentences,
        needed=list(needed),
    )
    account.step(
        "The model",
        f"Three layers of attention alone, {where}. On 512 contexts that it was not trained on it answers "
        f"{accuracy['two hops']:.1%} of the questions of two hops and {accuracy['one hop']:.1%} of those of one.",
        accuracy=accuracy,
    )
    value_fn = world_value(model, tokenizer, sentences, question, answer)
    e = setting.explain(value_fn, BUDGET)
    account.found(e, f"Sentences of the context, deleted. Log-odds of the answer {answer!r}.")
    account.checked(e, top=4)
    corners = setting.corners(value_fn, needed)
    chances = {kind: chance(value) for kind, value in corners.items() if kind != "together"}
    account.step(
        "Both, each alone, neither",
        f"The probability of {answer!r} with all other sentences kept; a guess among the {two_hops.CHAINS} cities of "
        f"the context would be {1 / two_hops.CHAINS:.2f}.",
        [chances],
        log_odds=corners,
    )
    rows = []
    for sentences, question, answer, needed in questions[: setting.texts or TEXTS]:
        value_fn_of = world_value(model, tokenizer, sentences, question, answer)
        one = setting.explain(value_fn_of, BUDGET)
        at = {kind: chance(value) for kind, value in setting.corners(value_fn_of, needed).items()}
        rows.append({"rank": rank_of(one, needed), **{kind: at[kind] for kind in list(at)[:4]}})
    first = sum(row["rank"] == 1 for row in rows)
    partly = max(float(np.mean([row[kind] for row in rows])) for kind in ("only the first", "only the second"))
    both = float(np.mean([row["both"] for row in rows]))
    account.step(
        "Other questions",
        f"In {first} of {len(rows)} questions the two needed sentences are the strongest pair. The mean probability of "
        f"the answer is {both:.3f} with both and at most {partly:.3f} with one of them.",
        rows,
    )
    e.to_html(setting.out / "report.html")
    _conclude(account, e, questions[setting.example][3], chances, first, len(rows), partly, both)


def world_model(setting: Setting) -> tuple[Decoder, str]:
    """The trained model that comes with the project; with --steps one trained now and kept in OUT."""
    if setting.steps is None:
        return two_hops.load(), f"trained for {two_hops.STEPS} steps (experiments/studies/two_hops.npz)"
    path = setting.out / f"two_hops_{setting.steps}_{setting.seed}.npz"
    if not path.exists():
        attention_only.save(two_hops.trained(setting.steps, setting.seed)[0], path)
    return two_hops.load(path), f"trained here for {setting.steps} steps"


def world_value(model: Decoder, tokenizer: Any, sentences: list[str], question: str, answer: str) -> ValueFunction:
    """Log-odds of the answer, by the sentences that are there."""
    context = " ".join(sentences)
    spans, start = [], 0
    for sentence in sentences:
        spans.append((start, start + len(sentence)))
        start += len(sentence) + 1
    value_fn = lenses.text(
        model,
        tokenizer,
        f"{context} {question}",
        units=spans,
        removal="delete",
        target=[two_hops.IDS[answer]],
        value="margin",
    )
    value_fn.names = tuple(sentences)
    value_fn.details = dataclasses.replace(value_fn.details, units="sentence")
    return value_fn


def real_questions(model: Any, tokenizer: Any, setting: Setting, account: Account) -> None:
    """HotpotQA: the documents with supporting facts, of which there are two."""
    if not isinstance(model, Decoder):
        raise ValueError("multi_hop needs a language model; --model is an encoder")
    path = setting.data
    if path is not None and path.is_dir():
        path = path / "hotpotqa" / "hotpotqa_distractor_50.json"
    asked = hotpot.hotpotqa(None if path is None else str(path), 50)
    fitting = [made for question in asked if (made := _real_value(model, tokenizer, question)) is not None]
    if setting.example >= len(fitting):
        raise ValueError(
            f"--example must be below {len(fitting)}: of {len(asked)} questions so many fit into the context of "
            f"{model.max_length} tokens and need two documents"
        )
    question, value_fn, needed = fitting[setting.example]
    account.step(
        "Question",
        f"{question['question']!r}; the data's answer is {question['answer']!r} and needs "
        f"{' and '.join(repr(value_fn.names[i]) for i in needed)}. Does the model use these two together?",
        answer=question["answer"],
        needed=[value_fn.names[i] for i in needed],
    )
    e = setting.explain(value_fn, BUDGET)
    account.found(e, "Documents of the context, deleted. Log-odds of the data's answer.")
    account.checked(e, top=6)
    corners = setting.corners(value_fn, needed)
    chances = {kind: chance(value) for kind, value in corners.items() if kind != "together"}
    account.step("Both, each alone, neither", "The probability of the answer, all else kept:", [chances])
    rows = []
    for question, value_fn_of, pair in fitting[: setting.texts or 1]:
        one = setting.explain(value_fn_of, BUDGET)
        at = {kind: chance(value) for kind, value in setting.corners(value_fn_of, pair).items()}
        rows.append({"question": question["question"], "rank": rank_of(one, pair), **dict(list(at.items())[:4])})
    first = sum(row["rank"] == 1 for row in rows)
    account.step("Other questions", f"The two documents are the strongest pair in {first} of {len(rows)}.", rows)
    e.to_html(setting.out / "report.html")
    partly = max(float(np.mean([row[kind] for row in rows])) for kind in ("only the first", "only the second"))
    both = float(np.mean([row["both"] for row in rows]))
    _conclude(account, e, needed, chances, first, len(rows), partly, both)


def _real_value(model: Any, tokenizer: Any, question: Any) -> tuple[Any, ValueFunction, tuple[int, int]] | None:
    """A question with its value function and its two documents; None where it does not fit or needs another number."""
    asking = hotpot.Asking(documents=DOCUMENTS, units="document", own=False)
    text = hotpot.prompt_of(question, DOCUMENTS, "document")[0]
    if not hotpot.fits(model, tokenizer, text, question["answer"], asking):
        return None
    value_fn, supporting = hotpot.value_function(model, tokenizer, question, asking)
    needed = np.flatnonzero(supporting).tolist()
    return (question, value_fn, (needed[0], needed[1])) if len(needed) == 2 else None


def chance(log_odds: float) -> float:
    """The probability."""
    return 1 / (1 + math.exp(-max(min(log_odds, 500.0), -500.0)))


def _conclude(
    account: Account,
    e: Explanation,
    needed: tuple[int, int],
    chances: dict[str, float],
    first: int,
    count: int,
    partly: float,
    both: float,
) -> None:
    rank, verdict = rank_of(e, needed), verdict_on(e, top_of(e)[0])
    alone = max(chances["only the first"], chances["only the second"])
    account.conclude(
        "the answer is made of two paragraphs together",
        [
            (f"the two needed paragraphs are the strongest pair (rank {rank})", rank == 1),
            (f"the strongest pair is confirmed on the model ({verdict})", verdict == "confirmed"),
            (f"with both the answer is known ({chances['both']:.3f})", chances["both"] > KNOWN),
            (f"with one of them it is not (at most {alone:.3f})", alone < KNOWN),
            (
                f"in at least nine questions of ten they are the strongest pair ({first} of {count})",
                10 * first >= 9 * count,
            ),
            (
                f"the mean probability is above 0.5 with both only ({both:.3f}, {partly:.3f})",
                both > KNOWN > partly,
            ),
        ],
    )
