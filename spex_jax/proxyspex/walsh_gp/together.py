"""walsh_gp for many tables in one program, vmapped over the tables.

For accelerators. A CPU is faster with one table after another: LAPACK factors one matrix at a time in any case, and the
kernels of several tables no longer fit in the cache (BUILD_NOTES.md).
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.proxyspex.preprocessing import FOLDS, Table
from spex_jax.proxyspex.proxy import Draw
from spex_jax.proxyspex.walsh_gp import posteriors
from spex_jax.proxyspex.walsh_gp.posteriors import FRONT, Terms, posterior, predict, solve, spectrum_terms
from spex_jax.proxyspex.walsh_gp.prior import Scales, kernel
from spex_jax.proxyspex.walsh_gp.proxy import HONEST_ROWS, GaussianFit, read
from spex_jax.proxyspex.walsh_gp.scales import KERNELS, Draws, draw, learn, learn_scales, log_relevance, rows_of_step
from spex_jax.utils.array_api import Array, namespace
from spex_jax.utils.precision import compiled
from spex_jax.utils.threads import one_blas_thread

__all__ = ["bytes_of", "fit_together"]


def bytes_of(rows: int, width: int, max_degree: int) -> int:
    """Returns about the most bytes of memory that a table padded to [rows, width] takes at once."""
    learning = 8 * KERNELS * rows_of_step(rows) ** 2
    solving = (KERNELS + 5) * rows**2
    growing = FRONT * (3 * rows + (KERNELS + 3 * max_degree) * width)
    return 4 * max(learning, solving, growing)


@compiled(static_argnames=("max_degree", "front"))
def solve_together(
    draws: Draws,
    signs: jax.Array,
    targets: jax.Array,
    fold: jax.Array,
    used: jax.Array,
    relevance: jax.Array | None = None,
    *,
    max_degree: int,
    front: int = FRONT,
) -> tuple[Scales, Terms, jax.Array]:
    """Computes for B tables what `fit` computes for one.

    Args:
      draws: as `learn_scales`, with leading axes [B, F]: for all rows (F = 1), or also for those of all folds but one,
        if out-of-fold predictions learn their own scales (F = 1 + FOLDS).
      signs: [B, N, n], padded.
      targets: [B, N], padded.
      fold: int [B, N], -1 on padding.
      used: bool [B, n].
      relevance: [B, n], see `log_relevance`; None where nothing is known of that of any table.
      max_degree, front: see `spectrum_terms`.

    Returns:
      The scales, the terms of `spectrum_terms` and out-of-fold predictions [B, N], each with a leading axis of tables.
    """
    tables, features = used.shape
    chex.assert_shape([signs, targets, fold], [(tables, None, features), signs.shape[:2], signs.shape[:2]])

    def one(
        draws: Draws,
        signs: jax.Array,
        targets: jax.Array,
        fold: jax.Array,
        used: jax.Array,
        relevance: jax.Array | None,
    ) -> tuple[Scales, Terms, jax.Array]:
        # All rows, then those of all folds but one. Matrices are factored in one chain of operations, not two side by
        # side: on a CPU the batched Cholesky of jaxlib waits, in a thread of XLA's pool, for other threads of the pool,
        # and two of them wait for each other for good (BUILD_NOTES.md).
        left_out = jnp.arange(FOLDS)
        seen = seen_by(fold)
        learned = len(draws.rows)
        every = jax.vmap(lambda draws, seen: learn_scales(draws, signs, targets, seen, used, relevance))(
            draws, seen[:learned]
        )
        scales = jax.tree.map(lambda leaf: leaf[0], every)
        if learned > 1:
            alphas = jax.vmap(lambda scales, seen: posterior(scales, signs, targets, seen, used).alpha)(every, seen)
            others = jax.tree.map(lambda leaf: leaf[1:], every)
            means = jax.vmap(lambda scales, alpha: predict(scales, alpha, signs, signs, used))(others, alphas[1:])
        else:
            k = kernel(scales, signs, signs, used)
            alphas = jax.lax.map(lambda seen: solve(k, scales, targets, seen), seen)
            means = jnp.matmul(alphas[1:], k)
        terms = spectrum_terms(scales, alphas[0], signs, used, max_degree=max_degree, front=front)
        return scales, terms, jnp.where(fold == left_out[:, None], means, 0.0).sum(axis=0)

    return jax.vmap(one)(draws, signs, targets, fold, used, relevance)


def seen_by(fold: Array) -> Array:
    """Returns bool [1 + FOLDS, N]: the real rows, then those of all folds but one; fold int [N] is -1 on padding."""
    xp = namespace(fold)
    return (fold >= 0) & xp.concatenate([fold[None] >= 0, fold != xp.arange(FOLDS)[:, None]])


def fit_together(tables: Sequence[Table], size: int, *, max_degree: int, seed: int) -> tuple[list[GaussianFit], Draw]:
    """Fits tables of at most 8,192 rows that are padded to the same shape.

    Args:
      tables: at most `size` tables.
      size: the number that they are padded to.
      max_degree, seed: as in `fit`.

    Returns:
      The results of `fit`; and a function of one support bool [K, n] for each table, to be called before the covariance
      factors of these supports are used.
    """
    padded = [*tables, *[tables[0]] * (size - len(tables))]
    signs, targets, fold, used = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(each.on_device for each in padded))
    learned = 1 + FOLDS if tables[0].on_device.targets.shape[0] <= HONEST_ROWS else 1

    def draws_of(table: Table) -> Draws:
        rows = table.on_device
        made = [draw(seed, seen, np.asarray(rows.used)) for seen in seen_by(np.asarray(rows.fold))[:learned]]
        return Draws(*(np.stack(part) for part in zip(*made, strict=True)))

    draws = Draws(*(np.stack(part) for part in zip(*map(draws_of, padded), strict=True)))
    relevance = None
    if any(table.known.relevance is not None for table in tables):
        relevance = jnp.stack([jnp.asarray(log_relevance(table)) for table in padded])
    with one_blas_thread():
        scales, terms, predicted = solve_together(draws, signs, targets, fold, used, relevance, max_degree=max_degree)
        terms, answers = jax.device_get((terms, predicted))

    factors: list[np.ndarray] = []

    def fitted(b: int) -> GaussianFit:
        return GaussianFit(
            spectrum=read(jax.tree.map(lambda part: part[b], terms), tables[b].n),
            held_out=lambda: np.asarray(answers[b, : tables[b].count], np.float64),
            covariance_factor=lambda _: factors[b],
            learn=lambda seen: (
                jax.tree.map(lambda leaf: leaf[b], scales) if seen.all() else learn(seed, tables[b], seen)
            ),
        )

    def draw_supports(supports: Sequence[np.ndarray]) -> None:
        count = np.zeros(size, np.int64)
        count[: len(supports)] = [len(support) for support in supports]
        sets = np.zeros((size, count.max(), signs.shape[2]), np.bool_)
        for row, support in zip(sets, supports, strict=False):
            row[: len(support), : support.shape[1]] = support
        with one_blas_thread():
            found = posteriors.deviations(seed, scales, signs, fold >= 0, used, None, sets, count)
        factors[:] = [part[:k] / np.sqrt(posteriors.DRAWS) for part, k in zip(found, count, strict=True)]

    return [fitted(b) for b in range(len(tables))], draw_supports
