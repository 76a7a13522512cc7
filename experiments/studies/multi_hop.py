"""A question that needs two paragraphs: they should be the strongest pair, and one alone should not give the answer."""

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
    """Runs the study on the small world of `two_hops`, or on HotpotQA with --model."""
    if setting.load_model is None:
        small_world(setting, account)
    else:
        real_questions(*setting.load_model(), setting, account)


def small_world(setting: Setting, account: Account) -> None:
    """Runs the study on a decoder that was trained on such questions only."""
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
        f"{sentences[needed[1]]!r}. Does the model use the two together, and can it answer with only one of them?",
        sentences=sentences,
        needed=list(needed),
    )
    account.step(
        "The model",
        f"Three layers of attention without MLPs, {where}. On 512 held-out contexts the model answers "
        f"{accuracy['two hops']:.1%} of the two-hop questions and {accuracy['one hop']:.1%} of the one-hop questions.",
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
    """Returns the trained model that comes with the project, or with --steps one that is trained now and kept in OUT;
    and a description of its training.
    """
    if setting.steps is None:
        return two_hops.load(), f"trained for {two_hops.STEPS} steps (experiments/studies/two_hops.npz)"
    path = setting.out / f"two_hops_{setting.steps}_{setting.seed}.npz"
    if not path.exists():
        attention_only.save(two_hops.trained(setting.steps, setting.seed)[0], path)
    return two_hops.load(path), f"trained here for {setting.steps} steps"


def world_value(model: Decoder, tokenizer: Any, sentences: list[str], question: str, answer: str) -> ValueFunction:
    """Returns the log-odds of the answer as a function of the sentences that are kept."""
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
    """Runs the study on HotpotQA; the pair is the two documents with supporting facts."""
    if not isinstance(model, Decoder):
        raise ValueError("multi_hop needs a language model; --model is an encoder")
    path = setting.data
    if path is not None and path.is_dir():
        path = path / "hotpotqa" / "hotpotqa_distractor_50.json"
    read = hotpot.hotpotqa(None if path is None else str(path), 50)
    fitting = [made for question in read if (made := _real_value(model, tokenizer, question)) is not None]
    if setting.example >= len(fitting):
        raise ValueError(
            f"--example must be below {len(fitting)}, got {setting.example}: that many of {len(read)} questions fit "
            f"into the context of {model.max_length} tokens and need two documents"
        )
    question, value_fn, needed = fitting[setting.example]
    account.step(
        "Question",
        f"The answer of the data set to {question['question']!r} is {question['answer']!r}. It needs "
        f"{' and '.join(repr(value_fn.names[i]) for i in needed)}. Does the model use these two together?",
        answer=question["answer"],
        needed=[value_fn.names[i] for i in needed],
    )
    e = setting.explain(value_fn, BUDGET)
    account.found(e, "Documents of the context, deleted. Log-odds of the data set's answer.")
    account.checked(e, top=6)
    corners = setting.corners(value_fn, needed)
    chances = {kind: chance(value) for kind, value in corners.items() if kind != "together"}
    account.step("Both, each alone, neither", "The probability of the answer with everything else kept:", [chances])
    rows = []
    for question, value_fn_of, pair in fitting[: setting.texts or 1]:
        one = setting.explain(value_fn_of, BUDGET)
        at = {kind: chance(value) for kind, value in setting.corners(value_fn_of, pair).items()}
        rows.append({"question": question["question"], "rank": rank_of(one, pair), **dict(list(at.items())[:4])})
    first = sum(row["rank"] == 1 for row in rows)
    account.step("Other questions", f"The two are the strongest pair in {first} of {len(rows)} questions.", rows)
    e.to_html(setting.out / "report.html")
    partly = max(float(np.mean([row[kind] for row in rows])) for kind in ("only the first", "only the second"))
    both = float(np.mean([row["both"] for row in rows]))
    _conclude(account, e, needed, chances, first, len(rows), partly, both)


def _real_value(model: Any, tokenizer: Any, question: Any) -> tuple[Any, ValueFunction, tuple[int, int]] | None:
    """Returns a question, its value function and two documents; None where it does not fit or needs another number."""
    asking = hotpot.Asking(documents=DOCUMENTS, units="document", own=False)
    text = hotpot.prompt_of(question, DOCUMENTS, "document")[0]
    if not hotpot.fits(model, tokenizer, text, question["answer"], asking):
        return None
    value_fn, supporting = hotpot.value_function(model, tokenizer, question, asking)
    needed = np.flatnonzero(supporting).tolist()
    return (question, value_fn, (needed[0], needed[1])) if len(needed) == 2 else None


def chance(log_odds: float) -> float:
    """Returns the probability of some log-odds."""
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
