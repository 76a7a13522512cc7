"""spex_jax: which parts of the input, the training data or the network act together.

Masks in, values out, a sparse Walsh spectrum back:

     lenses            evaluate, engine   spex  proxyspex        interactions        report
  text -> value_fn  ->  masks, values  ->  Spectrum        ->  SV BV SII k-SII ->  terminal, HTML
  patches  tabular         store           (Walsh-Fourier)     BII STII FSII
  components  training_data                                    FBII Moebius Fourier

`explain` runs the whole path. A mask is a row of a bool [M, n] array; True keeps the feature.

Methods are records of their options: `explain(..., method=ProxySPEX(max_terms=100))`, with `proxyspex.Linear(solver=
"lasso")` and the like for its proxy. Their short forms mean the same: `method="proxyspex", max_terms=100`.
"""

from spex_jax import baselines, interop, lenses, methods, metrics, models, optimize, proxyspex, spex
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
from spex_jax.corpus import explain_many
from spex_jax.dry_run import Estimate, estimate
from spex_jax.engine.value_function import DeviceOptions, ValueFunction
from spex_jax.evaluation import evaluate
from spex_jax.explanation import Explanation
from spex_jax.interactions import Interactions
from spex_jax.invariance import BatchInvariance, check_batch_invariance
from spex_jax.metrics import Faithfulness
from spex_jax.packed import PackedMasks
from spex_jax.pipeline import explain
from spex_jax.proxyspex.methods import SPEX, ProxySPEX
from spex_jax.spectrum import Spectrum
from spex_jax.version import __version__

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
    "interop",
    "lenses",
    "methods",
    "metrics",
    "models",
    "optimize",
    "proxyspex",
    "spex",
]


def __dir__() -> list[str]:
    return __all__
