"""Ancestral sampling: the DDPM posterior, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.errors import UnknownNameError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver, Transition, exponential_clock
from sdekit.solvers.table import Table

__all__ = ["Ancestral"]


@final
@dataclass(frozen=True, repr=False)
class Ancestral(TableSolver):
    r"""x_b = (x_a + V s) / A + v z,   A = alpha_a/alpha_b,   V = sigma_a^2 - A^2 sigma_b^2

    variance="posterior": v^2 = V sigma_b^2/sigma_a^2, that of x_b given x_a and x_0; equal to DDIM with eta = 1.
    variance="forward": v^2 = V, what Song's predictor of this name uses for VP (sqrt(beta) z); for VE Song's uses the
    posterior's.

    Ho, Jain & Abbeel 2020, arXiv 2006.11239, eqs. 7 and 11; Song et al. 2021, arXiv 2011.13456, appendix F.
    """

    variance: str = "posterior"

    name = "ancestral"
    strong_order = 1.0
    weak_order = 1.0
    evaluations_per_step = 1
    default_grid = "vp_power"
    reference = "Ho, Jain & Abbeel 2020, arXiv 2006.11239"

    def __post_init__(self) -> None:
        if self.variance not in ("posterior", "forward"):
            raise UnknownNameError("variance", self.variance, ("posterior", "forward"))

    @property
    def stochastic(self) -> bool:
        return True

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor | None:
        return exponential_clock(sde, t) if self.variance == "posterior" else None

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        step = Transition(sde, times)
        v = step.posterior_std if self.variance == "posterior" else torch.sqrt(step.variance)
        # V s = -(V / sigma_a) eps
        return Table.one_step("noise", times, 1 / step.mean, -step.variance / step.sigma_a / step.mean, v)
