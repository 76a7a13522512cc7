"""Which groups of training images act together in a classifier's answer to a test image, by retraining it.

Every ablation is a training on a random half of the groups, clusters of each class by default. For each network the
program prints and writes to --out/NETWORK: a page for each test image with its ranked groups and pairs as pictures
(point_0.html ...), and a table of linear datamodelling scores (lds.json): ProxySPEX, its first order alone, datamodels'
LASSO, Banzhaf and Shapley values from the same trainings at several budgets, and influence functions, a TRAK-like
projection and leave-one-out, which need none of them, all scored on held-out trainings.

  python experiments/data_attribution.py
  python experiments/data_attribution.py --data_dir=MNIST --train=1000 --groups=100 --networks=mlp --seeds=4
  python experiments/data_attribution.py --data_dir=CIFAR --networks=cnn --epochs=20 --store=results/trainings
  python experiments/data_attribution.py --refine=4          # then divide the four groups that matter most

Retrainings that others computed need no network: --masks is a .npy of bits (np.packbits of each row) or of bool, and
--margins one of margins [M, T]; the fit reads them from disk in parts:

  python experiments/data_attribution.py --masks=masks.npy --features=50000 --margins=margins.npy --points=0,7

Expected: 3.5 minutes on 2 CPU cores; with all 1,800 trainings ProxySPEX has LDS .98 (mlp) and .91 (cnn), LASSO .95 and
.90.
"""

import functools
import hashlib
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import image_data
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import linen as nn
from retraining_tables import explain_tables

from spex_jax import baselines, explain_many, lenses, proxyspex
from spex_jax.analysis.metrics import DatamodellingScore, lds
from spex_jax.lenses.training_data_lens import VALUES
from spex_jax.lenses.training_parts import groups
from spex_jax.pipeline.explanation import Explanation
from spex_jax.proxyspex import PROXIES
from spex_jax.runtime import define_path, first_process, mesh, run_program, save_result, seed, without_nan

DAMPINGS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
_MODELS = 4  # networks of the TRAK-like projections

_NETWORKS = flags.DEFINE_list("networks", ["mlp", "cnn"], "Networks to train: mlp, cnn.")
_GROUPS = flags.DEFINE_integer("groups", 60, "Number of groups: clusters of each class, or blocks.", lower_bound=2)
_GROUPING = flags.DEFINE_enum(
    "grouping", "clusters", ["clusters", "classes", "blocks"], "Clusters in a class (k-means), classes, random blocks."
)
_EPOCHS = flags.DEFINE_integer("epochs", 10, "Passes over the kept examples.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 50, "Examples per step.", lower_bound=1)
_RATE = flags.DEFINE_float("learning_rate", 0.003, "Learning rate of Adam.", lower_bound=0.0)
_SEEDS = flags.DEFINE_integer("seeds", 1, "Trainings per mask, which are averaged.", lower_bound=1)
_VALUE = flags.DEFINE_enum("value", "margin", VALUES, "Value of the test images that is explained.")
_BUDGET = flags.DEFINE_integer("budget", 2000, "Trainings, held-out ones included.", lower_bound=70)
_BUDGETS = flags.DEFINE_list("budgets", None, "Numbers of trainings to fit in the table. Default: all, half, quarter.")
_PROXY = flags.DEFINE_enum("proxy", "auto", PROXIES, "Proxy of ProxySPEX.")
_STORE = flags.DEFINE_string("store", None, "Folder for the trainings' values; stored trainings are not repeated.")
_REFINE = flags.DEFINE_integer(
    "refine", 0, "Groups to divide further and explain again; the others stay.", lower_bound=0
)
_MASKS = define_path("masks", None, "Existing retrainings: .npy of their masks.")
_MARGINS = define_path("margins", None, "Existing retrainings: .npy of values [M, T] (or [M]).")
_FEATURES = flags.DEFINE_integer("features", None, "Number of training examples in packed --masks.", lower_bound=1)
_POINTS = flags.DEFINE_list("points", ["0"], "Columns of --margins to explain.")
_OUT = flags.DEFINE_string("out", "results/data_attribution", "Folder for the pages and tables.")


class MLP(nn.Module):
    """A network with one hidden layer of 64 units."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits [B, classes] for pictures [B, H, W, C]."""
        x = x.reshape(len(x), -1)
        return nn.Dense(self.classes)(nn.relu(nn.Dense(64)(x)))


class Convolution(nn.Module):
    """A 3 x 3 convolution, computed as a product with nine shifted pictures.

    A convolution that is vmapped over networks becomes a grouped one, which is 5 to 8 times slower on a CPU.
    """

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps pictures [B, H, W, C] to [B, H, W, channels]."""
        height, width = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [x[:, row : row + height, column : column + width] for row in range(3) for column in range(3)]
        return nn.Dense(self.channels)(jnp.concatenate(shifted, axis=-1))


class CNN(nn.Module):
    """A network with two convolutions, each halving the sides, and a hidden layer of 64 units."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits [B, classes] for pictures [B, H, W, C]."""
        for channels in (8, 16):
            x = nn.avg_pool(nn.relu(Convolution(channels)(x)), (2, 2), (2, 2))
        return nn.Dense(self.classes)(nn.relu(nn.Dense(64)(x.reshape(len(x), -1))))


MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "cnn": CNN}


def divide(images: image_data.Images) -> groups.Groups:
    """Divides the training images into the groups that the flags select."""
    if _GROUPING.value == "classes":
        return groups.by_class(images.y)
    if _GROUPING.value == "blocks":
        return groups.in_blocks(len(images.y), _GROUPS.value, seed=seed())
    each = max(1, _GROUPS.value // len(np.unique(images.y)))
    return groups.by_cluster(images.x, each, within=images.y, seed=seed())


def lens_of(name: str, images: image_data.Images, divided: groups.Groups) -> Any:
    """Builds the value function of a network."""
    model = MODELS[name](classes=int(max(images.y.max(), images.y_test.max())) + 1)
    content = hashlib.sha256()
    for array in (images.x, images.y, images.x_test, images.y_test, divided.labels):
        content.update(np.ascontiguousarray(array).tobytes())
    apply: Callable[..., Any] = model.apply  # its own type allows a pair, which only mutable collections return
    settings = [name, _EPOCHS.value, _BATCH.value, _RATE.value, _SEEDS.value, _VALUE.value, seed(), content.hexdigest()]
    return lenses.training_data(
        functools.partial(model.init, x=jnp.zeros((1, *images.x.shape[1:]))),
        apply,
        (images.x, images.y),
        (images.x_test, images.y_test),
        groups=divided,
        optimizer=optax.adam(_RATE.value),
        epochs=_EPOCHS.value,
        batch=_BATCH.value,
        seeds=_SEEDS.value,
        seed=seed(),
        value=_VALUE.value,
        identity=f"data_attribution {settings}",
        pictures=(images.x, images.x_test),
    )


def first_order(spectrum: Any) -> Any:
    """Returns the terms of a spectrum with at most one unit."""
    few = spectrum.support.sum(axis=1) <= 1
    return type(spectrum)(support=spectrum.support[few], coefficients=spectrum.coefficients[few])


def score_table(value_fn: Any, answers: list[Explanation], budgets: list[int]) -> list[dict[str, Any]]:
    """Scores all methods (LDS) on the held-out trainings of the explanations; returns a row for each."""
    held = answers[0].ablations.tested_count
    masks, values = answers[0].masks, np.stack([e.values for e in answers], axis=1)
    fitted = masks[:-held]
    rows: list[dict[str, Any]] = []

    def score(spectra: list[Any], part: slice) -> DatamodellingScore:
        return lds(values[part], np.stack([spectrum(masks[part]) for spectrum in spectra], axis=1), seed=seed())

    def add(name: str, trainings: int, spectra: list[Any]) -> None:
        found = score(spectra, slice(len(fitted), None))
        rows.append({"method": name, "trainings": trainings, "lds": found.mean, "low": found.low, "high": found.high})
        print(f"{name:24} {trainings:6}  {found}", flush=True)

    for budget in budgets:
        first = slice(0, budget)
        whole = budget == len(fitted)

        def spectra(method: Callable[..., Any], first: slice = first) -> list[Any]:
            return [method(fitted[first], column[first]) for column in values[: len(fitted)].T]

        found = [e.spectrum for e in answers] if whole else spectra(
            functools.partial(proxyspex.fit, proxy=_PROXY.value, seed=seed())
        )  # fmt: skip
        add("proxyspex", budget, found)
        add("proxyspex, first order", budget, [first_order(spectrum) for spectrum in found])
        add("lasso (datamodels)", budget, spectra(baselines.datamodels))
        add("banzhaf", budget, spectra(functools.partial(baselines.banzhaf, estimator="reuse")))
        add("shapley", budget, spectra(baselines.kernel_shap))
    # The free settings of the gradient methods are chosen on the trainings that the other methods are fitted to.
    sizes = sorted({max(1, value_fn.fn.examples // share) for share in (32, 8, 4)})
    choices = {
        "influence, damping": {
            f"{damping:g}": functools.partial(baselines.influence, damping=damping) for damping in DAMPINGS
        },
        "trak-like, size": {
            str(size): functools.partial(baselines.trak, size=size, models=_MODELS, seed=seed()) for size in sizes
        },
    }
    for name, methods in choices.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # dampings that are too small, which are not chosen
            tried: dict[str, Any] = {setting: method(value_fn) for setting, method in methods.items()}
        scores = {setting: score(each, slice(len(fitted))).mean for setting, each in tried.items()}
        best = max(scores, key=lambda setting: scores[setting])
        add(f"{name} {best}", _MODELS if name.startswith("trak") else _SEEDS.value, tried[best])
    alone: Any = baselines.leave_one_out(value_fn, mesh=mesh(), progress=False)
    add("leave one out", value_fn.n + 1, alone)
    return rows


def explain_network(name: str, images: image_data.Images, out: pathlib.Path) -> None:
    """Retrains one network, and writes its pages and its table."""
    divided = divide(images)
    value_fn = lens_of(name, images, divided)
    noise = lenses.measure_seed_noise(value_fn, masks=32, repeats=3, mesh=mesh())
    reproduced = 1 - np.mean(noise.share)
    print(f"\n{name}: {value_fn.describe()}")
    print(
        f"other seeds: standard deviation {np.mean(noise.deviation):.3g}, "
        f"{100 * reproduced:.0f}% of the variance over masks reproduced (means over test points)"
    )
    options: dict[str, Any] = {"budget": _BUDGET.value, "proxy": _PROXY.value, "seed": seed(), "store": _STORE.value}
    options |= {"mesh": mesh(), "sampling": "uniform"}  # the score is measured on uniform masks
    answers = explain_many(value_fn, **options)
    if not first_process():
        return
    for point, e in enumerate(answers):
        e.to_html(out / f"point_{point}.html")
        e.save(out / f"point_{point}")
    print(answers[0])
    held_out = answers[0].ablations.tested_count
    most = len(answers[0].masks) - held_out
    if not answers[0].exact:
        budgets = [min(int(budget), most) for budget in _BUDGETS.value or (most // 4, most // 2, most)]
        table = score_table(value_fn, answers, budgets)
        result = without_nan(
            {
                "data": images.name,
                "groups": value_fn.n,
                "points": len(answers),
                "held_out": held_out,
                "seeds": _SEEDS.value,
                "reproduced_by_other_seeds": float(reproduced),
                "r2": float(np.mean([e.faithfulness.r2 for e in answers])),
                "rows": table,
            }
        )
        save_result(out / "lds.json", result)
    if _REFINE.value:
        effects = np.abs([[e.interactions("SV")[unit,] for unit in range(value_fn.n)] for e in answers]).mean(axis=0)
        chosen = np.argsort(-effects)[: _REFINE.value].tolist()
        print(f"\ndivided further: {', '.join(divided.names[unit] for unit in chosen)}")
        finer = groups.refine(divided, chosen, features=images.x, seed=seed())
        for point, e in enumerate(explain_many(lens_of(name, images, finer), **options)):
            e.to_html(out / f"point_{point}_refined.html")
            if point == 0:
                print(e)
    print(f"pages: {out / 'point_0.html'} ...")


def main() -> None:
    """Explains tables of retrainings, or retrains."""
    out = pathlib.Path(_OUT.value).expanduser()
    if (_MASKS.value is None) != (_MARGINS.value is None):
        raise ValueError("--masks and --margins belong together: give both, or neither")
    if _MASKS.value is not None:
        out.mkdir(parents=True, exist_ok=True)
        explain_tables(_MASKS.value, _MARGINS.value, _FEATURES.value, _POINTS.value, out)
        return
    if unknown := sorted(set(_NETWORKS.value) - set(MODELS)):
        raise ValueError(f"unknown networks {', '.join(unknown)}; --networks takes {', '.join(MODELS)}")
    if wrong := [
        budget for budget in _BUDGETS.value or () if not (budget.isascii() and budget.isdigit()) or int(budget) < 20
    ]:
        raise ValueError(f"--budgets must be whole numbers of trainings of at least 20, got {', '.join(wrong)}")
    images = image_data.load_images(seed())
    for name in _NETWORKS.value:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        explain_network(name, images, folder)


if __name__ == "__main__":
    run_program(main)
