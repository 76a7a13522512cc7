"""Interaction indices of a game that can evaluate any mask: by this package, by baselines and by shapiq."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compared.contender import RecordedFunction, Unsuitable
from spex_jax import Spectrum, proxyspex
from spex_jax.analysis.correction import correction_of
from spex_jax.core import sampling
from spex_jax.core.ablations import Ablations
from spex_jax.core.interactions import Interactions
from spex_jax.methods import METHODS

Sets = list[tuple[int, ...]]


def vector(found: Mapping[tuple[int, ...], float], sets: Sets) -> np.ndarray:
    """Returns the values of the sets, float64 [T]."""
    return np.array([found[key] for key in sets])


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Returns the squared error over the squared norm of the truth."""
    return float(np.square(found - truth).sum() / np.square(truth).sum())


def recall(found: np.ndarray, truth: np.ndarray, top: int) -> float:
    """Returns the share of the truth's `top` largest numbers by magnitude that are among the `top` largest found."""
    largest = [set(np.argsort(-np.abs(numbers), kind="stable")[:top].tolist()) for numbers in (found, truth)]
    return len(largest[0] & largest[1]) / min(top, len(truth))


def of_proxy(
    value_fn: RecordedFunction, n: int, draw: str, budget: int, seed: int, proxy: str
) -> tuple[Spectrum, Callable[..., Any]]:
    """Returns a spectrum from one draw of masks, and a function (index, order, corrected) -> its interactions."""
    masks = sampling.draw(draw, n, budget, seed)
    values = value_fn(masks)
    spectrum, out_of_fold = proxyspex.cross_fit(masks, values, proxy=proxy, seed=seed)
    correction = correction_of(spectrum, masks, values, out_of_fold)

    def interactions(index: str, order: int, corrected: bool) -> Interactions:
        found = spectrum.interactions(index, order)
        return found if correction is None or not corrected else correction(found)

    return spectrum, interactions


def of_method(value_fn: RecordedFunction, n: int, method: str, budget: int, seed: int) -> Spectrum:
    """Returns the spectrum of a method of `explain` that chooses its masks, none of which are held out.

    Raises:
      Unsuitable: the budget is too small for the method.
    """
    made = METHODS[method]().complete("FSII")
    if budget < (least := made.least(n)):
        raise Unsuitable(f"needs {least} masks")
    masks, design = made.draw(n, budget, seed)
    return made.fit(Ablations.to_fit(masks, value_fn(masks), design), seed)


def of_shapiq(value_fn: RecordedFunction, n: int, name: str, index: str, order: int, budget: int, seed: int) -> Any:
    """Returns the InteractionValues of shapiq's approximator of this name for the index."""
    from shapiq import approximator  # of the extra "peers"

    given: dict[str, Any] = {"n": n, "random_state": seed}
    if name in ("ProxySHAP", "KernelSHAPIQ"):
        given |= {"index": index, "max_order": order}
    elif name == "RegressionFSII":
        given |= {"max_order": order}
    elif name == "ShaplEIG":
        given |= {"show_progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapiq and scikit-learn warn of their own settings
        return getattr(approximator, name)(**given).approximate(budget, value_fn)
