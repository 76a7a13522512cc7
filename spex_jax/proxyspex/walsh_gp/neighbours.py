"""Mixes a fit of walsh_gp with one that expects more interactions among neighbours, by their places or learned."""

import numpy as np

from spex_jax.core.spectrum import Spectrum
from spex_jax.proxyspex.preprocessing import Fitted, Table
from spex_jax.proxyspex.walsh_gp.posteriors import posterior, predict, spectrum_terms
from spex_jax.proxyspex.walsh_gp.prior import Scales
from spex_jax.proxyspex.walsh_gp.proxy import SOLVE_ROWS, GaussianFit, read, solved
from spex_jax.proxyspex.walsh_gp.scales import learn_windows
from spex_jax.proxyspex.walsh_gp.windows import Windows, padded, windows_of, windows_of_sets
from spex_jax.utils import array_api

__all__ = ["with_neighbours"]

_EQUAL_ROWS = 400  # weight of the equal mixture with and without places, in rows
_WITHOUT_ROWS = 50  # weight of the fit without learned neighbours, in rows
_LEARNED_ROWS = 200  # fewer rows do not say which features are partners
_LEARNED_FEATURES = 24  # of more features they gained nothing, in twice the time
_PARTNERS = 4


def with_neighbours(table: Table, smooth: GaussianFit, *, max_degree: int, seed: int) -> Fitted:
    """Returns a mixture of a fit without windows and one with windows of neighbours, which goes on from its scales.

    Neighbours are near by their coordinates. Places can mislead, so that neither fit is always better: the share of
    windows is that with the least squared error of out-of-fold predictions, drawn towards one half, since predictions
    by scales that saw the rows flatter windows, which have more of them.

    Without coordinates, neighbours of a feature are its strongest partners in the fit without windows. Since all rows
    chose these, only a fold that is left out of the choice too says whether they help (docs/decisions/65).
    """
    places = table.known.coordinates
    if places is not None:
        windows = windows_of(places)
        if windows is None:
            return smooth
        placed = _placed(table, smooth, windows, max_degree=max_degree, seed=seed)
        share = _share(table.values, smooth.held_out(), placed.held_out(), 0.5, _EQUAL_ROWS)
        return _mixture(smooth, placed, share)
    few, many = table.count < _LEARNED_ROWS, table.n > _LEARNED_FEATURES or table.count > SOLVE_ROWS
    if few or many or table.n <= 2 * _PARTNERS:
        return smooth
    share = _share_of_learned(table, smooth, max_degree=max_degree, seed=seed)
    if not share:
        return smooth
    return _mixture(smooth, _placed(table, smooth, _partners(smooth.spectrum), max_degree=max_degree, seed=seed), share)


def _placed(table: Table, smooth: GaussianFit, windows: Windows, *, max_degree: int, seed: int) -> GaussianFit:
    """Returns the fit with windows."""
    chosen = _where(table, windows)

    def learn_both(seen: np.ndarray) -> Scales:
        return learn_windows(seed, table, seen, smooth.learn(seen), chosen)

    return solved(table, learn_both, max_degree=max_degree, seed=seed)


def _where(table: Table, windows: Windows) -> Windows:
    return windows if array_api.on_host(table.rows.signs) else padded(windows)


def _partners(spectrum: Spectrum) -> Windows:
    """Returns a window for each feature, with the features that share most energy of sets with it."""
    members = spectrum.support.astype(np.float64)
    together = (members * np.square(spectrum.coefficients)[:, None]).T @ members
    np.fill_diagonal(together, -1.0)  # no feature is its own partner
    strongest = np.argsort(-together, axis=1, kind="stable")[:, :_PARTNERS]
    sets = {tuple(sorted({unit, *row.tolist()})): None for unit, row in enumerate(strongest)}
    return windows_of_sets([np.array(one) for one in sets])


def _share_of_learned(table: Table, smooth: GaussianFit, *, max_degree: int, seed: int) -> float:
    """Returns the share of a fit with learned neighbours, from one fold that neither chose them nor learned their
    scales.
    """
    rows, seen = table.rows, table.fold != 0
    real = (rows.fold >= 0) & (rows.fold != 0)
    scales = smooth.learn(np.ones(table.count, np.bool_))
    alpha = posterior(scales, rows.signs, rows.targets, real, rows.used).alpha
    terms = spectrum_terms(scales, alpha, rows.signs, rows.used, max_degree=max_degree)
    windows = _where(table, _partners(read(terms, table.n)))
    learned = learn_windows(seed, table, seen, scales, windows)
    alpha = posterior(learned, rows.signs, rows.targets, real, rows.used).alpha
    predicted = np.asarray(predict(learned, alpha, rows.signs, rows.signs, rows.used), np.float64)[: table.count]
    return _share(table.values[~seen], smooth.held_out()[~seen], predicted[~seen], 0.0, _WITHOUT_ROWS)


def _share(values: np.ndarray, one: np.ndarray, other: np.ndarray, before: float, weight: int) -> float:
    """Returns the share of other predictions [N] beside one with the least squared error, drawn towards `before`."""
    known = np.isfinite(one)
    moved = (other - one)[known]
    best = float((values - one)[known] @ moved / max(moved @ moved, np.finfo(float).tiny))
    return (len(moved) * min(max(best, 0.0), 1.0) + weight * before) / (len(moved) + weight)


def _mixture(smooth: GaussianFit, placed: GaussianFit, share: float) -> Fitted:
    """Returns the mixture of two fits."""

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
        held_out=lambda: (1 - share) * smooth.held_out() + share * placed.held_out(),
        covariance_factor=covariance_factor,
    )
