"""The base class of the proxies, and the registry of proxies by name."""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from spex_jax.core.packed_masks import PackedMasks
from spex_jax.core.spectrum import Spectrum
from spex_jax.methods.registry import Named, Registry
from spex_jax.proxyspex.preprocessing import Fitted, Table

__all__ = ["PROXIES", "Draw", "Proxy", "proxy_of", "register"]

Draw = Callable[[Sequence[np.ndarray]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proxy(Named, abc.ABC):
    """A model that is cheap to fit to a table of ablations and whose spectrum can be read.

    A subclass is a frozen dataclass with a `name` and a `fit`; its fields are its options. `register` makes it known by
    its name.

    Attributes:
      has_variances: whether its terms have standard errors.
      most_rows_doubted: the most rows at which its out-of-fold predictions decide how much of its fit is trusted
        (`preprocessing.trust`); with more rows all of it is.
      most_rows_together: the most rows, padding included, of tables that `fit_together` can fit in one program; 0
        without this method.
      reads_packed: whether it has a `fit_packed`.
    """

    has_variances: ClassVar[bool] = False
    most_rows_doubted: ClassVar[float] = math.inf
    most_rows_together: ClassVar[int] = 0
    reads_packed: ClassVar[bool] = False

    def check(self) -> None:
        """Raises ValueError for fields that cannot be used."""
        self.check_choices()

    @abc.abstractmethod
    def fit(self, table: Table, *, max_degree: int, seed: int) -> Fitted:
        """Fits the proxy to a table.

        Args:
          table: made by `prepare`.
          max_degree: largest degree of a term, at most the number of features.
          seed: the same table and seed give the same fit.
        """

    def fit_together(
        self, tables: Sequence[Table], size: int, *, max_degree: int, seed: int
    ) -> tuple[list[Fitted], Draw]:
        """Fits tables that are padded to one shape in one program; see `walsh_gp.fit_together`."""
        raise NotImplementedError(f"{self.name} fits one table at a time")

    def fit_packed(
        self, masks: PackedMasks, values: Any, *, max_degree: int, max_terms: int | None, seed: int
    ) -> Spectrum:
        """Fits a table that stays on disk; see `streaming.fit`."""
        raise NotImplementedError(f"{self.name} fits tables in memory")


PROXIES: Registry[Proxy] = Registry("proxy", Proxy)

P = TypeVar("P", bound=Proxy)


def register(proxy: type[P]) -> type[P]:
    """Registers a proxy, so that `proxy="its name"` selects it; works as a class decorator.

    Raises:
      ValueError: another proxy has this name.
    """
    PROXIES.register(proxy)
    return proxy


def proxy_of(proxy: str | Proxy, **options: Any) -> Proxy:
    """Returns the record of a proxy.

    Args:
      proxy: a name, or the record itself.
      **options: fields of the record if a name is given; None counts as not given.

    Raises:
      ValueError: an unknown name, an option of another proxy, or options given with a record.
    """
    given = {name: option for name, option in options.items() if option is not None}
    if isinstance(proxy, str) and proxy in PROXIES:
        for name in given:
            owners = [other for other, known in PROXIES.items() if name in known.option_names()]
            if owners and proxy not in owners:
                raise ValueError(f"{name}= belongs to proxy={owners[0]!r}, got it with proxy={proxy!r}; leave it out")
    return PROXIES.record(proxy, given)
