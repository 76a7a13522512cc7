"""Measurements of the system: times, memory, the engine, models, components and trainings."""

from typing import Any

import tables

from measured.section import Section, significant

Result = dict[str, Any]

_MIB = 2**20


def _times(lines: dict[str, float], unit: str) -> str:
    return tables.markdown([{"": name, unit: significant(value, 3)} for name, value in lines.items()])


def _main_job(job: Result) -> list[str]:
    rows = []
    for process, runs in (("fresh", job["fresh_process"]), ("the same for both texts", job["one_process"])):
        for run in runs:
            parts = {f"{part}, s": float(run[part]) for part in ("total", "compile", "model", "fit")}
            rows.append({"process": process, "words": run["n"], **parts})
    return [tables.markdown(rows, digits=1)]


def _first_answers(result: Result) -> list[str]:
    rows = []
    for use, found in result.items():
        if not isinstance(found, dict) or "cold" not in found:
            continue  # what the result was measured with
        cold, again = found["cold"], found.get("second process", {})
        first, second = cold["first answer"], cold["second answer"]
        warm = again.get("first answer", {})
        rows.append(
            {
                "use": use,
                "process": cold["process"],
                "first answer": first["answer"],
                "compile ": first.get("compile"),
                "model": first.get("model"),
                "fit": first.get("fit"),
                "second answer": second["answer"],
                "compile  ": second.get("compile"),
                "second process": warm.get("answer"),
                "compile   ": warm.get("compile"),
            }
        )
    return [
        "Seconds. A process starts the interpreter, imports, makes its model and answers twice; the second answer is "
        "10% larger. A second process has the compiled programs of one before it. Compilation includes tracing and "
        "lowering.",
        tables.markdown(rows, digits=2),
    ]


def _fits(cost: Result) -> list[str]:
    (planted,) = cost["planted"]
    fits = {row["proxy"]: row["seconds"] for row in cost["proxies"]}
    scaling = [
        {"varied": what, **{f"{row['size']:,}": significant(row["seconds"]) for row in cost["cost"][what]}}
        for what in ("rows", "features")
    ]
    return [
        "Seconds of a fit without compilation, n = 64, 3,072 ablations:",
        _times(fits, "seconds"),
        "Seconds of `walsh_gp` by the number of ablations and of features:",
        *(tables.markdown([row]) for row in scaling),
        f"Exponents of the time: {cost['cost']['exponent_of_rows']:.1f} in the ablations and "
        f"{cost['cost']['exponent_of_features']:.1f} in the features.",
        "1,000 features, 20,000 ablations, 200 planted terms of degree up to 3, SNR 10: "
        f"`{planted['proxy']}` has R² {planted['r2']:.3f} in {planted['seconds']:.0f} s and "
        f"{planted['peak_gib']:.1f} GiB.",
        "Seconds for an index of 5,000 terms of degree up to 6 at n = 2,000, order 3, and for the spectrum at masks:",
        _times(cost["conversion"], "seconds"),
    ]


def _engine(engine: Result, faults: Result) -> list[str]:
    killed, cache = faults["faults"], faults["cache"]
    overhead = [
        {"ms a batch": f"{row['batch_ms']:.0f}"}
        | {name: f"{row[name]:+.1%}" for name in ("engine", "engine with a store", "bare loop again")}
        for row in engine["overhead"]
    ]
    scaling = [
        {
            "CPU devices": row["devices"],
            "masks a second": round(row["masks_per_s"]),
            "largest difference": row["largest_difference"],
        }
        for row in engine["scaling"]
    ]
    return [
        "Time of a run in excess of a bare jitted loop over the same masks:",
        tables.markdown(overhead),
        "Masks a second of the shipped model on CPU devices that share two cores:",
        tables.markdown(scaling, digits=1),
        f"{killed['killed']} runs were killed by SIGKILL at random moments and continued: {killed['wrong']} wrong "
        f"values, {killed['lost']} lost ablations, {killed['acknowledged asked again']} acknowledged ablations "
        f"evaluated again, and at most {killed['most asked twice in one run, batch of 8']} ablations in flight "
        "evaluated twice.",
        f"The main job compiles in {cache['cold']:.1f} s, and with the cache in {cache['warm']:.1f} s "
        f"({cache['share']:.0%}) in a second process.",
    ]


def _text(models: Result, memory: Result) -> list[str]:
    encoder, prefix = models["encoder"], models["prefix"]
    rates = [
        {"removal": name, "masks a second": f"{rate:.0f}", "times PyTorch": encoder["against pytorch"][name]}
        for name, rate in encoder["masks per second"].items()
    ]
    shared = [
        {
            "removal": name,
            "shared": f"{prefix['masks per second'][f'{name} shared']:.0f}",
            "not shared": f"{prefix['masks per second'][f'{name} not shared']:.0f}",
            "times faster": gain,
        }
        for name, gain in prefix["gain"].items()
    ]
    taken = [
        {"removal": row["removal"], "masks": row["batch"]}
        | {f"{label}, MiB": f"{row[key] / _MIB:.0f}" for label, key in (("predicted", "predicted"), ("used", "taken"))}
        for row in memory["memory"]
    ]
    return [
        f"MiniLM, {encoder['tokens']} tokens, {encoder['words']} words, {encoder['masks']:,} masks, against PyTorch's "
        "eager batched loop over the same masks; values differ by "
        f"{encoder['largest difference from pytorch']:.0e} at most:",
        tables.markdown(rates, digits=1),
        f"stories260K, {prefix['tokens']} tokens, the first half fixed, masks a second with the prefix shared and not:",
        tables.markdown(shared, digits=1),
        "Predicted and used memory of a batch of MiniLM:",
        tables.markdown(taken),
    ]


def _components(components: Result) -> list[str]:
    sweep, random, late = (components[part] for part in ("sweep", "random", "late"))
    here, peer = sweep["seconds"]["here"], sweep["seconds"]["TransformerLens"]
    return [
        f"* Each of {sweep['heads']} heads removed alone: {here:.0f} s here, {peer:.0f} s with a forward pass of "
        f"TransformerLens for each ({sweep['times faster']:.1f} times faster); values differ by "
        f"{sweep['largest difference']:.0e} at most.\n"
        f"* Random sets of heads: {random['ablated per plain']:.2f} times the rate of the plain forward pass.\n"
        f"* Heads of the last three layers, with the earlier layers computed once: {late['times faster']:.1f} times "
        "faster."
    ]


def _pruning(pruning: Result) -> list[str]:
    rows = []
    for task, found in pruning["tasks"].items():
        for kept, means in found["summary"]["means"]["logprob"].items():
            if kept == "whole":
                continue
            row: Result = {"model": task, "kept": int(kept), "of": found["runs"][0]["n"]}
            names = ("spectrum_checked", "spectrum", "acdc", "lasso", "leave_one_out", "attribution_patching", "random")
            row |= {name: means[name] for name in names}
            row["ahead of the best other"] = f"{means['ahead']:+.4f} ± {means['ahead_error']:.4f}"
            rows.append(row)
    return [tables.markdown(rows)]


def _trainings(retraining: Result) -> list[str]:
    rates = retraining["rates"]
    rows = [
        {"": name, "ms a training": rates["ms_each"][name], "times that of the lens": rates["times_faster"][name]}
        for name in rates["ms_each"]
    ]
    batches = {batch: round(rate) for batch, rate in retraining["batches"]["trainings_a_second"].items()}
    return [
        tables.markdown(rows, digits=1),
        "Trainings a second by batch size (masks):",
        tables.markdown([batches]),
    ]


def _scores(mlp: Result, cnn: Result, mnist: Result) -> list[str]:
    blocks = []
    for title, result in (("MLP on digits", mlp), ("CNN on digits", cnn), ("MLP on MNIST", mnist)):
        rows = [
            {
                "method": row["method"],
                "trainings": row["trainings"],
                "score": row["lds"],
                "95% interval": f"{row['low']:.3f} to {row['high']:.3f}",
            }
            for row in sorted(result["rows"], key=lambda row: (row["method"], row["trainings"]))
        ]
        blocks += [
            f"{title}, {result['groups']} groups, {result['points']} test points, {result['held_out']} held-out "
            "trainings:",
            tables.markdown(rows),
        ]
    return blocks


def _packed(packed: Result) -> list[str]:
    return [
        f"{packed['features']:,} examples, {packed['rows']:,} retrainings as packed bits on disk, "
        f"{packed['planted_pairs']} planted pairs, SNR {packed['snr']:g}: recall {packed['recall']:g} (pairs without "
        f"effects of their own {packed['recall_without_singles']:g}), precision {packed['precision']:g}, "
        f"R² {packed['r2']:.3f} of the noise-free values, {packed['seconds']:.0f} s, "
        f"{packed['peak_gib']:.2f} GiB at most."
    ]


def _mutations(found: Result) -> list[str]:
    by_file: dict[str, list[bool]] = {}
    for row in found["rows"]:
        by_file.setdefault(row["file"], []).append(row["killed"])
    # The files may have moved since the measured revision, so that their paths are not marked as code.
    rows = [{"file": file, "changes": len(killed), "caught": sum(killed)} for file, killed in by_file.items()]
    survivors = "; ".join(found["survivors"]) or "none"
    return [
        tables.markdown([*rows, {"file": "all", "changes": found["mutations"], "caught": found["killed"]}]),
        f"Not caught: {survivors}.",
    ]


SECTIONS = (
    Section(
        title="First answers",
        about="""Five typical uses in fresh processes without compiled programs, beside shapiq with the same budget:
        a Python function of 20 features at 600 masks; a film review of 36 words, with its page; 40 words before a
        decoder of random weights at the shape of SmolLM2-135M at 120 masks; 144 heads of random weights at the shape
        of GPT-2 small at 300 masks; 60 groups of 10 digits at 600 trainings of 100 steps.""",
        results=("benchmarks/results/first_answer.json",),
        tables=_first_answers,
    ),
    Section(
        title="The main job",
        about="""`experiments/feature_attribution.py` without flags and without a cache, and a second text in the
        same process.""",
        results=("benchmarks/results/main_job.json",),
        tables=_main_job,
    ),
    Section(
        title="Times of fits",
        about="Times of the proxies' fits and of the conversion of a spectrum.",
        results=("benchmarks/results/fit_cost.json",),
        tables=_fits,
    ),
    Section(
        title="The engine and the store",
        about="Overhead of the ablation engine, devices, killed runs and the compilation cache.",
        results=("benchmarks/results/engine.json", "benchmarks/results/engine_faults.json"),
        tables=_engine,
    ),
    Section(
        title="Text models",
        about="Rates and memory of ablated prompts.",
        results=("benchmarks/results/text_models.json", "benchmarks/results/text_models_memory.json"),
        tables=_text,
    ),
    Section(
        title="Components of a network",
        about="A network of the shape of GPT-2 small, 4 prompts of 64 tokens.",
        results=("benchmarks/results/components.json",),
        tables=_components,
    ),
    Section(
        title="Head pruning",
        about="""Mean log-probability on the other half of the questions when only some heads are kept, over seeds.
        "spectrum" chooses by an integer program on the spectrum; "spectrum_checked" also evaluates sets near
        this choice and fits again.""",
        results=("results/head_pruning.json",),
        tables=_pruning,
        pictures=(("Log-probability by the number of heads kept", "results/head_pruning.png"),),
    ),
    Section(
        title="Trainings",
        about="""784-64-10 networks trained on random halves of a set of MNIST images, by the lens of training data and
        by plain loops in one run.""",
        results=("benchmarks/results/retraining.json",),
        tables=_trainings,
        pictures=(("Trainings a second by batch size", "benchmarks/results/retraining.png"),),
    ),
    Section(
        title="Linear datamodelling scores",
        about="Rank correlation of predicted and true values over held-out trainings, averaged over test points.",
        results=tuple(f"results/data_attribution_{name}.json" for name in ("digits_mlp", "digits_cnn", "mnist_mlp")),
        tables=_scores,
    ),
    Section(
        title="Tables of retrainings on disk",
        about='`proxyspex.fit(PackedMasks, values, proxy="linear")` on planted functions.',
        results=("benchmarks/results/packed_table.json",),
        tables=_packed,
    ),
    Section(
        title="Faults that the tests catch",
        about="""Wrong changes of the mathematical files, one at a time (`experiments/benchmarks/mutation_table.py`),
        and how many of them make a test fail.""",
        results=("benchmarks/results/mutations.json",),
        tables=_mutations,
    ),
)
