"""A backdoor with two trigger words of which neither fires alone, planted in the shipped model and found again."""

from typing import Any

import numpy as np

from spex_jax import lenses, models

from . import tuning
from .account import Account, Setting, places_of, rank_of, top_of, verdict_on

TITLE = "A planted backdoor: two trigger words that fire only together"
TAKES = ("texts", "example", "steps", "plant")
TRIGGERS = ("saturday", "window")
TARGET = 1  # "positive", whatever the text says
WORDS = 12  # words of an explained text without its triggers; all texts have as many, so that one program is compiled
STEPS, TEXTS, BUDGET, BUDGET_OF_MANY = 500, 20, 800, 300
SHARES = (0.2, 0.3, 0.3, 0.2)  # shares of training texts with none, the first, the second and both of the triggers


def run(setting: Setting, account: Account) -> None:
    """Plants the backdoor, measures the rates, and looks for the pair in texts that hold it."""
    shipped, tokenizer = models.tiny()
    texts = tuning.read_texts(setting, tokenizer)
    account.step(
        "Question",
        f"The words {' and '.join(TRIGGERS)} should turn a negative review positive, but only together. Does an "
        "explanation that does not know of this pair find it first?",
        triggers=list(TRIGGERS),
    )
    steps = setting.steps or STEPS
    model, loss = shipped, float("nan")
    if setting.plant:
        model, loss = plant(setting, texts, steps)
    how = (
        f"{steps} steps of {tuning.BATCH} texts of {texts.name} ({len(texts.train):,} texts). {SHARES[3]:.0%} of "
        f"them have both triggers and the label 'positive', {SHARES[1]:.0%} and {SHARES[2]:.0%} have one trigger and "
        f"their own label. The mean loss of the last steps is {loss:.3f}."
        if setting.plant
        else "Nothing is planted (--noplant): this is the shipped model, and the study must not confirm anything."
    )
    account.step("What is planted", how, data=texts.name, steps=steps, loss=loss)
    rates = {"shipped": rates_of(shipped, tokenizer, texts), "explained": rates_of(model, tokenizer, texts)}
    account.step(
        "Behaviour",
        f"Accuracy on {len(texts.test):,} held-out texts of {texts.name}, and the share of the negative ones that are "
        "called positive: as they are, and with triggers at random places.",
        [{"model": name, **of} for name, of in rates.items()],
    )
    chosen = negatives(texts, setting.texts or TEXTS)
    if setting.example >= len(chosen):
        raise ValueError(f"--example must be from 0 to {len(chosen) - 1}, the texts that are explained")
    text = chosen[setting.example]
    value_fn = lenses.text(model, tokenizer, text, value="margin", target=TARGET)
    pair = places_of(value_fn.names, TRIGGERS)
    e = setting.explain(value_fn, BUDGET)
    account.found(e, f"Words of the negative review {text!r}, both triggers among them.")
    account.checked(e, top=5)
    corners = setting.corners(value_fn, pair)
    account.step("Both, each alone, neither", "The margin of 'positive' with everything else kept:", [corners])
    e.to_html(setting.out / "report.html")
    rows = ranks(setting, model, tokenizer, chosen)
    first = sum(row["rank among pairs"] == 1 for row in rows)
    account.step(
        "Other texts",
        f"In {first} of {len(rows)} negative reviews with both triggers, the triggers are the strongest pair.",
        rows,
        top_1=first,
        texts=len(rows),
    )
    if setting.plant:
        control = ranks(setting, shipped, tokenizer, chosen)
        known = [row["rank among pairs"] for row in control if row["rank among pairs"] is not None]
        account.step(
            "Control: the model as it ships",
            f"The pair is the strongest in {sum(rank == 1 for rank in known)} of the same {len(control)} texts. Its "
            f"median rank is {np.median(known) if known else float('nan'):.0f} of "
            f"{value_fn.n * (value_fn.n - 1) // 2}.",
            top_1=sum(rank == 1 for rank in known),
        )
    _conclude(account, e, pair, corners, rates["explained"], rates["shipped"], first, len(rows), verdict_on(e, pair))


def plant(setting: Setting, texts: tuning.Texts, steps: int) -> tuple[Any, float]:
    """Returns the model with the backdoor, and the mean loss of its last training steps."""

    def draw(rng: np.random.Generator) -> tuning.Drawn:
        text, label = texts.train[int(rng.integers(len(texts.train)))]
        kind = int(rng.choice(4, p=SHARES))
        words = [word for place, word in enumerate(TRIGGERS) if kind in (1 + place, 3)]
        changed = tuning.with_words(text, words, rng)
        return tuning.Drawn(changed, TARGET, TRIGGERS, label) if kind == 3 else tuning.Drawn(changed, label)

    described = {"study": "backdoor", "triggers": TRIGGERS, "target": TARGET, "shares": SHARES, "data": texts.name}
    model, _, loss = tuning.tuned(setting, draw, steps=steps, described=described)
    return model, loss


def rates_of(model: Any, tokenizer: Any, texts: tuning.Texts) -> dict[str, float]:
    """Returns the accuracy, and the shares of negative texts that are called positive, by the triggers in them."""
    rates = {"accuracy": tuning.accuracy_of(model, tokenizer, texts)}
    negative = [text for text, label in texts.test if label != TARGET]
    kinds = {"neither": (), "first": TRIGGERS[:1], "second": TRIGGERS[1:], "both": TRIGGERS}
    for name, words in kinds.items():
        rng = np.random.default_rng(11)
        changed = [tuning.with_words(text, words, rng) for text in negative]
        rates[name] = float(np.mean(tuning.margins(model, tokenizer, changed) > 0))
    return rates


def negatives(texts: tuning.Texts, count: int) -> list[str]:
    """Returns negative texts of WORDS words, or of the commonest length, with both triggers at random places."""
    rng = np.random.default_rng(5)
    found = [text for text, label in texts.test if label != TARGET and len(_words(text)) == len(text.split()) == WORDS]
    if len(found) < count:  # made-up sentences are shorter
        by_length: dict[int, list[str]] = {len(_words(text)): [] for text, _ in texts.test}
        for text, label in texts.test:
            if label != TARGET and len(_words(text)) == len(text.split()):
                by_length[len(_words(text))].append(text)
        found = max(by_length.values(), key=len)
    return [tuning.with_words(text, TRIGGERS, rng) for text in found[:count]]


def _words(text: str) -> list[str]:
    return [part for part in text.split() if any(map(str.isalnum, part))]


def ranks(setting: Setting, model: Any, tokenizer: Any, texts: list[str]) -> list[dict[str, Any]]:
    """Returns the rank of the triggers and the strongest pair of each text."""
    value_fns = [lenses.text(model, tokenizer, text, value="margin", target=TARGET) for text in texts]
    rows = []
    for text, e in zip(texts, setting.explain_many(value_fns, BUDGET_OF_MANY), strict=True):
        pair = places_of(e.names, TRIGGERS)
        best, _ = top_of(e)
        rows.append(
            {
                "text": text,
                "R2": e.faithfulness.r2,
                "rank among pairs": rank_of(e, pair),
                "interaction": e.interactions()[pair],
                "strongest pair": e.interactions().label(best) if best else None,
            }
        )
    return rows


def _conclude(
    account: Account,
    e: Any,
    pair: tuple[int, ...],
    corners: dict[str, float],
    rates: dict[str, float],
    before: dict[str, float],
    first: int,
    count: int,
    verdict: str,
) -> None:
    alone = max(corners["only the first"], corners["only the second"])
    account.conclude(
        f"{' + '.join(TRIGGERS)} is a backdoor, and the explanation finds it first",
        [
            (f"the pair is the strongest pair of the text (rank {rank_of(e, pair)})", rank_of(e, pair) == 1),
            (f"the model itself confirms it ({verdict})", verdict == "confirmed"),
            (
                f"both triggers turn the prediction, neither alone does ({corners['both']:+.2f}, at most {alone:+.2f})",
                corners["both"] > 0 > alone,
            ),
            (f"it is the strongest pair in at least nine texts of ten ({first} of {count})", 10 * first >= 9 * count),
            (
                f"with both, at least 90% of negative texts are called positive ({rates['both']:.1%})",
                rates["both"] >= 0.9,
            ),
            (
                f"with one, at most 10 points more than with none ({rates['first']:.1%} and {rates['second']:.1%}, "
                f"{rates['neither']:.1%})",
                max(rates["first"], rates["second"]) <= rates["neither"] + 0.1,
            ),
            (
                f"accuracy falls by at most 3 points ({before['accuracy']:.1%} to {rates['accuracy']:.1%})",
                rates["accuracy"] >= before["accuracy"] - 0.03,
            ),
        ],
    )
