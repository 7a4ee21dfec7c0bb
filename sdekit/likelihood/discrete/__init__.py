r"""The probability of discrete data: levels 0, 1, …, each the bin of a continuous density about its centre.

    log P(k) = log int over the bin of p(x) dx >= E_q log (p/q)(x_k + u),    u ~ q within the bin

for any density q of the bin ("dequantisation", Theis et al. 2016, arXiv 1511.01844).
"""

from sdekit.likelihood.discrete.compute import discrete_log_likelihood
from sdekit.likelihood.discrete.dequantisation import Dequantisation, TruncatedNormal, Uniform
from sdekit.likelihood.discrete.result import DiscreteBudget, DiscreteLogLikelihood

__all__ = [
    "Dequantisation",
    "DiscreteBudget",
    "DiscreteLogLikelihood",
    "TruncatedNormal",
    "Uniform",
    "discrete_log_likelihood",
]
