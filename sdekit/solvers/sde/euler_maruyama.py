"""Euler-Maruyama, for any SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics, ReverseSDE
from sdekit.errors import UnsupportedError
from sdekit.noise import Increment
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.diffusion.base import require_falling, table_stepper
from sdekit.solvers.embedded import EmbeddedSolver, Pair
from sdekit.solvers.sde.euler_steppers import AffineEulerStepper, EulerStepper
from sdekit.solvers.step import StepStepper, apply_diffusion, euler_step, moved
from sdekit.solvers.table import Table

__all__ = ["EulerMaruyama", "reverse_table"]


@final
@dataclass(frozen=True, repr=False)
class EulerMaruyama(EmbeddedSolver):
    r"""x_s = x_t + f(x_t, t) h + g(x_t, t) dW,   h = s - t,   dW ~ N(0, |h|)

    For an Ito SDE: strong order 1/2 (1 for additive noise), weak order 1. On the reverse SDE of a score model h < 0 and
    the step is linear in x and the score, so it runs as a table; the two paths agree to rounding. dt is the grid's own,
    so that N steps cover exactly the time from start to end.

    Maruyama 1955; Kloeden & Platen 1992, section 10.2; Song et al. 2021, arXiv 2011.13456.
    """

    name = "euler_maruyama"
    strong_order = 0.5
    weak_order = 1.0
    strong_orders = (("additive", 1.0),)
    evaluations_per_step = 1
    calculus = ("ito",)
    error_order = 1.5
    first_is_last = True
    evaluates_after_start = False
    reference = "Maruyama 1955; Song et al. 2021, arXiv 2011.13456"

    @property
    def stochastic(self) -> bool:
        return True

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        return euler_step(dynamics, x, t, h, noise)

    def pair(
        self,
        dynamics: Dynamics,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        h: float | Tensor,
        noise: Increment | None,
        first: Tensor | None = None,
    ) -> Pair:
        """With the error h/2 (f(x_s, s) - f(x_t, t)); the drift at the end is the next step's first."""
        f = dynamics.drift(x, t).clone() if first is None else first
        y = moved(x, f, h)
        if noise is not None:
            y = y + apply_diffusion(dynamics, dynamics.diffusion(x, t), noise.W, x)
        last = dynamics.drift(y, s)
        return Pair(y, 0.5 * h * (last - f), last)

    def check_adaptive(self, dynamics: Dynamics) -> None:
        if dynamics.stochastic and dynamics.noise != "additive":
            raise UnsupportedError(
                f"solver {self.name!r} does not adapt its steps to {dynamics.noise} noise: where the step depends on "
                "the noise, Euler-Maruyama need not converge to the Ito solution, however small the tolerance "
                "(Gaines & Lyons 1997). Take 'adaptive:sosri' for diagonal noise, 'adaptive:spark' for any, or fixed "
                "steps."
            )

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        """The table of the method on the reverse SDE with tau = 1."""
        return reverse_table(sde, times, 1.0)

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor:
        """t: the noise is that of the SDE's own dW."""
        return t

    def stepper(self, problem: Problem) -> Stepper:
        dynamics = problem.dynamics
        if isinstance(dynamics, ReverseSDE):
            require_falling(self, problem)
            tau = dynamics.tau
            return table_stepper(lambda sde, times: reverse_table(sde, times, tau), problem)
        if not dynamics.stochastic:
            return StepStepper(self, problem)
        affine = None if dynamics.sde is None else dynamics.sde.affine(problem.times[:-1])
        return EulerStepper(problem) if affine is None else AffineEulerStepper(problem, affine)


def reverse_table(sde: DiffusionSDE, times: Tensor, tau: float) -> Table:
    """x + [f x + (1 + tau^2)/2 (g^2/sigma) eps] h + tau g sqrt|h| z as a table in eps, for the reverse SDE."""
    h, t = times.diff(), times[:-1]
    f, g = sde.drift_coefficient(t), sde.diffusion_coefficient(t)
    b = 0.5 * (1 + tau**2) * g.square() / sde.sigma(t) * h
    return Table.one_step("noise", times, 1 + f * h, b, tau * g * torch.sqrt(h.abs()))
