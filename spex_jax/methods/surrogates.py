"""What people compare with, as methods of `explain`: surrogates of first order, and of all sets up to an order."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from spex_jax import baselines, sampling
from spex_jax import masks as masks_lib
from spex_jax.baselines.lasso_regression import check_sklearn
from spex_jax.baselines.permutations import draw_permutations
from spex_jax.baselines.regression import coefficients_up_to
from spex_jax.baselines.semivalues import ESTIMATORS
from spex_jax.baselines.single_removals import one_left_out
from spex_jax.methods.method import Method
from spex_jax.spectrum import Spectrum

__all__ = [
    "BANZHAF",
    "FAITH_BANZHAF",
    "FAITH_SHAPLEY",
    "KERNEL_SHAP",
    "LASSO",
    "LEAVE_ONE_OUT",
    "LIME",
    "PERMUTATION_SHAPLEY",
]

_FEWEST_ROWS = 12  # for what is shrunk, and could be fitted to any number


class _Surrogate(Method):
    exact = False


class _OfOwnMasks(_Surrogate):
    """A method whose masks follow from n and the budget, and which needs all of them."""

    defaults: ClassVar[dict[str, Any]] = {}
    from_any_masks = False

    def check(self, seed: int, options: dict[str, Any]) -> None:
        del options
        masks_lib.check_whole("seed", seed, 0, 2**32 - 1)

    def least(self, n: int, options: dict[str, Any]) -> int:
        del options
        return n + 1


class _LeaveOneOut(_OfOwnMasks):
    """The full mask and every one that removes one unit, however large the budget; its fit sees no others. The empty
    mask comes last, for the report.
    """

    def least(self, n: int, options: dict[str, Any]) -> int:
        del options
        return min(n + 2, 2 ** min(n, 63))

    def draw(self, n: int, count: int, seed: int, options: dict[str, Any]) -> tuple[np.ndarray, Any]:
        del count, seed, options
        masks = np.concatenate([one_left_out(n), np.zeros((1, n), np.bool_)])
        return masks[masks_lib.deduplicate(masks)[0]], None

    def fit(self, masks: np.ndarray, values: np.ndarray, made: Any, seed: int, options: dict[str, Any]) -> Spectrum:
        del made, seed, options
        return baselines.left_out(masks, values)


class _PermutationShapley(_OfOwnMasks):
    """The masks along permutations, which `made` holds."""

    def draw(self, n: int, count: int, seed: int, options: dict[str, Any]) -> tuple[np.ndarray, Any]:
        del options
        return draw_permutations(n, count, seed)

    def fit(self, masks: np.ndarray, values: np.ndarray, made: Any, seed: int, options: dict[str, Any]) -> Spectrum:
        del seed, options
        return baselines.permutation_shapley(masks, values, made)

    def settings(self, made: Any) -> dict[str, Any]:
        return {"permutations": len(made)}


class _Regression(_Surrogate):
    """Masks of one of the samplings, and a regression on them.

    Attributes:
      sampling: how they are drawn where the option `sampling` does not say.
    """

    sampling: ClassVar[str] = "uniform"
    regression: ClassVar[Callable[..., Spectrum]]

    def _sampling(self, options: dict[str, Any]) -> str:
        return options.get("sampling") or self.sampling

    def check(self, seed: int, options: dict[str, Any]) -> None:
        masks_lib.check_whole("seed", seed, 0, 2**32 - 1)
        sampling.check(self._sampling(options))
        if "order" in options:
            masks_lib.check_whole("order", options["order"], 1)
        for name in ("alpha", "kernel_width"):
            if name in options:
                masks_lib.check_positive(name, options[name])

    def draw(self, n: int, count: int, seed: int, options: dict[str, Any]) -> tuple[np.ndarray, Any]:
        return sampling.draw(self._sampling(options), n, count, seed), None

    def fit(self, masks: np.ndarray, values: np.ndarray, made: Any, seed: int, options: dict[str, Any]) -> Spectrum:
        del made, seed
        known = {name: value for name, value in options.items() if name != "sampling"}
        return type(self).regression(masks, values, **known)


class _Shrunk(_Regression):
    def least(self, n: int, options: dict[str, Any]) -> int:
        del options
        return min(_FEWEST_ROWS, 2 ** min(n, 63))


class _Lime(_Shrunk):
    """LIME's own draw takes the number of removed words uniformly, without complements and with repetitions."""

    defaults: ClassVar[dict[str, Any]] = {"kernel_width": 25.0, "alpha": 1.0, "sampling": None}
    sampling = "size"
    regression = staticmethod(baselines.lime)


class _Lasso(_Shrunk):
    defaults: ClassVar[dict[str, Any]] = {"alpha": 0.01, "sampling": None}
    regression = staticmethod(baselines.lasso)

    def check(self, seed: int, options: dict[str, Any]) -> None:
        super().check(seed, options)
        check_sklearn("method 'lasso'")


class _Banzhaf(_Regression):
    defaults: ClassVar[dict[str, Any]] = {"estimator": "regression"}
    regression = staticmethod(baselines.banzhaf)

    def check(self, seed: int, options: dict[str, Any]) -> None:
        super().check(seed, options)
        if options["estimator"] not in ESTIMATORS:
            raise ValueError(f"unknown estimator {options['estimator']!r}; expected one of {', '.join(ESTIMATORS)}")

    def least(self, n: int, options: dict[str, Any]) -> int:
        del options
        return n + 1


class _FaithBanzhaf(_Regression):
    defaults: ClassVar[dict[str, Any]] = {"order": 2}
    regression = staticmethod(baselines.faith_banzhaf)

    def least(self, n: int, options: dict[str, Any]) -> int:
        return coefficients_up_to(n, options["order"])


class _FaithShapley(_Regression):
    defaults: ClassVar[dict[str, Any]] = {"order": 2, "sampling": None}
    sampling = "kernel_shap"
    regression: ClassVar[Callable[..., Spectrum]] = staticmethod(baselines.faith_shapley)

    def least(self, n: int, options: dict[str, Any]) -> int:
        order = min(options.get("order", 1), n)
        fewest = coefficients_up_to(n, order)
        if self._sampling(options) in sampling.PAIRED:
            # A pair of complements is one equation for the odd coefficients and one for the even ones, both of which
            # the pair of the ends constrains.
            groups = [sum(math.comb(n, size) for size in range(first, order + 1, 2)) for first in (0, 1)]
            fewest = 2 * max(groups)
        return min(fewest, 2 ** min(n, 63))


class _KernelSHAP(_FaithShapley):
    defaults: ClassVar[dict[str, Any]] = {"sampling": None}
    regression = staticmethod(baselines.kernel_shap)


LEAVE_ONE_OUT = _LeaveOneOut()
LIME = _Lime()
KERNEL_SHAP = _KernelSHAP()
LASSO = _Lasso()
BANZHAF = _Banzhaf()
FAITH_BANZHAF = _FaithBanzhaf()
FAITH_SHAPLEY = _FaithShapley()
PERMUTATION_SHAPLEY = _PermutationShapley()
