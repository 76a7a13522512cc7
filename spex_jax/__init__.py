"""spex_jax finds which parts of an input, of the training data or of a network act together.

Masks in, values out, a sparse Walsh spectrum back. Each stage has a folder of its own:

  lenses/, models/       engine/, store/       proxyspex/ spex/ baselines/    core/            analysis/, report/
  text  components       value_fn(masks)       methods: masks, values         Spectrum         is it true? show it
  training_data     ->   -> values, each  ->   -> Spectrum               ->   -> indices  ->   validation, HTML page
  patches  tabular       mask once             (Walsh-Fourier)                SV ... FSII
                   \\_______________ pipeline/: explain = plan, evaluate, fit, Explanation _______________/

`explain` runs all stages. A mask is a row of a bool [M, n] array; True keeps the feature.

A method is a record of its options: `explain(..., method=ProxySPEX(max_terms=100))`, whose proxy is a record such as
`proxyspex.Linear(solver="lasso")`. The short form `method="proxyspex", max_terms=100` means the same.
"""

from typing import TYPE_CHECKING, Any

from spex_jax import baselines, interop, lenses, methods, models, proxyspex, spex
from spex_jax.analysis import metrics
from spex_jax.analysis.metrics import Faithfulness
from spex_jax.baselines import (
    LASSO,
    LIME,
    Banzhaf,
    FaithBanzhaf,
    FaithShapley,
    KernelSHAP,
    LeaveOneOut,
    PermutationShapley,
)
from spex_jax.core import indices
from spex_jax.core.interactions import Interactions
from spex_jax.core.packed_masks import PackedMasks
from spex_jax.core.spectrum import Spectrum
from spex_jax.engine.evaluation import evaluate
from spex_jax.engine.invariance import BatchInvariance, check_batch_invariance
from spex_jax.engine.value_function import DeviceOptions, ValueFunction
from spex_jax.pipeline.dry_run import Estimate, estimate
from spex_jax.pipeline.explain import explain
from spex_jax.pipeline.explain_many import explain_many
from spex_jax.pipeline.explanation import Explanation
from spex_jax.proxyspex.methods import SPEX, ProxySPEX
from spex_jax.utils.program_cache import keep_by_default
from spex_jax.utils.version import __version__

if TYPE_CHECKING:
    from spex_jax.analysis import subset_search as optimize

__all__ = [
    "LASSO",
    "LIME",
    "SPEX",
    "Banzhaf",
    "BatchInvariance",
    "DeviceOptions",
    "Estimate",
    "Explanation",
    "FaithBanzhaf",
    "FaithShapley",
    "Faithfulness",
    "Interactions",
    "KernelSHAP",
    "LeaveOneOut",
    "PackedMasks",
    "PermutationShapley",
    "ProxySPEX",
    "Spectrum",
    "ValueFunction",
    "__version__",
    "baselines",
    "check_batch_invariance",
    "estimate",
    "evaluate",
    "explain",
    "explain_many",
    "indices",
    "interop",
    "lenses",
    "methods",
    "metrics",
    "models",
    "optimize",
    "proxyspex",
    "spex",
]

keep_by_default()


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Returns `optimize`, which is imported when it is first used, as it imports the solvers of SciPy."""
    if name == "optimize":
        from spex_jax.analysis import subset_search

        return subset_search
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
