"""The trolley puzzle: which of its words together make a language model answer wrongly, and what synonyms change."""

import csv
import re
from collections.abc import Mapping, Sequence
from typing import Any

import llama2c
import numpy as np

from spex_jax import ValueFunction, lenses, models

from .account import Account, Setting, verdict_on

TITLE = "The trolley puzzle: words that together mislead a language model"
TAKES = ("model", "synonyms", "texts")
BUDGET, PAIRS, RANDOM = 1500, 4, 10
# The last of the puzzles of https://github.com/basics-lab/spectral-explain (MIT), data/puzzles.csv.
PUZZLE = {
    "context": "A runaway trolley is heading away from five people who are tied to the track and cannot move. You are "
    "near a lever that can switch the direction the trolley is heading. Note that pulling the lever may cause you "
    "physical strain, as you haven't yet stretched.",
    "question": "True or False: You should not pull the lever.",
    "correct_answer": "FALSE",
}
SYNONYMS = {
    "runaway": "driverless",
    "trolley": "tram",
    "heading": "moving",
    "away": "off",
    "five": "several",
    "people": "persons",
    "tied": "bound",
    "track": "rails",
    "cannot": "can't",
    "move": "stir",
    "near": "beside",
    "lever": "handle",
    "can": "could",
    "switch": "change",
    "direction": "course",
    "note": "remember",
    "pulling": "moving",
    "may": "might",
    "cause": "bring",
    "physical": "bodily",
    "strain": "stress",
    "stretched": "limbered",
}


def run(setting: Setting, account: Account) -> None:
    """Explains the wrong answer, replaces words by synonyms, and queries the model again."""
    puzzle, source = read_puzzle(setting)
    model, tokenizer, name = language_model(setting)
    wrong, right = ("True", "False") if puzzle["correct_answer"].strip().upper() == "FALSE" else ("False", "True")
    account.step(
        "Question",
        f"{puzzle['context']}\n\n{puzzle['question']}\n\nThe right answer is {right}. Which words of the context make "
        f"{name} answer {wrong}, and does it still do so when they are replaced by synonyms? ({source})",
        model=name,
        wrong=wrong,
    )

    def value_of(context: str) -> ValueFunction:
        return _value_of(model, tokenizer, context, puzzle["question"], wrong, right)

    value_fn = value_of(puzzle["context"])
    e = setting.explain(value_fn, BUDGET)
    account.found(e, f"Words of the context, deleted; the question stays. Log-odds of {wrong!r} against {right!r}.")
    account.checked(e, top=8)
    e.to_html(setting.out / "report.html")
    pairs = [(members, value) for members, value in e.interactions().top(50, order=2) if value > 0][:PAIRS]
    before = _whole(setting, value_fn)
    sizes = [len(tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]) for answer in (wrong, right)]
    account.step(
        "The whole puzzle",
        f"The log-odds of {wrong!r} are {before:+.3f}: the model answers {_answer(before, wrong, right)}. The answers "
        f"have {sizes[0]} and {sizes[1]} tokens; if one is shorter, it is favoured whatever the question.",
        log_odds=before,
        tokens=sizes,
    )
    if not pairs:
        account.conclude("words together mislead the model", [("some pair speaks for the wrong answer", False)])
        return
    corners = setting.corners(value_fn, pairs[0][0])
    account.step("Both, each alone, neither", f"The pair {e.interactions().label(pairs[0][0])}:", [corners])
    table = {**SYNONYMS, **setting.synonyms}
    rows: list[dict[str, Any]] = []
    changed: set[int] = set()
    for members, _ in pairs:
        changed |= set(members)
        context, swaps = replaced(puzzle["context"], value_fn.details.spans, sorted(changed), table)
        value = _whole(setting, value_of(context)) if swaps else before
        rows.append({"words": len(changed), "replaced": ", ".join(swaps) or "(no synonym)", "log-odds": value})
    known = [i for i, word in enumerate(value_fn.names) if _bare(word) in table]
    rng = np.random.default_rng(setting.seed)
    random = []
    for _ in range(setting.texts or RANDOM):
        some = rng.permutation([i for i in known if i not in pairs[0][0]])[:2]
        context, _ = replaced(puzzle["context"], value_fn.details.spans, some.tolist(), table)
        random.append(_whole(setting, value_of(context)))
    first, last = rows[0]["log-odds"], rows[-1]["log-odds"]
    account.step(
        "Answers with synonyms",
        f"The words of the strongest pairs for {wrong!r} are replaced by synonyms, one pair after another. With two "
        f"other words replaced the log-odds are {np.mean(random):+.3f} on average over {len(random)} draws.",
        rows,
        random=random,
    )
    account.conclude(
        "words that act together mislead the model",
        [
            (f"the model answers the puzzle wrongly (log-odds {before:+.3f})", before > 0),
            (f"R2 is at least 0.5 ({e.faithfulness.r2:.3f})", e.exact or e.faithfulness.r2 >= 0.5),
            (
                f"the strongest pair for the wrong answer is confirmed ({verdict_on(e, pairs[0][0])})",
                verdict_on(e, pairs[0][0]) == "confirmed",
            ),
            (
                f"replacing its words lowers the log-odds more than replacing others ({first - before:+.3f}, "
                f"{np.mean(random) - before:+.3f} on average)",
                first < min(before, float(np.mean(random))),
            ),
            (f"with the words of {len(pairs)} pairs replaced the answer is right ({last:+.3f})", last < 0),
        ],
    )


def read_puzzle(setting: Setting) -> tuple[Mapping[str, str], str]:
    """Returns the last puzzle of the data folder, or this module's copy, and its source."""
    if not setting.holds("spex_reference", "data", "puzzles.csv"):
        return PUZZLE, "the copy of the puzzle in this study"
    assert setting.data is not None
    with (setting.data / "spex_reference" / "data" / "puzzles.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))[-1], "puzzles.csv, last row"


def language_model(setting: Setting) -> tuple[Any, Any, str]:
    """Returns model, tokenizer and name, of --model or of stories260K, which runs anywhere but understands no puzzle.

    Raises:
      ValueError: neither is given, or the model is a classifier.
    """
    if setting.load_model is not None:
        model, tokenizer = setting.load_model()
        if not isinstance(model, models.Decoder):
            raise ValueError("the trolley puzzle needs a language model; --model is an encoder")
        return model, tokenizer, "the model of --model"
    if not setting.holds("stories260K", "stories260K.bin"):
        raise ValueError("give --model, the directory of a language model, or --data with stories260K/")
    assert setting.data is not None
    out, folder = setting.out / "stories260K", setting.data / "stories260K"
    if not (out / "config.json").exists():
        llama2c.convert(folder / "stories260K.bin", folder / "tok512.bin", out)
    return *models.load(out), "stories260K (a stand-in of 260 thousand weights, which understands no puzzle)"


def _value_of(model: Any, tokenizer: Any, context: str, question: str, wrong: str, right: str) -> ValueFunction:
    chat = bool(getattr(tokenizer, "chat_template", None))
    text = f"{context}\n\n{question}\nAnswer with True or False only."
    return lenses.text(
        model,
        tokenizer,
        [{"role": "user", "content": text}] if chat else f"{text}\nAnswer:",
        within=context,
        units="word",
        removal="delete",
        target=wrong if chat else f" {wrong}",
        contrast=right if chat else f" {right}",
        value="logit_diff",
    )


def replaced(
    context: str, spans: Sequence[Sequence[int]], members: Sequence[int], table: Mapping[str, str]
) -> tuple[str, list[str]]:
    """Returns the context with synonyms for some of its words, and the list of swaps; words without one stay.

    The spans are those of the whole prompt, which contains the context.
    """
    words = list(re.finditer(r"\S+", context))
    if len(words) != len(spans):
        raise ValueError(f"the context has {len(words)} words and the lens {len(spans)} units")
    swaps: list[str] = []
    for place in sorted(members, reverse=True):
        word = words[place].group()
        if (other := table.get(_bare(word))) is None:
            continue
        core = re.search(r"\w[\w']*", word)
        assert core is not None
        other = other.capitalize() if word[:1].isupper() else other
        new = word[: core.start()] + other + word[core.end() :]
        context = context[: words[place].start()] + new + context[words[place].end() :]
        swaps.insert(0, f"{word.strip('.,')} -> {other}")
    return context, swaps


def _bare(word: str) -> str:
    return word.strip(".,;:!?'\"()").lower()


def _whole(setting: Setting, value_fn: ValueFunction) -> float:
    return float(setting.values(value_fn, np.ones((1, value_fn.n), np.bool_))[0])


def _answer(value: float, wrong: str, right: str) -> str:
    return wrong if value > 0 else right
