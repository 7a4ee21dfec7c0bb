r"""Ancestral samplers in the manner of k-diffusion: down to sigma_d by the flow, then up to b by fresh noise.

    sigma_u = eta sqrt(b^2 (a^2 - b^2)/a^2), at most b,   sigma_d = sqrt(b^2 - sigma_u^2)
    x~_b = flow step(x~, a -> sigma_d) + sigma_u z

Karras et al. 2022, arXiv 2206.00364, and the code of k-diffusion by K. Crowson, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_number
from sdekit.errors import ArgumentError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver, exponential_clock
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.stages import Stages
from sdekit.solvers.table import Table

__all__ = ["DPM2Ancestral", "DPMSolverPP2SAncestral", "EulerAncestral"]


class _Ancestral(TableSolver):
    eta: float
    noise_option = "eta"
    default_grid = "vp_power"
    strong_order = 1.0

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def __post_init__(self) -> None:
        if not 0 <= check_number("eta", self.eta) <= 1:
            raise ArgumentError(f"eta must be from 0 (deterministic) to 1 (ancestral), got {self.eta!r}.")

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor | None:
        return exponential_clock(sde, t) if self.eta == 1 else None

    def down_and_up(self, levels: Levels) -> tuple[Tensor, Tensor]:
        """sigma_d and sigma_u of each step, (N,)."""
        a, b = levels.a, levels.b
        up = torch.minimum(b, self.eta * b / a * torch.sqrt((a.square() - b.square()).clamp(min=0)))
        return torch.sqrt(b.square() - up.square()), up


@final
@dataclass(frozen=True, repr=False)
class EulerAncestral(_Ancestral):
    r"""x~_b = x~ + (sigma_d - a) eps + sigma_u z

    With eta = 1 it is ancestral sampling; below, sigma_u and so the step are DDIM's of the same eta.

    The `euler_ancestral` of k-diffusion; Ho, Jain & Abbeel 2020, arXiv 2006.11239.
    """

    eta: float = 1.0

    name = "euler_ancestral"
    weak_order = 1.0
    evaluations_per_step = 1
    reference = "K. Crowson 2022, k-diffusion; Ho, Jain & Abbeel 2020, arXiv 2006.11239"

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        down, up = self.down_and_up(levels)
        alpha_a, alpha_b = levels.alpha[:-1], levels.alpha[1:]
        noise = alpha_b * up if self.stochastic else None
        return Table.one_step("noise", times, alpha_b / alpha_a, alpha_b * (down - levels.a), noise)


@final
@dataclass(frozen=True, repr=False)
class DPM2Ancestral(_Ancestral):
    r"""x~_b = x~ + (sigma_d - a) eps(x~ + (s - a) eps_0, s) + sigma_u z,   s = sqrt(a sigma_d)

    The `dpm_2_ancestral` of k-diffusion; Karras et al. 2022, arXiv 2206.00364, algorithm 2's relative.
    """

    eta: float = 1.0

    name = "dpm_2_ancestral"
    weak_order = 2.0
    evaluations_per_step = 2
    reference = "K. Crowson 2022, k-diffusion; Karras et al. 2022, arXiv 2206.00364"

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        down, up = self.down_and_up(levels)
        a, s = levels.a, torch.sqrt(levels.a * down)
        step = Stages(levels, "noise")
        e0 = step.evaluate(step.x, a)
        e1 = step.evaluate(step.x + (s - a) * e0, s)
        end = step.x + (down - a) * e1
        return step.table(end + up * step.draw() if self.stochastic else end)


@final
@dataclass(frozen=True, repr=False)
class DPMSolverPP2SAncestral(_Ancestral):
    r"""u = (s/a) x~ + (1 - s/a) D_0 with s = sqrt(a sigma_d),   x~_b = (sigma_d/a) x~ + (1 - sigma_d/a) D_1 + sigma_u z

    The `dpmpp_2s_ancestral` of k-diffusion; Lu et al. 2022, arXiv 2211.01095.
    """

    eta: float = 1.0

    name = "dpmpp_2s_ancestral"
    weak_order = 2.0
    evaluations_per_step = 2
    reference = "K. Crowson 2022, k-diffusion; Lu et al. 2022, arXiv 2211.01095"

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        down, up = self.down_and_up(levels)
        a, s = levels.a, torch.sqrt(levels.a * down)
        step = Stages(levels, "data")
        d0 = step.evaluate(step.x, a)
        d1 = step.evaluate(s / a * step.x + (1 - s / a) * d0, s)
        end = down / a * step.x + (1 - down / a) * d1
        return step.table(end + up * step.draw() if self.stochastic else end)
