"""Multilevel Monte Carlo: the expectation of a function of the end state, to a given tolerance."""

from sdekit.multilevel_monte_carlo.estimate import multilevel
from sdekit.multilevel_monte_carlo.result import Level, Multilevel

__all__ = ["Level", "Multilevel", "multilevel"]
