"""Single-step DPM-Solvers: several evaluations within each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_number
from sdekit.errors import ArgumentError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.stages import Stages
from sdekit.solvers.table import Table

__all__ = ["DPMSolver2", "DPMSolver3", "DPMSolverPP2S"]


class _DPMSolver(TableSolver):
    default_grid = "fitted"
    reference = "Lu et al. 2022, arXiv 2206.00927"

    @property
    def stochastic(self) -> bool:
        return False


def check_fraction(name: str, value: float) -> None:
    """Raise ArgumentError unless `value` lies inside (0, 1]."""
    if not 0 < check_number(name, value) <= 1:
        raise ArgumentError(f"{name} must lie in (0, 1], a fraction of the step in log-SNR; got {value!r}.")


@final
@dataclass(frozen=True, repr=False)
class DPMSolver2(_DPMSolver):
    r"""u = x~ + (s - a) e_0 at s, lambda_s = lambda_a + r1 h;   x~_b = x~ + (b - a) [e_0 + (e_1 - e_0)/(2 r1)]

    With r1 = 1/2 the point is s = sqrt(a b), and the step is x~ + (b - a) e_1: the DPM-2 of k-diffusion.

    Lu et al. 2022, arXiv 2206.00927, algorithm 1 and appendix B.
    """

    r1: float = 0.5

    name = "dpm_solver_2"
    order = 2.0
    evaluations_per_step = 2

    def __post_init__(self) -> None:
        check_fraction("r1", self.r1)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        a, b, s = levels.a, levels.b, torch.exp(-levels.inside(self.r1))
        step = Stages(levels, "noise")
        e0 = step.evaluate(step.x, a)
        e1 = step.evaluate(step.x + (s - a) * e0, s)
        return step.table(step.x + (b - a) * (e0 + (e1 - e0) * (1 / (2 * self.r1))))


@final
@dataclass(frozen=True, repr=False)
class DPMSolver3(_DPMSolver):
    r"""Third order with points s_1, s_2 at the fractions r1 = 1/3, r2 = 2/3 of the step in lambda:

    u_1 = x~ + (s_1 - a) e_0
    u_2 = x~ + (s_2 - a) e_0 - s_2 (r2/r1) [(e^{r2 h} - 1)/(r2 h) - 1] (e_1 - e_0)
    x~_b = x~ + (b - a) e_0 - (b/r2) [(e^h - 1)/h - 1] (e_2 - e_0)

    Lu et al. 2022, arXiv 2206.00927, algorithm 2.
    """

    name = "dpm_solver_3"
    order = 3.0
    evaluations_per_step = 3

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        a, b, h, r1, r2 = levels.a, levels.b, levels.h, 1 / 3, 2 / 3
        s1, s2 = torch.exp(-levels.inside(r1)), torch.exp(-levels.inside(r2))
        step = Stages(levels, "noise")
        e0 = step.evaluate(step.x, a)
        e1 = step.evaluate(step.x + (s1 - a) * e0, s1)
        bend = s2 * (r2 / r1) * (torch.expm1(r2 * h) / (r2 * h) - 1)
        e2 = step.evaluate(step.x + (s2 - a) * e0 - bend * (e1 - e0), s2)
        return step.table(step.x + (b - a) * e0 - b / r2 * (torch.expm1(h) / h - 1) * (e2 - e0))


@final
@dataclass(frozen=True, repr=False)
class DPMSolverPP2S(_DPMSolver):
    r"""u = (s/a) x~ + (1 - s/a) D_0 at s, lambda_s = lambda_a + r h
    x~_b = (b/a) x~ + (1 - b/a) [(1 - 1/(2r)) D_0 + D_1/(2r)]

    Lu et al. 2022, arXiv 2211.01095, algorithm 1.
    """

    r: float = 0.5

    name = "dpmpp_2s"
    order = 2.0
    evaluations_per_step = 2
    reference = "Lu et al. 2022, arXiv 2211.01095"

    def __post_init__(self) -> None:
        check_fraction("r", self.r)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        a, b, s = levels.a, levels.b, torch.exp(-levels.inside(self.r))
        step = Stages(levels, "data")
        d0 = step.evaluate(step.x, a)
        d1 = step.evaluate(s / a * step.x + (1 - s / a) * d0, s)
        mean = (1 - 1 / (2 * self.r)) * d0 + 1 / (2 * self.r) * d1
        return step.table(b / a * step.x + (1 - b / a) * mean)
