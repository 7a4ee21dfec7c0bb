"""Euler's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.solvers.ode.base import ExplicitRungeKutta

__all__ = ["Euler"]


@final
@dataclass(frozen=True, repr=False)
class Euler(ExplicitRungeKutta):
    r"""x_s = x_t + h k1. On a model's flow in sigma it is DDIM.

    Karras et al. 2022, arXiv 2206.00364, give the form in sigma.
    """

    name = "euler"
    order = 1.0
    evaluations_per_step = 1
    default_grid = "align_your_steps"
    nodes = (0.0,)
    coefficients = ()
    weights = (1.0,)
    reference = "Euler 1768; Karras et al. 2022, arXiv 2206.00364"
