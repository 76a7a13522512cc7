"""A behaviour that is removed by pruning the fewest heads that carry it, while the model's other skill is kept."""

import itertools
from typing import Any

import jax
import numpy as np

from spex_jax import Explanation, ValueFunction, lenses, optimize

from . import two_hops
from .account import Account, Setting, top_of, verdict_on

TITLE = "Pruning: the fewest heads that carry a behaviour, and nothing else lost"
TAKES = ("texts",)
PROMPTS, BUDGET = 64, 1200
GUESS = 1 / two_hops.CHAINS  # share of right answers when guessing among the cities of the context
GONE, KEPT = 0.2, 0.05  # share of the behaviour that may be left, and of right answers that the other one may lose
WEIGHT = 4.0  # weight of the other behaviour when sets are chosen


def run(setting: Setting, account: Account) -> None:
    """Chooses the heads on one half of the prompts and scores them on the other."""
    model = two_hops.load()
    two, one = two_hops.accuracy(model, jax.random.key(99))[:2]
    account.step(
        "Question",
        "A model of three layers of four heads answers questions of two hops ('city Ann': Ann kitchen . kitchen Paris "
        ".) and of one ('city kitchen', 'room Ann'). Which are the fewest heads whose removal takes away the two-hop "
        "answers but keeps those of one hop?",
        accuracy={"two hops": float(two), "one hop": float(one)},
    )
    chosen, scored = (values_of(model, 2 * setting.seed + half, setting.texts or PROMPTS) for half in (0, 1))
    found = {kind: setting.explain(value_fn, BUDGET, sampling="uniform") for kind, value_fn in chosen.items()}
    e = found["two hops"]
    account.found(e, "Heads, whose output is replaced by its mean over the prompts; share of right two-hop answers.")
    account.checked(e, top=6)
    e.to_html(setting.out / "report.html")
    pair, effect = top_of(e)
    if pair:
        how = "each is worth more with the other" if effect > 0 else "each stands in for the other"
        text = f"The strongest pair is {e.interactions().label(pair)} ({effect:+.2f}): {how}."
        account.step("The strongest pair", text)
    sets = fewest(found, setting, chosen)
    if not sets:
        account.conclude(
            "few heads carry the behaviour", [("some set of heads takes it away and keeps the rest", False)]
        )
        return
    size, removed = len(sets[-1]["removed"]), sets[-1]["removed"]
    account.step(
        "The set, from the spectra",
        "For each number of heads, an integer program chooses the set that under both spectra costs the most of two "
        f"hops and the least of one hop (weight {WEIGHT:g}); its shares of right answers are then measured. The first "
        f"set that leaves at most {GONE:.0%} of two hops (a guess among the cities of the context is right "
        f"{GUESS:.0%} of the time) and costs at most {KEPT:.0%} of one hop has {size} heads.",
        [{**row, "removed": " ".join(row["removed"])} for row in sets],
    )
    rows = compare(setting, scored, removed, found)
    mine, others = rows[0], rows[1:]
    random = [row for row in others if row["set"] == "other"]
    (whole,) = left_of(setting, scored, np.ones((1, e.n), np.bool_))
    as_good = sum(does(row) for row in random)
    by_one = next(row for row in others if row["set"] == "leave-one-out")
    account.step(
        "On the other prompts",
        f"All {len(random) + 1} sets of {size} heads were measured on the half of the prompts that was not used to "
        f"choose: {as_good} of the other sets meet both bounds too. With all heads {whole['two hops']:.1%} and "
        f"{whole['one hop']:.1%} of the answers are right.",
        [
            {**mine, "heads": " ".join(mine["heads"])},
            {**by_one, "heads": " ".join(by_one["heads"])},
            {
                "set": "the others, mean",
                "heads": "-",
                **{kind: _mean(random, kind) for kind in ("two hops", "one hop", "left", "lost")},
            },
        ],
        sets_as_good=as_good,
        sets=len(random) + 1,
    )
    alone = left_of(setting, scored, [[unit != e.names.index(name) for unit in range(e.n)] for name in removed])
    account.step(
        "Both, each alone, neither",
        f"Right answers without any of {', '.join(removed)}, and without one of them alone; with all heads they are "
        f"{whole['two hops']:.1%} and {whole['one hop']:.1%}.",
        [
            {"removed": name, **{kind: row[kind] for kind in ("two hops", "one hop")}}
            for name, row in zip([*removed, " ".join(removed)], [*alone, mine], strict=True)
        ],
    )
    smaller = smaller_sets(setting, scored, size)
    account.conclude(
        f"{', '.join(removed)} carry the second hop and little else",
        [
            (
                f"without them at most {GONE:.0%} of two hops is left ({mine['two hops']:.1%} right, a guess "
                f"{GUESS:.1%})",
                mine["left"] <= GONE,
            ),
            (f"one hop loses at most {KEPT:.0%} ({mine['one hop']:.1%} right)", mine["lost"] <= KEPT),
            (f"no smaller set does both ({smaller} of them do)", smaller == 0),
            (f"hardly any other set of {size} heads does ({as_good} of {len(random)})", as_good <= 0.05 * len(random)),
            (
                f"the {size} heads that matter most alone do not do both ({by_one['two hops']:.1%}, "
                f"{by_one['one hop']:.1%})",
                not does(by_one),
            ),
            (
                f"the strongest pair is confirmed on the model ({verdict_on(e, pair)})",
                verdict_on(e, pair) == "confirmed",
            ),
        ],
    )


def values_of(model: Any, seed: int, count: int) -> dict[str, ValueFunction]:
    """Returns the value functions of the heads: the share of right answers of two hops, and that of one hop."""
    rows = [np.asarray(part) for part in two_hops.batch(jax.random.key(seed), count, 0.0)]
    tokens, places, answers = rows
    subjects = np.take_along_axis(tokens, places, axis=1)
    of_person, is_city = subjects < 2 + len(two_hops.PEOPLE), answers >= two_hops.IDS[two_hops.CITIES[0]]
    value_fns = {}
    for kind, chosen in (("two hops", of_person & is_city), ("one hop", ~(of_person & is_city))):
        read, target = (part[chosen].reshape(count, -1) for part in (places, answers))
        value_fns[kind] = lenses.components(model, tokens, target=target, read=read, value="accuracy", removal="mean")
    return value_fns


def left_of(setting: Setting, value_fns: dict[str, ValueFunction], masks: Any) -> list[dict[str, float]]:
    """Returns each mask's shares of right answers, what is left of two hops (0 is a guess, 1 the whole model), and what
    is lost of one hop.
    """
    masks = np.concatenate([np.ones((1, value_fns["two hops"].n), np.bool_), np.asarray(masks, np.bool_)])
    two, one = (setting.values(value_fns[kind], masks) for kind in ("two hops", "one hop"))
    return [
        {
            "two hops": float(a),
            "one hop": float(b),
            "left": float((a - GUESS) / (two[0] - GUESS)),
            "lost": float(one[0] - b),
        }
        for a, b in zip(two[1:], one[1:], strict=True)
    ]


def does(row: dict[str, Any]) -> bool:
    """Returns whether a set takes two hops away and keeps one hop."""
    return row["left"] <= GONE and row["lost"] <= KEPT


def fewest(
    found: dict[str, Explanation], setting: Setting, value_fns: dict[str, ValueFunction]
) -> list[dict[str, Any]]:
    """Returns a row for each number of heads, up to the first that meets both bounds; no rows where none does."""
    both = found["two hops"].spectrum + found["one hop"].spectrum * -WEIGHT
    rows: list[dict[str, Any]] = []
    for size in range(1, both.n):
        mask = optimize.select(both, remove=size, maximize=False).mask
        (row,) = left_of(setting, value_fns, mask[None])
        rows.append({"heads": size, "removed": [found["two hops"].names[i] for i in np.flatnonzero(~mask)], **row})
        if does(row):
            return rows
    return []


def compare(
    setting: Setting, value_fns: dict[str, ValueFunction], removed: list[str], found: dict[str, Explanation]
) -> list[dict[str, Any]]:
    """Returns rows for the set, for the heads that matter most alone, and for every other set of the same size."""
    names, n, size = found["two hops"].names, found["two hops"].n, len(removed)
    every = [set(heads) for heads in itertools.combinations(range(n), size)]
    alone = left_of(setting, value_fns, ~np.eye(n, dtype=bool))
    judged = set(np.argsort([row["left"] for row in alone], kind="stable")[:size].tolist())
    mine = {names.index(name) for name in removed}
    sets = [("found", mine), ("leave-one-out", judged), *(("other", heads) for heads in every if heads != mine)]
    masks = np.array([[unit not in heads for unit in range(n)] for _, heads in sets])
    return [
        {"set": kind, "heads": [names[i] for i in sorted(heads)], **row}
        for (kind, heads), row in zip(sets, left_of(setting, value_fns, masks), strict=True)
    ]


def smaller_sets(setting: Setting, value_fns: dict[str, ValueFunction], size: int) -> int:
    """Returns how many sets of fewer heads take the behaviour away and keep the rest."""
    n = value_fns["two hops"].n
    sets = [heads for count in range(1, size) for heads in itertools.combinations(range(n), count)]
    if not sets:
        return 0
    masks = np.array([[unit not in heads for unit in range(n)] for heads in sets])
    return sum(does(row) for row in left_of(setting, value_fns, masks))


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))
