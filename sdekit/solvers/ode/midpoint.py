"""The explicit midpoint method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.solvers.ode.base import ExplicitRungeKutta

__all__ = ["Midpoint"]


@final
@dataclass(frozen=True, repr=False)
class Midpoint(ExplicitRungeKutta):
    r"""x_s = x_t + h k2 with k2 at the middle of the step, x_t + h k1/2 (Runge 1895)."""

    name = "midpoint"
    order = 2.0
    evaluations_per_step = 2
    nodes = (0.0, 0.5)
    coefficients = ((0.5,),)
    weights = (0.0, 1.0)
    reference = "Runge 1895"
