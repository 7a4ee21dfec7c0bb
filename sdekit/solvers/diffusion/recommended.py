"""The recommended settings of the Adams family as a solver of its own, for whatever number of steps it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.adams import Adams
from sdekit.solvers.diffusion.base import TableSolver
from sdekit.solvers.recommended import recommended
from sdekit.solvers.table import Table

__all__ = ["Recommended"]


@final
@dataclass(frozen=True, repr=False)
class Recommended(TableSolver):
    """`adams` with the settings of `sdekit.solvers.recommended` for the number of steps, one evaluation each.

    noise=False follows the probability flow, noise=True the reverse SDE. It ends where it is told to; the settings are
    at their best with t_end=0.0, as `recommended` says.

    Ours; docs/adams.md.
    """

    noise: bool = False

    evaluations_per_step = 1
    reference = "sdekit 2026"

    def __post_init__(self) -> None:
        if not isinstance(self.noise, bool):
            raise ArgumentError(f"noise must be True or False, got {self.noise!r}.")

    @property
    def name(self) -> str:
        return "recommended_sde" if self.noise else "recommended"

    @property
    def stochastic(self) -> bool:
        return self.noise

    @property
    def default_grid(self) -> str:  # type: ignore[override]
        return "vp_power" if self.noise else "fitted"

    def at(self, steps: int) -> Adams:
        """The solver that so many steps are made with."""
        settings = recommended(steps, self.noise)
        return Adams(**{k: v for k, v in settings.items() if k not in ("solver", "steps", "grid", "t_end")})

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        return self.at(len(times) - 1).table(sde, times)
