"""walsh_gp for many tables in one program, vmapped over the tables.

For accelerators. A CPU is faster with one table after another: LAPACK factors one matrix at a time in any case, and the
kernels of several tables no longer fit in the cache (BUILD_NOTES.md).
"""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.proxyspex.preprocessing import FOLDS, Fitted, Table
from spex_jax.proxyspex.proxy import Draw
from spex_jax.proxyspex.walsh_gp import posteriors
from spex_jax.proxyspex.walsh_gp.posteriors import FRONT, Terms, posterior, predict, solve, spectrum_terms
from spex_jax.proxyspex.walsh_gp.prior import Scales, kernel
from spex_jax.proxyspex.walsh_gp.proxy import HONEST_ROWS, key_of_draws, read
from spex_jax.proxyspex.walsh_gp.scales import learn_scales, settings
from spex_jax.utils.precision import compiled
from spex_jax.utils.threads import one_blas_thread

__all__ = ["bytes_of", "fit_together"]


def bytes_of(rows: int, width: int, max_degree: int) -> int:
    """Returns about the most bytes of memory that a table padded to [rows, width] takes at once."""
    kernels, step = settings(rows)["kernels"], settings(rows)["rows"]
    learning = 8 * kernels * step**2
    solving = (2 * kernels + 4) * rows**2
    growing = FRONT * (3 * rows + (kernels + 3 * max_degree) * width)
    return 4 * max(learning, solving, growing)


@compiled(static_argnames=("max_degree", "kernels", "rows", "steps", "front", "own_scales"))
def solve_together(  # noqa: PLR0913
    key: jax.Array,
    signs: jax.Array,
    targets: jax.Array,
    fold: jax.Array,
    used: jax.Array,
    *,
    max_degree: int,
    kernels: int,
    rows: int,
    steps: int,
    front: int = FRONT,
    own_scales: bool,
) -> tuple[Scales, Terms, jax.Array]:
    """Computes for B tables what `fit` computes for one.

    Args:
      key: PRNG key, the same for all tables: each draws the same as it would alone.
      signs: [B, N, n], padded.
      targets: [B, N], padded.
      fold: int [B, N], -1 on padding.
      used: bool [B, n].
      max_degree, front: see `spectrum_terms`.
      kernels, rows, steps: see `learn_scales`.
      own_scales: whether out-of-fold predictions learn their own scales.

    Returns:
      The scales, the terms of `spectrum_terms` and out-of-fold predictions [B, N], each with a leading axis of tables.
    """
    tables, features = used.shape
    chex.assert_shape([signs, targets, fold], [(tables, None, features), signs.shape[:2], signs.shape[:2]])
    learn = functools.partial(learn_scales, kernels=kernels, rows=rows, steps=steps)

    def one(signs: jax.Array, targets: jax.Array, fold: jax.Array, used: jax.Array) -> tuple[Scales, Terms, jax.Array]:
        # All rows, then those of all folds but one. Matrices are factored in one chain of operations, not two side by
        # side: on a CPU the batched Cholesky of jaxlib waits, in a thread of XLA's pool, for other threads of the pool,
        # and two of them wait for each other for good (BUILD_NOTES.md).
        left_out = jnp.arange(FOLDS)
        seen = (fold >= 0) & jnp.concatenate([fold[None] >= 0, fold != left_out[:, None]])
        if own_scales:
            every = jax.vmap(lambda seen: learn(key, signs, targets, seen, used))(seen)
            alphas = jax.vmap(lambda scales, seen: posterior(scales, signs, targets, seen, used))(every, seen)
            scales, others = (jax.tree.map(lambda leaf, part=part: leaf[part], every) for part in (0, slice(1, None)))
            means = jax.vmap(lambda scales, alpha: predict(scales, alpha, signs, signs, used))(others, alphas[1:])
        else:
            scales = learn(key, signs, targets, fold >= 0, used)
            k = kernel(scales, signs, signs, used)
            alphas = jax.lax.map(lambda seen: solve(k, scales, targets, seen), seen)
            means = jnp.matmul(alphas[1:], k)
        terms = spectrum_terms(scales, alphas[0], signs, used, max_degree=max_degree, front=front)
        return scales, terms, jnp.where(fold == left_out[:, None], means, 0.0).sum(axis=0)

    return jax.vmap(one)(signs, targets, fold, used)


def fit_together(tables: Sequence[Table], size: int, *, max_degree: int, seed: int) -> tuple[list[Fitted], Draw]:
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
    signs, targets, used = (
        jnp.stack([getattr(table, name) for table in padded]) for name in ("signs", "targets", "used")
    )
    fold = np.stack([table.fold for table in padded])
    with one_blas_thread():
        scales, terms, predicted = solve_together(
            jax.random.key(seed),
            signs,
            targets,
            jnp.asarray(fold),
            used,
            max_degree=max_degree,
            own_scales=tables[0].targets.shape[0] <= HONEST_ROWS,
            **settings(signs.shape[1]),
        )
        terms, answers = jax.device_get((terms, predicted))

    factors: list[np.ndarray] = []

    def fitted(b: int) -> Fitted:
        return Fitted(
            spectrum=read(jax.tree.map(lambda part: part[b], terms), tables[b].n),
            held_out=lambda: np.asarray(answers[b, : tables[b].count], np.float64),
            covariance_factor=lambda _: factors[b],
        )

    def draw(supports: Sequence[np.ndarray]) -> None:
        count = np.zeros(size, np.int64)
        count[: len(supports)] = [len(support) for support in supports]
        sets = np.zeros((size, count.max(), signs.shape[2]), np.bool_)
        for row, support in zip(sets, supports, strict=False):
            row[: len(support), : support.shape[1]] = support
        real = jnp.asarray(fold >= 0)
        with one_blas_thread():
            found = posteriors.deviations(key_of_draws(seed), scales, signs, real, used, sets, count)
        factors[:] = [part[:k] / np.sqrt(posteriors.DRAWS) for part, k in zip(found, count, strict=True)]

    return [fitted(b) for b in range(len(tables))], draw
