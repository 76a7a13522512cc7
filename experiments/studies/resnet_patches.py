"""Patches of pictures: which act together in a ResNet-20's decision, and how much their removal costs."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import resnet

from spex_jax import Explanation, ValueFunction, lenses, optimize, proxyspex
from spex_jax.runtime import first_process

from .account import Account, Setting, top_of, verdict_on

TITLE = "Patches of a picture that act together in a small residual network"
TAKES = ("texts", "example", "steps")
GRID, BUDGET, BUDGET_OF_MANY, PICTURES, STEPS = 4, 2500, 1000, 8, 250


@jax.tree_util.register_pytree_node_class
class SmallNetwork:
    """Maps pictures [B, 8, 8, 1] to logits [B, 10] by two convolutions and one product."""

    class_names = tuple(map(str, range(10)))

    def __init__(self, weights: dict[str, jax.Array]):
        """Takes the weights by name."""
        self.weights = weights

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        """Returns the weights as the only child."""
        return (self.weights,), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: Any) -> "SmallNetwork":
        """Rebuilds the network from its weights."""
        return cls(*leaves)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the logits."""
        x = jax.nn.relu(resnet.convolve(images, self.weights["first"]))
        x = jax.nn.relu(resnet.convolve(x, self.weights["second"], 2))
        return jnp.matmul(x.reshape(len(x), -1), self.weights["head"], precision="highest")


@functools.partial(jax.jit, static_argnames="steps")
def _train(key: jax.Array, x: jax.Array, y: jax.Array, *, steps: int) -> Any:
    keys = jax.random.split(key, 4)
    weights = {
        "first": jax.random.normal(keys[0], (12, 1, 3, 3)) / 3,
        "second": jax.random.normal(keys[1], (24, 12, 3, 3)) / 10,
        "head": jax.random.normal(keys[2], (4 * 4 * 24, 10)) / 20,
    }
    optimizer = optax.adam(3e-3)

    def step(state: Any, key: jax.Array) -> Any:
        weights, optimized = state
        chosen = jax.random.randint(key, (64,), 0, len(x))

        def loss(weights: Any) -> jax.Array:
            logits = SmallNetwork(weights)(x[chosen])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y[chosen]).mean()

        updates, optimized = optimizer.update(jax.grad(loss)(weights), optimized, weights)
        return (optax.apply_updates(weights, updates), optimized), None

    (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), jax.random.split(keys[3], steps))
    return weights


def network(setting: Setting) -> tuple[str, Any, np.ndarray, np.ndarray, np.ndarray]:
    """Returns a name, the model, its inputs [N, H, W, C], the same pictures to show (in 0 to 1), and their classes."""
    if setting.holds("cifar_resnet", "resnet20.npz") and setting.holds("cifar10", "cifar10_test2000.npz"):
        assert setting.data is not None
        model: Any = resnet.ResNet20.load(setting.data / "cifar_resnet" / "resnet20.npz")
        with np.load(setting.data / "cifar10" / "cifar10_test2000.npz") as test:
            shown, labels = test["images"] / np.float32(255), test["labels"].astype(int)
        order = np.random.default_rng(3).permutation(len(shown))[:400]  # the file is sorted by class
        return (
            "ResNet-20, CIFAR-10",
            model,
            (shown[order] - resnet.MEAN) / resnet.DEVIATION,
            shown[order],
            labels[order],
        )
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("without cifar_resnet/ in --data this study needs scikit-learn's digits") from error
    found = load_digits()
    shown = (found.images / 16.0).astype(np.float32)[..., None]
    weights = _train(jax.random.key(setting.seed), shown[:1400], found.target[:1400], steps=setting.steps or STEPS)
    return "a small network, digits", SmallNetwork(weights), shown[1400:], shown[1400:], found.target[1400:].astype(int)


def run(setting: Setting, account: Account) -> None:
    """Explains one picture in full, and several for the rates."""
    name, model, pictures, shown, labels = network(setting)
    predicted = np.asarray(jax.jit(lambda model, x: model(x))(model, pictures)).argmax(axis=1)
    right = np.flatnonzero(predicted == labels)[: setting.texts or PICTURES]
    if setting.example >= len(right):
        raise ValueError(f"--example must be from 0 to {len(right) - 1}, the pictures that are explained")
    chosen = right[setting.example]
    label = model.class_names[labels[chosen]]
    account.step(
        "Question",
        f"{name} calls this picture {label!r}, which is its label. Which of its parts act together, and does their "
        "removal change the prediction faster than that of the parts that matter most one by one?",
        accuracy=float(np.mean(predicted == labels)),
        pictures=len(labels),
        label=label,
    )

    def value_of(row: int) -> ValueFunction:
        return lenses.patches(model, pictures[row], grid=GRID, removal="mean", value="margin", target=int(labels[row]))

    value_fn = value_of(chosen)
    e = setting.explain(value_fn, BUDGET)
    account.found(e, f"The patches of a grid of {GRID} x {GRID}, replaced by the mean colour.")
    energy = e.spectrum.energy_by_degree()[1:]
    shares = [float(part / energy.sum()) for part in energy[:3]]
    account.step(
        "How much is interaction",
        f"Single patches hold {shares[0]:.0%} of the variance, pairs {shares[1]:.0%} and triples {shares[2]:.0%}.",
        shares=shares,
    )
    account.checked(e, top=6)
    pair, effect = top_of(e)
    corners = setting.corners(value_fn, pair)
    together = "more" if effect > 0 else "less"
    account.step(
        "Both, each alone, neither",
        f"The strongest pair is {e.interactions().label(pair)}: together the two count for {together} than the sum of "
        "each alone. With everything else kept:",
        [corners],
    )
    curves = curves_of(setting, value_fn, e)
    account.step(
        "Removing patches",
        "The margin after k patches are removed: those that the spectrum chooses, those of a first-order LASSO on the "
        "same ablations, and the mean of 20 random sets.",
        [{"removed": k, **{kind: line[k] for kind, line in curves.items()}} for k in range(len(curves["spectrum"]))],
    )
    rows = several(setting, value_of, [int(row) for row in right], [model.class_names[labels[row]] for row in right])
    better = sum(row["spectrum"] <= row["first order"] for row in rows)
    r2 = float(np.median([row["R2"] for row in rows]))
    account.step(
        "Other pictures",
        f"Mean margin over all numbers of removed patches, lower is better: in {better} of {len(rows)} pictures the "
        f"spectrum's choice is at or below that of first order. The median R2 is {r2:.3f}.",
        rows,
    )
    e.to_html(setting.out / "report.html")
    draw(setting.out / "patches.png", shown[chosen], label, e, curves)
    mean = {kind: float(np.mean(line)) for kind, line in curves.items()}
    of_all = {kind: float(np.mean([row[kind] for row in rows])) for kind in ("spectrum", "first order", "random")}
    account.conclude(
        "patches act together, and the interactions say which to remove",
        [
            (f"R2 on held-out masks is at least 0.8 ({e.faithfulness.r2:.3f})", e.exact or e.faithfulness.r2 >= 0.8),
            (f"pairs and more hold at least a tenth of the variance ({1 - shares[0]:.0%})", 1 - shares[0] >= 0.1),
            (
                f"the strongest pair is confirmed on the model ({verdict_on(e, pair)})",
                verdict_on(e, pair) == "confirmed",
            ),
            (
                f"removal by the spectrum costs most here (mean margin {mean['spectrum']:.2f}, first order "
                f"{mean['first order']:.2f}, random {mean['random']:.2f})",
                mean["spectrum"] <= min(mean["first order"], mean["random"]),
            ),
            (
                f"and over all pictures ({of_all['spectrum']:.2f}, {of_all['first order']:.2f}, "
                f"{of_all['random']:.2f})",
                of_all["spectrum"] <= min(of_all["first order"], of_all["random"]),
            ),
        ],
    )


def curves_of(setting: Setting, value_fn: ValueFunction, e: Explanation) -> dict[str, list[float]]:
    """Returns the measured values after 0 to n patches were removed, by the method that chooses them."""
    fitted = e.ablations.fitted
    single = proxyspex.fit(fitted.masks, fitted.values, proxy="linear", solver="lasso", max_degree=1, seed=0)
    rng, n, lines = np.random.default_rng(setting.seed), e.n, {}
    for kind, spectrum in (("spectrum", e.spectrum), ("first order", single)):
        masks = [optimize.select(spectrum, remove=k, maximize=False, method="beam").mask for k in range(n + 1)]
        lines[kind] = setting.values(value_fn, masks).tolist()
    random = np.stack([rng.permuted(np.tile(np.arange(n), (20, 1)), axis=1) >= k for k in range(n + 1)])
    lines["random"] = setting.values(value_fn, random.reshape(-1, n)).reshape(n + 1, 20).mean(axis=1).tolist()
    return lines


def several(setting: Setting, value_of: Any, rows: list[int], labels: list[str]) -> list[dict[str, Any]]:
    """Returns R2, the strongest pair and the mean of each removal curve for several pictures."""
    value_fns = [value_of(row) for row in rows]
    found = setting.explain_many(value_fns, BUDGET_OF_MANY)
    answers = []
    for label, value_fn, e in zip(labels, value_fns, found, strict=True):
        pair, effect = top_of(e)
        means = {kind: float(np.mean(line)) for kind, line in curves_of(setting, value_fn, e).items()}
        answers.append(
            {
                "class": label,
                "R2": e.faithfulness.r2,
                "strongest pair": e.interactions().label(pair),
                "FSII": effect,
                **means,
            }
        )
    return answers


def draw(path: pathlib.Path, picture: np.ndarray, label: str, e: Explanation, curves: dict[str, list[float]]) -> None:
    """Draws the picture, single effects as a heat map with the strongest pairs, and the removal curves."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no picture (pip install 'spex-jax[plot]')")
        return
    if not first_process():
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4.4), layout="constrained", width_ratios=(1, 1.2, 1.3))
    height, width = picture.shape[:2]
    for axis in axes[:2]:
        axis.imshow(picture.squeeze(), cmap="gray", extent=(0, GRID, GRID, 0))
        axis.set_xticks(range(GRID + 1), [""] * (GRID + 1))
        axis.set_yticks(range(GRID + 1), [""] * (GRID + 1))
        axis.grid(color="white", linewidth=0.6, alpha=0.6)
    axes[0].set_title(f"{label!r}, {height} x {width} pixels")
    shapley = e.interactions("SV", max_order=1)
    heat = np.array([shapley[(i,)] for i in range(e.n)]).reshape(GRID, GRID)
    most = max(float(np.abs(heat).max()), 1e-9)
    axes[1].cla()
    axes[1].imshow(picture.mean(axis=2), cmap="gray", extent=(0, GRID, GRID, 0), alpha=0.6)
    shade = axes[1].imshow(heat, cmap="RdBu_r", vmin=-most, vmax=most, alpha=0.65, extent=(0, GRID, GRID, 0))
    figure.colorbar(shade, ax=axes[1], shrink=0.8, label="Shapley value of the patch")
    pairs = e.interactions().top(6, order=2)
    for (one, other), value in pairs:
        places = [(i % GRID + 0.5, i // GRID + 0.5) for i in (one, other)]
        axes[1].plot(
            *zip(*places, strict=True),
            color="black" if value > 0 else "tab:green",
            linewidth=1 + 4 * abs(value) / abs(pairs[0][1]),
            marker="o",
            solid_capstyle="round",
        )
    axes[1].set_xticks([])
    axes[1].set_yticks([])
    axes[1].set_title("strongest pairs: black more together, green less", fontsize=10)
    for kind, style in (("random", ":"), ("first order", "--"), ("spectrum", "-")):
        axes[2].plot(curves[kind], style, label=kind, linewidth=2.6 if kind == "spectrum" else 1.6)
    axes[2].axhline(0, color="0.7", linewidth=0.8)
    axes[2].set_xlabel("patches removed")
    axes[2].set_ylabel(f"margin of {label!r}")
    axes[2].legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(f"picture: {path}")
