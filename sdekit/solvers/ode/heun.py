"""Heun's method, the explicit trapezoidal rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.solvers.ode.base import ExplicitRungeKutta

__all__ = ["Heun"]


@final
@dataclass(frozen=True, repr=False)
class Heun(ExplicitRungeKutta):
    r"""x_s = x_t + h (k1 + k2)/2 with k2 at x_t + h k1. On a model's flow in sigma it is the deterministic sampler of
    Karras et al. 2022, arXiv 2206.00364 (algorithm 1), with an Euler step to sigma = 0.
    """

    name = "heun"
    order = 2.0
    evaluations_per_step = 2
    nodes = (0.0, 1.0)
    coefficients = ((1.0,),)
    weights = (0.5, 0.5)
    reference = "Heun 1900; Karras et al. 2022, arXiv 2206.00364"
