"""The front door of ProxySPEX: a table of ablations in, a spectrum out. No model is called."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from spex_jax.proxyspex import linear, mlp, stack, trees, walsh_gp
from spex_jax.proxyspex.extract import energy_cut
from spex_jax.proxyspex.table import Fitted, prepare
from spex_jax.spectrum import Spectrum

__all__ = ["PROXIES", "check_options", "fit"]

_FITS: dict[str, Callable[..., Fitted]] = {
    "auto": stack.fit,
    "walsh_gp": walsh_gp.fit,
    "mlp": mlp.fit,
    "trees": trees.fit,
    "linear": linear.fit,
}
PROXIES = tuple(_FITS)


def _check_whole(name: str, given: Any, least: int, most: int | None = None) -> None:
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if not whole or given < least or (most is not None and given > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {bounds}, got {given!r}")


def check_options(*, proxy: str = "auto", max_degree: int = 5, max_terms: int | None = None, seed: int = 0) -> None:
    """Raises ValueError for options that `fit` would refuse, before anything has been paid for."""
    if proxy not in _FITS:
        raise ValueError(f"unknown proxy {proxy!r}; expected one of {', '.join(PROXIES)}")
    _check_whole("max_degree", max_degree, 1)
    if max_terms is not None:
        _check_whole("max_terms", max_terms, 1)
    _check_whole("seed", seed, 0, 2**32 - 1)


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

    The published algorithm fits boosted trees to the table, reads the spectrum off them, keeps the largest terms and
    refits those. "trees" is that proxy in JAX, without the refit; the others are extensions of this project.

    Args:
      masks: bool [M, n], True = kept. The same mask may stand in several rows; its values are averaged, with a warning
        if they differ.
      values: [M], finite.
      proxy: "walsh_gp" (a Gaussian process diagonal in the Walsh basis), "mlp" (an ensemble of perceptrons), "trees"
        (gradient boosted trees), or "auto" (the first, stacked with trees where it leaves much unexplained).
      max_degree: largest degree of a term.
      max_terms: number of terms, () included; None is the fewest with 99.9% of the energy, at most 10,000.
      seed: the same table and seed give the same spectrum, to the last bit on one platform.

    Raises:
      ValueError: masks, values or options that do not fit; the message says what was expected.
    """
    check_options(proxy=proxy, max_degree=max_degree, max_terms=max_terms, seed=seed)
    table = prepare(masks, values, seed)
    if isinstance(table, float):
        return Spectrum(np.zeros((1, np.asarray(masks).shape[1]), np.bool_), np.array([table]))
    terms = _FITS[proxy](table, max_degree=min(int(max_degree), table.n), seed=int(seed)).spectrum
    nothing = ~terms.support.any(axis=1)
    rows = np.flatnonzero(~nothing)
    rows = rows[energy_cut(terms.coefficients[rows], None if max_terms is None else max_terms - 1)]
    if not nothing.any():
        constant = Spectrum(np.zeros((1, table.n), np.bool_), np.array([table.mean]))
        return constant + table.scale * terms.take(rows)
    if not 1e-150 < table.scale < 1e150:  # its square is no number: a spectrum without variances
        terms = Spectrum(terms.support, terms.coefficients)
    kept = table.scale * terms.take(np.concatenate([np.flatnonzero(nothing), rows]))
    shift = np.where(kept.support.any(axis=1), 0.0, table.mean)
    return dataclasses.replace(kept, coefficients=kept.coefficients + shift)
