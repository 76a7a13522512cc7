"""auto: the non-negative stack of proxies (an extension of ProxySPEX, not part of the paper).

The weights minimise the squared error of the members' out-of-fold predictions (Breiman, Stacked regressions, 1996). A
stack of spectra is a spectrum, since the Fourier transform is linear.
"""

import numpy as np
import scipy.optimize

from spex_jax.proxyspex import trees, walsh_gp
from spex_jax.proxyspex.table import Fitted, Table

__all__ = ["fit", "stack_weights"]

# Out-of-fold R2 of walsh_gp from which on trees never added more than .002 (BUILD_NOTES.md): they are not fitted.
_GOOD_ENOUGH = 0.9


def stack_weights(held_out: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Non-negative weights [P] with which the predictions held_out [P, N] fit values [N] of mean 0 best."""
    return scipy.optimize.nnls(held_out.T, values)[0]


def fit(table: Table, *, max_degree: int, seed: int) -> Fitted:
    """walsh_gp, stacked with trees where it leaves much unexplained. Past 8,192 rows walsh_gp alone."""
    smooth = walsh_gp.fit(table, max_degree=max_degree, seed=seed)
    if table.count > walsh_gp.SOLVE_ROWS:
        return smooth
    predicted = smooth.held_out()
    if 1 - np.mean((table.values - predicted) ** 2) >= _GOOD_ENOUGH:  # the values have variance 1
        return smooth
    split = trees.fit(table, max_degree=max_degree, seed=seed)
    predictions = np.stack([predicted, split.held_out()])
    weights = stack_weights(predictions, table.values)
    spectrum = float(weights[0]) * smooth.spectrum + float(weights[1]) * split.spectrum
    return Fitted(spectrum=spectrum, held_out=lambda: weights @ predictions)
