"""Log-likelihood through the probability flow, with its error budget."""

from sdekit.likelihood.budget import Budget
from sdekit.likelihood.compute import log_likelihood
from sdekit.likelihood.result import LogLikelihood
from sdekit.likelihood.traces import Divergence, Exact, GaussianControl, Hutchinson, HutchPP, XTrace

__all__ = [
    "Budget",
    "Divergence",
    "Exact",
    "GaussianControl",
    "HutchPP",
    "Hutchinson",
    "LogLikelihood",
    "XTrace",
    "log_likelihood",
]
