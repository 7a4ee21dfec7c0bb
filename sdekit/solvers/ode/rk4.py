"""The classical fourth-order Runge-Kutta method for ODEs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.ode.base import check_variable, explicit_table, flow_stepper
from sdekit.solvers.step import StepSolver

__all__ = ["RK4"]


@final
@dataclass(frozen=True, repr=False)
class RK4(StepSolver):
    r"""x_s = x_t + h (k1 + 2 k2 + 2 k3 + k4)/6,   k1 = f(x_t, t),   k2 = f(x_t + h k1/2, t + h/2),
    k3 = f(x_t + h k2/2, t + h/2),   k4 = f(x_t + h k3, s)

    On a score model's probability flow the variable is as in Euler: "sigma" or "t". Kutta 1901.
    """

    variable: str = "sigma"

    name = "rk4"
    order = 4.0
    evaluations_per_step = 4
    default_grid = "karras"
    reference = "Kutta 1901"

    def __post_init__(self) -> None:
        check_variable(self.variable)

    @property
    def stochastic(self) -> bool:
        return False

    def step_formula(self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, dw: Tensor | None) -> Tensor:
        h, middle = (s - t).to(x.dtype), 0.5 * (t + s)
        k1 = dynamics.drift(x, t)
        k2 = dynamics.drift(x + 0.5 * h * k1, middle)
        k3 = dynamics.drift(x + 0.5 * h * k2, middle)
        k4 = dynamics.drift(x + h * k3, s)
        return x + (h / 6) * (k1 + 2 * k2 + 2 * k3 + k4)

    def stepper(self, problem: Problem) -> Stepper:
        nodes, stages = (0.0, 0.5, 0.5, 1.0), ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
        weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
        return flow_stepper(
            self, lambda sde, times: explicit_table(sde, times, self.variable, nodes, stages, weights), problem
        )
