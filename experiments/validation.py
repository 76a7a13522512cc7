"""Do measurements on the model tell true interactions from those that sampled ablations show by chance?

Two parts. "planted": functions of n features with planted pairs, slopes and a background of higher order, with and
without noise, each explained by least squares of second order. Its claims are the pairs whose estimate is at least 2
standard errors from zero: planted ones, whose true effects are at least 2 standard errors too, and absent ones that are
there by chance. A verdict is right where a planted pair is confirmed and an absent one is not. "games": ProxySPEX
explanations of functions of which all 2^n values are known (a folder as for faithfulness.py, and a sentence read by the
shipped model); the 20 strongest interactions are validated, and verdicts are right where exactly those are "confirmed"
that have the predicted sign and a tenth of the predicted size. Ablations are those beyond the explanation's.

  python experiments/validation.py
  python experiments/validation.py --parts=planted,games --games=FOLDER --out=results/validation.json

Expected: 1 minute with no flags on 2 CPU cores; 10 minutes with games.
"""

from collections.abc import Callable, Mapping
from typing import Any

import games as games_lib
import numpy as np
from absl import flags

from spex_jax import Spectrum, explain
from spex_jax.analysis.validation import VERDICTS, Validation, validate
from spex_jax.core import masks as masks_lib
from spex_jax.core.spectrum import exact_spectrum
from spex_jax.core.walsh import subset_characters
from spex_jax.runtime import define_path, run_parts, run_program, seed, without_nan

_PARTS = flags.DEFINE_list("parts", ["planted"], "Parts to run: planted, games.")
_N = flags.DEFINE_integer("n", 30, "Features of the planted functions.", lower_bound=10)
_MASKS = flags.DEFINE_integer("masks", 1200, "Ablations to explain a planted function.", lower_bound=10)
_CLAIMS = flags.DEFINE_integer("claims", 50, "Claims of each kind, planted and absent.", lower_bound=1)
_CONTEXTS = flags.DEFINE_list("contexts", ["256", "4096"], "Limits on the contexts of a set.")
_GAMES = define_path("games", "", "Folder of games; only those with all 2^n values are used.")
_ONLY = flags.DEFINE_string("only", "", "Only games with this in their name.")
_ALPHAS = flags.DEFINE_list("alphas", ["2", "8"], "Budgets of the games, over n log2 n.")
_INDICES = flags.DEFINE_list("indices", ["FSII", "BII"], "Indices of the games.")
_PROXY = flags.DEFINE_string("proxy", "auto", "Proxy of the explanations of the games.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Draws of contexts for each game.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "results/validation.json", "File for the result.")

_PLANTED = 12  # pairs of a function, 20 terms of orders 3 and 4 besides
_RELATIVE_NOISE = 1.0  # standard deviation of the noise over that of the background


def second_order(masks: np.ndarray, values: np.ndarray) -> Spectrum:
    """Fits all terms of up to two features by least squares, with the variances of the coefficients."""
    n = masks.shape[1]
    left, right = np.triu_indices(n, 1)
    support = np.zeros((1 + n + len(left), n), np.bool_)
    support[1 : 1 + n] = np.eye(n, dtype=np.bool_)
    rows = np.arange(1 + n, len(support))
    support[rows, left] = support[rows, right] = True
    characters = subset_characters(masks, support).astype(np.float64)
    inverse = np.linalg.inv(characters.T @ characters)
    coefficients = inverse @ (characters.T @ values)
    error = np.square(values - characters @ coefficients).sum() / (len(masks) - len(support))
    return Spectrum(support, coefficients, error * np.diag(inverse))


def planted(
    n: int, count: int, noisy: bool, number: int
) -> tuple[Callable[[np.ndarray], np.ndarray], set[tuple[int, ...]]]:
    """Draws a function, and pairs with effects of 2 to 8 standard errors of an explanation from `count` masks."""
    rng = np.random.default_rng([seed(), number])
    background = np.zeros((20, n), np.bool_)
    for row in background:
        row[rng.choice(n, rng.integers(3, 5), replace=False)] = True
    sizes = rng.normal(size=20)
    deviation = np.sqrt(np.square(sizes).sum())
    sigma = _RELATIVE_NOISE * deviation if noisy else 0.0
    free = count - 1 - n - n * (n - 1) // 2
    error = np.hypot(deviation, sigma) / np.sqrt(max(free, 1))
    left, right = np.triu_indices(n, 1)
    chosen = rng.choice(len(left), _PLANTED, replace=False)
    pairs = np.zeros((_PLANTED, n), np.bool_)
    pairs[np.arange(_PLANTED), left[chosen]] = pairs[np.arange(_PLANTED), right[chosen]] = True
    effects = error * rng.uniform(2, 8, _PLANTED) * rng.choice([-1, 1], _PLANTED)
    truth = Spectrum(
        np.concatenate([background, pairs, np.eye(n, dtype=np.bool_)]),
        np.concatenate([sizes, effects, error * 5 * rng.normal(size=n)]),
    )
    names: set[tuple[int, ...]] = {(int(i), int(j)) for i, j in zip(left[chosen], right[chosen], strict=True)}
    return lambda masks: truth(masks) + sigma * rng.normal(size=len(masks)), names


def of_planted(noisy: bool, contexts: int) -> dict[str, Any]:
    """Validates claims about planted and about absent pairs, until there are enough of both."""
    n, count = _N.value, _MASKS.value
    found: dict[bool, list[str]] = {True: [], False: []}
    taken: dict[bool, list[int]] = {True: [], False: []}
    ablations = claims = functions = 0
    while min(map(len, found.values())) < _CLAIMS.value:
        value_fn, pairs = planted(n, count, noisy, functions)
        masks = masks_lib.uniform(n, count, np.random.default_rng([seed(), functions, 1]))
        values = value_fn(masks)
        spectrum = second_order(masks, values)
        interactions = spectrum.interactions("BII", 2)
        errors: Mapping[tuple[int, ...], float] = interactions.std_errors or {}
        sets = [key for key, value in interactions.top(n * n, order=2) if abs(value) >= 2 * errors[key]]
        validation = validate(
            value_fn, spectrum, sets, index="BII", masks=masks, values=values, contexts=contexts, seed=functions
        )
        for row in validation.rows:
            found[row.members in pairs].append(row.verdict)
            taken[row.members in pairs].append(row.contexts)
        ablations, claims, functions = ablations + validation.asked, claims + len(sets), functions + 1
    return {
        "noisy": noisy,
        "contexts": contexts,
        "functions": functions,
        "right": float(np.mean([v == "confirmed" for v in found[True]] + [v != "confirmed" for v in found[False]])),
        "planted": {"claims": len(found[True]), **shares(found[True]), "contexts": float(np.mean(taken[True]))},
        "absent": {"claims": len(found[False]), **shares(found[False]), "contexts": float(np.mean(taken[False]))},
        "ablations_of_a_claim": ablations / claims,
    }


def shares(verdicts: list[str]) -> dict[str, float]:
    """Returns the share of each verdict."""
    return {verdict: verdicts.count(verdict) / max(len(verdicts), 1) for verdict in VERDICTS}


def run_planted() -> list[dict[str, Any]]:
    """Runs all settings of the planted functions."""
    rows = []
    for noisy in (False, True):
        for contexts in map(int, _CONTEXTS.value):
            rows.append(of_planted(noisy, contexts))
            print(rows[-1], flush=True)
    return rows


def judge(found: Validation, truth: Mapping[tuple[int, ...], float]) -> list[tuple[bool, bool, bool, bool]]:
    """Returns by row if the claim is true, the verdict confirmed, the verdict final, the truth in the interval."""
    rows = []
    for row in found.rows:
        value = truth[row.members]
        claimed = value * row.predicted > 0 and abs(value) >= abs(row.predicted) / 10
        rounding = 1e-9 * abs(row.predicted)
        inside = row.low - rounding <= value <= row.high + rounding
        rows.append((claimed, row.verdict == "confirmed", row.verdict != "undecided", inside))
    return rows


def of_a_game(game: games_lib.Game, alpha: int, index: str) -> dict[str, Any]:
    """Compares the verdicts on one explanation with the index of all values."""
    n, value_fn = game.n, game.value_fn()
    assert value_fn is not None  # all values are known
    budget = int(alpha * n * np.log2(n))
    answer = explain(value_fn, budget=budget, index=index, proxy=_PROXY.value, seed=seed(), progress=False)
    truth = exact_spectrum(game.masks, game.values).interactions(index, 2)
    rows, ablations = [], []
    for draw in range(_SEEDS.value):
        found = answer.validate(20, seed=draw)
        rows += judge(found, truth)
        ablations.append(found.asked)
    claimed, confirmed, final, inside = np.array(rows, np.bool_).reshape(-1, 4).T
    return {
        "game": game.name,
        "n": n,
        "index": index,
        "budget": len(answer.masks),
        "r2": without_nan(answer.faithfulness.r2),
        "claims": len(found.rows),
        "true": share(claimed),
        "right": share(claimed == confirmed),
        "wrongly_confirmed": int((confirmed & ~claimed).sum()),
        "false_claims": int((~claimed).sum()),
        "undecided": share(~final),
        "coverage": share(inside),
        "ablations": float(np.mean(ablations)),
    }


def run_games() -> list[dict[str, Any]]:
    """Runs the shipped model on a sentence, and the games of a folder."""
    rows = []
    for game in games_lib.complete(_GAMES.value, _ONLY.value):
        for alpha in map(int, _ALPHAS.value):
            for index in _INDICES.value:
                rows.append(of_a_game(game, alpha, index))
                print(rows[-1], flush=True)
    return rows


def share(which: np.ndarray) -> float | None:
    """Returns the mean of bools, or None where there are none."""
    return float(which.mean()) if len(which) else None


def main() -> None:
    """Runs the parts."""
    run_parts({"planted": run_planted, "games": run_games}, _PARTS.value, _OUT.value)


if __name__ == "__main__":
    run_program(main)
