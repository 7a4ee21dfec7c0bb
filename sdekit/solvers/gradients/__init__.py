"""Gradients of a solve with respect to its start and to what its dynamics are made of."""

from sdekit.solvers.gradients.differentiable import MODES, Differentiable

__all__ = ["MODES", "Differentiable"]
