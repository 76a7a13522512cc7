"""walsh_gp as a record among the proxies."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from spex_jax.proxyspex.preprocessing import Fitted, Table
from spex_jax.proxyspex.proxy import Draw, Proxy
from spex_jax.proxyspex.walsh_gp.neighbours import with_neighbours
from spex_jax.proxyspex.walsh_gp.proxy import HONEST_ROWS, SOLVE_ROWS, fit
from spex_jax.proxyspex.walsh_gp.together import fit_together

__all__ = ["WalshGP"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WalshGP(Proxy):
    """The proxy "walsh_gp": a Gaussian process whose kernel is diagonal in the Walsh basis."""

    name: ClassVar[str] = "walsh_gp"
    has_variances: ClassVar[bool] = True
    most_rows_doubted: ClassVar[float] = HONEST_ROWS  # past these, out-of-fold predictions cost as much as the fit
    most_rows_together: ClassVar[int] = SOLVE_ROWS

    def fit(self, table: Table, *, max_degree: int, seed: int) -> Fitted:
        """Learns the scales, solves the posterior and reads its largest terms, without windows of neighbours and with
        them where they may help.
        """
        smooth = fit(table, max_degree=max_degree, seed=seed)
        return with_neighbours(table, smooth, max_degree=max_degree, seed=seed)

    def fit_together(
        self, tables: Sequence[Table], size: int, *, max_degree: int, seed: int
    ) -> tuple[list[Fitted], Draw]:
        """Fits tables that are padded to the same shape in one program, vmapped over them, and with windows one
        after another.
        """
        fits, draw = fit_together(tables, size, max_degree=max_degree, seed=seed)
        pairs = zip(tables, fits, strict=True)
        return [with_neighbours(table, smooth, max_degree=max_degree, seed=seed) for table, smooth in pairs], draw
