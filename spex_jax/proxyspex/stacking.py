"""auto: a non-negative stack of proxies (an extension of ProxySPEX, not part of the paper).

The weights minimise the squared error of the members' out-of-fold predictions (Breiman, Stacked regressions, 1996). A
prior draws them towards the first member alone, with the weight of some additional rows. A stack of spectra is a
spectrum, since the Fourier transform is linear.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from spex_jax.proxyspex import trees, walsh_gp
from spex_jax.proxyspex.preprocessing import Fitted, Table
from spex_jax.proxyspex.proxy import Draw, Proxy
from spex_jax.proxyspex.regression import linear

__all__ = ["Auto", "complete", "fit", "stack_weights"]

# Above this out-of-fold R2 of walsh_gp no member ever added more than .002 (BUILD_NOTES.md), so no other is fitted.
_GOOD_ENOUGH = 0.9
_PRIOR_ROWS = 30  # weight of the prior for the first member alone, in rows
_MOST_SPLITS = 6e5  # rows times features; beyond it trees take minutes


def stack_weights(held_out: np.ndarray, values: np.ndarray, prior_rows: float = 0.0) -> np.ndarray:
    """Returns the non-negative weights [P] with which the predictions held_out [P, N] fit values [N] of mean 0 best,
    given `prior_rows` additional rows on which the first member is exact.
    """
    from scipy import optimize

    pull = np.diag(np.sqrt(prior_rows * np.mean(held_out**2, axis=1)))
    alone = np.eye(len(held_out))[0]
    features, targets = np.concatenate([held_out.T, pull]), np.concatenate([values, pull @ alone])
    return np.asarray(optimize.nnls(features, targets)[0])


def fit(table: Table, *, max_degree: int, seed: int) -> Fitted:
    """Fits walsh_gp, with and without windows, and stacks it with trees and linear where it leaves much unexplained."""
    return complete(table, walsh_gp.fit(table, max_degree=max_degree, seed=seed), max_degree=max_degree, seed=seed)


def complete(table: Table, smooth: walsh_gp.GaussianFit, *, max_degree: int, seed: int) -> Fitted:
    """Completes `fit` from the walsh_gp fit without windows: adds the other members where they are needed."""
    first = walsh_gp.with_neighbours(table, smooth, max_degree=max_degree, seed=seed)
    predicted = first.held_out()
    seen = np.isfinite(predicted)
    variance = np.mean(table.values[seen] ** 2)
    if np.mean((table.values - predicted)[seen] ** 2) <= (1 - _GOOD_ENOUGH) * variance:
        return first
    members = [first, linear.fit(table, max_degree=max_degree, seed=seed)]
    if table.count * table.n <= _MOST_SPLITS:
        members.append(trees.fit(table, max_degree=max_degree, seed=seed))
    predictions = np.stack([predicted, *(member.held_out() for member in members[1:])])
    weights = stack_weights(predictions[:, seen], table.values[seen], _PRIOR_ROWS)
    spectrum = float(weights[0]) * first.spectrum
    for weight, member in zip(weights[1:], members[1:], strict=True):
        spectrum = spectrum + float(weight) * member.spectrum

    def covariance_factor(support: np.ndarray) -> np.ndarray:
        """Returns the posterior's factor, with the shift of the stack from the posterior mean as one more column."""
        moved = spectrum.coefficients_at(support) - first.spectrum.coefficients_at(support)
        assert first.covariance_factor is not None
        return np.concatenate([first.covariance_factor(support), moved[:, None]], axis=1)

    return Fitted(spectrum=spectrum, held_out=lambda: weights @ predictions, covariance_factor=covariance_factor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto(Proxy):
    """The proxy "auto": walsh_gp, stacked with trees and linear where it leaves much unexplained."""

    name: ClassVar[str] = "auto"
    has_variances: ClassVar[bool] = True
    most_rows_together: ClassVar[int] = walsh_gp.WalshGP.most_rows_together

    def fit(self, table: Table, *, max_degree: int, seed: int) -> Fitted:
        """Fits the members that are needed and weighs them by their out-of-fold predictions."""
        return fit(table, max_degree=max_degree, seed=seed)

    def fit_together(
        self, tables: Sequence[Table], size: int, *, max_degree: int, seed: int
    ) -> tuple[list[Fitted], Draw]:
        """Fits walsh_gp to all tables in one program, and the other members to one table at a time."""
        fits, draw = walsh_gp.fit_together(tables, size, max_degree=max_degree, seed=seed)
        pairs = zip(tables, fits, strict=True)
        return [complete(table, smooth, max_degree=max_degree, seed=seed) for table, smooth in pairs], draw
