"""Proxies and SPEX on functions with no hierarchy at all and with a complete one.

The comparison of proxy models of ProxySPEX (Butler et al., NeurIPS 2025, https://arxiv.org/abs/2505.17495, appendix
B.4, figures 13a and 13c; published as figures without numbers). P is 10 distinct sets of five of n features, drawn
uniformly, and every coefficient is drawn from Uniform(-1, 1):

  peak       "Synthetic Peak": the characters of the sets of P and nothing else: no subset hints at them
  hierarchy  "Synthetic Complete Hierarchy": the characters of every subset of a set of P, the set itself and () too,
             about 300 terms of all degrees

The paper states neither n nor the number of functions. It compares LASSO (first order, 100 penalties by
5-fold cross-validation: `lasso` here is the same), random forests, neural networks and gradient boosted trees.
`random_forest` and `neural_network` are scikit-learn's with a part of the published grid, by 5-fold cross-validation:
depth 3, 5 or none with 100 trees; one to three hidden layers of n / 4 units, first learning rate .001 or .01. The
package's own: all proxies (`linear_lasso` is linear with solver="lasso", `mlp_spex` the mlp read by extract="spex"),
`spex` (its own coded masks, at most as many: it needs the function and not a table), and `spex_residual` (SPEX on what
walsh_gp leaves). --peers adds `lightgbm` (depth 3, 5 or none, 500 trees, rates .01 and .1) and `published` (proxy_spex
of spectralexplain, with its whole grid: many minutes a fit) where these are installed.

Measured: R2 on 2,000 held-out uniform masks, without noise; recall and precision of the planted sets among the K
largest terms, K = the number of planted sets except (); the number of terms; seconds of the fit, with compilation
apart. --snr adds noise of variance Var f / SNR to the values that are fitted.

  python experiments/synthetic.py --flagfile=experiments/configs/synthetic_peak.cfg
  python experiments/synthetic.py --flagfile=experiments/configs/synthetic_hierarchy.cfg

Expected: 8 minutes for each of the two on 2 CPU cores, compilation included; several times that with no flags.
"""

import dataclasses
import importlib.util
import itertools
import math
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags
from cells import Cells
from compared.peers import proxy_spex
from games import unseen
from pictures import draw_lines
from tables import markdown, mean

from spex_jax import Spectrum, baselines, proxyspex, spex
from spex_jax.analysis.metrics import r2_score
from spex_jax.core import masks as masks_lib
from spex_jax.runtime import define_path, run_program
from spex_jax.runtime import seed as first_seed
from spex_jax.utils.timing import Stopwatch

_FAMILIES = flags.DEFINE_list("families", ["peak", "hierarchy"], "Families of functions: peak, hierarchy.")
_N = flags.DEFINE_list("n", ["32"], "Numbers of features.")
_ALPHAS = flags.DEFINE_list("alphas", ["1", "2", "4", "8", "16"], "Budgets in units of n log2 n.")
_SETS = flags.DEFINE_integer("sets", 10, "Number of sets of five features.", lower_bound=1)
_SNR = flags.DEFINE_float("snr", None, "Signal-to-noise ratio; without it there is no noise.", lower_bound=1e-6)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Functions of each family.", lower_bound=1)
_CONTENDERS = flags.DEFINE_list("contenders", [], "Contenders to run; all but the peers by default.")
_PEERS = flags.DEFINE_bool("peers", False, "Run lightgbm and published too, where installed (extra: peers).")
_OUT = define_path("out", "results/synthetic.json", "File for the result; a picture is written beside it.")

_SIZE = 5  # features of a set
_TESTED = 2000
_FOUND = 0.9  # R2 above which a function counts as found in the table


def planted(family: str, n: int, sets: int, seed: int) -> Spectrum:
    """Draws the function of a family; see the top of the file."""
    rng = np.random.default_rng(seed)
    peaks = set[tuple[int, ...]]()
    while len(peaks) < sets:
        peaks.add(tuple(sorted(rng.choice(n, _SIZE, replace=False).tolist())))
    chosen = sorted(peaks)
    if family == "hierarchy":
        subsets = {
            part for whole in chosen for size in range(_SIZE + 1) for part in itertools.combinations(whole, size)
        }
        chosen = sorted(subsets, key=lambda part: (len(part), part))
    support = np.zeros((len(chosen), n), np.bool_)
    for row, members in zip(support, chosen, strict=True):
        row[list(members)] = True
    return Spectrum(support, rng.uniform(-1, 1, len(chosen)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A function that may be evaluated `budget` times."""

    truth: Spectrum
    budget: int
    seed: int

    @property
    def n(self) -> int:
        """The number of features."""
        return self.truth.n

    def ask(self, masks: np.ndarray) -> np.ndarray:
        """Returns values, with noise where --snr is given."""
        values = self.truth(masks)
        if _SNR.value is None:
            return values
        deviation = np.sqrt(self.truth.energy_by_degree()[1:].sum() / _SNR.value)
        return values + deviation * np.random.default_rng([self.seed, 2]).normal(size=len(masks))

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Draws uniform masks to fit and others to test on."""
        both = masks_lib.uniform(self.n, self.budget + _TESTED, np.random.default_rng([self.seed, 1]))
        return both[: self.budget], both[self.budget :]


Predictor = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[Task], tuple[Predictor, np.ndarray]]  # a function or a Spectrum, and the evaluated masks


def _from_table(fit: Callable[..., Predictor], **options: Any) -> Fit:
    def run(task: Task) -> tuple[Predictor, np.ndarray]:
        masks, _ = task.masks()
        return fit(masks, task.ask(masks), **{"seed": task.seed, **options}), masks

    return run


def _from_design(residual_of: str | None) -> Fit:
    def run(task: Task) -> tuple[Predictor, np.ndarray]:
        made = spex.design(task.n, task.budget, max_degree="auto", seed=task.seed)
        values = task.ask(made.masks)
        if residual_of is None:
            return spex.decode(made, values), made.masks
        return proxyspex.fit_and_decode(made, values, proxy=residual_of, seed=task.seed), made.masks

    return run


def _searched(model: Any, grid: dict[str, list[Any]], masks: np.ndarray, values: np.ndarray) -> Predictor:
    """Fits the best model of a grid, by 5-fold cross-validation, to all rows."""
    from sklearn.model_selection import GridSearchCV

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about settings that did not converge, which are not chosen, and names
        found = GridSearchCV(model, grid, cv=5).fit(masks.astype(np.float64), values)

    def predict(tested: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return found.predict(tested.astype(np.float64))

    return predict


def random_forest(masks: np.ndarray, values: np.ndarray, seed: int) -> Predictor:
    """Fits scikit-learn's random forest, depth by cross-validation."""
    from sklearn.ensemble import RandomForestRegressor

    return _searched(RandomForestRegressor(100, random_state=seed), {"max_depth": [3, 5, None]}, masks, values)


def neural_network(masks: np.ndarray, values: np.ndarray, seed: int) -> Predictor:
    """Fits scikit-learn's network, layers and learning rate by cross-validation."""
    from sklearn.neural_network import MLPRegressor

    width = max(masks.shape[1] // 4, 1)
    sizes = [(width,) * layers for layers in (1, 2, 3)]
    grid: dict[str, list[Any]] = {"hidden_layer_sizes": sizes, "learning_rate_init": [0.001, 0.01]}
    return _searched(MLPRegressor(random_state=seed), grid, masks, values)


def lightgbm(masks: np.ndarray, values: np.ndarray, seed: int) -> Predictor:
    """Fits LightGBM, depth and learning rate by cross-validation."""
    from lightgbm import LGBMRegressor  # of the extra "peers"

    model = LGBMRegressor(n_estimators=500, verbose=-1, random_state=seed, n_jobs=1, deterministic=True)
    return _searched(model, {"max_depth": [3, 5, -1], "learning_rate": [0.01, 0.1]}, masks, values)


def published(masks: np.ndarray, values: np.ndarray, seed: int) -> Spectrum:
    """Fits proxy_spex of spectralexplain."""
    del seed  # it takes none
    return proxy_spex(masks, values)


CONTENDERS: dict[str, Fit] = {
    **{name: _from_table(proxyspex.fit, proxy=name) for name in ("auto", "walsh_gp", "trees", "linear")},
    "linear_lasso": _from_table(proxyspex.fit, proxy="linear", solver="lasso"),
    "mlp": _from_table(proxyspex.fit, proxy="mlp"),
    "mlp_spex": _from_table(proxyspex.fit, proxy="mlp", extract="spex"),
    "spex": _from_design(None),
    "spex_residual": _from_design("walsh_gp"),
    "lasso": _from_table(baselines.datamodels),
    "random_forest": _from_table(random_forest),
    "neural_network": _from_table(neural_network),
}
PEERS: dict[str, Fit] = {"lightgbm": _from_table(lightgbm), "published": _from_table(published)}
_NEEDS = {
    **dict.fromkeys(("lasso", "random_forest", "neural_network"), ("sklearn", "data")),
    "lightgbm": ("lightgbm", "peers"),
    "published": ("spectralexplain", "peers"),
}


def support_scores(spectrum: Spectrum, truth: Spectrum) -> dict[str, Any]:
    """Returns recall and precision of the planted sets among as many of the largest terms; () counts for neither."""
    wanted = {bytes(row) for row in truth.support if row.any()}
    rows = np.flatnonzero(spectrum.support.any(axis=1) & (spectrum.coefficients != 0))
    largest = rows[np.argsort(-np.abs(spectrum.coefficients[rows]), kind="stable")][: len(wanted)]
    hits = len(wanted & {bytes(row) for row in spectrum.support[largest]})
    precision = hits / len(largest) if len(largest) else None
    return {"recall": hits / len(wanted), "precision": precision, "terms": len(spectrum)}


def outcome(contender: str, task: Task) -> dict[str, Any]:
    """Fits one contender to one function and scores it."""
    watch = Stopwatch("fit")
    nothing = dict.fromkeys(("r2", "recall", "precision", "terms"))
    if contender.startswith("spex") and task.budget < spex.least_budget(task.n, max_degree="auto"):
        return {**nothing, "seconds": None, "compile": None, "asked": 0}
    with watch.phase("fit"):
        found, evaluated = {**CONTENDERS, **PEERS}[contender](task)
    _, test = task.masks()
    test = test[unseen(test, evaluated)]
    scores = support_scores(found, task.truth) if isinstance(found, Spectrum) else nothing
    r2 = float(r2_score(task.truth(test), found(test)))
    return {
        **scores,
        "r2": r2,
        "seconds": watch.seconds["fit"],
        "compile": watch.seconds["compile"],
        "asked": len(evaluated),
    }


def summarise(rows: list[dict[str, Any]], alphas: list[int]) -> list[dict[str, Any]]:
    """Returns means by family, n and contender: R2 and recall at every budget, the rest at the largest."""
    result = []
    for family, n, contender in dict.fromkeys((row["family"], row["n"], row["contender"]) for row in rows):
        own = [row for row in rows if (row["family"], row["n"], row["contender"]) == (family, n, contender)]

        def means(name: str, own: list[dict[str, Any]] = own) -> dict[int, float | None]:
            return {alpha: mean([row[name] for row in own if row["alpha"] == alpha]) for alpha in alphas}

        r2 = means("r2")
        result.append(
            {
                **{"family": family, "n": n, "contender": contender, "r2": r2, "recall": means("recall")},
                **{name: means(name)[max(alphas)] for name in ("precision", "terms", "seconds", "compile")},
                "found_from": next((a for a in alphas if (r2[a] or 0) > _FOUND), None),
            }
        )
    return result


def table(summary: list[dict[str, Any]], family: str, n: int, alphas: list[int]) -> str:
    """Returns Markdown of one family and n."""
    rows = [
        {
            "contender": own["contender"],
            **{f"R2, alpha {alpha}": own["r2"][alpha] for alpha in alphas},
            f"R2 > {_FOUND} from alpha": "never" if own["found_from"] is None else str(own["found_from"]),
            "recall": own["recall"][max(alphas)],
            "precision": own["precision"],
            "terms": None if own["terms"] is None else round(own["terms"]),
            "seconds": own["seconds"],
        }
        for own in summary
        if (own["family"], own["n"]) == (family, n)
    ]
    return markdown(rows)


def chosen_contenders() -> list[str]:
    """Returns the contenders of the flags; with --peers the installed peers too.

    Raises:
      ValueError: a contender is unknown, or its package is not installed.
    """
    known = {**CONTENDERS, **PEERS}
    chosen = list(_CONTENDERS.value) or list(CONTENDERS)
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(f"unknown contender {', '.join(unknown)}; expected some of {', '.join(known)}")
    missing = {name: extra for name, (package, extra) in _NEEDS.items() if importlib.util.find_spec(package) is None}
    for name in chosen:
        if name in missing:
            raise ValueError(f"{name} needs a package: pip install 'spex-jax[{missing[name]}]', or leave it out")
    for name in PEERS if _PEERS.value else ():
        if name in missing:
            print(f"{name} is left out: pip install 'spex-jax[{missing[name]}]'")
        elif name not in chosen:
            chosen.append(name)
    return chosen


def main() -> None:
    """Runs all cells; prints a table for each family and n."""
    families, ns, alphas = _FAMILIES.value, list(map(int, _N.value)), sorted(map(int, _ALPHAS.value))
    if unknown := sorted(set(families) - {"peak", "hierarchy"}):
        raise ValueError(f"unknown family {', '.join(unknown)}; expected peak or hierarchy")
    if not families or not ns or not alphas or min(alphas) < 1:
        raise ValueError("--families, --n and --alphas must not be empty, and alphas must be at least 1")
    for n in ns:
        if n < _SIZE or math.comb(n, _SIZE) < _SETS.value:
            raise ValueError(f"{n} features have fewer than {_SETS.value} sets of {_SIZE}; give a larger --n")
        if max(alphas) * n * np.log2(n) + _TESTED > 2**n:
            raise ValueError(f"{n} features have too few masks to fit and {_TESTED} more to test on; give a larger --n")
    contenders = chosen_contenders()
    cells = Cells(_OUT.value)
    rows = []
    for family, n, seed in itertools.product(families, ns, range(first_seed(), first_seed() + _SEEDS.value)):
        truth = planted(family, n, _SETS.value, seed)
        for alpha, contender in itertools.product(alphas, contenders):
            setting = {"family": family, "n": n, "seed": seed, "alpha": alpha, "contender": contender}
            task = Task(truth=truth, budget=int(alpha * n * np.log2(n)), seed=seed)
            key = {**setting, "sets": _SETS.value, "snr": _SNR.value}
            found = cells.get(key, outcome, contender, task)
            rows.append({**setting, "budget": task.budget, "planted": int(truth.support.any(axis=1).sum()), **found})
    summary = summarise(rows, alphas)
    panels: dict[str, dict[str, list[tuple[float, float | None]]]] = {}
    for family, n in itertools.product(families, ns):
        print(f"\n{family}, n = {n}: means over functions; recall and the columns after it at the largest budget\n")
        print(table(summary, family, n, alphas), flush=True)
        own = [entry for entry in summary if (entry["family"], entry["n"]) == (family, n)]
        found = ", ".join(entry["contender"] for entry in own if entry["found_from"] is not None)
        for name, title in (
            ("r2", f"R2 (above {_FOUND}: {found or 'none'})"),  # lines that reach 1 cover each other
            ("recall", "recall of the planted sets"),
        ):
            panels[f"{family}, n = {n}: {title}"] = {
                entry["contender"]: list(entry[name].items())
                for entry in own
                if mean(list(entry[name].values())) is not None
            }
    settings = {"sets": _SETS.value, "snr": _SNR.value, "seeds": _SEEDS.value, "first_seed": first_seed()}
    cells.save({**settings, "summary": summary, "rows": rows})
    print(f"result: {_OUT.value}")
    draw_lines(
        pathlib.Path(_OUT.value).with_suffix(".png"),
        panels,
        x="alpha (budget alpha n log2 n)",
        y="R2 on held-out masks, or recall",
        lowest=-0.2,
        columns=2,
    )


if __name__ == "__main__":
    run_program(main)
