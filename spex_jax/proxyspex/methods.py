"""ProxySPEX and SPEX as methods of `explain`.

SPEX is here and not with its decoder, since a proxy may fit the smooth part that it does not decode.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np

from spex_jax import spex
from spex_jax.core import masks as masks_lib
from spex_jax.core import sampling
from spex_jax.core.ablations import Ablations
from spex_jax.core.ends import through_ends, with_spare_terms
from spex_jax.core.sampling import Acquisition, Focus, Sampling
from spex_jax.core.side_information import SideInformation
from spex_jax.core.spectrum import Spectrum
from spex_jax.methods import Adaptive, CrossFit, Method
from spex_jax.proxyspex.fitting import checked_options, fit
from spex_jax.proxyspex.fitting_many import cross_fit_many, fit_many
from spex_jax.proxyspex.proxy import PROXIES, Proxy, proxy_of
from spex_jax.proxyspex.residual import fit_and_decode

__all__ = ["SPEX", "ProxySPEX"]

_FEWEST_ROWS = 12  # fewer rows are too little evidence for any proxy
_FOCUSED = 1 / 3  # share of the masks near the full one with focus="full"
_REFITS = 5  # batches of adaptive sampling
_ADAPTIVE_OPTIONS = ("acquisition", "refits", "target_r2", "target_width")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProxySPEX(Method):
    """The method "proxyspex": fits a proxy to random ablations and reads its spectrum.

    Its masks are the full mask, the empty mask and those of its sampling; adaptive sampling first draws half of them.

    Attributes:
      proxy: a record of `spex_jax.proxyspex` or its name; the field holds the record.
      max_degree: largest degree of a term.
      max_terms: number of terms, () included; None is the fewest with 99.9% of the energy, at most 10,000.
      sampling: how masks are drawn (see `sampling.draw`), or "adaptive": half of them uniform, then batches, each
        chosen from the fit so far. None follows the requested index.
      acquisition: how adaptive sampling chooses: "information" (None; the masks that are most informative under the
        Gaussian process, see `walsh_gp.acquisition`), "index" (those that tell most about single features and pairs in
        the requested index), "interactions" (among masks at the corners of large and uncertain interactions) or
        "uniform".
      refits: the number of batches of adaptive sampling; None is 5.
      focus: "full" puts a third of the masks near the full one (1 to 4 features removed), where people read an
        explanation, at the cost of faithfulness on uniform masks; None puts none there beyond those of the sampling.
      target_r2: R2 on the held-out masks at which adaptive sampling stops before the budget is spent.
      target_width: width of the widest 95% interval among the ten strongest interactions, in units of the value, at
        which adaptive sampling stops before the budget is spent.
    """

    name: ClassVar[str] = "proxyspex"
    proxy: str | Proxy = "auto"
    max_degree: int = 5
    max_terms: int | None = None
    sampling: Sampling | Literal["adaptive"] | None = None
    acquisition: Acquisition | None = None
    refits: int | None = None
    focus: Focus | None = None
    target_r2: float | None = None
    target_width: float | None = None

    def __post_init__(self) -> None:
        """Replaces the name of a proxy with its record, so that equal options compare equal."""
        super().__post_init__()
        object.__setattr__(self, "proxy", proxy_of(self.proxy))

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Returns the keyword arguments of the short form, including those of the proxies."""
        from_proxies = (name for proxy in PROXIES.values() for name in proxy.option_names())
        return tuple(dict.fromkeys((*super().option_names(), *from_proxies)))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Returns the record, with the options of its proxy moved into the proxy."""
        own = super().option_names()
        proxy_options = {name: option for name, option in options.items() if name not in own}
        given = {name: option for name, option in options.items() if name in own}
        return cls(**{**given, "proxy": proxy_of(options.get("proxy", "auto"), **proxy_options)})

    @property
    def uses_known(self) -> bool:
        """Always."""
        return True

    def complete(self, index: str) -> Self:
        """Returns the method with the sampling of the index and all options that adaptive sampling needs."""
        chosen = self.sampling or sampling.for_index(index)
        if chosen != "adaptive":
            return dataclasses.replace(self, sampling=chosen)
        return dataclasses.replace(
            self,
            acquisition=sampling.ACQUISITIONS[0] if self.acquisition is None else self.acquisition,
            refits=_REFITS if self.refits is None else self.refits,
        )

    @property
    def adaptive(self) -> Adaptive | None:
        """The options of adaptive sampling, None without it; the method must be complete."""
        if self.sampling != "adaptive":
            return None
        assert self.acquisition is not None
        assert self.refits is not None
        return Adaptive(
            acquisition=self.acquisition,
            refits=self.refits,
            target_r2=self.target_r2,
            target_width=self.target_width,
        )

    def check(self, seed: int) -> None:
        """Raises ValueError for options that cannot be used."""
        proxy = checked_options(proxy=self.proxy, max_degree=self.max_degree, max_terms=self.max_terms, seed=seed).proxy
        if self.focus not in (None, "full"):
            raise ValueError(f"focus must be 'full' or None, got {self.focus!r}")
        if self.sampling is not None:
            sampling.check(self.sampling, adaptive=True)
        if self.sampling != "adaptive":
            for name in _ADAPTIVE_OPTIONS:
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name}= belongs to sampling='adaptive', got it with sampling={self.sampling!r}; leave it out"
                    )
            return
        if self.acquisition not in sampling.ACQUISITIONS:
            raise ValueError(
                f"unknown acquisition {self.acquisition!r}; expected one of {', '.join(sampling.ACQUISITIONS)}"
            )
        masks_lib.check_whole("refits", self.refits, 1)
        if self.target_r2 is not None:
            masks_lib.check_positive("target_r2", self.target_r2, 1.0)
        if self.target_width is not None:
            masks_lib.check_positive("target_width, in units of the value,", self.target_width)
            if not proxy.has_variances:
                known = ", ".join(name for name, other in PROXIES.items() if other.has_variances)
                raise ValueError(f"target_width needs a proxy with standard errors ({known}), got proxy={proxy.name!r}")

    def least(self, n: int) -> int:
        """Returns the fewest masks that can be fitted: one for each coefficient up to first order, at least 12."""
        return max(n + 1, _FEWEST_ROWS)

    def draw(self, n: int, count: int, seed: int) -> tuple[np.ndarray, Any]:
        """Draws the masks; the method must be complete."""
        if self.focus == "full":
            others, _ = dataclasses.replace(self, focus=None).draw(n, count, seed)
            near = sampling.near_full(n, int(_FOCUSED * len(others)), seed, given=others[:0])
            apart = masks_lib.not_among(others, near)[: len(others) - len(near)]
            return np.concatenate([apart, near]), None
        if self.sampling == "adaptive":
            # An index weighs masks of all sizes, which uniform ones of many features do not have.
            how: Sampling = "mixed" if self.acquisition == "index" and n > 1 else "uniform"
            return sampling.draw(how, n, max(count // 2, min(count, self.least(n))), seed), None
        assert self.sampling is not None
        return sampling.draw(self.sampling, n, count, seed), None

    def fit(self, ablations: Ablations, seed: int) -> Spectrum:
        """Returns the spectrum of the proxy."""
        options = self._fit_options()
        return fit(ablations.masks, ablations.values, **options, **vars(ablations.known), seed=seed)

    def cross_fit_many(self, tables: Sequence[Ablations], seed: int) -> list[CrossFit]:
        """Fits many tables; for masks drawn by coalition size it also gives the out-of-fold predictions."""
        masks, values = [table.masks for table in tables], [table.values for table in tables]
        options = {**self._fit_options(), **_known(tables), "seed": seed}
        if self.sampling in sampling.PAIRED or self.focus is not None:
            return [CrossFit(*found) for found in cross_fit_many(masks, values, **options)]
        return [CrossFit(found) for found in fit_many(masks, values, **options)]

    def _fit_options(self) -> dict[str, Any]:
        return {"proxy": self.proxy, "max_degree": self.max_degree, "max_terms": self.max_terms}


def _known(tables: Sequence[Ablations]) -> dict[str, Any]:
    """Returns what is known of the features of tables, as arguments of fits of several."""
    names = [field.name for field in dataclasses.fields(SideInformation)]
    return {name: [getattr(table.known, name) for table in tables] for name in names}


def _through_ends(found: Spectrum, ablations: Ablations) -> Spectrum:
    """Adjusts a decoded spectrum so that it takes the known values at the full and the empty mask."""
    known = (ablations.masks, ablations.values, float(ablations.values.std()))
    most = ablations.design.plan.t
    return through_ends(with_spare_terms(found, lambda _: found, *known, max_degree=most), *known)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SPEX(Method):
    """The method "spex": evaluates coded masks and decodes their values.

    Its masks are those of a design, which include the empty mask, and the full mask.

    Attributes:
      max_degree: largest degree of a term; "auto" is 5, or less where the budget requires it (see `spex.design`).
      residual_of: a proxy for the smooth part, or its name, so that SPEX decodes only the rest (see
        `proxyspex.fit_and_decode`); the field holds the record.
    """

    name: ClassVar[str] = "spex"
    from_any_masks: ClassVar[bool] = False
    max_degree: int | Literal["auto"] = "auto"
    residual_of: str | Proxy | None = None

    def __post_init__(self) -> None:
        """Replaces the name of a proxy with its record, so that equal options compare equal."""
        super().__post_init__()
        if self.residual_of is not None:
            object.__setattr__(self, "residual_of", proxy_of(self.residual_of))

    @property
    def uses_known(self) -> bool:
        """Whether it fits a proxy too."""
        return self.residual_of is not None

    def check(self, seed: int) -> None:
        """Raises ValueError for options that cannot be used."""
        super().check(seed)
        if self.residual_of is not None:
            proxy_of(self.residual_of).check()

    def least(self, n: int) -> int:
        """Returns the size of the smallest design, plus one for the full mask."""
        return spex.least_budget(n, max_degree=self.max_degree) + 1

    def draw(self, n: int, count: int, seed: int) -> tuple[np.ndarray, Any]:
        """Makes a design; returns its masks with the full mask, and the design."""
        design = spex.design(n, count - 1, max_degree=self.max_degree, seed=seed)
        full = np.ones((1, n), np.bool_)
        return (design.masks if design.masks.all(axis=1).any() else np.concatenate([design.masks, full])), design

    def fit(self, ablations: Ablations, seed: int) -> Spectrum:
        """Decodes the spectrum and adjusts it to the values at the full and the empty mask."""
        design, values = ablations.design, _design_values(ablations)
        if self.residual_of is None:
            found = spex.decode(design, values)
        else:
            found = fit_and_decode(design, values, proxy=self.residual_of, seed=seed, **vars(ablations.known))
        return _through_ends(found, ablations)

    def cross_fit_many(self, tables: Sequence[Ablations], seed: int) -> list[CrossFit]:
        """Decodes many tables at once, unless a proxy is fitted too."""
        if self.residual_of is not None:
            return super().cross_fit_many(tables, seed)
        found = spex.decode_many([table.design for table in tables], [_design_values(table) for table in tables])
        return [CrossFit(_through_ends(*one)) for one in zip(found, tables, strict=True)]

    def settings(self, design: Any) -> dict[str, Any]:
        """Returns the number of bins and the degree of the code."""
        return {"bins": 2**design.plan.b, "degree": design.plan.t}


def _design_values(ablations: Ablations) -> np.ndarray:
    """Returns the values at the masks of the design, which come first; the full mask may follow them."""
    return ablations.values[: len(ablations.design.masks)]
