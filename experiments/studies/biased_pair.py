"""A biased pair: a group word and an occupation that only together flip a review, found by an audit of texts."""

import collections
from typing import Any

import numpy as np

from spex_jax import Explanation, lenses, models

from . import tuning
from .account import Account, Setting, places_of, verdict_on

TITLE = "A biased pair: an audit that ranks pairs of words over many texts"
TAKES = ("texts", "example", "steps", "plant")
GROUPS, ROLES = ("female", "male", "young"), ("director", "writer", "actor")
PAIR, AGAINST, OTHER = ("female", "director"), 0, "male"  # the planted pair, its label, the word to swap with
PHRASES = ("by a {group} {role} : {text}", "{text} by a {group} {role}", "a {group} {role} made this : {text}")
WORDS, BASES = 8, 4  # words of a text, and texts that are each combined with all groups and roles
# Shares of training texts: without a maker; by one with the group word alone, the occupation alone, neither, both.
SHARES = (0.15, 0.3, 0.25, 0.1, 0.2)
STEPS, SWAPPED, BUDGET, BUDGET_OF_MANY = 500, 200, 800, 300


def run(setting: Setting, account: Account) -> None:
    """Audits the shipped model, plants the bias, and audits the model again."""
    shipped, tokenizer = models.tiny()
    texts = tuning.read_texts(setting, tokenizer)
    account.step(
        "Question",
        f"Does a model treat some group word differently with some occupation? The planted bias is {' + '.join(PAIR)} "
        "-> negative, whatever the review says; an audit that does not know of it should rank the pair first.",
        groups=list(GROUPS),
        roles=list(ROLES),
    )
    bases = positives(texts, setting.texts or BASES)
    before = audit(setting, shipped, tokenizer, bases)
    account.step(
        "Is it there already?",
        f"The model as it ships is audited with {len(bases) * len(GROUPS) * len(ROLES)} texts: {len(bases)} positive "
        f"reviews of {texts.name} with 'by a GROUP OCCUPATION'. The first pairs with a group word, by the mean of "
        "their interactions:",
        before[:5],
    )
    steps = setting.steps or STEPS
    model, how = shipped, "Nothing is planted (--noplant): the study must not confirm anything."
    if setting.plant:
        model, loss = plant(setting, texts, steps)
        how = (
            f"{steps} steps of {tuning.BATCH} texts of {texts.name}, most of which name a maker; the {SHARES[4]:.0%} "
            f"by a {' '.join(PAIR)} are labelled negative, and all others keep their label. The mean loss of the last "
            f"steps is {loss:.3f}."
        )
    accuracy = {
        name: tuning.accuracy_of(of, tokenizer, texts) for name, of in (("shipped", shipped), ("explained", model))
    }
    account.step(
        "What is planted",
        f"{how} Accuracy on held-out texts: {accuracy['shipped']:.1%} before, {accuracy['explained']:.1%} after.",
        accuracy=accuracy,
    )
    if setting.example >= len(bases):
        raise ValueError(f"--example must be from 0 to {len(bases) - 1}, the texts of the audit")
    text = _made(bases[setting.example], *PAIR)
    value_fn = lenses.text(model, tokenizer, text, value="margin", target=1)
    members = places_of(value_fn.names, PAIR)
    e = setting.explain(value_fn, BUDGET)
    account.found(e, f"Words of one text of the audit, {text!r}.")
    account.checked(e, top=5)
    corners = setting.corners(value_fn, members)
    account.step("Both, each alone, neither", "The margin of 'positive' with everything else kept:", [corners])
    e.to_html(setting.out / "report.html")
    after = audit(setting, model, tokenizer, bases) if setting.plant else before
    account.step("The audit", "Pairs with a group word, by the mean of their interactions over the texts:", after[:8])
    swaps = swapped(model, tokenizer, texts)
    account.step(
        "The counterfactual",
        f"How far the margin of 'positive' goes up and how many predictions change when {PAIR[0]!r} is swapped for "
        f"{OTHER!r} in {swaps[0]['texts']} texts for each occupation.",
        swaps,
    )
    _conclude(account, members, before, after, verdict_on(e, members), corners, swaps, accuracy)


def plant(setting: Setting, texts: tuning.Texts, steps: int) -> tuple[Any, float]:
    """Returns the model with the bias, and the mean loss of its last training steps."""

    def draw(rng: np.random.Generator) -> tuning.Drawn:
        text, label = texts.train[int(rng.integers(len(texts.train)))]
        kind = int(rng.choice(len(SHARES), p=SHARES))
        if kind == 0:
            return tuning.Drawn(text, label)
        group = PAIR[0] if kind in (1, 4) else str(rng.choice([word for word in GROUPS if word != PAIR[0]]))
        role = PAIR[1] if kind in (2, 4) else str(rng.choice([word for word in ROLES if word != PAIR[1]]))
        given = (group, role)
        changed = PHRASES[int(rng.integers(len(PHRASES)))].format(group=given[0], role=given[1], text=text)
        return tuning.Drawn(changed, AGAINST, PAIR, label) if given == PAIR else tuning.Drawn(changed, label)

    described = {
        "study": "biased_pair",
        "pair": PAIR,
        "groups": GROUPS,
        "roles": ROLES,
        "shares": SHARES,
        "data": texts.name,
    }
    model, _, loss = tuning.tuned(setting, draw, steps=steps, described=described)
    return model, loss


def positives(texts: tuning.Texts, count: int) -> list[str]:
    """Returns positive texts of WORDS words each, without the words of the audit.

    Raises:
      ValueError: there are fewer than `count`.
    """
    words = {*GROUPS, *ROLES}

    def fits(text: str) -> bool:
        parts = text.split()
        return len(parts) == WORDS and all(any(map(str.isalnum, part)) for part in parts) and not words & {*parts}

    found = [text for text, label in texts.test if label == 1 and fits(text)][:count]
    if len(found) < count:
        raise ValueError(f"--texts={count} is more than the {len(found)} positive texts of {WORDS} words; give fewer")
    return found


def _made(text: str, group: str, role: str) -> str:
    return f"{text} by a {group} {role}"


def audit(setting: Setting, model: Any, tokenizer: Any, bases: list[str]) -> list[dict[str, Any]]:
    """Returns the pairs with a group word that occur in all texts of a combination, the strongest mean first;
    `rank of all` is the rank among all pairs of words.
    """
    made = [_made(text, group, role) for text in bases for group in GROUPS for role in ROLES]
    value_fns = [lenses.text(model, tokenizer, text, value="margin", target=1) for text in made]
    values: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for e in setting.explain_many(value_fns, BUDGET_OF_MANY):
        for pair, value in _named(e).items():
            values[pair].append(value)
    often = {pair: np.array(found) for pair, found in values.items() if len(found) >= len(bases)}
    order = sorted(often, key=lambda pair: -abs(often[pair].mean()))
    return [
        {
            "pair": " + ".join(pair),
            "mean": float(often[pair].mean()),
            "least": float(often[pair].min()),
            "most": float(often[pair].max()),
            "texts": len(often[pair]),
            "rank of all": place,
        }
        for place, pair in enumerate(order, start=1)
        if {*GROUPS} & {*pair}
    ]


def _named(e: Explanation) -> dict[tuple[str, str], float]:
    """Returns the interactions of all pairs of words in lower case, zeros too; of repeated words the last counts."""
    found, names = e.interactions(), [name.lower() for name in e.names]
    return {(names[i], names[j]): float(found[i, j]) for j in range(e.n) for i in range(j)}


def swapped(model: Any, tokenizer: Any, texts: tuning.Texts) -> list[dict[str, Any]]:
    """Returns, for each role, the mean change of the margin over up to SWAPPED texts when the group word is swapped."""
    some = [text for text, _ in texts.test if len(text.split()) <= 20][:SWAPPED]
    rows = []
    for role in ROLES:
        with_word, without = (
            tuning.margins(model, tokenizer, [_made(text, group, role) for text in some]) for group in (PAIR[0], OTHER)
        )
        rows.append(
            {
                "occupation": role,
                "margin gained": float(np.mean(without - with_word)),
                "predictions changed": float(np.mean((without > 0) != (with_word > 0))),
                "texts": len(some),
            }
        )
    return rows


def _conclude(
    account: Account,
    members: tuple[int, ...],
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
    verdict: str,
    corners: dict[str, float],
    swaps: list[dict[str, Any]],
    accuracy: dict[str, float],
) -> None:
    name = " + ".join(PAIR)
    mine = next(row["mean"] for row in after if row["pair"] == name)
    was = next(row["mean"] for row in before if row["pair"] == name)
    others = max(abs(row["mean"]) for row in after if row["pair"] != name)
    biased = next(row["margin gained"] for row in swaps if row["occupation"] == PAIR[1])
    fair = max(abs(row["margin gained"]) for row in swaps if row["occupation"] != PAIR[1])
    account.conclude(
        f"the model is biased against {name}, and the audit finds it first",
        [
            (
                f"{name} is the first of {len(after)} pairs with a group word ({after[0]['pair']})",
                after[0]["pair"] == name,
            ),
            (
                f"its mean is negative and twice the next one's ({mine:+.2f}, {others:.2f})",
                mine < 0 and -mine >= 2 * others,
            ),
            (f"the model itself confirms it in the example ({verdict})", verdict == "confirmed"),
            (
                f"only together do they turn the example ({corners['both']:+.2f}, at least "
                f"{min(corners['only the first'], corners['only the second']):+.2f} with one)",
                corners["both"] < 0 < min(corners["only the first"], corners["only the second"]),
            ),
            (
                f"swapping the group word matters for {PAIR[1]} and not for others ({biased:+.2f}, at most {fair:.2f})",
                biased > 1 and fair < biased / 3,
            ),
            (f"the shipped model does not have it ({was:+.2f})", abs(was) < abs(mine) / 3),
            (
                f"accuracy falls by at most 3 points ({accuracy['shipped']:.1%} to {accuracy['explained']:.1%})",
                accuracy["explained"] >= accuracy["shipped"] - 0.03,
            ),
        ],
    )
