"""The entry point of ProxySPEX: takes a table of ablations, returns a spectrum. No model is called."""

import contextlib
import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from spex_jax.core.ends import through_ends, with_spare_terms
from spex_jax.core.masks import check_masks, check_whole
from spex_jax.core.packed_masks import PackedMasks
from spex_jax.core.side_information import SideInformation, side_information
from spex_jax.core.spectrum import Spectrum
from spex_jax.proxyspex.extraction import in_units
from spex_jax.proxyspex.preprocessing import Fitted, Table, prepare, trust
from spex_jax.proxyspex.proxy import PROXIES, Proxy, proxy_of
from spex_jax.utils.jax_settings import in_float32
from spex_jax.utils.threads import one_blas_thread

__all__ = [
    "SMALL_ROWS",
    "Fit",
    "FitOptions",
    "check_distinct",
    "checked_options",
    "cross_fit",
    "cut",
    "fit",
    "fit_table",
]

SMALL_ROWS = 2048  # up to here matrices are too small to gain from several BLAS threads


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The checked options of `fit`."""

    proxy: Proxy
    max_degree: int
    max_terms: int | None
    seed: int


def checked_options(
    *,
    proxy: str | Proxy,
    max_degree: int,
    max_terms: int | None,
    seed: int,
    solver: str | None = None,
    extract: str | None = None,
) -> FitOptions:
    """Checks the options of `fit` before any model is queried, and returns them.

    Raises:
      ValueError: options that `fit` would refuse.
    """
    chosen = proxy_of(proxy, solver=solver, extract=extract)
    check_whole("max_degree", max_degree, 1)
    if max_terms is not None:
        check_whole("max_terms", max_terms, 1)
    check_whole("seed", seed, 0, 2**32 - 1)
    chosen.check()
    return FitOptions(proxy=chosen, max_degree=int(max_degree), max_terms=max_terms, seed=int(seed))


def fit(  # noqa: PLR0913
    masks: Any,
    values: Any,
    *,
    proxy: str | Proxy = "auto",
    max_degree: int = 5,
    max_terms: int | None = None,
    seed: int = 0,
    coordinates: Any = None,
    relevance: Any = None,
    prior: Any = None,
    solver: str | None = None,
    extract: str | None = None,
) -> Spectrum:
    """Fits a proxy to a table of ablations and returns its spectrum (Butler et al., NeurIPS 2025, arXiv 2505.17495).

    The published algorithm fits boosted trees to the table, reads the spectrum off them, keeps the largest terms and
    refits those. "trees" is that proxy in JAX, without the refit; the others are extensions of this project.

    Args:
      masks: bool [M, n], True = kept. The same mask may occur in several rows; its values are averaged, with a warning
        if they differ. Or `PackedMasks`, a table that stays on disk: for "linear" only, see `streaming.fit`.
      values: [M], finite.
      proxy: "walsh_gp" (a Gaussian process diagonal in the Walsh basis), "mlp" (an ensemble of perceptrons), "trees"
        (gradient boosted trees), "linear" (sparse regression over characters), or "auto" (walsh_gp, stacked with
        trees and linear where it leaves much unexplained); or its record, such as `Linear(solver="lasso")`.
      max_degree: largest degree of a term.
      max_terms: number of terms, () included; None is the fewest with 99.9% of the energy, at most 10,000.
      coordinates: [n, d] or [n], where the features are, in any unit that all columns share: the places of words, the
        rows and columns of patches. "walsh_gp" and "auto" then also look for interactions among neighbours, and keep
        what they find there as far as it predicts rows that a fit did not see; the other proxies have no use for it.
      relevance: [n], how much each feature is expected to matter, not negative and in any unit, such as the root mean
        square of gradients (`ValueFunction.relevance`). "walsh_gp" and "auto" expect their scales to follow a power of
        it that they learn, also when that is none; the other proxies have no use for it.
      prior: another spectrum of the same features, or an explanation: of a smaller model, of an earlier checkpoint, of
        another way to remove. The fit explains what that spectrum times a learned coefficient leaves.
      solver: for "linear": "greedy" (orthogonal matching pursuit, the default) or "lasso" (the convex relaxation).
      extract: how the spectrum of "mlp" is read: "grow" (the default, a search that grows sets) or "spex" (coded masks,
        decoded: also finds sets that no smaller set leads to).
      seed: the same table and seed give the same spectrum, to the last bit on one platform.

    Raises:
      ValueError: masks, values, options, coordinates, relevance or a prior that cannot be used; the message states what
        was expected.
    """
    options = checked_options(
        proxy=proxy, max_degree=max_degree, max_terms=max_terms, seed=seed, solver=solver, extract=extract
    )
    if isinstance(masks, PackedMasks):
        if not options.proxy.reads_packed:
            readers = " or ".join(f"proxy={name!r}" for name, known in PROXIES.items() if known.reads_packed)
            raise ValueError(
                f"PackedMasks need {readers}, got proxy={options.proxy.name!r}; use that proxy, or give a smaller "
                "table as an array: masks.columns(...) for some of the features, masks.rows(...) for some of the rows"
            )
        with in_float32():
            return options.proxy.fit_packed(
                masks, values, max_degree=options.max_degree, max_terms=options.max_terms, seed=options.seed
            )
    table = prepare(masks, values, seed, _known(masks, coordinates, relevance, prior))
    return table if isinstance(table, Spectrum) else fit_table(table, options).spectrum


def _known(masks: Any, coordinates: Any, relevance: Any, prior: Any) -> SideInformation:
    given = {"coordinates": coordinates, "relevance": relevance, "prior": prior}
    return side_information(check_masks(masks).shape[1], **given)


def cross_fit(  # noqa: PLR0913
    masks: Any,
    values: Any,
    *,
    proxy: str | Proxy = "auto",
    max_degree: int = 5,
    max_terms: int | None = None,
    seed: int = 0,
    coordinates: Any = None,
    relevance: Any = None,
    prior: Any = None,
    solver: str | None = None,
    extract: str | None = None,
) -> tuple[Spectrum, np.ndarray]:
    """Returns the spectrum of `fit` and the out-of-fold predictions of the proxy.

    Args:
      masks: bool [M, n], distinct.
      values: [M], finite.
      proxy, max_degree, max_terms, seed, coordinates, relevance, prior, solver, extract: see `fit`.

    Returns:
      The spectrum, and predictions float64 [M]; nan for masks that no fit left out (among many thousands).

    Raises:
      ValueError: as `fit`; masks that occur in several rows.
    """
    options = checked_options(
        proxy=proxy, max_degree=max_degree, max_terms=max_terms, seed=seed, solver=solver, extract=extract
    )
    table = prepare(masks, values, seed, _known(masks, coordinates, relevance, prior))
    if isinstance(table, Spectrum):
        return table, table(masks)
    check_distinct(table, masks)
    found = fit_table(table, options)
    return found.spectrum, found.out_of_fold(table)


def check_distinct(table: Table, masks: Any) -> None:
    """Raises ValueError where a mask occurs in several rows of a table to cross-fit."""
    if table.count != len(masks):
        raise ValueError(f"cross-fitting needs distinct masks, got {table.count} of {len(masks)}; average them first")


class Fit(NamedTuple):
    """A spectrum, the fit it was read from (in units of the table) and the share of that fit that is trusted."""

    spectrum: Spectrum
    fitted: Fitted
    share: float

    @in_float32()
    def out_of_fold(self, table: Table) -> np.ndarray:
        """Returns the prediction of each row by a fit without it, float64 [N]; nan for rows that no fit left out."""
        return table.as_given(table.in_units(self.share * self.fitted.held_out()))

    def finished(self, table: Table, max_terms: int | None) -> "Fit":
        """Returns the same with the posterior variances of the terms, adjusted to the known values at the full and the
        empty mask.
        """
        factor, spectrum = self.fitted.covariance_factor, self.spectrum
        if factor is not None and 1e-150 < table.scale < 1e150:  # so that its square is a normal number
            found = table.scale * factor(spectrum.support)
            if table.base is not None:
                doubted = table.scale * table.doubt * table.base.coefficients_at(spectrum.support)
                found = np.concatenate([found, doubted[:, None]], axis=1)
            variances = (found**2).sum(axis=1)
            spectrum = dataclasses.replace(spectrum, variances=variances, covariance_factor=found)
        known = (table.masks, table.in_units(table.values), table.scale)
        return self._replace(spectrum=through_ends(spectrum, *known, limited=max_terms is not None))


@in_float32()
def fit_table(table: Table, options: FitOptions) -> Fit:
    """Fits a table that is prepared."""
    small = table.count <= SMALL_ROWS
    with one_blas_thread() if small else contextlib.nullcontext():
        fitted = options.proxy.fit(table, max_degree=min(options.max_degree, table.n), seed=options.seed)
        return cut(table, fitted, options).finished(table, options.max_terms)


def cut(table: Table, fitted: Fitted, options: FitOptions) -> Fit:
    """Returns the trusted share of the largest terms, in units of the given values, with the terms needed to reach the
    values at the full and the empty mask.
    """
    share = trust(fitted.held_out, table.values, table.n) if table.count <= options.proxy.most_rows_doubted else 1.0
    whole = fitted.spectrum * share
    largest = functools.partial(in_units, whole if table.base is None else whole + table.base, table.mean, table.scale)
    known = (table.masks, table.in_units(table.values), table.scale)
    found = with_spare_terms(
        largest(options.max_terms), largest, *known, max_terms=options.max_terms, max_degree=options.max_degree
    )
    return Fit(found, fitted, share)
