"""Sparse functions for the tests of everything that recovers a spectrum."""

import numpy as np
from oracle import all_masks

from spex_jax.core.walsh import subset_characters


def planted(n, rows, rng, terms=8, noise=0.0, degree=3):
    """A table of ablations of a sparse function and the function."""
    support = np.zeros((terms, n), bool)
    for row in support:
        row[rng.choice(n, rng.integers(1, degree + 1), replace=False)] = True
    coefficients = rng.uniform(0.5, 1.5, terms) * rng.choice([-1, 1], terms)
    masks = np.unique(rng.integers(0, 2, (rows + 1000, n)).astype(bool), axis=0)
    masks = rng.permutation(masks)
    values = subset_characters(masks, support) @ coefficients + 5 + noise * rng.normal(size=len(masks))
    return masks[:rows], values[:rows], masks[rows:], values[rows:]


def neighbours(n, rows, seed=0, noise=0.0):
    """A function of neighbours on a line: singles, pairs and triples next to each other; its values are noisy on the
    first rows.
    """
    rng = np.random.default_rng(seed)
    masks = rng.random((rows + 500, n)) < 0.5
    x = 2.0 * masks - 1
    values = x @ rng.normal(size=n) * 0.5
    for start in range(n - 2):
        values = values + rng.normal() * x[:, start] * x[:, start + 1]
        values = values + rng.normal() * 0.7 * x[:, start] * x[:, start + 1] * x[:, start + 2]
    return masks[:rows], values[:rows] + noise * rng.normal(size=rows), masks[rows:], values[rows:]


def write_complete_game(folder):
    """Writes game.npz, a table of all 512 values of 9 features with effects of their own, a pair and a triple."""
    rng = np.random.default_rng(2)
    masks = rng.permutation(all_masks(9))
    values = masks @ rng.normal(size=9) + 2.0 * masks[:, :2].all(axis=1) - 1.5 * masks[:, 3:6].all(axis=1)
    np.savez(folder / "game.npz", masks=np.packbits(masks, axis=1), n=9, values=values)
    return folder
