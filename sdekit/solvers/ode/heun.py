"""Heun's method (the explicit trapezoidal rule) for ODEs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.ode.base import check_variable, explicit_table, flow_stepper
from sdekit.solvers.step import StepSolver

__all__ = ["Heun"]


@final
@dataclass(frozen=True, repr=False)
class Heun(StepSolver):
    r"""k1 = f(x_t, t),   k2 = f(x_t + h k1, s),   x_s = x_t + h (k1 + k2)/2

    On a score model's probability flow, variable="sigma" is the deterministic sampler of Karras et al. 2022 (algorithm
    1), with an Euler step to sigma = 0; variable="t" steps dx/dt = u.
    """

    variable: str = "sigma"

    name = "heun"
    order = 2.0
    evaluations_per_step = 2
    default_grid = "karras"
    reference = "Heun 1900; Karras et al. 2022, arXiv 2206.00364"

    def __post_init__(self) -> None:
        check_variable(self.variable)

    @property
    def stochastic(self) -> bool:
        return False

    def step_formula(self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, dw: Tensor | None) -> Tensor:
        h = (s - t).to(x.dtype)
        k1 = dynamics.drift(x, t)
        k2 = dynamics.drift(x + h * k1, s)
        return x + (0.5 * h) * (k1 + k2)

    def stepper(self, problem: Problem) -> Stepper:
        return flow_stepper(
            self,
            lambda sde, times: explicit_table(sde, times, self.variable, (0.0, 1.0), ((1.0,),), (0.5, 0.5)),
            problem,
        )
