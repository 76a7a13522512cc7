"""walsh_gp as a proxy: takes a table, returns the largest terms of the posterior."""

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.core.spectrum import Spectrum
from spex_jax.proxyspex.preprocessing import FOLDS, Fitted, Table
from spex_jax.proxyspex.walsh_gp import posteriors
from spex_jax.proxyspex.walsh_gp.posteriors import Terms, held_out_predictions, posterior, predict, spectrum_terms
from spex_jax.proxyspex.walsh_gp.scales import learn
from spex_jax.utils.seeds import WalshGPKey

__all__ = ["HONEST_ROWS", "SOLVE_ROWS", "fit", "key_of_draws", "read"]

SOLVE_ROWS = 8192  # rows of the largest posterior that is solved at once
HONEST_ROWS = 128  # most rows at which out-of-fold predictions learn their own scales, at five times the cost


def read(terms: Terms, n: int) -> Spectrum:
    """Returns the terms as a spectrum of n features."""
    present = np.asarray(terms.prior).ravel() > 0
    support = np.asarray(terms.support).reshape(len(present), -1)[present][:, :n]
    coefficients = np.asarray(terms.coefficients, np.float64).ravel()[present]
    return Spectrum(
        np.concatenate([np.zeros((1, n), np.bool_), support]),
        np.concatenate([[float(terms.constant)], coefficients]),
    )


def key_of_draws(seed: int) -> jax.Array:
    """Returns the key for draws from the posterior."""
    return jax.random.fold_in(jax.random.key(seed), WalshGPKey.POSTERIOR_DRAWS)


def _held_out_with_own_scales(key: jax.Array, table: Table) -> np.ndarray:
    """Returns predictions [N] by folds that also learn their own scales: with few rows, scales learned from a row
    make its prediction look too good.
    """
    found = np.zeros(len(table.targets))
    for each in range(FOLDS):
        seen = (table.fold >= 0) & (table.fold != each)
        scales = learn(key, table, seen)
        alpha = posterior(scales, table.signs, table.targets, jnp.asarray(seen), table.used)
        predicted = np.asarray(predict(scales, alpha, table.signs, table.signs, table.used))
        found = np.where(table.fold == each, predicted, found)
    return found[: table.count]


def fit(table: Table, *, max_degree: int, seed: int) -> Fitted:
    """Learns the scales, solves the posterior and reads its largest terms.

    Under the prior the posterior means are also the best coefficients for a part of the support, so there is no refit
    (BUILD_NOTES.md). Past 8,192 rows the posterior of that many finds the terms, and all rows give their coefficients.
    """
    key = jax.random.key(seed)
    real = table.fold >= 0
    data = (table.signs, table.targets, jnp.asarray(real), table.used)
    scales = learn(key, table, real)
    # At least a fifth is left out, so that there are rows to predict that the posterior was not fitted to.
    most = SOLVE_ROWS if table.count <= SOLVE_ROWS else min(SOLVE_ROWS, int(0.8 * table.count) // 512 * 512)
    chosen = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(real))[:most])
    solved = data if len(chosen) == table.count else (*(array[chosen] for array in data[:3]), table.used)
    alpha = posterior(scales, *solved)
    terms = spectrum_terms(scales, alpha, solved[0], table.used, max_degree=max_degree)
    if len(chosen) < table.count:
        support = jnp.asarray(terms.support).reshape(-1, terms.support.shape[-1])
        noise = posteriors.noise_and_rest(scales, table.signs, table.used, jnp.asarray(terms.prior))
        prior = jnp.maximum(terms.prior.ravel(), 1e-12)
        start = jnp.asarray(terms.coefficients).ravel()
        found = posteriors.coefficients_of_all_rows(table.signs, table.targets, support, start, prior, noise)
        terms = terms._replace(coefficients=found)

    def covariance_factor(support: np.ndarray) -> np.ndarray:
        found = posteriors.deviations(key_of_draws(seed), scales, solved[0], solved[2], table.used, support)
        return np.asarray(found / np.sqrt(posteriors.DRAWS))

    def held_out() -> np.ndarray:
        if table.count <= HONEST_ROWS:
            return _held_out_with_own_scales(key, table)
        if len(chosen) == table.count:
            fold = jnp.asarray(table.fold)
            return np.asarray(held_out_predictions(scales, *data[:2], fold, table.used), np.float64)[: table.count]
        predicted = np.full(table.count, np.nan)
        others = np.setdiff1d(np.arange(table.count), chosen)
        block = posteriors.BLOCK
        for start in range(0, len(others), block):
            part = others[start : start + block]
            queries = table.signs[np.resize(part, block)]
            predicted[part] = np.asarray(predict(scales, alpha, solved[0], queries, table.used))[: len(part)]
        return predicted

    return Fitted(spectrum=read(terms, table.n), held_out=held_out, covariance_factor=covariance_factor)
