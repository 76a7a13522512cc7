"""ProxySPEX and SPEX as methods of `explain`."""

from typing import Any, ClassVar

import numpy as np

from spex_jax import masks as masks_lib
from spex_jax import proxyspex, spex
from spex_jax.methods.method import Method
from spex_jax.spectrum import Spectrum

__all__ = ["PROXYSPEX", "SPEX"]

_FEWEST_ROWS = 12  # fewer say too little for any proxy to be believed


class _ProxySPEX(Method):
    """The full and the empty mask and uniform ones."""

    defaults: ClassVar[dict[str, Any]] = {
        "proxy": "auto",
        "max_degree": 5,
        "max_terms": None,
        "solver": None,
        "extract": None,
    }

    def check(self, seed: int, options: dict[str, Any]) -> None:
        proxyspex.check_options(seed=seed, **options)

    def least(self, n: int, options: dict[str, Any]) -> int:
        del options
        return max(n + 1, _FEWEST_ROWS)  # a row for each coefficient of first order

    def draw(self, n: int, count: int, seed: int, options: dict[str, Any]) -> tuple[np.ndarray, Any]:
        del options
        ends = np.stack([np.ones(n, np.bool_), np.zeros(n, np.bool_)])
        return masks_lib.uniform(n, count, np.random.default_rng(seed), given=ends), None

    def fit(self, masks: np.ndarray, values: np.ndarray, made: Any, seed: int, options: dict[str, Any]) -> Spectrum:
        del made
        return proxyspex.fit(masks, values, seed=seed, **options)


class _SPEX(Method):
    """The masks of a design, which hold the empty one, and the full one."""

    defaults: ClassVar[dict[str, Any]] = {"max_degree": "auto", "residual_of": None}
    from_any_masks = False

    def check(self, seed: int, options: dict[str, Any]) -> None:
        masks_lib.check_whole("seed", seed, 0, 2**32 - 1)
        if options["residual_of"] is not None:
            proxyspex.check_options(proxy=options["residual_of"])

    def least(self, n: int, options: dict[str, Any]) -> int:
        return spex.least_budget(n, max_degree=options["max_degree"]) + 1

    def draw(self, n: int, count: int, seed: int, options: dict[str, Any]) -> tuple[np.ndarray, Any]:
        made = spex.design(n, count - 1, max_degree=options["max_degree"], seed=seed)
        full = np.ones((1, n), np.bool_)
        return (made.masks if made.masks.all(axis=1).any() else np.concatenate([made.masks, full])), made

    def fit(self, masks: np.ndarray, values: np.ndarray, made: Any, seed: int, options: dict[str, Any]) -> Spectrum:
        del masks  # those of the design come first
        values = values[: len(made.masks)]
        if options["residual_of"] is None:
            return spex.decode(made, values)
        return proxyspex.fit_and_decode(made, values, proxy=options["residual_of"], seed=seed)

    def settings(self, made: Any) -> dict[str, Any]:
        return {"bins": 2**made.plan.b, "degree": made.plan.t}


PROXYSPEX = _ProxySPEX()
SPEX = _SPEX()
