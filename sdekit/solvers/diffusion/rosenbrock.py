"""An exponential method of Rosenbrock type: the flow of unit-variance data solved exactly, the rest interpolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver
from sdekit.solvers.diffusion.deis import check_values
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.multistep import decay, multistep_table
from sdekit.solvers.diffusion.weights import integral_weights, order_ramp
from sdekit.solvers.table import Table

__all__ = ["RosenbrockExponential"]


@final
@dataclass(frozen=True, repr=False)
class RosenbrockExponential(TableSolver):
    r"""x^_b = x^_a + int v dtheta,   x^ = x~/sqrt(1 + sigma~^2),   v = cos(theta) eps - sin(theta) D

    with v a polynomial in lambda through the last `values` values. The linear part sigma~^2/(1 + sigma~^2) taken out of
    the flow is the exact one for N(0, I), for which v = 0 and one step is exact. DPM-Solver-v3 takes out a linear part
    measured from the model; this is its training-free analogue.

    Zheng et al. 2023, arXiv 2310.13268; Hochbruck & Ostermann 2010.
    """

    values: int = 3

    name = "rosenbrock"
    evaluations_per_step = 1
    default_grid = "vp_power"
    reference = "Zheng et al. 2023, arXiv 2310.13268 (its training-free analogue)"

    def __post_init__(self) -> None:
        check_values(self.values, 4)

    @property
    def order(self) -> float:  # type: ignore[override]
        return float(self.values)

    @property
    def stochastic(self) -> bool:
        return False

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        weights = integral_weights(levels, "velocity", "lambda", order_ramp(len(levels), self.values))
        return multistep_table(levels, "velocity", decay(levels, "velocity"), weights)
