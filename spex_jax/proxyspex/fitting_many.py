"""Fits many tables of ablations at once: the results of `fit`, in less time."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spex_jax.core.masks import check_masks
from spex_jax.core.packed_masks import PackedMasks
from spex_jax.core.side_information import side_information
from spex_jax.core.spectrum import Spectrum
from spex_jax.proxyspex import walsh_gp
from spex_jax.proxyspex.fitting import (
    SMALL_ROWS,
    Fit,
    FitOptions,
    check_distinct,
    checked_options,
    cut,
    fit_table,
)
from spex_jax.proxyspex.preprocessing import Table, feature_bucket, prepare, row_bucket
from spex_jax.proxyspex.proxy import Proxy
from spex_jax.utils import array_api
from spex_jax.utils.jax_settings import in_float32
from spex_jax.utils.threads import cores, each

__all__ = ["cross_fit_many", "fit_many"]

Read = Callable[[Table, Fit], tuple[Spectrum, np.ndarray]]

_BYTES = 2**30  # memory for tables at once where the device does not report how much it has
_SHARE = 0.25  # of the memory that a device reports


def _tables(masks: Any, values: Any) -> tuple[list[Any], list[Any]]:
    """Returns the masks and the values of every table.

    Raises:
      ValueError: neither of the two forms, different numbers of tables, or no table.
    """
    if isinstance(masks, PackedMasks) or (
        isinstance(masks, Sequence) and any(isinstance(m, PackedMasks) for m in masks)
    ):
        raise ValueError("fit_many takes arrays of masks, got PackedMasks; fit such tables one by one with fit")
    if not isinstance(masks, list | tuple) and np.ndim(masks) == 2:
        values = np.asarray(values)
        if values.ndim != 2 or len(values) != len(masks):
            raise ValueError(
                f"values of T outputs of the same masks must have shape ({len(masks)}, T), got {values.shape}; give "
                "one column for each output, or lists of masks and values for different tables"
            )
        masks, values = [masks] * values.shape[1], list(values.T)
    elif not isinstance(masks, list | tuple) and np.ndim(masks) != 3:
        raise ValueError(f"masks must be one array [M, n] or a list of such arrays, got shape {np.shape(masks)}")
    if len(masks) != len(values):
        raise ValueError(
            f"there must be values for every table, got {len(masks)} arrays of masks and {len(values)} of values"
        )
    if not len(masks):
        raise ValueError("fit_many needs at least one table, got none; give the masks and values of one or more")
    return list(masks), list(values)


def fit_many(  # noqa: PLR0913
    masks: Any,
    values: Any,
    *,
    proxy: str | Proxy = "auto",
    max_degree: int = 5,
    max_terms: int | None = None,
    seed: int = 0,
    coordinates: Any = None,
    relevance: Any = None,
    prior: Any = None,
    solver: str | None = None,
    extract: str | None = None,
) -> list[Spectrum]:
    """Fits many tables of ablations: the spectra of `fit(masks[b], values[b], seed=seed, ...)` for every b, sooner.

    On a CPU whole fits run side by side, one on each core, with the programs of `fit`: the spectra equal those of `fit`
    to the last bit. On an accelerator walsh_gp is fitted to all tables of the same padded shape in one program, vmapped
    over them; the linear regression and the trees of "auto" follow for each table of which walsh_gp leaves much
    unexplained, and other proxies run one table at a time. The spectra then equal those of `fit` up to the rounding of
    float32 over the steps that learn the scales: predictions agree within a thousandth of their deviation, the terms
    are the same except where one is that close to the cut, and standard errors come from the same draws as long as the
    terms come in the same order.

    Tables in the same buckets of rows and features share their programs. Memory is bounded: no more tables run at once
    than fit, and tables of more than 2,048 rows on a CPU, 8,192 on an accelerator, run one at a time.

    Args:
      masks: bool [M, n] for T outputs of the same masks; or a list of B arrays bool [M_b, n_b].
      values: [M, T]; or a list of B arrays [M_b].
      proxy, max_degree, max_terms, seed, solver, extract: see `fit`; the same for all tables.
      coordinates, relevance, prior: see `fit`, the same for all tables; or a list with one for each table, None for
        those without.

    Returns:
      T or B spectra, in this order.

    Raises:
      ValueError: options or tables that `fit` refuses (a note names the table), no tables, or lists of different
        lengths.
    """
    options = checked_options(
        proxy=proxy, max_degree=max_degree, max_terms=max_terms, seed=seed, solver=solver, extract=extract
    )
    known = {"coordinates": coordinates, "relevance": relevance, "prior": prior}
    return [found for found, _ in _fits(masks, values, known, options, predict=False)]


def cross_fit_many(  # noqa: PLR0913
    masks: Any,
    values: Any,
    *,
    proxy: str | Proxy = "auto",
    max_degree: int = 5,
    max_terms: int | None = None,
    seed: int = 0,
    coordinates: Any = None,
    relevance: Any = None,
    prior: Any = None,
    solver: str | None = None,
    extract: str | None = None,
) -> list[tuple[Spectrum, np.ndarray]]:
    """Cross-fits many tables: the spectra of `fit_many`, each with the out-of-fold predictions.

    Args:
      masks, values, proxy, max_degree, max_terms, seed, coordinates, relevance, prior, solver, extract: see `fit_many`;
        the masks of a table must be distinct.

    Returns:
      For each table the spectrum, and predictions float64 [M_b]; nan for masks that no fit left out.

    Raises:
      ValueError: as `fit_many`; masks that occur in several rows of a table.
    """
    options = checked_options(
        proxy=proxy, max_degree=max_degree, max_terms=max_terms, seed=seed, solver=solver, extract=extract
    )
    known = {"coordinates": coordinates, "relevance": relevance, "prior": prior}
    return _fits(masks, values, known, options, predict=True)


# The dimensions of what is known of one table; a list of more is one for each table.
_DIMENSIONS = {"coordinates": 1, "relevance": 0, "prior": -1}


def _of_each(name: str, given: Any, tables: int) -> list[Any]:
    """Returns what is known of every table.

    Raises:
      ValueError: a list for another number of tables.
    """
    several = isinstance(given, list | tuple) and any(one is None or np.ndim(one) > _DIMENSIONS[name] for one in given)
    if not several:
        return [given] * tables
    if len(given) != tables:
        raise ValueError(
            f"there must be {name} for every table, or the same for all, got a list of {len(given)} for {tables} tables"
        )
    return list(given)


def _fits(
    masks: Any, values: Any, known: dict[str, Any], options: FitOptions, *, predict: bool
) -> list[tuple[Spectrum, np.ndarray]]:
    """Returns the spectra, with the out-of-fold predictions if `predict`."""
    given = _tables(masks, values)
    of_each = {name: _of_each(name, one, len(given[0])) for name, one in known.items()}
    tables: dict[int, Table] = {}
    found: dict[int, tuple[Spectrum, np.ndarray]] = {}
    for b, (rows, answers) in enumerate(zip(*given, strict=True)):
        try:
            here = {name: several[b] for name, several in of_each.items()}
            table = prepare(rows, answers, options.seed, side_information(check_masks(rows).shape[1], **here))
            if isinstance(table, Spectrum):
                found[b] = table, table(rows)
                continue
            if predict:
                check_distinct(table, rows)
            tables[b] = table
        except ValueError as error:
            error.add_note(f"in table {b} of {len(given[0])}")
            raise

    def read(table: Table, fit: Fit) -> tuple[Spectrum, np.ndarray]:
        return fit.spectrum, fit.out_of_fold(table) if predict else np.zeros(0)

    run = _side_by_side if array_api.host_is_best() else _vmapped
    found |= run(tables, read, options)
    return [found[b] for b in range(len(found))]


def _at_once(table: Table, max_degree: int) -> int:
    """Returns how many tables of this shape the memory bound allows."""
    statistics = array_api.default_device().memory_stats() or {}
    most = int(_SHARE * statistics["bytes_limit"]) if "bytes_limit" in statistics else _BYTES
    return max(1, most // walsh_gp.bytes_of(row_bucket(table.count), feature_bucket(table.n), max_degree))


def _side_by_side(tables: dict[int, Table], read: Read, options: FitOptions) -> dict[int, tuple[Spectrum, np.ndarray]]:
    """Runs whole fits, one on each core; one after another where BLAS itself can use the cores."""

    def fit(b: int) -> tuple[Spectrum, np.ndarray]:
        return read(tables[b], fit_table(tables[b], options))

    small = [b for b, table in tables.items() if table.count <= SMALL_ROWS]
    largest = max((tables[b] for b in small), key=lambda table: table.masks.size, default=None)
    at_once = min(cores(), _at_once(largest, options.max_degree)) if largest is not None else 1
    found = dict(zip(small, each(fit, small, at_once), strict=True))
    return found | {b: fit(b) for b in tables if b not in found}


@in_float32()
def _vmapped(tables: dict[int, Table], read: Read, options: FitOptions) -> dict[int, tuple[Spectrum, np.ndarray]]:
    """Fits tables of one shape in one program where the proxy supports it; the others one at a time."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for b, table in tables.items():
        # Fits with a known spectrum have kernels of their own, of its sets.
        if table.base is None and row_bucket(table.count) <= options.proxy.most_rows_together:
            groups.setdefault(
                (row_bucket(table.count), feature_bucket(table.n), min(options.max_degree, table.n)), []
            ).append(b)
    found: dict[int, tuple[Spectrum, np.ndarray]] = {}
    for (*_, degree), members in groups.items():
        most = _at_once(tables[members[0]], degree)
        if min(most, len(members)) > 1:
            size = min(most, _size(-(-len(members) // -(-len(members) // most))))
            for start in range(0, len(members), size):
                part = members[start : start + size]
                fits = _chunk([tables[b] for b in part], size, dataclasses.replace(options, max_degree=degree))
                found |= {b: read(tables[b], fit) for b, fit in zip(part, fits, strict=True)}
    alone = {b: table for b, table in tables.items() if b not in found}
    return found | {b: read(table, fit_table(table, options)) for b, table in alone.items()}


def _size(tables: int) -> int:
    """Returns the number of tables that a program is compiled for when it fits `tables` of them."""
    return 2 ** (tables - 1).bit_length() if tables <= 16 else -(-tables // 16) * 16


def _chunk(tables: list[Table], size: int, options: FitOptions) -> list[Fit]:
    # Out-of-fold predictions are always computed: they cost next to nothing here, and all callers share the program.
    fits, draw = options.proxy.fit_together(tables, size, max_degree=options.max_degree, seed=options.seed)
    found = [cut(table, fitted, options) for table, fitted in zip(tables, fits, strict=True)]
    draw([one.spectrum.support for one in found])
    return [one.finished(table, options.max_terms) for table, one in zip(tables, found, strict=True)]
