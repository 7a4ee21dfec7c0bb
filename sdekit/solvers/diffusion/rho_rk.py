"""DEIS with Runge-Kutta steps in sigma~."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from sdekit.errors import UnknownNameError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver
from sdekit.solvers.ode.base import explicit_table
from sdekit.solvers.table import Table

__all__ = ["RhoRK"]

_Tableau = tuple[tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]
_METHODS: dict[str, tuple[float, _Tableau]] = {
    "midpoint": (2.0, ((0.0, 0.5), ((0.5,),), (0.0, 1.0))),
    "heun": (2.0, ((0.0, 1.0), ((1.0,),), (0.5, 0.5))),
    "kutta3": (3.0, ((0.0, 0.5, 1.0), ((0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6))),
    "rk4": (4.0, ((0.0, 0.5, 0.5, 1.0), ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))),
}


@final
@dataclass(frozen=True, repr=False)
class RhoRK(TableSolver):
    r"""A Runge-Kutta step of dx~/dsigma~ = eps(x, t): method "midpoint", "heun", "kutta3" or "rk4".

    Zhang & Chen 2022, arXiv 2204.13902, section 3.3 and appendix.
    """

    method: str = "kutta3"

    name = "rho_rk"
    default_grid = "log_snr"
    reference = "Zhang & Chen 2022, arXiv 2204.13902"

    def __post_init__(self) -> None:
        if self.method not in tuple(_METHODS):
            raise UnknownNameError("method", self.method, tuple(_METHODS))

    @property
    def order(self) -> float:  # type: ignore[override]
        return _METHODS[self.method][0]

    @property
    def evaluations_per_step(self) -> int:  # type: ignore[override]
        return len(_METHODS[self.method][1][0])

    @property
    def stochastic(self) -> bool:
        return False

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        return explicit_table(sde, times, "sigma", *_METHODS[self.method][1])
