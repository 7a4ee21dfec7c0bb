"""Log-likelihood through the probability flow, with its error budget."""

from sdekit.likelihood.budget import Budget
from sdekit.likelihood.compute import log_likelihood
from sdekit.likelihood.discrete import (
    Dequantisation,
    DiscreteBudget,
    DiscreteLogLikelihood,
    TruncatedNormal,
    Uniform,
    discrete_log_likelihood,
)
from sdekit.likelihood.ito import Ito
from sdekit.likelihood.result import LogLikelihood
from sdekit.likelihood.traces import Divergence, Exact, GaussianControl, Hutchinson, HutchPP, XTrace
from sdekit.likelihood.variational import VariationalBound

__all__ = [
    "Budget",
    "Dequantisation",
    "DiscreteBudget",
    "DiscreteLogLikelihood",
    "Divergence",
    "Exact",
    "GaussianControl",
    "HutchPP",
    "Hutchinson",
    "Ito",
    "LogLikelihood",
    "TruncatedNormal",
    "Uniform",
    "VariationalBound",
    "XTrace",
    "discrete_log_likelihood",
    "log_likelihood",
]
