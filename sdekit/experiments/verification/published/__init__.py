r"""Every named diffusion sampler against its published formula, written a second time.

Each reference below is a plain loop over the grid, from the paper or from the formula of the code that made the name
known, in x~ = x/alpha and sigma~ = sigma/alpha (a step goes from level a to level b, h = ln(a/b)) or in x itself. It
shares nothing with the solvers: no table, no weights, no stages, no quadrature. Integrals are scipy's `quad`, linear
systems numpy's. `compare` runs a solver and its reference on one nonlinear network, one irregular grid and the same
draws of noise.

Three conventions are sdekit's own, and the references follow them: a step to sigma = 0 takes the newest value alone;
no order is lowered before that; and the stages of one step share one Brownian path. (`adams`, sdekit's own, takes its
whole polynomial to sigma = 0.)
"""

from sdekit.experiments.verification.published.listed import REFERENCES, references
from sdekit.experiments.verification.published.reference import (
    Comparison,
    Reference,
    check,
    compare,
    irregular_times,
    network,
)

__all__ = ["REFERENCES", "Comparison", "Reference", "check", "compare", "irregular_times", "network", "references"]
