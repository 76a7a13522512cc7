"""Measures what it is worth to know more of the units of a text than their ablations, at equal budgets.

Parts (--parts), each on reviews that a classifier reads, word by word; R2 on 1,000 other uniform masks:

  relevance  fits with gradients at 8 relaxed masks, whose cost in forward passes counts as ablations, and without
  corpus     explanations in order: with and without what the explanations before them (at alpha 1) say of words; how
             many ablations the second half needs for the mean R2 of the first half without (interpolated)
  fidelity   fits whose prior is the spectrum, at alpha 8, of the same text with another way to remove words
  focus      R2 on uniform masks and on masks that remove 1 to 4 words, by where the masks are drawn
  index      error of Shapley values and pairs of complete games (--games), by how the masks are chosen; with --peers
             (extra: peers; torch, gpytorch and botorch) next to shapiq's ShaplEIG

  python experiments/knowledge.py --out=experiments/results/knowledge.json

Reviews are lines of --texts; by default those of SPEX_JAX_DATA/rt_polarity with 20 to 30 words in a fixed random order,
or two texts of the shipped games. Expected: 40 minutes on 2 CPU cores.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import games
import numpy as np
from absl import flags
from compared import asked_of
from compared.indices import of_shapiq, relative_error, vector
from measured.section import geometric_mean
from model_flags import load_model
from tiny_data import read_rt_polarity

from spex_jax import Spectrum, ValueFunction, evaluate, explain, lenses, proxyspex
from spex_jax.analysis.corpus import Example, learn_corpus
from spex_jax.analysis.metrics import r2_score
from spex_jax.core import masks as masks_lib
from spex_jax.core import sampling
from spex_jax.core.spectrum import exact_spectrum
from spex_jax.pipeline.budget_split import held_out_count
from spex_jax.runtime import define_path, run_program, save_result

PARTS = ("relevance", "corpus", "fidelity", "focus", "index")
_PARTS = flags.DEFINE_list("parts", list(PARTS), "Parts to run.")
_TEXTS = define_path("texts", None, "File of texts, one a line.")
_COUNT = flags.DEFINE_integer("count", 50, "Texts of the part corpus; the others take 12 of them.", lower_bound=2)
_ALPHAS = flags.DEFINE_list("alphas", ["0.5", "1", "2"], "Budgets in units of n log2 n.")
_REMOVAL = flags.DEFINE_enum("removal", "mask", ["mask", "attention"], "How words are removed.")
_GAMES = define_path("games", None, "Folder of recorded games; games/ beside SPEX_JAX_DATA by default.")
_PROXY = flags.DEFINE_enum("proxy", "auto", ["auto", "walsh_gp"], "Proxy that is fitted.")
_ONLY = flags.DEFINE_string("only", "", "Only games whose name contains this.")
_PEERS = flags.DEFINE_bool("peers", False, "Run shapiq's ShaplEIG too, in the part index.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of the part index.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "results/knowledge.json", "File for the result.")

_TESTED = 1000
BY_SIZE, ACQUISITIONS, PEER = "drawn by size", ("uniform", "information", "index"), "ShaplEIG"


def texts() -> list[str]:
    """Returns the texts to explain."""
    if _TEXTS.value is not None:
        lines = pathlib.Path(_TEXTS.value).read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.strip()][: _COUNT.value]
    folder = os.environ.get("SPEX_JAX_DATA")
    if folder is None:
        return list(games.TEXTS.values())[: _COUNT.value]
    lines = [line for line, _ in read_rt_polarity(pathlib.Path(folder))]
    found = [line for line in lines if 20 <= len(line.split()) <= 30 and line.isascii()]
    order = np.random.default_rng(5).permutation(len(found))[: _COUNT.value]
    return [found[i] for i in order]


class Text:
    """A text with uniform masks to fit and to test, whose values are computed as far as they are needed."""

    def __init__(self, model: Any, tokenizer: Any, text: str, removal: str):
        """Reads the text and evaluates the masks to test."""
        self.value_fn: ValueFunction = lenses.text(model, tokenizer, text, value="margin", removal=removal)
        self.n = self.value_fn.n
        self.masks = masks_lib.uniform(self.n, self.budget(8) + _TESTED, np.random.default_rng(0))
        self._values = np.zeros(0)
        self.tested = self.masks[-_TESTED:]
        self.truth = evaluate(self.value_fn, self.tested, progress=False)

    def budget(self, alpha: float) -> int:
        """Returns alpha n log2 n."""
        return int(alpha * self.n * np.log2(self.n))

    def table(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first masks and their values."""
        if len(self._values) < rows:
            more = evaluate(self.value_fn, self.masks[len(self._values) : rows], progress=False)
            self._values = np.concatenate([self._values, more])
        return self.masks[:rows], self._values[:rows]

    def fit(self, rows: int, **known: Any) -> Spectrum:
        """Fits the first masks."""
        return proxyspex.fit(*self.table(rows), proxy=_PROXY.value, coordinates=self.value_fn.coordinates, **known)

    def score(self, spectrum: Spectrum) -> float:
        """Returns R2 on the other masks."""
        return float(r2_score(self.truth, spectrum(self.tested)))


def relevance(several: list[Text], alphas: list[float]) -> list[dict[str, Any]]:
    """Returns R2 without, with as many more ablations as gradients cost, and with gradients."""
    rows = []
    for number, text in enumerate(several[:12]):
        own = text.value_fn.relevance()
        for alpha in alphas:
            budget = text.budget(alpha)
            found = {
                "without": text.score(text.fit(budget)),
                "as many more ablations": text.score(text.fit(budget + own.passes)),
                "gradients": text.score(text.fit(budget, relevance=own)),
            }
            rows.append({"text": number, "n": text.n, "alpha": alpha, "passes": own.passes, "r2": found})
    return rows


def corpus(several: list[Text], alphas: list[float]) -> dict[str, Any]:
    """Returns R2 of the texts in order, without and with what those before them say, and the ablations that the second
    half needs for the mean R2 of the first at alpha 1.
    """
    examples: list[Example] = []
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(several):
        learned = learn_corpus(examples)
        for alpha in sorted({*alphas, 1.0}):
            budget = text.budget(alpha)
            alone = text.fit(budget)
            found = {"without": text.score(alone), "corpus": text.score(alone)}
            if learned is not None:
                found["corpus"] = text.score(text.fit(budget, relevance=learned.relevance(text.value_fn.names)))
            rows.append({"text": number, "alpha": alpha, "r2": found})
            if alpha == 1:
                examples.append(Example(names=text.value_fn.names, spectrum=alone))
    half = len(several) // 2

    def curve(method: str, part: Callable[[int], bool]) -> np.ndarray:
        return np.array(
            [np.mean([row["r2"][method] for row in rows if row["alpha"] == a and part(row["text"])]) for a in grid]
        )

    grid = sorted({row["alpha"] for row in rows})
    sought = float(curve("without", lambda k: k < half)[grid.index(1.0)])
    needed = {}
    for method in ("without", "corpus"):
        r2 = curve(method, lambda k: k >= half)
        inside = r2[0] <= sought <= r2[-1] and (np.diff(r2) > 0).all()
        needed[method] = float(np.exp(np.interp(sought, r2, np.log(grid)))) if inside else None
    return {"rows": rows, "first half at alpha 1": sought, "alpha that the second half needs": needed}


def fidelity(several: list[Text], others: list[Text], alphas: list[float]) -> list[dict[str, Any]]:
    """Returns R2 without and with a prior from another way to remove words."""
    rows = []
    for number, (text, other) in enumerate(zip(several[:12], others[:12], strict=True)):
        prior = other.fit(other.budget(8))
        for alpha in alphas:
            budget = text.budget(alpha)
            found = {"without": text.score(text.fit(budget)), "prior": text.score(text.fit(budget, prior=prior))}
            rows.append({"text": number, "alpha": alpha, "r2": {**found, "prior alone": text.score(prior)}})
    return rows


def focus(several: list[Text], alphas: list[float]) -> list[dict[str, Any]]:
    """Returns R2 on uniform masks and near the full one, by how masks are drawn."""
    rows = []
    for number, text in enumerate(several[:12]):
        near = sampling.near_full(text.n, _TESTED, 99, np.zeros((0, text.n), np.bool_))
        truth = evaluate(text.value_fn, near, progress=False)
        for alpha in alphas:
            found = {}
            for how in ("uniform", "mixed"):
                for option in (None, "full"):
                    method = proxyspex.methods.ProxySPEX(sampling=how, focus=option)
                    drawn, _ = method.draw(text.n, text.budget(alpha), 0)
                    values = evaluate(text.value_fn, drawn, progress=False)
                    spectrum = proxyspex.fit(drawn, values, proxy=_PROXY.value, coordinates=text.value_fn.coordinates)
                    name = how if option is None else f"{how}, focus"
                    found[name] = [text.score(spectrum), float(r2_score(truth, spectrum(near)))]
            rows.append({"text": number, "alpha": alpha, "r2_and_near": found})
    return rows


def index(folder: str | None, alphas: list[float]) -> list[dict[str, Any]]:
    """Returns relative squared errors of Shapley values and pairs by how masks are chosen."""
    rows = []
    for game in games.complete(folder or "", _ONLY.value):
        truth = exact_spectrum(game.masks, game.values)
        for name, order in (("SV", 1), ("FSII", 2)):
            exact = truth.interactions(name, order)
            sets = [key for key in exact if len(key) == order]
            wanted = vector(exact, sets)
            for alpha in alphas:
                budget = int(alpha * game.n * np.log2(game.n)) + 50
                if budget >= 2**game.n // 2:
                    continue
                ways = [BY_SIZE, *ACQUISITIONS] + ([PEER] if _PEERS.value and name == "SV" else [])
                found = {}
                for way in ways:
                    errors = []
                    for seed in range(_SEEDS.value):
                        answer = _interactions(game, way, name, order, budget, seed)
                        errors.append(relative_error(vector(answer, sets), wanted))
                    found[way] = geometric_mean(max(error, 1e-12) for error in errors)
                rows.append({"game": game.name, "index": name, "alpha": alpha, "budget": budget, "error": found})
    return rows


def _interactions(game: games.Game, way: str, index: str, order: int, budget: int, seed: int) -> Any:
    """Returns the interactions of the sets of a game, by one way to choose the masks."""
    if way == PEER:  # it holds no masks out, so it gets as many as the fits see
        fitted = budget - held_out_count(budget)
        return of_shapiq(asked_of(game), game.n, PEER, index, order, fitted, seed)
    value_fn = game.value_fn()
    assert value_fn is not None  # all values are known
    options: dict[str, Any] = {"index": index, "max_order": order, "proxy": _PROXY.value, "seed": seed}
    if way != BY_SIZE:
        options |= {"sampling": "adaptive", "acquisition": way}
    return explain(value_fn, game.n, budget=budget, progress=False, **options).interactions(index, order)


def main() -> None:
    """Runs the parts and writes the result."""
    if unknown := sorted(set(_PARTS.value) - set(PARTS)):
        raise ValueError(f"unknown parts {unknown}; expected some of {', '.join(PARTS)}")
    alphas = games.alphas_of(_ALPHAS.value)
    result: dict[str, Any] = {"removal": _REMOVAL.value, "proxy": _PROXY.value, "alphas": alphas}
    if set(_PARTS.value) - {"index"}:
        model, tokenizer = load_model()
        several = [Text(model, tokenizer, text, _REMOVAL.value) for text in texts()]
        result["texts"] = len(several)
        if "relevance" in _PARTS.value:
            result["relevance"] = relevance(several, alphas)
        if "corpus" in _PARTS.value:
            result["corpus"] = corpus(several, alphas)
        if "fidelity" in _PARTS.value:
            other = "attention" if _REMOVAL.value == "mask" else "mask"
            others = [Text(model, tokenizer, text, other) for text in texts()[:12]]
            result["fidelity"] = fidelity(several, others, alphas)
        if "focus" in _PARTS.value:
            result["focus"] = focus(several, alphas)
    if "index" in _PARTS.value:
        result["index"] = index(games.folder_of(_GAMES.value), alphas)
    save_result(_OUT.value, result)
    for part in _PARTS.value:
        print(part, _summary(part, result[part]))


def _summary(part: str, found: Any) -> dict[str, Any]:
    """Returns means over texts or games by alpha, for the terminal."""
    rows = found["rows"] if part == "corpus" else found
    key = {"focus": "r2_and_near", "index": "error"}.get(part, "r2")
    means = {
        alpha: {
            name: np.round(
                np.mean([row[key][name] for row in rows if row["alpha"] == alpha and name in row[key]], axis=0), 3
            ).tolist()
            for name in rows[0][key]
        }
        for alpha in sorted({row["alpha"] for row in rows})
    }
    return {**means, **({name: found[name] for name in found if name != "rows"} if part == "corpus" else {})}


if __name__ == "__main__":
    run_program(main)
