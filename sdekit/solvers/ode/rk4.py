"""The classical Runge-Kutta method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.solvers.ode.base import ExplicitRungeKutta

__all__ = ["RK4"]


@final
@dataclass(frozen=True, repr=False)
class RK4(ExplicitRungeKutta):
    r"""x_s = x_t + h (k1 + 2 k2 + 2 k3 + k4)/6 with k2 and k3 at the middle of the step (Kutta 1901)."""

    name = "rk4"
    order = 4.0
    evaluations_per_step = 4
    nodes = (0.0, 0.5, 0.5, 1.0)
    coefficients = ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
    weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    reference = "Kutta 1901"
