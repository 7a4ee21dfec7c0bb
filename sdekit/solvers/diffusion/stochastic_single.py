r"""Stochastic samplers with several evaluations a step.

The noise of a stage and of the whole step belong to one Brownian path: with tau^2 = eta,

    n_s = s sqrt(1 - e^{-2 eta c h}) z_1                         the stage at the fraction c of h
    n_b = (b/s)^{1 + eta} n_s + b sqrt(1 - e^{-2 eta (1 - c) h}) z_2

Independent noise for the stage and the step makes a second-order step one of first order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_number
from sdekit.errors import ArgumentError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver, exponential_clock
from sdekit.solvers.diffusion.dpm_solver_single import check_fraction
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.stages import Line, Stages
from sdekit.solvers.table import Table

__all__ = ["SEEDS2", "SEEDS3", "DPMSolverPPSDE"]


class _StochasticStages(TableSolver):
    eta: float
    noise_option = "eta"
    default_grid = "vp_power"

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def __post_init__(self) -> None:
        if check_number("eta", self.eta) < 0:
            raise ArgumentError(f"eta must be 0 or more, got {self.eta!r}.")

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor | None:
        return exponential_clock(sde, t, self.eta)

    def _left(self, levels: Levels, c: float) -> Tensor:
        """e^{-(1 + eta) c h}."""
        return torch.exp(-(1 + self.eta) * c * levels.h)

    def _fresh(self, levels: Levels, c: float, since: float) -> Tensor:
        """Standard deviation of the noise gathered between two fractions of the step, at the later one."""
        return torch.exp(-levels.inside(c)) * torch.sqrt(-torch.expm1(-2 * self.eta * (c - since) * levels.h))

    def _noise(self, step: Stages, levels: Levels, c: float, since: float, before: Line | None) -> Line:
        """The path's noise at fraction c: what was there at `since`, decayed, and what is new."""
        fresh = self._fresh(levels, c, since) * step.draw()
        return fresh if before is None else self._left(levels, c - since) * before + fresh

    def _two_stages(self, levels: Levels, c: float, turned: Callable[[Levels, Line, Line], Line]) -> Table:
        """u = r_s x~ + (1 - r_s) D_0 + n_s at the fraction c, and x~_b = r x~ + turned(D_0, D_1) + n_b."""
        step = Stages(levels, "data")
        d0 = step.evaluate(step.x, levels.a)
        left = self._left(levels, c)
        at = left * step.x + (1 - left) * d0
        noise = self._noise(step, levels, c, 0.0, None) if self.stochastic else None
        d1 = step.evaluate(at if noise is None else at + noise, torch.exp(-levels.inside(c)))
        end = self._left(levels, 1.0) * step.x + turned(levels, d0, d1)
        if noise is None:
            return step.table(end)
        # A stage at the very end has all of the step's noise.
        return step.table(end + (noise if c == 1 else self._noise(step, levels, 1.0, c, noise)))


@final
@dataclass(frozen=True, repr=False)
class DPMSolverPPSDE(_StochasticStages):
    r"""u = r_s x~ + (1 - r_s) D_0 + n_s,   r_s = e^{-(1 + eta) c h}
    x~_b = r x~ + (1 - r) [(1 - 1/(2c)) D_0 + D_1/(2c)] + n_b

    Lu et al. 2022, arXiv 2211.01095, in the two-stage form of k-diffusion's dpmpp_sde, with one path for both stages.
    """

    eta: float = 1.0
    r: float = 0.5

    name = "dpmpp_sde"
    weak_order = 2.0
    strong_order = 1.0
    evaluations_per_step = 2
    reference = "Lu et al. 2022, arXiv 2211.01095"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("r", self.r)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        def middle(levels: Levels, d0: Line, d1: Line) -> Line:
            share = 1 / (2 * self.r)
            return (1 - self._left(levels, 1.0)) * ((1 - share) * d0 + share * d1)

        return self._two_stages(Levels(sde, times), self.r, middle)


@final
@dataclass(frozen=True, repr=False)
class SEEDS2(_StochasticStages):
    r"""u = r_s x~ + (1 - r_s) D_0 + n_s at the fraction c
    x~_b = r x~ + (1 - r) D_0 + [1 - (1 - r)/((1 + eta) h)] (D_1 - D_0)/c + n_b,   r = e^{-(1 + eta) h}

    The exponential Runge-Kutta method with exact weights and one Brownian path for its stages.

    Gonzalez et al. 2023, arXiv 2305.14267.
    """

    eta: float = 1.0
    c: float = 0.5

    name = "seeds_2"
    weak_order = 2.0
    strong_order = 1.0
    evaluations_per_step = 2
    reference = "Gonzalez et al. 2023, arXiv 2305.14267"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("c", self.c)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        def exact(levels: Levels, d0: Line, d1: Line) -> Line:
            slope = slope_weight((1 + self.eta) * levels.h)
            return (1 - self._left(levels, 1.0)) * d0 + (1 / self.c) * slope * (d1 - d0)

        return self._two_stages(Levels(sde, times), self.c, exact)


@final
@dataclass(frozen=True, repr=False)
class SEEDS3(_StochasticStages):
    r"""Three stages at the fractions 0, 1/3, 2/3 of the step, exact weights, one Brownian path:

    u_1 = r_{1/3} x~ + (1 - r_{1/3}) D_0 + n_{1/3}
    u_2 = r_{2/3} x~ + (1 - r_{2/3}) D_0 + 2 w(2/3) (D_1 - D_0) + n_{2/3},   w(c) = 1 - (1 - r_c)/((1 + eta) c h)
    x~_b = r x~ + (1 - r) D_0 + (3/2) w(1) (D_2 - D_0) + n_b

    Third order for eta = 0, where it is DPM-Solver-3 in data prediction.

    Gonzalez et al. 2023, arXiv 2305.14267.
    """

    eta: float = 1.0

    name = "seeds_3"
    weak_order = 2.0
    strong_order = 1.0
    evaluations_per_step = 3
    reference = "Gonzalez et al. 2023, arXiv 2305.14267"

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels, c1, c2 = Levels(sde, times), 1 / 3, 2 / 3
        step = Stages(levels, "data")
        noise: Line | None = None
        d0 = step.evaluate(step.x, levels.a)

        def exponential(c: float, correction: Line | None) -> Line:
            left = self._left(levels, c)
            at = left * step.x + (1 - left) * d0
            return at if correction is None else at + correction

        def noisy(line: Line, c: float, since: float) -> Line:
            nonlocal noise
            if not self.stochastic:
                return line
            noise = self._noise(step, levels, c, since, noise)
            return line + noise

        def slope(c: float) -> Tensor:
            return slope_weight((1 + self.eta) * c * levels.h)

        d1 = step.evaluate(noisy(exponential(c1, None), c1, 0.0), torch.exp(-levels.inside(c1)))
        correction = (c2 / c1) * slope(c2) * (d1 - d0)
        d2 = step.evaluate(noisy(exponential(c2, correction), c2, c1), torch.exp(-levels.inside(c2)))
        return step.table(noisy(exponential(1.0, (1 / c2) * slope(1.0) * (d2 - d0)), 1.0, c2))


def slope_weight(rate: Tensor) -> Tensor:
    """1 - (1 - e^{-rate})/rate: the weight of the slope of D over a step."""
    return 1 + torch.expm1(-rate) / rate
