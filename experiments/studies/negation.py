"""A negation in a film review: the negation and the word that it negates should act together, against that word."""

from typing import Any

import numpy as np

from spex_jax import lenses, models

from .account import Account, Setting, places_of, rank_of, sign, top_of, verdict_on

TITLE = "A negation in a film review: what it negates, and that it reverses it"
TAKES = ("model", "texts", "example")
BUDGET = 1200
REVIEWS = (  # review, (negation, negated word)
    ("We saw it on a rainy evening with friends , and the plot is not boring for a single minute .", ("not", "boring")),
    (
        "The trailer gives away too much and the middle act drags , but her acting never fails to impress and the "
        "music is lovely .",
        ("never", "fails"),
    ),
    (
        "Everyone in the cinema laughed except me , because the jokes were not funny and went on too long .",
        ("not", "funny"),
    ),
    (
        "The camera work is lovely and the songs are fine , yet the hero is never convincing as a spy .",
        ("never", "convincing"),
    ),
    (
        "I took my parents to the early show and nobody was disappointed by this quiet little drama .",
        ("nobody", "disappointed"),
    ),
    (
        "With a cast like this and a budget to match , it is hardly original but it passes the time .",
        ("hardly", "original"),
    ),
    (
        "The first hour sets up a clever puzzle , and the second hour doesn't disappoint at all .",
        ("doesn't", "disappoint"),
    ),
    (
        "Two hours in the dark with these people , and the story is never predictable or cheap .",
        ("never", "predictable"),
    ),
    ("For a film about magic there is not much charm in the room , only noise and smoke .", ("not", "charm")),
    ("The director has made this film before , and this time it isn't good from any angle .", ("isn't", "good")),
    (
        "A small film about a bakery in winter , without pretension and full of gentle people .",
        ("without", "pretension"),
    ),
    ("The remake copies every shot of the old one , and it does not work as a thriller .", ("not", "work")),
)


def run(setting: Setting, account: Account) -> None:
    """Explains one review in full, and ranks the pair in all of them."""
    if not 0 <= setting.example < len(REVIEWS):
        raise ValueError(f"--example must be from 0 to {len(REVIEWS) - 1} for this study, got {setting.example}")
    model, tokenizer = models.tiny() if setting.load_model is None else setting.load_model()
    text, words = REVIEWS[setting.example]
    account.step(
        "Question",
        f"In the review {text!r}, does the model read {words[0]!r} and {words[1]!r} together, so that the first "
        "reverses the effect of the second?",
        review=text,
        pair=list(words),
    )
    value_fn = _value_of(model, tokenizer, text)
    pair = places_of(value_fn.names, words)
    e = setting.explain(value_fn, BUDGET)
    account.found(e, "Words of the review, replaced by the model's mask token.")
    rank, effect = rank_of(e, pair), e.interactions()[pair]
    account.checked(e, top=6)
    corners = setting.corners(value_fn, pair)
    first_is_negation = value_fn.names[pair[0]].lower().startswith(words[0].lower())
    unnegated = corners["only the second" if first_is_negation else "only the first"] - corners["neither"]
    negated = corners["both"] - corners["only the first" if first_is_negation else "only the second"]
    account.step(
        "Both, each alone, neither",
        f"With everything else kept, {words[1]!r} changes the margin by {unnegated:+.2f} without {words[0]!r} and by "
        f"{negated:+.2f} with it.",
        [corners],
        unnegated=unnegated,
        negated=negated,
    )
    plain = _without(text, words[0])
    before, after = (_whole(_value_of(model, tokenizer, part)) for part in (text, plain))
    account.step(
        "The counterfactual",
        f"The review without its negation, {plain!r}: the margin goes from {before:+.2f} to {after:+.2f}.",
        before=before,
        after=after,
    )
    rows = _others(setting, model, tokenizer)
    top = sum(row["rank of the pair"] is not None and row["rank of the pair"] <= 3 for row in rows)
    right = sum(row["reverses"] for row in rows)
    account.step(
        "Other reviews",
        f"In {top} of {len(rows)} reviews the pair is among the top 3 pairs, and in {right} its sign is that of a "
        "reversal.",
        rows,
    )
    e.to_html(setting.out / "report.html")
    account.conclude(
        f"the model reads {words[0]!r} and {words[1]!r} as a negation",
        [
            (f"the pair is among the top 3 pairs (rank {rank})", rank is not None and rank <= 3),
            (
                f"the model itself confirms its interaction ({verdict_on(e, pair)})",
                verdict_on(e, pair) == "confirmed",
            ),
            (
                f"its sign is that of a reversal: {effect:+.2f} against {unnegated:+.2f} of {words[1]!r} alone",
                sign(effect) == -sign(unnegated) != 0,
            ),
            (
                f"without the negation the text's margin moves the other way ({before:+.2f} to {after:+.2f})",
                sign(after - before) == -sign(effect) != 0,
            ),
            (
                f"in at least three quarters of the reviews it is a top-3 pair ({top} of {len(rows)})",
                4 * top >= 3 * len(rows),
            ),
        ],
    )


def _value_of(model: Any, tokenizer: Any, text: str) -> Any:
    positive = "positive" if "positive" in getattr(model, "class_names", ()) else 1
    return lenses.text(model, tokenizer, text, value="margin", target=positive)


def _whole(value_fn: Any) -> float:
    return float(value_fn(np.ones((1, value_fn.n), np.bool_))[0])


def _without(text: str, negation: str) -> str:
    """Returns the text without the negation; "isn't" and "doesn't" leave their verb."""
    verb = [negation.removesuffix("n't")] if negation.endswith("n't") else []
    parts = text.split()
    place = [part.lower() for part in parts].index(negation)
    return " ".join([*parts[:place], *verb, *parts[place + 1 :]])


def _others(setting: Setting, model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Returns the rank of the pair in each review, and whether its sign is opposite to the word's effect alone."""
    rows = []
    for text, words in REVIEWS[: setting.texts]:
        value_fn = _value_of(model, tokenizer, text)
        pair = places_of(value_fn.names, words)
        e = setting.explain(value_fn, BUDGET)
        corners = setting.corners(value_fn, pair)
        unnegated = corners["only the second"] - corners["neither"]  # the negation stands first in all of them
        effect, best = e.interactions()[pair], top_of(e)[0]
        rows.append(
            {
                "pair": " + ".join(words),
                "words": value_fn.n,
                "R2": e.faithfulness.r2,
                "rank of the pair": rank_of(e, pair),
                "interaction": effect,
                "strongest pair": e.interactions().label(best) if best else None,
                "reverses": sign(effect) == -sign(unnegated) != 0,
            }
        )
    return rows
