"""Registers the methods of this package and types the options of their short forms.

`method="proxyspex", max_terms=100` means `method=ProxySPEX(max_terms=100)`. To add a method, register it at the end of
this file, and add its new options to `MethodOptions`, for editors and type checkers.
"""

from typing import Literal, TypedDict

from spex_jax.baselines.lasso_regression import LASSO
from spex_jax.baselines.local_surrogates import LIME
from spex_jax.baselines.permutations import PermutationShapley
from spex_jax.baselines.semivalues import Banzhaf, Estimator, FaithBanzhaf, FaithShapley, KernelSHAP
from spex_jax.baselines.single_removals import LeaveOneOut
from spex_jax.core.sampling import Acquisition, Focus, Sampling
from spex_jax.methods import register
from spex_jax.proxyspex.extraction import Extract
from spex_jax.proxyspex.methods import SPEX, ProxySPEX
from spex_jax.proxyspex.proxy import Proxy
from spex_jax.proxyspex.regression.linear import Solver

__all__ = ["MethodOptions"]


class MethodOptions(TypedDict, total=False):
    """Types the options of the methods as keyword arguments; the records of the methods document them.

    Every function that takes these options uses this class (`**options: Unpack[MethodOptions]`), so that editors
    complete the keywords and type checkers know their types. Omitted options take the defaults of the method.
    """

    proxy: str | Proxy
    max_degree: int | Literal["auto"]
    max_terms: int | None
    solver: Solver | None
    extract: Extract | None
    sampling: Sampling | Literal["adaptive"] | None
    acquisition: Acquisition | None
    refits: int | None
    focus: Focus | None
    target_r2: float | None
    target_width: float | None
    residual_of: str | Proxy | None
    kernel_width: float
    alpha: float
    estimator: Estimator
    order: int


for _method in (ProxySPEX, SPEX):
    register(_method)
for _baseline in (LeaveOneOut, LIME, KernelSHAP, LASSO, Banzhaf, FaithBanzhaf, FaithShapley, PermutationShapley):
    register(_baseline)
