import numpy as np
import oracle
import pytest

from spex_jax.core.walsh import subset_characters
from spex_jax.proxyspex.regression.ridge import refit


@pytest.mark.parametrize(("rows", "terms"), [(60, 20), (30, 90)])
def test_refit_is_ridge_with_the_leave_one_out_errors_it_claims(rows, terms, rng):
    n = 10
    masks = oracle.all_masks(n)[rng.permutation(2**n)[:rows]]
    support = oracle.all_masks(n)[rng.permutation(2**n)[:terms]]
    prior = rng.uniform(0.01, 1, terms)
    characters = subset_characters(masks, support).astype(float)
    values = characters @ (np.sqrt(prior) * rng.normal(size=terms)) + 0.1 * rng.normal(size=rows)

    def ridge(keep, noise):
        x = characters[keep]
        return np.linalg.solve(x.T @ x + noise * np.diag(1 / prior), x.T @ values[keep])

    found, noise = refit(masks, values, support, prior)
    np.testing.assert_allclose(found, ridge(np.ones(rows, bool), noise), atol=1e-7)

    def left_out(noise):
        kept = ~np.eye(rows, dtype=bool)
        return np.mean([(values[i] - characters[i] @ ridge(kept[i], noise)) ** 2 for i in range(rows)])

    assert noise == min((0.003, 0.01, 0.03, 0.1, 0.3, 1.0), key=left_out)
