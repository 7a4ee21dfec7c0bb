"""The stochastic sampler of EDM: fresh noise (churn) before each step of the flow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_number
from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.stages import Stages
from sdekit.solvers.table import Table

__all__ = ["EDM"]


@final
@dataclass(frozen=True, repr=False)
class EDM(TableSolver):
    r"""a^ = (1 + gamma) a,   x^ = x~ + s_noise sqrt(a^^2 - a^2) z,   gamma = min(s_churn/N, sqrt(2) - 1)
    x~_b = x^ + (b - a^) (eps_0 + eps_1)/2,   eps_1 at x^ + (b - a^) eps_0;   Euler's step to sigma = 0

    where s_tmin <= a <= s_tmax; elsewhere gamma = 0.

    Args:
        s_churn: overall noise; 0 is the deterministic sampler, `heun`.
        s_tmin: lowest sigma~ that is churned.
        s_tmax: highest.
        s_noise: factor of the fresh noise.
        method: "heun", or "euler": x~_b = x^ + (b - a^) eps_0.

    Fresh noise never lifts the state beyond the SDE's own T. gamma falls as 1/N, so that with more steps the samples
    tend to those of a reverse SDE whose noise factor s_churn sets.

    Karras et al. 2022, arXiv 2206.00364, algorithm 2.
    """

    s_churn: float = 40.0
    s_tmin: float = 0.05
    s_tmax: float = 50.0
    s_noise: float = 1.0
    method: str = "heun"

    name = "edm"
    noise_option = "s_churn"
    default_grid = "vp_power"
    reference = "Karras et al. 2022, arXiv 2206.00364"

    def __post_init__(self) -> None:
        for name in ("s_churn", "s_tmin", "s_noise"):
            if check_number(name, getattr(self, name)) < 0:
                raise ArgumentError(f"{name} must be 0 or more, got {getattr(self, name)!r}.")
        if not (self.s_tmax == math.inf or check_number("s_tmax", self.s_tmax) >= self.s_tmin):
            raise ArgumentError(f"s_tmax must be at least s_tmin = {self.s_tmin!r}, got {self.s_tmax!r}.")
        if self.method not in ("heun", "euler"):
            raise UnknownNameError("method", self.method, ("heun", "euler"))

    @property
    def stochastic(self) -> bool:
        return self.s_churn > 0

    @property
    def evaluations_per_step(self) -> int:  # type: ignore[override]
        return 2 if self.method == "heun" else 1

    @property
    def order(self) -> float | None:  # type: ignore[override]
        return None if self.stochastic else float(self.evaluations_per_step)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        a, b = levels.a, levels.b
        gamma = min(self.s_churn / len(levels), math.sqrt(2) - 1)
        churned = (a >= self.s_tmin) & (a <= self.s_tmax)
        highest = sde.sigma_ratio(torch.tensor(sde.t_max, dtype=torch.float64, device="cpu"))
        lifted = torch.where(churned, torch.minimum((1 + gamma) * a, torch.maximum(highest, a)), a)
        step = Stages(levels, "noise", lifted=lifted if self.stochastic else None, s_noise=self.s_noise)
        e0 = step.evaluate(step.x, lifted)
        end = step.x + (b - lifted) * e0
        if self.method == "heun":
            e1 = step.evaluate(end, b)
            end = step.x + 0.5 * (b - lifted) * (e0 + e1)
        return step.table(end)
