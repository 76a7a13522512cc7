"""linear: sparse regression over characters (an extension of ProxySPEX, not part of the paper).

All singles and pairs are candidates, whether or not their singles matter; so are triples that stand out from chance,
where a search of all triples is affordable; higher degrees grow from the terms found. Two solvers: "greedy" (orthogonal
matching pursuit) and "lasso" (the convex relaxation). Out-of-fold errors choose the number of terms.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from spex_jax.core.packed_masks import PackedMasks
from spex_jax.core.spectrum import Spectrum
from spex_jax.proxyspex.out_of_core import streaming
from spex_jax.proxyspex.preprocessing import FOLDS, Fitted, Rows, Table
from spex_jax.proxyspex.proxy import Proxy
from spex_jax.proxyspex.regression import lasso, pursuit
from spex_jax.proxyspex.regression.ridge import refit
from spex_jax.proxyspex.regression.screening import characters_on_rows, triples
from spex_jax.utils.array_api import Array, namespace, on_host
from spex_jax.utils.threads import blas_threads_for

__all__ = ["SOLVERS", "Linear", "Solver", "fit"]

Solver = Literal["greedy", "lasso"]
SOLVERS = get_args(Solver)
_MANY_FEATURES = 128  # with more the pursuit chooses _AT_ONCE characters in a step
_AT_ONCE = 8
_FEW_ROWS = 400
_ROUNDS = 3  # rounds of the search for triples
_POOLS = (64, 512)  # numbers of triples that programs are compiled for

Pool = tuple[Array, Array]
Search = Callable[..., lasso.Path | pursuit.Pursuit]


def _best_steps(errors: np.ndarray, rows: int) -> int:
    """Returns the number of steps, 0 included, with the least mean error over folds [folds, steps].

    With few rows it is the fewest within one standard error of that (Breiman et al., 1984): there the least error is
    too optimistic, and a function without structure must come out constant.
    """
    errors = np.concatenate([np.ones((len(errors), 1)), errors], axis=1)  # without terms: the variance of the values, 1
    mean = errors.mean(axis=0)
    least = int(mean.argmin())
    margin = errors[:, least].std(ddof=1) / np.sqrt(len(errors)) if rows < _FEW_ROWS else 0.0
    return int(np.argmax(mean <= mean[least] + margin))


def _pool(sets: np.ndarray, signs: Array) -> Pool | None:
    """Returns sets bool [P, n] and their characters, padded to few sizes on a device; None without sets."""
    if not len(sets):
        return None
    xp, most = namespace(signs), _POOLS[-1]
    size = min(len(sets), most) if on_host(signs) else next((size for size in _POOLS if size >= len(sets)), most)
    padded = np.zeros((size, signs.shape[1]), np.bool_)
    padded[: len(sets)] = sets[:size]
    pool = xp.asarray(padded)
    return pool, characters_on_rows(signs, pool)


def _rows(table: Table, solver: str) -> Rows:
    return table.on_device if solver == "lasso" else table.rows


def _search(table: Table, solver: str, max_degree: int, pool: Pool | None) -> Search:
    """Returns the solver as a function of the weights of the training rows and of the scored rows."""
    solve = lasso.lasso_path if solver == "lasso" else functools.partial(pursuit.pursue, at_once=_at_once(table))
    rows = _rows(table, solver)
    return functools.partial(solve, rows.signs, rows.targets, used=rows.used, pool=pool, max_degree=max_degree)


def _at_once(table: Table) -> int:
    return _AT_ONCE if table.n > _MANY_FEATURES else 1


def _by_folds(rows: Rows, count: int, search: Search) -> tuple[int, int, np.ndarray]:
    """Returns the kind of coefficients and the number of steps with the least out-of-fold error, and predictions [N].

    The lasso has two kinds of coefficients at every penalty, shrunken ones and least squares; the pursuit has one.
    """
    xp = namespace(rows)
    out = rows.fold == xp.arange(FOLDS)[:, None]
    seen = (rows.fold >= 0) & ~out
    solved = search(seen.astype(xp.float32), out.astype(xp.float32))
    kinds = np.asarray(solved.errors, np.float64).reshape(FOLDS, -1, solved.errors.shape[-1])
    kinds = kinds[:, :, : int(solved.steps)]
    kind = int(np.argmin(kinds.mean(axis=0).min(axis=1)))
    chosen = _best_steps(kinds[:, kind], count)
    if chosen == 0:
        return kind, 0, np.zeros(count)
    found = np.asarray(solved.predictions, np.float64).reshape(FOLDS, -1, solved.predictions.shape[-1])[:, kind]
    return kind, chosen, (found * np.asarray(out)).sum(axis=0)[:count]


def fit(table: Table, *, max_degree: int, seed: int, solver: str = "greedy") -> Fitted:
    """Fits a table by `_fit`, in as many threads of BLAS as its products are worth."""
    with blas_threads_for(table.masks.size):
        return _fit(table, max_degree=max_degree, seed=seed, solver=solver)


def _fit(table: Table, *, max_degree: int, seed: int, solver: str) -> Fitted:
    """Solves by folds, searches the residual for triples, solves again with those as candidates, and fits all rows.

    The coefficients are those of ridge regression on the terms, or the lasso's own shrunken ones where those predict
    better out of fold.
    """
    rows = _rows(table, solver)
    order = np.random.default_rng(seed).permutation(table.count)
    found = np.zeros((0, rows.signs.shape[1]), np.bool_)
    for turn in range(_ROUNDS):
        search = _search(table, solver, max_degree, _pool(found, rows.signs))
        kind, chosen, held_out = _by_folds(rows, table.count, search)
        if max_degree < 3 or turn == _ROUNDS - 1 or len(found) >= _POOLS[-1]:
            break
        residual = np.zeros(len(rows.targets))
        residual[: table.count] = table.values - held_out
        before = len(found)
        found = np.unique(np.concatenate([found, triples(rows.signs, residual, rows.used, order)]), axis=0)
        if len(found) == before:
            break
    empty = np.zeros((1, table.n), np.bool_)
    if chosen == 0:
        return Fitted(spectrum=Spectrum(empty, np.zeros(1)), held_out=lambda: held_out)
    everything = (rows.fold >= 0).astype(rows.targets.dtype)[None]
    limit = chosen * _at_once(table) if solver == "greedy" else chosen
    solved = search(everything, everything, limit=limit)
    sets = np.asarray(solved.sets)[0, :, : table.n]
    if isinstance(solved, lasso.Path):
        sizes = np.asarray(solved.coefficients, np.float64)[0, kind]
        terms, sizes = sets[sizes != 0], sizes[sizes != 0]
        if kind == 0:
            return Fitted(spectrum=Spectrum(terms, sizes), held_out=lambda: held_out)
    else:
        sets = sets[:limit]
        terms = np.unique(sets[sets.any(axis=1)], axis=0)
    terms = np.concatenate([empty, terms])
    coefficients, _ = refit(table.masks, table.values, terms, np.ones(len(terms)))
    return Fitted(spectrum=Spectrum(terms, coefficients), held_out=lambda: held_out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Proxy):
    """The proxy "linear": sparse regression over characters, also of tables that stay on disk.

    Attributes:
      solver: "greedy" (orthogonal matching pursuit) or "lasso" (the convex relaxation).
    """

    name: ClassVar[str] = "linear"
    reads_packed: ClassVar[bool] = True
    solver: Solver = "greedy"

    def fit(self, table: Table, *, max_degree: int, seed: int) -> Fitted:
        """Chooses terms by their out-of-fold errors and fits their coefficients."""
        return fit(table, max_degree=max_degree, seed=seed, solver=self.solver)

    def fit_packed(
        self, masks: PackedMasks, values: Any, *, max_degree: int, max_terms: int | None, seed: int
    ) -> Spectrum:
        """Fits a table that stays on disk, in bounded memory."""
        return streaming.fit(masks, values, max_degree=max_degree, max_terms=max_terms, seed=seed, solver=self.solver)
