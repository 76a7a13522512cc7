"""Which attention heads to prune: sets chosen by a spectrum against sets chosen head by head.

The experiment of ProxySPEX (Butler et al. 2025, https://arxiv.org/abs/2505.17495, section 5): ablate random sets of
heads, evaluate the model on one half of the questions, recover the spectrum, and find the best set to keep under it, by
an integer program (exact), greedily and by beam search. "spectrum_checked" continues: for each size, the sets that the
spectrum ranks highest, one swap from its choice or from the best so far, are evaluated on that half and the spectrum is
fitted again; after three rounds of 64 the best evaluated set is taken. The same choice is made by first-order LASSO on
the same ablations, leave-one-out, attribution patching, integrated gradients, ACDC, the best of as many random sets as
there were ablations in all, and at random. All sets are then scored on the other half. The program also splits the
energy of the spectrum into a linear part, a part within layers and a part across layers.

  python experiments/head_pruning.py                      # small models, with --data or SPEX_JAX_DATA five of them
  python experiments/head_pruning.py --tasks=backup --seeds=1

The published setting is (n = 96 heads, 5,000 ablations, 204 questions; on an accelerator):

  python experiments/head_pruning.py --model=Llama-3.1-8B-Instruct --budget=5000 --keep=.5,.66,.83 \\
    --questions=DATA/mmlu/high_school_us_history_test.csv --layers=0,1,2,13,14,15,29,30,31 --together=3 \\
    --removal=zero_rescaled

Expected: 20 minutes on 2 CPU cores for the default. Writes pruning.json, pruning.png and, for each task,
report_TASK.html.
"""

import os
import pathlib
from typing import Any

import model_flags
import numpy as np
import pruning_tasks
from absl import flags
from pruning_tasks import Task

from spex_jax import ProxySPEX, baselines, evaluate, explain, lenses, metrics, optimize, proxyspex
from spex_jax.lenses.component_lens import COMPONENT_REMOVALS
from spex_jax.pipeline.budget_split import default_budget
from spex_jax.runtime import define_path, first_process, run_program, save_result

_TASKS = flags.DEFINE_list(
    "tasks", None, "Small models: induction, backup, redundant, sorter, stories260K. Default: all available."
)
_DATA = define_path("data", os.environ.get("SPEX_JAX_DATA"), "Folder with gpt_nano_sort/ and stories260K/.")
_QUESTIONS = define_path("questions", None, "With --model: a test file of MMLU, question,choice0..3,answer.")
_TRAINING = flags.DEFINE_integer("training", 120, "With --model: questions on which sets are chosen.", lower_bound=1)
_LAYERS = flags.DEFINE_list("layers", None, "With --model: layers whose heads may be removed. Default: all.")
_TOGETHER = flags.DEFINE_integer(
    "together", None, "With --layers: layers per experiment. Default: all at once.", lower_bound=1
)
_KEEP = flags.DEFINE_list("keep", ["0.25", "0.5", "0.66", "0.83"], "Shares of the heads that are kept.")
_BUDGET = flags.DEFINE_integer("budget", None, "Ablations. Default: all for 10 heads and fewer, else 8 n log2(n).")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Runs with new questions (small models), ablations and random sets.", 1)
_REMOVAL = flags.DEFINE_enum("removal", "zero", COMPONENT_REMOVALS[:3], "What replaces a removed head.")
_SECONDS = flags.DEFINE_float("seconds", 20.0, "Time limit of the integer program for each size.", lower_bound=1.0)
_STORE = flags.DEFINE_string("store", None, "Folder for stores of ablations; a stopped run continues.")
_OUT = flags.DEFINE_string("out", "results/head_pruning", "Folder for the results.")

ADDITIVE = ("lasso", "leave_one_out", "attribution_patching", "integrated_gradients")
ROUNDS, WIDTH = 3, 64  # of checked_sets
METHODS = (
    "spectrum_checked",
    "spectrum",
    "spectrum_greedy",
    "spectrum_beam",
    *ADDITIVE,
    "acdc",
    "best_of_random",
    "random",
)


def tasks() -> list[Task]:
    """Returns the tasks that the flags select.

    Raises:
      ValueError: flags that do not fit together.
    """
    if not model_flags.given():
        if _QUESTIONS.value or _LAYERS.value or _TOGETHER.value:
            raise ValueError("--questions, --layers and --together apply to the model of --model; give --model too")
        chosen = _TASKS.value
        if chosen is None:
            chosen = [name for name in pruning_tasks.SMALL if _DATA.value or name not in pruning_tasks.NEEDS_DATA]
        if not chosen:
            raise ValueError(f"--tasks is empty; expected some of {', '.join(pruning_tasks.SMALL)}")
        for name in chosen:
            if name not in pruning_tasks.SMALL:
                raise ValueError(f"--tasks has {name!r}; expected some of {', '.join(pruning_tasks.SMALL)}")
            if name in pruning_tasks.NEEDS_DATA and not _DATA.value:
                raise ValueError(f"task {name!r} needs --data, the folder with its model (or SPEX_JAX_DATA)")
        return [pruning_tasks.SMALL[name](pathlib.Path(_DATA.value or ".").expanduser()) for name in chosen]
    if not _QUESTIONS.value:
        raise ValueError("with --model give --questions, a test file of MMLU")
    model, tokenizer = model_flags.load_model()
    layers = _numbers(_LAYERS.value, int, "layers") if _LAYERS.value else None
    size = _TOGETHER.value or len(layers or [0])
    groups = [None] if layers is None else [layers[i : i + size] for i in range(0, len(layers), size)]
    path = pathlib.Path(_QUESTIONS.value).expanduser()
    return [pruning_tasks.mmlu(model, tokenizer, path, layers=group, training=_TRAINING.value) for group in groups]


def _numbers(given: Any, kind: type, name: str) -> list[Any]:
    try:
        return [kind(item) for item in given]
    except ValueError as error:
        raise ValueError(f"--{name} must be numbers separated by commas, got {given!r}") from error


def sizes(n: int) -> list[int]:
    """Returns the numbers of heads to keep, out of n.

    Raises:
      ValueError: --keep has values other than shares between 0 and 1.
    """
    shares = _numbers(_KEEP.value, float, "keep")
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"--keep must be shares between 0 and 1, got {_KEEP.value!r}")
    return sorted({min(max(1, round(share * n)), n - 1) for share in shares})


def effects(name: str, value_fn: Any, smooth_fn: Any, found: Any) -> Any:
    """Returns the additive spectrum of a method that scores every head alone."""
    if name == "lasso":
        fitted = found.ablations.fitted
        return proxyspex.fit(fitted.masks, fitted.values, proxy="linear", solver="lasso", max_degree=1, seed=0)
    # An accuracy has no gradient: that of the answer's log-probability is used.
    return getattr(baselines, name)(value_fn if name == "leave_one_out" else smooth_fn, progress=False)


def acdc_sets(value_fn: Any, kept: list[int]) -> dict[int, np.ndarray]:
    """Returns for each size the largest circuit of at most so many heads, filled up with the heads removed last."""
    limits = np.concatenate([[1e-9], np.geomspace(1e-5, 100, 35)])
    found = baselines.acdc(value_fn, limits.tolist())
    counts = found.masks.sum(axis=1)
    chosen = {}
    for size in kept:
        fitting = np.flatnonzero(counts <= size)
        mask = found.masks[fitting[counts[fitting].argmax()]].copy()
        mask[np.flatnonzero(~mask)[: size - mask.sum()]] = True
        chosen[size] = mask
    return chosen


def swaps(mask: np.ndarray) -> np.ndarray:
    """Returns the mask itself and all that differ from it by one unit in and one out, bool [1 + k (n - k), n]."""
    inside, outside = np.flatnonzero(mask), np.flatnonzero(~mask)
    found = np.repeat(mask[None], 1 + len(inside) * len(outside), axis=0)
    rows = np.arange(1, len(found))
    found[rows, np.repeat(inside, len(outside))] = False
    found[rows, np.tile(outside, len(inside))] = True
    return found


def checked_sets(value_fn: Any, found: Any, kept: list[int]) -> tuple[dict[int, np.ndarray], int]:
    """Returns for each size the best evaluated set, after rounds that evaluate the sets that the spectrum ranks high,
    and the number of ablations in all.
    """
    masks, values, spectrum = found.masks, found.values, found.spectrum

    def best(size: int) -> np.ndarray | None:
        rows = np.flatnonzero(masks.sum(axis=1) == size)
        return masks[rows[values[rows].argmax()]] if len(rows) else None

    for number in range(ROUNDS):
        if number:
            spectrum = proxyspex.fit(masks, values, proxy="walsh_gp")
        candidates = []
        known = {row.tobytes() for row in masks}
        for size in kept:
            pool = swaps(optimize.select(spectrum, keep=size, method="beam").mask)
            if (so_far := best(size)) is not None:
                pool = np.unique(np.concatenate([pool, swaps(so_far)]), axis=0)
            pool = pool[[row.tobytes() not in known for row in pool]]
            candidates.append(pool[np.argsort(-spectrum(pool), kind="stable")[:WIDTH]])
        chosen = np.concatenate(candidates)
        if not len(chosen):
            break
        new = evaluate(value_fn, chosen, store=_STORE.value, progress=False)
        masks, values = np.concatenate([masks, chosen]), np.concatenate([values, new])
    return {size: mask for size in kept if (mask := best(size)) is not None}, len(masks)


def random_sets(n: int, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws masks bool [count, n] with `size` heads kept."""
    return rng.random((count, n)).argsort(axis=1) < size


def run(task: Task, seed: int) -> tuple[dict[str, Any], Any]:
    """Chooses sets on one half and scores them on the other; returns the outcome and the explanation."""
    chosen, scored = task.split(seed)
    options: dict[str, Any] = {"removal": _REMOVAL.value, "layers": task.layers}
    value_fn = lenses.components(task.model, **chosen, **options, value=task.value)
    smooth = value_fn
    if task.value == "accuracy":
        smooth = lenses.components(task.model, **chosen, **options, value="logprob")
    n = value_fn.n
    kept = sizes(n)
    budget = _BUDGET.value or (2**n if n <= 10 else default_budget(n, ProxySPEX()))
    found = explain(value_fn, budget=budget, seed=seed, store=_STORE.value, sampling="uniform", progress=False)
    rng = np.random.default_rng([seed, 7])
    additive = {name: effects(name, value_fn, smooth, found) for name in ADDITIVE}
    greedy = acdc_sets(value_fn, kept)
    checked, ablations = checked_sets(value_fn, found, kept)
    sets: dict[int, dict[str, np.ndarray]] = {}
    gaps = {}
    for size in kept:
        exact = optimize.select(found.spectrum, keep=size, time_limit=_SECONDS.value)
        gaps[size] = exact.gap
        tried = random_sets(n, size, max(1, ablations // len(kept)), rng)
        best = tried[int(evaluate(value_fn, tried, store=_STORE.value, progress=False).argmax())]
        sets[size] = {
            "spectrum_checked": checked[size],
            "spectrum": exact.mask,
            "spectrum_greedy": optimize.select(found.spectrum, keep=size, method="greedy").mask,
            "spectrum_beam": optimize.select(found.spectrum, keep=size, method="beam").mask,
            **{name: optimize.select(spectrum, keep=size).mask for name, spectrum in additive.items()},
            "acdc": greedy[size],
            "best_of_random": best,
        }
    scores: dict[str, Any] = {}
    for value in dict.fromkeys((task.value, "accuracy")):
        other = lenses.components(task.model, **scored, **options, value=value)
        fixed = [mask for of_size in sets.values() for mask in of_size.values()]
        drawn = {size: random_sets(n, size, 20, rng) for size in kept}
        values = iter(evaluate(other, np.stack([*fixed, np.ones(n, np.bool_), np.zeros(n, np.bool_)]), progress=False))
        scores[value] = {size: {name: float(next(values)) for name in of_size} for size, of_size in sets.items()}
        for size, masks in drawn.items():
            scores[value][size]["random"] = float(evaluate(other, masks, progress=False).mean())
        scores[value]["whole"], scores[value]["none"] = float(next(values)), float(next(values))
    layers = value_fn.details.layers
    assert layers is not None  # the lens on components sets them
    energy = metrics.energy_by_group(found.spectrum, np.array([each[0] for each in layers]))
    return {
        "seed": seed,
        "n": n,
        "ablations": len(found.masks),
        "ablations_checked": ablations,
        "r2": None if np.isnan(found.faithfulness.r2) else found.faithfulness.r2,
        "gaps": gaps,
        "energy": energy if np.isfinite(list(energy.values())).all() else None,  # a constant has none
        "scores": scores,
        "kept": {size: [value_fn.names[i] for i in np.flatnonzero(of["spectrum"])] for size, of in sets.items()},
    }, found


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns means over seeds by value, size and method, and how far spectrum_checked is ahead of the best other."""
    means: dict[str, Any] = {}
    for value in runs[0]["scores"]:
        means[value] = {}
        for size in (key for key in runs[0]["scores"][value] if isinstance(key, int)):
            rows = {name: [run["scores"][value][size][name] for run in runs] for name in METHODS}
            others = {name: float(np.mean(row)) for name, row in rows.items() if not name.startswith("spectrum")}
            best = max(others, key=lambda name: others[name])
            ahead = np.array(rows["spectrum_checked"]) - np.array(rows[best])
            means[value][size] = {
                **{name: float(np.mean(row)) for name, row in rows.items()},
                "best_other": best,
                "ahead": float(ahead.mean()),
                "ahead_error": float(ahead.std(ddof=1) / len(ahead) ** 0.5) if len(ahead) > 1 else None,
            }
        means[value]["whole"] = float(np.mean([run["scores"][value]["whole"] for run in runs]))
    known = [run["energy"] for run in runs if run["energy"]]
    energy = {part: float(np.mean([of[part] for of in known])) for part in known[0]} if known else {}
    return {"means": means, "energy": energy}


def show(name: str, value: str, found: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """Prints the table of a task."""
    table = found["means"][value]
    parts = ", ".join(f"{part} {share:.1%}" for part, share in found["energy"].items()) or "none, it is constant"
    print(f"\n{name}: {value} on the other half, whole model {table['whole']:.3f}; energy: {parts}")
    columns = [size for size in table if isinstance(size, int)]
    gaps = [max(run["gaps"][size] for run in runs) for size in columns]
    print(f"largest gaps of the integer program: {', '.join(f'{gap:.1%}' for gap in gaps)}")
    print(f"{'heads kept':>24} " + " ".join(f"{size:>9}" for size in columns))
    for method in METHODS:
        print(f"{method:>24} " + " ".join(f"{table[size][method]:9.4f}" for size in columns))


def draw(results: dict[str, Any], path: pathlib.Path) -> None:
    """Draws a panel for each task: the score over the number of heads kept."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(results), figsize=(5 * len(results), 4.2), squeeze=False, layout="constrained"
    )
    for axis, (name, found) in zip(axes[0], results.items(), strict=True):
        table = found["summary"]["means"][found["value"]]
        columns = [size for size in table if isinstance(size, int)]
        for method in (m for m in METHODS if m not in ("spectrum_greedy", "spectrum_beam")):
            main = method == "spectrum_checked"
            axis.plot(
                columns,
                [table[size][method] for size in columns],
                label=method.replace("_", " "),
                linewidth=2.6 if main else 1.2,
                marker="o" if main else ".",
                linestyle="--" if method.endswith("random") else "-",
                zorder=3 if main else 2,
            )
        axis.axhline(table["whole"], color="0.6", linewidth=0.8, linestyle=":")
        axis.set_title(f"{name} (n = {found['runs'][0]['n']} heads)")
        axis.set_xlabel("heads kept")
        axis.set_ylabel(f"{found['value']}, other half")
    axes[0][-1].legend(fontsize=7)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main() -> None:
    """Runs every task with every seed and writes the results after each task."""
    out = pathlib.Path(_OUT.value).expanduser()
    results: dict[str, Any] = {}
    sizes(100)  # wrong shares, and a folder that cannot be made, fail before any ablation
    if first_process():
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot make the folder --out {str(out)!r}: {error}") from error
    for task in tasks():
        name = task.name if task.layers is None else f"{task.name}, layers {', '.join(map(str, task.layers))}"
        runs = []
        for seed in range(_SEEDS.value):
            outcome, found = run(task, seed)
            runs.append(outcome)
            if first_process() and seed == 0:
                found.to_html(out / f"report_{name.replace(', ', '_').replace(' ', '_')}.html")
        results[name] = {"value": task.value, "summary": summary(runs), "runs": runs}
        if first_process():
            show(name, task.value, results[name]["summary"], runs)
            save_result(out / "pruning.json", {"removal": _REMOVAL.value, "tasks": results})
            draw(results, out / "pruning.png")


if __name__ == "__main__":
    run_program(main)
