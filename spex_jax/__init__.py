"""spex_jax: which parts of the input, the training data or the network act together.

Masks in, values out, a sparse Walsh spectrum back:

     lenses              evaluate         spex  proxyspex        interactions        report
  text -> value_fn  ->  masks, values  ->  Spectrum        ->  SV BV SII k-SII ->  terminal, HTML
                                           (Walsh-Fourier)     BII STII FSII
                                                               FBII Moebius Fourier

`explain` runs the whole path. A mask is a row of a bool [M, n] array; True keeps the feature.
"""

from spex_jax import lenses, metrics, models, proxyspex, spex
from spex_jax.evaluate import evaluate
from spex_jax.explain import Explanation, explain
from spex_jax.interactions import Interactions
from spex_jax.lenses.value_function import ValueFunction
from spex_jax.metrics import Faithfulness
from spex_jax.spectrum import Spectrum
from spex_jax.version import __version__

__all__ = [
    "Explanation",
    "Faithfulness",
    "Interactions",
    "Spectrum",
    "ValueFunction",
    "__version__",
    "evaluate",
    "explain",
    "lenses",
    "metrics",
    "models",
    "proxyspex",
    "spex",
]
