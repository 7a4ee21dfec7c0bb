"""Restart sampling: go down, add noise to go up again, go down again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_positive, check_positive_integer
from sdekit.errors import ArgumentError
from sdekit.grids import Karras
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.stages import Stages
from sdekit.solvers.table import Table

__all__ = ["Restart"]


@final
@dataclass(frozen=True, repr=False)
class Restart(TableSolver):
    r"""Heun steps along the grid; at the level s_min, `repeats` times:

    x~ <- x~ + sqrt(s_max^2 - s_min^2) z, then `restart_steps` Heun steps from s_max down to it on a Karras grid.

    A level of the grid within a tenth of s_min is taken for it; otherwise the step that crosses s_min is made in two.
    The restarts belong to the step that ends at s_min or crosses it. The defaults are the paper's for CIFAR-10 with one
    interval: with 18 steps of the Karras grid and an end at sigma = 0, 43 evaluations.

    Xu et al. 2023, arXiv 2306.14878, algorithm 1.
    """

    s_min: float = 0.14
    s_max: float = 0.30
    restart_steps: int = 2
    repeats: int = 2

    name = "restart"
    default_grid = "vp_power"
    reference = "Xu et al. 2023, arXiv 2306.14878"

    def __post_init__(self) -> None:
        check_positive("s_min", self.s_min)
        if not check_positive("s_max", self.s_max) > self.s_min:
            raise ArgumentError(f"s_max must be above s_min = {self.s_min!r}, got {self.s_max!r}.")
        check_positive_integer("restart_steps", self.restart_steps)
        check_positive_integer("repeats", self.repeats)

    @property
    def stochastic(self) -> bool:
        return True

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        path, lifts, ends = self._path(Levels(sde, times))
        levels = Levels(sde, path)
        lifted = torch.where(lifts, self.s_max, levels.a)
        step = Stages(levels, "noise", lifted=lifted)
        e0 = step.evaluate(step.x, lifted)
        end = step.x + (levels.b - lifted) * e0
        e1 = step.evaluate(end, levels.b)
        return step.table(step.x + 0.5 * (levels.b - lifted) * (e0 + e1), ends_step=ends)

    def _path(self, levels: Levels) -> tuple[Tensor, Tensor, Tensor]:
        """The times of all steps down, and for each step whether fresh noise comes before it and whether it ends a step
        of the grid.
        """
        times, ratio = levels.times, levels.ratio
        if not float(ratio[-1]) < self.s_min < self.s_max <= float(ratio[0]):
            raise ArgumentError(
                f"solver 'restart' goes back from s_min = {self.s_min:g} to s_max = {self.s_max:g}, but the solve runs "
                f"from sigma/alpha = {float(ratio[0]):g} to {float(ratio[-1]):g}; choose levels inside."
            )
        near = 1 + int((ratio[1:-1] / self.s_min).log().abs().argmin()) if len(levels) > 1 else 0
        if near and abs(math.log(float(ratio[near]) / self.s_min)) <= math.log(1.1):
            before, after, low = times[: near + 1], times[near + 1 :], times[near]
        else:
            crossing = int((ratio > self.s_min).sum())  # the first level below
            low = levels.time_of(-torch.log(torch.tensor(self.s_min, dtype=torch.float64, device="cpu")))
            before, after = torch.cat([times[:crossing], low[None]]), times[crossing:]
        inner = Karras().times(levels.sde, self.restart_steps, self._time_of_high(levels), float(low))[1:]
        path = torch.cat([before, inner.repeat(self.repeats), after])
        down = len(before) - 1
        lifts = torch.zeros(len(path) - 1, dtype=torch.bool, device="cpu")
        lifts[down : down + self.repeats * self.restart_steps : self.restart_steps] = True
        ends = torch.ones_like(lifts)
        ends[down - 1 : down + self.repeats * self.restart_steps] = False
        if len(before) + len(after) == len(times):  # s_min is a level of the grid, where a step ends
            ends[down + self.repeats * self.restart_steps - 1] = True
        return path, lifts, ends

    def _time_of_high(self, levels: Levels) -> float:
        return float(levels.time_of(-torch.log(torch.tensor(self.s_max, dtype=torch.float64, device="cpu"))))
