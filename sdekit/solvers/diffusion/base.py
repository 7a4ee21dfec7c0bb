"""Table solvers: pure functions from an SDE and a grid to a table."""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics, ReverseSDE
from sdekit.errors import UnsupportedError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.table import Table
from sdekit.solvers.table_stepper import TableStepper

__all__ = ["TableSolver", "Transition", "exponential_clock", "require_falling", "table_stepper"]


class TableSolver(FixedStepSolver):
    """A sampler whose steps are linear in the state, the model's values and the noise."""

    kind = "table"
    needs = ("score",)

    @abc.abstractmethod
    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        """The table of a solve over `times`, float64 (N + 1,), strictly monotone."""

    def check(self, dynamics: Dynamics) -> None:
        super().check(dynamics)
        if isinstance(dynamics, ReverseSDE) and dynamics.tau != 1.0:
            raise UnsupportedError(
                f"solver {self.name!r} integrates the reverse SDE with tau = 1, not tau = {dynamics.tau:g}; "
                "'euler_maruyama' takes any tau."
            )

    def stepper(self, problem: Problem) -> Stepper:
        require_falling(self, problem)
        return table_stepper(self.table, problem)


def exponential_clock(sde: DiffusionSDE, t: Tensor, tau2: float = 1.0) -> Tensor:
    r"""sigma~^(-2 tau^2): the exact noise of a step is b^(1 + tau^2) [B(b^(-2 tau^2)) - B(a^(-2 tau^2))]."""
    clock: Tensor = sde.sigma_ratio(t) ** (-2 * tau2)
    return clock


def require_falling(solver: FixedStepSolver, problem: Problem) -> None:
    """A reverse-time SDE makes sense with t falling only."""
    if solver.stochastic and problem.times[0] < problem.times[-1]:
        raise UnsupportedError(
            f"solver {solver.name!r} runs the reverse SDE, from noise to data, but the grid rises from "
            f"t = {float(problem.times[0]):g} to {float(problem.times[-1]):g}. Use the forward SDE, or an ODE solver."
        )


def table_stepper(make: Callable[[DiffusionSDE, Tensor], Table], problem: Problem) -> Stepper:
    """The executor for the table of a problem's model and grid."""
    model = problem.dynamics.model
    if model is None:
        raise UnsupportedError(f"{problem.dynamics!r} has no score model to make a table for.")
    table = make(model.sde, problem.times)
    return TableStepper(table if problem.last_noise else table.without_last_noise(), problem, model)


class Transition:
    """The forward transition x_a | x_b ~ N(A x_b, V I) between the two ends b < a of each step, float64 (N,).

    A = alpha_a / alpha_b,   V = sigma_a^2 - A^2 sigma_b^2 = alpha_a^2 (sigma~_a^2 - sigma~_b^2)
    """

    def __init__(self, sde: DiffusionSDE, times: Tensor) -> None:
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        self.alpha_a, self.alpha_b = alpha[:-1], alpha[1:]
        self.sigma_a, self.sigma_b = sigma[:-1], sigma[1:]
        self.ratio_a, self.ratio_b = self.sigma_a / self.alpha_a, self.sigma_b / self.alpha_b
        self.mean = self.alpha_a / self.alpha_b
        shrink = (self.ratio_b / self.ratio_a).square()
        self.variance = self.sigma_a.square() * (1 - shrink)
        self.posterior_variance = self.sigma_b.square() * (1 - shrink)

    @property
    def posterior_std(self) -> Tensor:
        """Standard deviation of x_b | x_a, x_0: (sigma_b / sigma_a) sqrt(V)."""
        return torch.sqrt(self.posterior_variance)
