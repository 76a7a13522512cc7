"""ProxySPEX and SPEX as methods of `explain`."""

from typing import Any, ClassVar

import numpy as np

from spex_jax import masks as masks_lib
from spex_jax import proxyspex, sampling, spex
from spex_jax.ends import through_ends, with_spare_terms
from spex_jax.methods.method import Method, Options, Tables
from spex_jax.spectrum import Spectrum

__all__ = ["PROXYSPEX", "SPEX"]

_FEWEST_ROWS = 12  # fewer say too little for any proxy to be believed
_REFITS = 5  # batches of adaptive sampling
_OF_ADAPTIVE = ("acquisition", "refits", "target_r2", "target_width")
_WITH_VARIANCES = ("auto", "walsh_gp")


def _of_fit(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "sampling" and name not in _OF_ADAPTIVE}


class _ProxySPEX(Method):
    """The full and the empty mask, and those of a sampling; of the adaptive one half of them, uniform."""

    defaults: ClassVar[dict[str, Any]] = {
        "proxy": "auto",
        "max_degree": 5,
        "max_terms": None,
        "solver": None,
        "extract": None,
        "sampling": None,
        **dict.fromkeys(_OF_ADAPTIVE),
    }

    def complete(self, options: dict[str, Any], index: str) -> dict[str, Any]:
        if options["sampling"] is None:
            options["sampling"] = sampling.for_index(index)
        if options["sampling"] == "adaptive":
            for name, default in (("acquisition", sampling.ACQUISITIONS[0]), ("refits", _REFITS)):
                options[name] = default if options[name] is None else options[name]
        return options

    def check(self, seed: int, options: dict[str, Any]) -> None:
        proxyspex.check_options(seed=seed, **_of_fit(options))
        sampling.check(options["sampling"], adaptive=True)
        if options["sampling"] != "adaptive":
            for name in _OF_ADAPTIVE:
                if options[name] is not None:
                    raise ValueError(
                        f"{name}= belongs to sampling='adaptive', got it with sampling={options['sampling']!r}; leave "
                        "it out"
                    )
            return
        if options["acquisition"] not in sampling.ACQUISITIONS:
            raise ValueError(
                f"unknown acquisition {options['acquisition']!r}; expected one of {', '.join(sampling.ACQUISITIONS)}"
            )
        masks_lib.check_whole("refits", options["refits"], 1)
        r2, width = options["target_r2"], options["target_width"]
        if r2 is not None:
            masks_lib.check_positive("target_r2", r2, 1.0)
        if width is not None:
            masks_lib.check_positive("target_width, in units of the value,", width)
        if width is not None and options["proxy"] not in _WITH_VARIANCES:
            raise ValueError(
                f"target_width needs a proxy with standard errors ({', '.join(_WITH_VARIANCES)}), got proxy="
                f"{options['proxy']!r}"
            )

    def least(self, n: int, options: dict[str, Any]) -> int:
        del options
        return max(n + 1, _FEWEST_ROWS)  # a row for each coefficient of first order

    def draw(self, n: int, count: int, seed: int, options: dict[str, Any]) -> tuple[np.ndarray, Any]:
        if options["sampling"] == "adaptive":
            return sampling.draw("uniform", n, max(count // 2, min(count, self.least(n, options))), seed), None
        return sampling.draw(options["sampling"], n, count, seed), None

    def fit(self, masks: np.ndarray, values: np.ndarray, made: Any, seed: int, options: dict[str, Any]) -> Spectrum:
        del made
        return proxyspex.fit(masks, values, seed=seed, **_of_fit(options))

    def cross_fit_many(
        self, masks: Tables, values: Tables, made: list[Any], seed: int, options: Options
    ) -> list[tuple[Spectrum, np.ndarray | None]]:
        del made
        if options["sampling"] not in sampling.PAIRED:
            return [(found, None) for found in proxyspex.fit_many(masks, values, seed=seed, **_of_fit(options))]
        return list(proxyspex.cross_fit_many(masks, values, seed=seed, **_of_fit(options)))


def _through_ends(found: Spectrum, masks: np.ndarray, values: np.ndarray, made: Any) -> Spectrum:
    """Returns a spectrum decoded from a design that takes the values at the full and the empty mask."""
    known = (masks, values, float(values.std()))
    return through_ends(with_spare_terms(found, lambda _: found, *known, max_degree=made.plan.t), *known)


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
        answers = values[: len(made.masks)]  # those of the design come first
        if options["residual_of"] is None:
            found = spex.decode(made, answers)
        else:
            found = proxyspex.fit_and_decode(made, answers, proxy=options["residual_of"], seed=seed)
        return _through_ends(found, masks, values, made)

    def cross_fit_many(
        self, masks: Tables, values: Tables, made: list[Any], seed: int, options: Options
    ) -> list[tuple[Spectrum, np.ndarray | None]]:
        if options["residual_of"] is not None:
            return super().cross_fit_many(masks, values, made, seed, options)
        answers = [given[: len(one.masks)] for given, one in zip(values, made, strict=True)]
        found = zip(spex.decode_many(made, answers), masks, values, made, strict=True)
        return [(_through_ends(*one), None) for one in found]

    def settings(self, made: Any) -> dict[str, Any]:
        return {"bins": 2**made.plan.b, "degree": made.plan.t}


PROXYSPEX = _ProxySPEX()
SPEX = _SPEX()
