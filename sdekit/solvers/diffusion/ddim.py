"""DDIM, from deterministic (eta = 0) to ancestral (eta = 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_number
from sdekit.errors import ArgumentError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver, Transition, exponential_clock
from sdekit.solvers.table import Table

__all__ = ["DDIM"]


@final
@dataclass(frozen=True, repr=False)
class DDIM(TableSolver):
    r"""x_b = alpha_b D + sqrt(sigma_b^2 - v^2) eps + v z,   v = eta (sigma_b/sigma_a) sqrt(V)

    V = sigma_a^2 - (alpha_a/alpha_b)^2 sigma_b^2. With eta = 0 it is the exponential Euler method for the probability
    flow (order 1); with eta = 1 it is ancestral sampling with the posterior variance, of weak order 1 for the reverse
    SDE. Between them v is not tied to a fixed diffusion, so no order is claimed for the law in between.

    Song, Meng & Ermon 2021, arXiv 2010.02502, eq. 12, for any alpha and sigma.
    """

    eta: float = 0.0

    name = "ddim"
    noise_option = "eta"
    order = 1.0
    strong_order = 1.0
    weak_order = 1.0
    evaluations_per_step = 1
    default_grid = "align_your_steps"
    reference = "Song, Meng & Ermon 2021, arXiv 2010.02502"

    def __post_init__(self) -> None:
        if not 0 <= check_number("eta", self.eta) <= 1:
            raise ArgumentError(f"eta must be from 0 (deterministic) to 1 (ancestral), got {self.eta!r}.")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor | None:
        return exponential_clock(sde, t) if self.eta == 1 else None

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        step = Transition(sde, times)
        v = self.eta * step.posterior_std if self.stochastic else torch.zeros_like(step.sigma_b)
        a = step.alpha_b / step.alpha_a
        b = torch.sqrt(step.sigma_b.square() - v.square()) - a * step.sigma_a
        return Table.one_step("noise", times, a, b, v if self.stochastic else None)
