"""walsh_gp as a proxy: takes a table, returns the largest terms of the posterior."""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from spex_jax.core.spectrum import Spectrum
from spex_jax.proxyspex.preprocessing import FOLDS, Fitted, Table
from spex_jax.proxyspex.walsh_gp import posteriors
from spex_jax.proxyspex.walsh_gp.posteriors import Terms, held_out_predictions, posterior, predict, spectrum_terms
from spex_jax.proxyspex.walsh_gp.prior import Scales
from spex_jax.proxyspex.walsh_gp.scales import learn, learn_windows
from spex_jax.proxyspex.walsh_gp.windows import padded, windows_of
from spex_jax.utils import array_api
from spex_jax.utils.array_api import Array

__all__ = ["HONEST_ROWS", "SOLVE_ROWS", "GaussianFit", "fit", "read", "with_neighbours"]

SOLVE_ROWS = 8192  # rows of the largest posterior that is solved at once
_PRIOR_ROWS = 400  # weight of the equal mixture with and without windows, in rows
HONEST_ROWS = 128  # most rows at which out-of-fold predictions learn their own scales, at five times the cost


Learn = Callable[[np.ndarray], Scales]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianFit(Fitted):
    """A fit of walsh_gp.

    Attributes:
      learn: returns the scales learned from the rows of the table where bool [N] is True.
    """

    learn: Learn


def read(terms: Terms, n: int) -> Spectrum:
    """Returns the terms as a spectrum of n features."""
    present = np.asarray(terms.prior).ravel() > 0
    support = np.asarray(terms.support).reshape(len(present), -1)[present][:, :n]
    coefficients = np.asarray(terms.coefficients, np.float64).ravel()[present]
    return Spectrum(
        np.concatenate([np.zeros((1, n), np.bool_), support]),
        np.concatenate([[float(terms.constant)], coefficients]),
    )


def _held_out_with_own_scales(table: Table, learn: Learn) -> np.ndarray:
    """Returns predictions [N] by folds that also learn their own scales: with few rows, scales learned from a row
    make its prediction look too good.
    """
    rows, found = table.rows, np.zeros(table.count)
    for each in range(FOLDS):
        scales = learn(table.fold != each)
        real = (rows.fold >= 0) & (rows.fold != each)
        alpha = posterior(scales, rows.signs, rows.targets, real, rows.used).alpha
        predicted = np.asarray(predict(scales, alpha, rows.signs, rows.signs, rows.used))[: table.count]
        found = np.where(table.fold == each, predicted, found)
    return found


def _by_all_rows(table: Table, scales: Scales, terms: Terms) -> Terms:
    """Returns the terms with coefficients from all rows of a table with more rows than one posterior solves.

    On a device in any case: the work is in the rows, and a program is compiled once.
    """
    rows, shape = table.on_device, np.shape(terms.prior)
    most = posteriors.FRONT * -(-max(terms.prior.size, 1) // posteriors.FRONT)
    support = np.zeros((most, rows.signs.shape[1]), np.bool_)
    found = np.asarray(terms.support).reshape(-1, terms.support.shape[-1])
    support[: len(found), : found.shape[1]] = found
    prior, start = np.full(most, 1e-12, np.float32), np.zeros(most, np.float32)
    prior[: len(found)], start[: len(found)] = np.maximum(terms.prior, 1e-12).ravel(), np.ravel(terms.coefficients)
    here = table.rows
    noise = posteriors.noise_and_rest(scales, here.signs[:1], here.used, terms.prior)
    data = (rows.signs, rows.targets, jnp.asarray(support), jnp.asarray(start), jnp.asarray(prior), jnp.asarray(noise))
    coefficients = posteriors.coefficients_of_all_rows(*data)
    return terms._replace(coefficients=np.asarray(coefficients)[: len(found)].reshape(shape))


def fit(table: Table, *, max_degree: int, seed: int) -> GaussianFit:
    """Learns the scales without windows, solves the posterior and reads its largest terms."""
    known: dict[bytes, Scales] = {}

    def learn_once(seen: np.ndarray) -> Scales:
        if seen.tobytes() not in known:
            known[seen.tobytes()] = learn(seed, table, seen)
        return known[seen.tobytes()]

    return _solved(table, learn_once, max_degree=max_degree, seed=seed)


def with_neighbours(table: Table, smooth: GaussianFit, *, max_degree: int, seed: int) -> Fitted:
    """Returns a mixture of a fit without windows and, where features have coordinates, one with windows of neighbouring
    features that goes on from its scales.

    Places can mislead, so that neither is always better. The share of windows is that with the least squared error of
    out-of-fold predictions, drawn towards one half with the weight of _PRIOR_ROWS rows: predictions by scales that saw
    the rows flatter windows, which have more of them (docs/decisions/65).
    """
    windows = None if table.coordinates is None else windows_of(table.coordinates)
    if windows is None:
        return smooth
    chosen = windows if array_api.on_host(table.rows.signs) else padded(windows)

    def learn_both(seen: np.ndarray) -> Scales:
        return learn_windows(seed, table, seen, smooth.learn(seen), chosen)

    placed = _solved(table, learn_both, max_degree=max_degree, seed=seed)
    one, other = smooth.held_out(), placed.held_out()
    seen = np.isfinite(one)
    moved = (other - one)[seen]
    best = float((table.values - one)[seen] @ moved / max(moved @ moved, np.finfo(float).tiny))
    share = (len(moved) * min(max(best, 0.0), 1.0) + _PRIOR_ROWS * 0.5) / (len(moved) + _PRIOR_ROWS)

    def covariance_factor(support: np.ndarray) -> np.ndarray:
        """Returns the factor of a mixture: the covariances of both parts, and the distance of their means."""
        assert smooth.covariance_factor is not None
        assert placed.covariance_factor is not None
        apart = placed.spectrum.coefficients_at(support) - smooth.spectrum.coefficients_at(support)
        return np.concatenate(
            [
                np.sqrt(1 - share) * smooth.covariance_factor(support),
                np.sqrt(share) * placed.covariance_factor(support),
                np.sqrt(share * (1 - share)) * apart[:, None],
            ],
            axis=1,
        )

    return Fitted(
        spectrum=(1 - share) * smooth.spectrum + share * placed.spectrum,
        held_out=lambda: (1 - share) * one + share * other,
        covariance_factor=covariance_factor,
    )


def _solved(table: Table, learn: Learn, *, max_degree: int, seed: int) -> GaussianFit:
    """Solves the posterior under the scales learned from all rows and reads its largest terms.

    Under the prior the posterior means are also the best coefficients for a part of the support, so there is no refit
    (BUILD_NOTES.md). Past 8,192 rows the posterior of that many finds the terms, and all rows give their coefficients.
    """
    rows, scales = table.rows, learn(np.ones(table.count, np.bool_))
    # At least a fifth is left out, so that there are rows to predict that the posterior was not fitted to.
    most = SOLVE_ROWS if table.count <= SOLVE_ROWS else min(SOLVE_ROWS, int(0.8 * table.count) // 512 * 512)
    chosen = np.sort(np.random.default_rng(seed).permutation(table.count)[:most])
    everything = len(chosen) == table.count
    signs, targets, fold = (
        (rows.signs, rows.targets, rows.fold)
        if everything
        else (rows.signs[chosen], rows.targets[chosen], rows.fold[chosen])
    )
    real = fold >= 0
    solved = posterior(scales, signs, targets, real, rows.used)
    terms = spectrum_terms(scales, solved.alpha, signs, rows.used, max_degree=max_degree)
    if not everything:
        terms = _by_all_rows(table, scales, terms)

    def covariance_factor(support: np.ndarray) -> np.ndarray:
        found = posteriors.deviations(seed, scales, signs, real, rows.used, solved.factor, support)
        return np.asarray(found / np.sqrt(posteriors.DRAWS))

    @functools.cache
    def held_out() -> np.ndarray:
        if table.count <= HONEST_ROWS:
            return _held_out_with_own_scales(table, learn)
        if everything:
            found = held_out_predictions(solved.kernel, scales, targets, fold)
            return np.asarray(found, np.float64)[: table.count]
        predicted = np.full(table.count, np.nan)
        others = np.setdiff1d(np.arange(table.count), chosen)
        block = posteriors.BLOCK
        for start in range(0, len(others), block):
            part = others[start : start + block]
            queries: Array = rows.signs[np.resize(part, block)]
            found = predict(scales, solved.alpha, signs, queries, rows.used)
            predicted[part] = np.asarray(found)[: len(part)]
        return predicted

    return GaussianFit(
        spectrum=read(terms, table.n), held_out=held_out, covariance_factor=covariance_factor, learn=learn
    )
