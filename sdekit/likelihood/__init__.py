"""Log-likelihood through the probability flow, with its error budget."""

from sdekit.likelihood.compute import log_likelihood
from sdekit.likelihood.divergence import Divergence, Exact, Hutchinson, Traces
from sdekit.likelihood.flow import AugmentedFlow
from sdekit.likelihood.result import Budget, LogLikelihood

__all__ = [
    "AugmentedFlow",
    "Budget",
    "Divergence",
    "Exact",
    "Hutchinson",
    "LogLikelihood",
    "Traces",
    "log_likelihood",
]
