"""Questions about a given context, from HotpotQA and DROP: reading them, their prompts, their value functions."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from spex_jax import ValueFunction, lenses

UNITS = ("sentence", "document")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asking:
    """The settings of the questions.

    Attributes:
      documents: number of documents in a context of HotpotQA; those with supporting facts are always included.
      units: the unit that is kept or removed: one of UNITS for HotpotQA, units of the text lens for DROP.
      removal: how a part is removed.
      own: whether the model's own answer is explained, and not the data set's.
      max_new_tokens: token limit of the model's own answer.
      value: value of the answer that is explained.
    """

    documents: int = 10
    units: str = "sentence"
    removal: str = "delete"
    own: bool = True
    max_new_tokens: int = 32
    value: str = "margin"


def hotpotqa(path: str | None, count: int) -> list[dict[str, Any]]:
    """Reads the first questions of a file in the form of HotpotQA's distractor setting; None is that of SPEX_JAX_DATA.

    Raises:
      ValueError: the file cannot be read, or does not have that form.
    """
    if path is None:
        folder = os.environ.get("SPEX_JAX_DATA")
        if not folder:
            raise ValueError("give --data, the JSON file of HotpotQA, or set SPEX_JAX_DATA")
        path = str(pathlib.Path(folder) / "hotpotqa" / "hotpotqa_distractor_50.json")
    questions = _read(path)
    try:
        for question in questions:
            _ = question["question"], question["answer"], question["supporting_facts"]["sent_id"]
            _ = question["supporting_facts"]["title"], question["context"]["title"], question["context"]["sentences"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"--data {path!r} is not in the form of HotpotQA's distractor setting: {error!r}") from error
    return questions[:count]


def drop(path: str | None, count: int) -> list[dict[str, Any]]:
    """Reads the first questions of a file in the form of DROP: a JSON list of objects with `passage`, `question` and
    `answers_spans` {`spans`}, as the data set of the Hugging Face hub has them, or `answer`.

    Raises:
      ValueError: the file cannot be read, or does not have that form.
    """
    if path is None:
        raise ValueError("give --data, a JSON list of DROP's questions (experiments/papers.md shows how to make it)")
    try:
        return [
            {
                "passage": row["passage"],
                "question": row["question"],
                "answer": row["answer"] if "answer" in row else row["answers_spans"]["spans"][0],
            }
            for row in _read(path)[:count]
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"--data {path!r} is not in the form of DROP: {error!r}") from error


def _read(path: str) -> list[Any]:
    try:
        return json.loads(pathlib.Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read --data {path!r}: {error}") from error


def prompt_of(
    question: Mapping[str, Any], documents: int, units: str
) -> tuple[str, list[tuple[int, int]], list[str], list[bool]]:
    """Returns a HotpotQA prompt, the spans of its sentences or documents, their names, which hold supporting facts."""
    facts = set(zip(question["supporting_facts"]["title"], question["supporting_facts"]["sent_id"], strict=True))
    needed = {title for title, _ in facts}
    context = list(zip(question["context"]["title"], question["context"]["sentences"], strict=True))
    others = [title for title, _ in context if title not in needed]
    chosen = needed | set(others[: max(0, documents - len(needed))])
    text, spans, names, supporting = "Answer the question from the documents, in a few words.\n", [], [], []
    for title, sentences in context:
        if title not in chosen:
            continue
        text += f"\n{title}: "
        start = len(text)
        for number, sentence in enumerate(sentences):
            stripped = sentence.strip()
            if not stripped:
                continue
            if units == "sentence":
                spans.append((len(text), len(text) + len(stripped)))
                names.append(f"{title}: {stripped}")
                supporting.append((title, number) in facts)
            text += f"{stripped} "
        text = text.rstrip(" ")
        if units == "document" and len(text) > start:
            spans.append((start, len(text)))
            names.append(title)
            supporting.append(title in needed)
        text += "\n"
    return f"{text}\nQuestion: {question['question']}\nAnswer:", spans, names, supporting


def value_function(
    model: Any, tokenizer: Any, question: Mapping[str, Any], asking: Asking
) -> tuple[ValueFunction, np.ndarray]:
    """Returns the value function of a HotpotQA context, and which of its parts hold supporting facts, bool [n]."""
    text, spans, names, supporting = prompt_of(question, asking.documents, asking.units)
    value_fn = _lens(model, tokenizer, text, question["answer"], asking, units=spans)
    value_fn.names = tuple(names)
    value_fn.details = dataclasses.replace(value_fn.details, units=asking.units)
    return value_fn, np.array(supporting)


def value_function_of_drop(model: Any, tokenizer: Any, question: Mapping[str, Any], asking: Asking) -> ValueFunction:
    """Returns the value function of a DROP passage."""
    text = f"{question['passage']}\n\nQuestion: {question['question']}\nAnswer in a few words."
    within = [(0, len(question["passage"]))]
    return _lens(model, tokenizer, text, question["answer"], asking, units=asking.units, within=within)


def _lens(model: Any, tokenizer: Any, text: str, answer: str, asking: Asking, **parts: Any) -> ValueFunction:
    """Returns the value function of a prompt, as a chat where the tokenizer has a chat template."""
    chat = bool(getattr(tokenizer, "chat_template", None))
    return lenses.text(
        model,
        tokenizer,
        [{"role": "user", "content": text}] if chat else text,
        removal=asking.removal,
        target=None if asking.own else answer if chat else f" {answer}",
        value=asking.value,
        max_new_tokens=asking.max_new_tokens,
        **parts,
    )


def fits(model: Any, tokenizer: Any, text: str, answer: str, asking: Asking) -> bool:
    """Returns whether a prompt and its answer fit into the model's context, with some room for a chat template."""
    tokens = asking.max_new_tokens if asking.own else len(tokenizer(answer)["input_ids"])
    room = 64 if getattr(tokenizer, "chat_template", None) else 1
    return len(tokenizer(text)["input_ids"]) + tokens + room <= model.max_length
