"""The reverse diffusion sampler: the forward SDE's own discretisation, turned round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver, Transition
from sdekit.solvers.table import Table

__all__ = ["ReverseDiffusion"]


@final
@dataclass(frozen=True, repr=False)
class ReverseDiffusion(TableSolver):
    r"""x_b = (2 - A) x_a + V s + sqrt(V) z,   A = alpha_a/alpha_b,   V = sigma_a^2 - A^2 sigma_b^2

    The forward step is x_a = x_b + (A - 1) x_b + sqrt(V) z, exact for a linear SDE; the reverse step subtracts the same
    drift, adds V s and the same noise. On VP: (2 - sqrt(1 - beta)) x + beta s + sqrt(beta) z with beta the step's own,
    always in (0, 1), so that few steps stay finite.

    Song et al. 2021, arXiv 2011.13456, eq. 46.
    """

    name = "reverse_diffusion"
    strong_order = 1.0
    weak_order = 1.0
    evaluations_per_step = 1
    default_grid = "vp_power"
    reference = "Song et al. 2021, arXiv 2011.13456"

    @property
    def stochastic(self) -> bool:
        return True

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor:
        """-sigma~^2: the noise of a step is an increment of B over it."""
        return -sde.sigma_ratio(t).square()

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        step = Transition(sde, times)
        return Table.one_step("noise", times, 2 - step.mean, -step.variance / step.sigma_a, torch.sqrt(step.variance))
