"""The front door of ProxySPEX: a table of ablations in, a spectrum out. No model is called."""

from collections.abc import Callable
from typing import Any

import numpy as np

from spex_jax.proxyspex import mlp, walsh_gp
from spex_jax.proxyspex.extract import energy_cut
from spex_jax.proxyspex.table import Terms, prepare
from spex_jax.spectrum import Spectrum

__all__ = ["PROXIES", "fit"]

_FITS: dict[str, Callable[..., Terms]] = {"auto": walsh_gp.fit, "walsh_gp": walsh_gp.fit, "mlp": mlp.fit}
PROXIES = tuple(_FITS)


def _whole(name: str, given: Any, least: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {given!r}")
    return int(given)


def fit(
    masks: Any,
    values: Any,
    *,
    proxy: str = "auto",
    max_degree: int = 5,
    max_terms: int | None = None,
    seed: int = 0,
) -> Spectrum:
    """Spectrum of a value function from a table of ablations (Butler et al., NeurIPS 2025, arXiv 2505.17495).

    The published algorithm fits boosted trees to the table and reads the spectrum off them. The proxies here take the
    place of the trees: both are extensions of this project.

    Args:
      masks: bool [M, n], True = kept. The same mask may stand in several rows; its values are averaged, with a warning
        if they differ.
      values: [M], finite.
      proxy: "walsh_gp" (a Gaussian process diagonal in the Walsh basis), "mlp" (an ensemble of perceptrons), or "auto",
        the first.
      max_degree: largest degree of a term.
      max_terms: number of terms, () included; None is the fewest with 99.9% of the energy, at most 10,000.
      seed: the same table and seed give the same spectrum, to the last bit on one platform.

    Raises:
      ValueError: masks, values or options that do not fit; the message says what was expected.
    """
    if proxy not in _FITS:
        raise ValueError(f"unknown proxy {proxy!r}; expected one of {', '.join(PROXIES)}")
    max_degree = _whole("max_degree", max_degree, 1)
    max_terms = None if max_terms is None else _whole("max_terms", max_terms, 1)
    seed = _whole("seed", seed, 0)
    table = prepare(masks, values)
    if isinstance(table, float):
        return Spectrum(np.zeros((1, np.asarray(masks).shape[1]), np.bool_), np.array([table]))
    terms = _FITS[proxy](table, max_degree=min(max_degree, table.n), seed=seed)
    empty = ~terms.support.any(axis=1)
    support, coefficients = terms.support[~empty], terms.coefficients[~empty]
    keep = energy_cut(coefficients, None if max_terms is None else max_terms - 1)
    constant = table.mean + table.scale * float(terms.coefficients[empty].sum())
    return Spectrum(
        np.concatenate([np.zeros((1, table.n), np.bool_), support[keep]]),
        np.concatenate([[constant], table.scale * coefficients[keep]]),
    )
