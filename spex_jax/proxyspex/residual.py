"""A proxy for the smooth part of a function and SPEX for the rest (an extension of this project)."""

from typing import Any

import numpy as np

from spex_jax import spex
from spex_jax.core.side_information import side_information
from spex_jax.core.spectrum import Spectrum
from spex_jax.proxyspex.fitting import checked_options, fit
from spex_jax.proxyspex.preprocessing import prepare
from spex_jax.proxyspex.proxy import Proxy
from spex_jax.utils.jax_settings import in_float32

__all__ = ["fit_and_decode"]


def fit_and_decode(
    design: spex.Design,
    values: object,
    *,
    proxy: str | Proxy = "walsh_gp",
    max_degree: int = 5,
    seed: int = 0,
    coordinates: object = None,
    relevance: object = None,
    prior: object = None,
) -> Spectrum:
    """Decodes the sets that a proxy does not explain, and refits the proxy to the rest.

    The proxy predicts every value with its fold left out; SPEX decodes the differences; the proxy is fitted again to
    the values minus the sets found. The result is the sum of both; it has intervals only where nothing was decoded.

    Args:
      design: made by `spex_jax.spex.design`.
      values: [M], the value at each of `design.masks`.
      proxy, max_degree, seed, coordinates, relevance, prior: see `fit`.

    Raises:
      ValueError: values of the wrong length, or not finite; options that `fit` refuses.
    """
    answers = spex.check_design(design, values)
    chosen = checked_options(proxy=proxy, max_degree=max_degree, max_terms=None, seed=seed).proxy
    known: dict[str, Any] = {"coordinates": coordinates, "relevance": relevance, "prior": prior}

    def smooth(values: np.ndarray) -> Spectrum:
        return fit(design.masks, values, proxy=chosen, max_degree=max_degree, seed=seed, **known)

    table = prepare(design.masks, answers, seed, side_information(design.masks.shape[1], **known))
    if isinstance(table, Spectrum):
        return smooth(answers)
    with in_float32():
        fitted = chosen.fit(table, max_degree=min(max_degree, table.n), seed=seed)
        predicted = fitted.held_out()
        predicted = np.where(np.isfinite(predicted), predicted, fitted.spectrum(table.masks))
    found = spex.decode(design, answers - table.as_given(table.in_units(predicted)))
    rest = Spectrum(found.support[1:], found.coefficients[1:])
    return smooth(answers - rest(design.masks)) + rest if len(rest) else smooth(answers)
