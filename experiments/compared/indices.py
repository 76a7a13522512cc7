"""Interaction indices of a game of which any mask can be asked: by this package, by baselines and by shapiq."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compared.contender import Asked, Unsuitable
from spex_jax import Spectrum, proxyspex
from spex_jax.analysis.correction import correction_of
from spex_jax.core import sampling
from spex_jax.core.interactions import Interactions
from spex_jax.methods import METHODS

Sets = list[tuple[int, ...]]


def vector(found: Mapping[tuple[int, ...], float], sets: Sets) -> np.ndarray:
    """Values of these sets, float64 [T]."""
    return np.array([found[key] for key in sets])


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Squared error over the square of the truth."""
    return float(np.square(found - truth).sum() / np.square(truth).sum())


def recall(found: np.ndarray, truth: np.ndarray, top: int) -> float:
    """Which share of the `top` largest numbers of the truth, by size, is among those of what was found."""
    largest = [set(np.argsort(-np.abs(numbers), kind="stable")[:top].tolist()) for numbers in (found, truth)]
    return len(largest[0] & largest[1]) / min(top, len(truth))


def of_proxy(ask: Asked, n: int, draw: str, budget: int, seed: int, proxy: str) -> tuple[Spectrum, Callable[..., Any]]:
    """A spectrum from one draw of masks, and a function of index, order and whether to correct: its interactions."""
    masks = sampling.draw(draw, n, budget, seed)
    values = ask(masks)
    spectrum, out_of_fold = proxyspex.cross_fit(masks, values, proxy=proxy, seed=seed)
    correction = correction_of(spectrum, masks, values, out_of_fold)

    def interactions(index: str, order: int, corrected: bool) -> Interactions:
        found = spectrum.interactions(index, order)
        return found if correction is None or not corrected else correction(found)

    return spectrum, interactions


def of_method(ask: Asked, n: int, method: str, budget: int, seed: int) -> Spectrum:
    """The spectrum of a method of `explain` that chooses its masks, none of which are held out.

    Raises:
      Unsuitable: too few masks for it.
    """
    made = METHODS[method]().complete("FSII")
    if budget < (least := made.least(n)):
        raise Unsuitable(f"needs {least} masks")
    masks, detail = made.draw(n, budget, seed)
    return made.fit(masks, ask(masks), detail, seed)


def of_shapiq(ask: Asked, n: int, name: str, index: str, order: int, budget: int, seed: int) -> Any:
    """What shapiq's approximator of this name gives for the index: an InteractionValues."""
    from shapiq import approximator  # of the extra "peers"

    given: dict[str, Any] = {"n": n, "random_state": seed}
    if name in ("ProxySHAP", "KernelSHAPIQ"):
        given |= {"index": index, "max_order": order}
    elif name == "RegressionFSII":
        given |= {"max_order": order}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapiq and scikit-learn, about settings of their own
        return getattr(approximator, name)(**given).approximate(budget, ask)
