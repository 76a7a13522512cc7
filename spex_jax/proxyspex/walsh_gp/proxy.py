"""walsh_gp as a proxy: takes a table, returns the largest terms of the posterior."""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from spex_jax.core import masks as masks_lib
from spex_jax.core.spectrum import Spectrum
from spex_jax.proxyspex.preprocessing import FOLDS, Fitted, Table
from spex_jax.proxyspex.walsh_gp import posteriors
from spex_jax.proxyspex.walsh_gp.posteriors import Terms, held_out_predictions, posterior, predict, spectrum_terms
from spex_jax.proxyspex.walsh_gp.prior import Scales, prior_variances
from spex_jax.proxyspex.walsh_gp.scales import learn
from spex_jax.utils import array_api
from spex_jax.utils.array_api import Array, namespace

__all__ = ["HONEST_ROWS", "SOLVE_ROWS", "GaussianFit", "fit", "read", "solved"]

SOLVE_ROWS = 8192  # rows of the largest posterior that is solved at once
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


def _of_sets(scales: Scales, alpha: Array, signs: Array, n: int) -> Spectrum:
    """Returns what the sets of a known spectrum add to the posterior mean beyond the other kernels."""
    sets = scales.sets
    if sets is None:
        return Spectrum(np.zeros((0, n), np.bool_), np.zeros(0))
    means = np.asarray(namespace(alpha).matmul(sets.characters(signs).T, alpha), np.float64)
    coefficients = float(np.exp(scales.log_sets)) * np.asarray(sets.weight, np.float64) * means
    present = np.flatnonzero(np.asarray(sets.weight) > 0)
    return Spectrum(np.asarray(sets.support)[present, :n] > 0.5, coefficients[present])


def _with_sets(scales: Scales, terms: Terms, used: Array) -> Terms:
    """Returns terms, and the sets of a known spectrum that are not among them, all with their prior variances."""
    sets, width = scales.sets, terms.support.shape[-1]
    if sets is None:
        return terms
    present = np.ravel(terms.prior) > 0
    found = np.asarray(terms.support).reshape(-1, width)[present]
    both = np.concatenate([found, np.asarray(sets.support)[np.asarray(sets.weight) > 0] > 0.5])
    support = both[masks_lib.deduplicate(both)[0]]
    coefficients = np.zeros(len(support), np.float32)
    coefficients[: len(found)] = np.ravel(terms.coefficients)[present]
    prior = prior_variances(scales, used, support if array_api.on_host(used) else jnp.asarray(support))
    return terms._replace(support=support, coefficients=coefficients, prior=np.asarray(prior))


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

    return solved(table, learn_once, max_degree=max_degree, seed=seed)


def solved(table: Table, learn: Learn, *, max_degree: int, seed: int) -> GaussianFit:
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
    if everything:
        spectrum = read(terms, table.n) + _of_sets(scales, solved.alpha, signs, table.n)
    else:
        spectrum = read(_by_all_rows(table, scales, _with_sets(scales, terms, rows.used)), table.n)

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

    return GaussianFit(spectrum=spectrum, held_out=held_out, covariance_factor=covariance_factor, learn=learn)
