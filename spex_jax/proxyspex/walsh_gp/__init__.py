"""walsh_gp: a Gaussian process whose kernel is diagonal in the Walsh basis (an extension of ProxySPEX, not part of the
paper).

The kernel is a sum of R product kernels, a first-order kernel and a constant,

  k(x, x') = sum_r A_r prod_i (1 + w_ri s_i s'_i) / (1 + w_ri)  +  sum_i b_i s_i s'_i  +  c,

so the prior variance of F(S) is P(S) = sum_r A_r prod_{i in S} w_ri prod_i (1 + w_ri)^-1 (+ b_i for S = {i}, + c for S
= ()): high degrees are rare, and features that matter interact with each other. With a = atanh(w) a product kernel is A
exp(sum_i a_i (s_i s'_i - 1)): one matrix product and one exp. The posterior mean is sum_j alpha_j k(x, x_j), so that
F(S) = P(S) sum_j alpha_j chi_S(x_j) in closed form.

Where units have coordinates, a second Gaussian process has one more product kernel for each window of neighbours, over
the units of the window alone, with scales and an amplitude of its own; the fit is then a mixture of the two. Without
coordinates the windows are those of learned partners, where a fold that did not choose them says that they help.

The scales are learned from the marginal likelihood (Rasmussen and Williams, 2006, chapter 5), each step on a fresh
random subset of the rows.
"""

from spex_jax.proxyspex.walsh_gp.neighbours import with_neighbours
from spex_jax.proxyspex.walsh_gp.posteriors import factorise, posterior
from spex_jax.proxyspex.walsh_gp.prior import Scales, kernel
from spex_jax.proxyspex.walsh_gp.proxy import HONEST_ROWS, SOLVE_ROWS, GaussianFit, fit
from spex_jax.proxyspex.walsh_gp.record import WalshGP
from spex_jax.proxyspex.walsh_gp.scales import learn, learn_scales
from spex_jax.proxyspex.walsh_gp.together import bytes_of, fit_together

__all__ = [
    "HONEST_ROWS",
    "SOLVE_ROWS",
    "GaussianFit",
    "Scales",
    "WalshGP",
    "bytes_of",
    "factorise",
    "fit",
    "fit_together",
    "kernel",
    "learn",
    "learn_scales",
    "posterior",
    "with_neighbours",
]
