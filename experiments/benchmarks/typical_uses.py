"""Five typical uses of the package and two of shapiq, each as a function of a size; see first_answer.py.

A use imports what it needs and nothing else, makes its model, and returns a function without arguments that answers
for size 0 or, 10% larger, for size 1.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

_REVIEW = (
    "The trailer promised a clever thriller , and for twenty minutes the film never fails to keep that promise . "
    "Then the plot gives up , and not even a brilliant cast can save it from being a dull , lifeless mess . "
    "Still , the music is lovely"
)


def game(masks: np.ndarray) -> np.ndarray:
    """Returns the values of a function with terms of one to three features."""
    kept = np.asarray(masks, np.float64)
    return kept[:, 0] * kept[:, 1] + kept[:, 2] - kept[:, 3] * kept[:, 4] * kept[:, 5] + 0.1 * kept.sum(axis=1)


def _callable(size: int) -> Any:
    import spex_jax

    return functools.partial(spex_jax.explain, game, (20, 22)[size], budget=(600, 660)[size], progress=False)


def _main_job(size: int) -> Any:
    import spex_jax

    text = " ".join(_REVIEW.split()[: (36, 40)[size]])

    def answer() -> Any:
        found = spex_jax.explain(spex_jax.lenses.text(*spex_jax.models.tiny(), text, value="margin"), progress=False)
        found.to_html(os.devnull)
        return found

    return answer


def _decoder(size: int) -> Any:
    import jax.numpy as jnp
    import random_models

    import spex_jax

    model = random_models.llama(576, 30, 9, 3, 1536, 49152, dtype=jnp.float32)
    text = " ".join(map(str, range(2, 2 + (40, 44)[size])))
    value_fn = spex_jax.lenses.text(model, random_models.Numbers(49152), text, target=5, units="word")
    return functools.partial(spex_jax.explain, value_fn, budget=(120, 132)[size], progress=False)


def _heads(size: int) -> Any:
    import random_models

    import spex_jax

    model = random_models.gpt2(768, 12, 12, 50257)
    tokens = np.random.default_rng(1).integers(0, 50257, (1, (12, 14)[size]))
    value_fn = spex_jax.lenses.components(model, tokens, removal="zero", target=5, contrast=6)
    return functools.partial(spex_jax.explain, value_fn, budget=(300, 330)[size], progress=False)


def _digits(size: int) -> Any:
    import jax
    import optax
    from sklearn.datasets import load_digits

    import spex_jax

    x, y = load_digits(return_X_y=True)
    x, y, groups = (x / 16).astype(np.float32), y.astype(np.int32), (60, 66)[size]

    def init(key: Any) -> Any:
        return 0.1 * jax.random.normal(key, (64, 10))

    def apply(weights: Any, pictures: Any) -> Any:
        return pictures @ weights

    value_fn = spex_jax.lenses.training_data(
        init,
        apply,
        (x[: 10 * groups], y[: 10 * groups]),
        (x[-1:], y[-1:]),
        groups=np.arange(10 * groups) // 10,
        optimizer=optax.sgd(0.5),
        steps=100,
        batch=60,
    )
    return lambda: spex_jax.explain_many(value_fn, budget=(600, 660)[size], progress=False)[0]


def _shapiq(name: str, size: int) -> Any:
    import shapiq

    n, budget = (20, 22)[size], (600, 660)[size]
    return functools.partial(getattr(shapiq, name)(n=n, max_order=2, random_state=0).approximate, budget, game)


USES: dict[str, Callable[[int], Any]] = {
    "callable": _callable,
    "main job": _main_job,
    "decoder": _decoder,
    "heads": _heads,
    "digits": _digits,
    "shapiq ProxySPEX, callable": functools.partial(_shapiq, "ProxySPEX"),
    "shapiq KernelSHAPIQ, callable": functools.partial(_shapiq, "KernelSHAPIQ"),
}


def main() -> None:
    """Prints, as JSON, the seconds of two answers of the use that is named, without those that make its model."""
    use, answers = USES[sys.argv[1]], []
    for size in range(2):
        answer = use(size)
        start = time.perf_counter()
        found = answer()
        timings = getattr(found, "timings", {})
        answers.append({"answer": time.perf_counter() - start, **timings})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
