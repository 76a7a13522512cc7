"""Trainings on subsets: the lens of training data against a loop in PyTorch and a loop over one jitted training.

A perceptron 784-64-10 is trained on random halves of 1,000 images (MNIST with --data_dir, else random pictures) for 10
epochs with batches of 100 by SGD with momentum. All trainings start from the same parameters and use the same orders:

  lens      vmapped over masks, in batches that the engine chooses, on the kept images alone
  jitted    a loop over one jitted training of all 100 steps, in which images that are not kept have weight 0
  torch     a loop over trainings in PyTorch, where it is installed, on the kept images; "torch, weighted" is as jitted

"batches" is the lens's rate by the number of masks in a batch, with a picture. Rates are medians over rounds in which
all calls take turns, after a first call of each; the values of the lens and of PyTorch are compared.

  python experiments/benchmarks/retraining.py --data_dir=MNIST
  python experiments/benchmarks/retraining.py --masks=10000 --rounds=1          # on a GPU
  python experiments/benchmarks/retraining.py --toy --rounds=1 --out=results/toy.json

Expected: 3 minutes on 2 CPU cores.
"""

import functools
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from turns import in_turns

from spex_jax import evaluate, lenses
from spex_jax.engine.device import DeviceFunction
from spex_jax.runtime import run_parts, run_program

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # experiments/, for its reader of images
import image_data

flags.FLAGS.set_default("train", 1000)
flags.FLAGS.set_default("test", 20)

SIDE, HIDDEN, CLASSES, EPOCHS, BATCH, RATE, MOMENTUM = 28, 64, 10, 10, 100, 0.1, 0.9

_PARTS = flags.DEFINE_list("parts", ["rates", "batches"], "Parts to run.")
_MASKS = flags.DEFINE_integer("masks", 128, "Trainings of a round of the lens.", lower_bound=1)
_LOOP = flags.DEFINE_integer("loop", 32, "Trainings of a round of the loops.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds over which the median is taken.", lower_bound=1)
_TOY = flags.DEFINE_bool("toy", False, "Use 60 pictures and 2 epochs with batches of 20.")
_OUT = flags.DEFINE_string("out", "results/retraining.json", "File for the result; the picture is put beside it.")


def init(key: jax.Array) -> dict[str, jax.Array]:
    """Draws initial parameters as He et al. do."""
    first, second = jax.random.split(key)
    return {
        "in": jax.random.normal(first, (SIDE**2, HIDDEN)) * np.sqrt(2 / SIDE**2),
        "a": jnp.zeros(HIDDEN),
        "out": jax.random.normal(second, (HIDDEN, CLASSES)) * np.sqrt(2 / HIDDEN),
        "b": jnp.zeros(CLASSES),
    }


def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Returns the logits."""
    return jax.nn.relu(x @ params["in"] + params["a"]) @ params["out"] + params["b"]


@functools.cache
def pictures() -> tuple[Any, Any]:
    """Returns training and test pictures, flattened, with their classes."""
    if flags.FLAGS.data_dir is None:
        rng, count = np.random.default_rng(0), 60 if _TOY.value else 1000
        x = rng.random((count + 20, SIDE**2), np.float32) * (rng.random((count + 20, SIDE**2)) < 0.2)
        y = rng.integers(0, CLASSES, count + 20).astype(np.int32)
        return (x[:-20], y[:-20]), (x[-20:], y[-20:])
    found = image_data.load_images(0)
    flat, flat_test = (x.reshape(len(x), -1) for x in (found.x, found.x_test))
    return (flat, found.y), (flat_test, found.y_test)


@functools.cache
def lens() -> Any:
    """Returns the value function of the trainings, in which every image is a unit."""
    epochs, batch = (2, 20) if _TOY.value else (EPOCHS, BATCH)
    optimizer = optax.sgd(RATE, momentum=MOMENTUM)
    return lenses.training_data(init, apply, *pictures(), optimizer=optimizer, epochs=epochs, batch=batch)


def draw(count: int) -> np.ndarray:
    """Draws masks of random halves."""
    return np.random.default_rng(1).random((count, lens().n)) < 0.5


@jax.jit
def weighted(fn: Any, mask: jax.Array) -> jax.Array:
    """Trains once as one would without the lens: on batches of the whole set, with weight 0 for images not kept."""
    init_key, order_key = jax.random.split(fn.keys[0])
    params = fn.init(init_key)

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        weight = mask[rows].astype(jnp.float32)
        return (fn.losses(params, fn.x[rows], fn.y[rows]) * weight).sum() / jnp.maximum(weight.sum(), 1)

    def step(state: Any, rows: jax.Array) -> Any:
        params, memory = state
        updates, memory = fn.optimizer.update(jax.grad(loss)(params, rows), memory, params)
        return (optax.apply_updates(params, updates), memory), None

    orders = jax.vmap(lambda e: jax.random.permutation(jax.random.fold_in(order_key, e), fn.examples))
    rows = orders(jnp.arange(fn.epochs)).reshape(-1, fn.batch)
    state, _ = jax.lax.scan(step, (params, fn.optimizer.init(params)), rows)
    return fn.values(state[0], fn.x_test, fn.y_test)


class TorchLoop:
    """The same trainings as one would write them in PyTorch."""

    def __init__(self) -> None:
        """Copies the data, the initial parameters and the orders."""
        import torch

        self.torch, fn = torch, lens().fn
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        init_key, order_key = jax.random.split(fn.keys[0])
        self.start = {name: np.asarray(leaf) for name, leaf in init(init_key).items()}
        self.orders = [
            np.asarray(jax.random.permutation(jax.random.fold_in(order_key, epoch), fn.examples))
            for epoch in range(fn.epochs)
        ]
        self.batch = fn.batch
        self.x, self.y, self.x_test, self.y_test = (
            torch.tensor(np.asarray(array), device=self.device) for array in (fn.x, fn.y, fn.x_test, fn.y_test)
        )
        self.y, self.y_test = self.y.long(), self.y_test.long()

    def __call__(self, mask: np.ndarray, weighted: bool = False) -> np.ndarray:
        """Returns margins [T] after a training on the kept images, or on weighted batches of all of them."""
        torch = self.torch
        model = torch.nn.Sequential(
            torch.nn.Linear(SIDE**2, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, CLASSES)
        ).to(self.device)
        with torch.no_grad():
            for parameter, name in zip(model.parameters(), ("in", "a", "out", "b"), strict=True):
                parameter.copy_(torch.tensor(self.start[name].T))
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
        criterion = torch.nn.CrossEntropyLoss(reduction="none" if weighted else "mean")
        kept = torch.tensor(mask, device=self.device).float()
        for order in self.orders:
            rows = torch.tensor(order if weighted else order[mask[order]], device=self.device)
            for some in rows.split(self.batch):
                optimizer.zero_grad()
                loss = criterion(model(self.x[some]), self.y[some])
                if weighted:
                    loss = (loss * kept[some]).sum() / kept[some].sum().clamp(min=1)
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            logits = model(self.x_test)
            true = torch.nn.functional.one_hot(self.y_test, CLASSES).bool()
            others = logits.masked_fill(true, -torch.inf).logsumexp(dim=1)
            return (logits[true] - others).cpu().numpy()


def rates() -> dict[str, Any]:
    """Measures the milliseconds of a training, and the largest difference of the values."""
    masks, few = draw(_MASKS.value), draw(_MASKS.value)[: _LOOP.value]
    value_fn = lens()
    calls: dict[str, Callable[[], Any]] = {
        "lens": lambda: evaluate(value_fn, masks, progress=False),
        "lens, one at a time": lambda: evaluate(value_fn, few, batch_size=1, progress=False),
        "jitted": lambda: [np.asarray(weighted(value_fn.fn, mask)) for mask in few],
    }
    apart = {}
    try:
        torch = TorchLoop()
        calls["torch"] = lambda: [torch(mask) for mask in few]
        calls["torch, weighted"] = lambda: [torch(mask, weighted=True) for mask in few]
        apart["torch"] = float(np.abs(np.stack([torch(mask) for mask in few[:4]]) - calls["lens"]()[:4]).max())
    except ImportError:
        print("PyTorch is not installed, so its loop is left out")
    start = time.perf_counter()
    calls["lens"]()
    first = time.perf_counter() - start
    seconds = in_turns(calls, _ROUNDS.value)
    each = {name: 1e3 * spent / (len(masks) if name == "lens" else len(few)) for name, spent in seconds.items()}
    return {
        "trainings": len(masks),
        "examples": value_fn.n,
        "batch": DeviceFunction(value_fn).batch_size(len(masks)),
        "first_call_seconds": first,
        "ms_each": each,
        "times_faster": {name: spent / each["lens"] for name, spent in each.items()},
        "largest_difference": apart,
    }


def batches() -> dict[str, Any]:
    """Measures trainings a second by batch size, and draws a picture of them."""
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096) if size <= _MASKS.value]
    masks, value_fn = draw(_MASKS.value), lens()
    calls = {
        str(size): functools.partial(evaluate, value_fn, masks[: max(size, 32)], batch_size=size, progress=False)
        for size in sizes
    }
    seconds = in_turns(calls, _ROUNDS.value)
    found = {size: min(len(masks), max(int(size), 32)) / spent for size, spent in seconds.items()}
    try:
        from matplotlib import pyplot
    except ImportError:
        print("matplotlib is not installed, so no picture is drawn")
        return {"trainings_a_second": found}
    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    axes.plot(sizes, list(found.values()), "o-")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("masks of a batch")
    axes.set_ylabel("trainings a second")
    axes.set_title(f"784-64-10 on halves of {value_fn.n} images, {jax.devices()[0].device_kind}")
    figure.savefig(pathlib.Path(_OUT.value).expanduser().with_suffix(".png"), dpi=120)
    pyplot.close(figure)
    return {"trainings_a_second": found}


def main() -> None:
    """Runs the parts."""
    pathlib.Path(_OUT.value).expanduser().parent.mkdir(parents=True, exist_ok=True)
    run_parts({"rates": rates, "batches": batches}, _PARTS.value, _OUT.value)


if __name__ == "__main__":
    run_program(main)
