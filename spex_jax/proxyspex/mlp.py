"""mlp: an ensemble of small multilayer perceptrons (an extension of ProxySPEX, not part of the paper). Its networks are
in `perceptrons`, which takes longer to import than the rest of the package and is imported where it is used.
"""

import dataclasses
from typing import ClassVar

from spex_jax.proxyspex.extraction import Extract
from spex_jax.proxyspex.preprocessing import Fitted, Table
from spex_jax.proxyspex.proxy import Proxy

__all__ = ["MLP"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLP(Proxy):
    """The proxy "mlp": an ensemble of small multilayer perceptrons.

    Attributes:
      extract: how its spectrum is read: "grow" (a search that grows sets) or "spex" (coded masks, decoded: also finds
        sets that no smaller set leads to).
    """

    name: ClassVar[str] = "mlp"
    extract: Extract = "grow"

    def fit(self, table: Table, *, max_degree: int, seed: int) -> Fitted:
        """Trains the ensemble, reads its spectrum and refits the coefficients."""
        from spex_jax.proxyspex import perceptrons

        return perceptrons.fit(table, max_degree=max_degree, seed=seed, extract=self.extract)
