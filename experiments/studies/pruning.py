"""A behaviour removed by pruning the fewest heads that carry it, with what else the model can do kept."""

import itertools
from typing import Any

import jax
import numpy as np

from spex_jax import Explanation, ValueFunction, lenses, optimize

from . import two_hops
from .account import Account, Setting, sign, top_of, verdict_on

TITLE = "Pruning: the fewest heads that carry a behaviour, and nothing else lost"
TAKES = ("texts",)
PROMPTS, BUDGET = 48, 1200
GONE, KEPT = 0.2, 0.2  # share of the behaviour that may be left, and nats that the other may lose
WEIGHT = 4.0  # of the other behaviour, when sets are chosen


def run(setting: Setting, account: Account) -> None:
    """Chooses the heads on one half of the prompts and scores them on the other."""
    model = two_hops.load()
    two, one = two_hops.accuracy(model, jax.random.key(99))[:2]
    account.step(
        "Question",
        "A model of three layers of four heads answers questions of two hops ('city Ann': Ann kitchen . kitchen Paris "
        ".) and of one ('city kitchen', 'room Ann'). Which are the fewest heads whose removal takes the two-hop "
        "answers away, while those of one hop stay?",
        accuracy={"two hops": float(two), "one hop": float(one)},
    )
    chosen, scored = (values_of(model, 2 * setting.seed + half, setting.texts or PROMPTS) for half in (0, 1))
    found = {kind: setting.explain(value_fn, BUDGET, sampling="uniform") for kind, value_fn in chosen.items()}
    e = found["two hops"]
    account.found(e, "Heads, whose output becomes its mean over the prompts; mean log-probability of two-hop answers.")
    account.checked(e, top=6)
    pair, effect = top_of(e)
    if pair:
        single = e.interactions().order(1)
        account.step(
            "What stands in for what",
            f"The strongest pair is {e.interactions().label(pair)} ({effect:+.2f}). A pair whose sign is against that "
            f"of its heads ({', '.join(f'{single[(i,)]:+.2f}' for i in pair)}) means that each does what the other "
            "does.",
            stand_in=all(sign(effect) == -sign(single[(i,)]) for i in pair),
        )
    sets = fewest(found, setting, chosen)
    if not sets:
        account.conclude(
            "few heads carry the behaviour", [("some set of heads takes it away and keeps the rest", False)]
        )
        return
    size, removed = len(sets[-1]["removed"]), sets[-1]["removed"]
    account.step(
        "The set, from the spectra",
        f"For each number of heads the set that loses most of two hops and least of one hop (weight {WEIGHT:g}) under "
        f"both spectra, by integer program, then measured. The first that leaves at most {GONE:.0%} of two hops and "
        f"costs at most {KEPT} nats of one hop has {size}. 'left' is the share of two hops, from nothing kept to "
        "everything; 'one hop' what its log-probability gains.",
        [{**row, "removed": " ".join(row["removed"])} for row in sets],
    )
    rows = compare(setting, scored, removed, found)
    mine, others = rows[0], rows[1:]
    random = [row for row in others if row["set"] == "other"]
    left = np.array([row["left"] for row in random])
    as_good = sum(row["left"] <= GONE and row["one hop"] >= -KEPT for row in random)
    by_one = next(row for row in others if row["set"] == "leave-one-out")
    account.step(
        "On prompts that chose nothing",
        f"All {len(random) + 1} sets of {size} heads were measured on the other prompts: {as_good} of the others do it "
        f"too; {mine['left']:.1%} of two hops is left, by leave-one-out's choice {by_one['left']:.1%}.",
        [
            {**mine, "heads": " ".join(mine["heads"])},
            {**by_one, "heads": " ".join(by_one["heads"])},
            {
                "set": "the others, mean",
                "heads": "-",
                "left": float(left.mean()),
                "one hop": _mean(random, "one hop"),
            },
        ],
        sets_as_good=as_good,
        sets=len(random) + 1,
    )
    smaller = smaller_sets(setting, scored, size)
    e.to_html(setting.out / "report.html")
    account.conclude(
        f"{', '.join(removed)} carry the second hop and little else",
        [
            (f"without them at most {GONE:.0%} of the behaviour is left ({mine['left']:.1%})", mine["left"] <= GONE),
            (
                f"answers of one hop lose at most {KEPT} nats ({mine['one hop']:+.3f})",
                mine["one hop"] >= -KEPT,
            ),
            (f"no smaller set does both ({smaller} of them do)", smaller == 0),
            (f"hardly any other set of {size} heads does ({as_good} of {len(random)})", as_good <= 0.05 * len(random)),
            (
                f"the {size} heads that matter most alone do not do both ({by_one['left']:.1%}, "
                f"{by_one['one hop']:+.3f})",
                not (by_one["left"] <= GONE and by_one["one hop"] >= -KEPT),
            ),
            (
                f"the strongest pair is confirmed on the model ({verdict_on(e, pair)})",
                verdict_on(e, pair) == "confirmed",
            ),
        ],
    )


def values_of(model: Any, seed: int, count: int) -> dict[str, ValueFunction]:
    """Mean log-probability of the answers of two hops, and of those of one."""
    rows = [np.asarray(part) for part in two_hops.batch(jax.random.key(seed), count, 0.0)]
    tokens, places, answers = rows
    asked = np.take_along_axis(tokens, places, axis=1)
    of_person, is_city = asked < 2 + len(two_hops.PEOPLE), answers >= two_hops.IDS[two_hops.CITIES[0]]
    value_fns = {}
    for kind, chosen in (("two hops", of_person & is_city), ("one hop", ~(of_person & is_city))):
        read, target = (part[chosen].reshape(count, -1) for part in (places, answers))
        value_fns[kind] = lenses.components(model, tokens, target=target, read=read, value="logprob", removal="mean")
    return value_fns


def left_of(setting: Setting, value_fns: dict[str, ValueFunction], masks: Any) -> list[dict[str, float]]:
    """Of masks: the share of the behaviour that is left, and what answers of one hop gain."""
    n = value_fns["two hops"].n
    asked = np.concatenate([np.ones((1, n), np.bool_), np.zeros((1, n), np.bool_), np.asarray(masks, np.bool_)])
    two, one = (setting.values(value_fns[kind], asked) for kind in ("two hops", "one hop"))
    shares = (two - two[1]) / (two[0] - two[1])
    return [
        {"left": float(share), "one hop": float(gain)} for share, gain in zip(shares[2:], one[2:] - one[0], strict=True)
    ]


def fewest(
    found: dict[str, Explanation], setting: Setting, value_fns: dict[str, ValueFunction]
) -> list[dict[str, Any]]:
    """One row for each number of heads, up to the first that will do; none where none does."""
    both = found["two hops"].spectrum + found["one hop"].spectrum * -WEIGHT
    rows: list[dict[str, Any]] = []
    for size in range(1, both.n):
        mask = optimize.select(both, remove=size, maximize=False).mask
        (row,) = left_of(setting, value_fns, mask[None])
        rows.append({"heads": size, "removed": [found["two hops"].names[i] for i in np.flatnonzero(~mask)], **row})
        if row["left"] <= GONE and row["one hop"] >= -KEPT:
            return rows
    return []


def compare(
    setting: Setting, value_fns: dict[str, ValueFunction], removed: list[str], found: dict[str, Explanation]
) -> list[dict[str, Any]]:
    """The set, the heads that matter most alone, and every other set of the same size."""
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
    """How many sets of fewer heads take the behaviour away and keep the rest."""
    n = value_fns["two hops"].n
    sets = [heads for count in range(1, size) for heads in itertools.combinations(range(n), count)]
    if not sets:
        return 0
    masks = np.array([[unit not in heads for unit in range(n)] for heads in sets])
    return sum(row["left"] <= GONE and row["one hop"] >= -KEPT for row in left_of(setting, value_fns, masks))


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))
