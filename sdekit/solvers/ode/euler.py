"""Euler's method for ODEs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.ode.base import check_variable, explicit_table, flow_stepper
from sdekit.solvers.step import StepSolver

__all__ = ["Euler"]


@final
@dataclass(frozen=True, repr=False)
class Euler(StepSolver):
    r"""x_s = x_t + h f(x_t, t)

    On a score model's probability flow, variable="sigma" steps d(x/alpha)/d(sigma/alpha) = eps, the form of Karras et
    al. 2022 (equal to DDIM); variable="t" steps dx/dt = u, the form of Song et al. 2021. Other ODEs have t only.
    """

    variable: str = "sigma"

    name = "euler"
    order = 1.0
    evaluations_per_step = 1
    default_grid = "karras"
    reference = "Euler 1768; Karras et al. 2022, arXiv 2206.00364"

    def __post_init__(self) -> None:
        check_variable(self.variable)

    @property
    def stochastic(self) -> bool:
        return False

    def step_formula(self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, dw: Tensor | None) -> Tensor:
        return x + (s - t).to(x.dtype) * dynamics.drift(x, t)

    def stepper(self, problem: Problem) -> Stepper:
        return flow_stepper(
            self, lambda sde, times: explicit_table(sde, times, self.variable, (0.0,), (), (1.0,)), problem
        )
