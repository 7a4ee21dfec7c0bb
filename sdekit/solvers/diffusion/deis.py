"""DEIS and its relatives: past noise predictions, interpolated in sigma~ or in t and integrated over sigma~."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.multistep import decay, multistep_table
from sdekit.solvers.diffusion.weights import Clock, integral_weights, order_ramp
from sdekit.solvers.table import Table

__all__ = ["DEIS", "IPNDM", "LMS", "adams_bashforth", "adams_bashforth_row", "check_values"]

_ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def check_values(values: int, most: int) -> None:
    """Raise ArgumentError unless `values` is an integer from 1 to `most`."""
    if check_positive_integer("values", values) > most:
        raise ArgumentError(f"values must be from 1 to {most}, got {values!r}.")


def adams_bashforth(levels: Levels, clock: Clock, order: int) -> Table:
    """eps interpolated in the clock through `order` values; a step to sigma = 0 takes the newest alone."""
    orders = torch.where(levels.b == 0, 1, order_ramp(len(levels), order))
    return multistep_table(levels, "noise", decay(levels, "noise"), integral_weights(levels, "noise", clock, orders))


def adams_bashforth_row(order: int) -> tuple[float, ...]:
    """The Adams-Bashforth weights of equal steps, the newest value first."""
    return _ADAMS_BASHFORTH[order - 1]


class _NoiseMultistep(TableSolver):
    values: int
    evaluations_per_step = 1
    default_grid = "align_your_steps"

    @property
    def stochastic(self) -> bool:
        return False

    @property
    def order(self) -> float:  # type: ignore[override]
        return float(self.values)


@final
@dataclass(frozen=True, repr=False)
class DEIS(_NoiseMultistep):
    r"""x~_b = x~_a + int_a^b P dsigma~,   P the polynomial through the last `values` values of eps

    variant="rho_ab": P is a polynomial in sigma~; variant="t_ab": in t.

    Zhang & Chen 2022, arXiv 2204.13902, eqs. 14 and 15.
    """

    values: int = 3
    variant: str = "rho_ab"

    name = "deis"
    default_grid = "fitted"
    reference = "Zhang & Chen 2022, arXiv 2204.13902"

    def __post_init__(self) -> None:
        check_values(self.values, 4)
        if self.variant not in ("rho_ab", "t_ab"):
            raise UnknownNameError("variant", self.variant, ("rho_ab", "t_ab"))

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        return adams_bashforth(Levels(sde, times), "sigma" if self.variant == "rho_ab" else "t", self.values)


@final
@dataclass(frozen=True, repr=False)
class LMS(_NoiseMultistep):
    r"""x~_b = x~_a + int_a^b P dsigma~,   P the polynomial in sigma~ through the last `values` values of eps

    Adams-Bashforth on the grid as it is: the linear multistep sampler of k-diffusion, the variable-step iPNDM, and DEIS
    of variant rho_ab are this one method, by default of different orders.

    K. Crowson 2022, k-diffusion; Zhang & Chen 2022, arXiv 2204.13902.
    """

    values: int = 4

    name = "lms"
    reference = "K. Crowson 2022, k-diffusion; Zhang & Chen 2022, arXiv 2204.13902"

    def __post_init__(self) -> None:
        check_values(self.values, 6)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        return adams_bashforth(Levels(sde, times), "sigma", self.values)


@final
@dataclass(frozen=True, repr=False)
class IPNDM(_NoiseMultistep):
    r"""x~_b = x~_a + (b - a) (55 eps_0 - 59 eps_{-1} + 37 eps_{-2} - 9 eps_{-3})/24

    after steps with the weights 1, (3, -1)/2 and (23, -16, 5)/12.

    The weights are those of equal steps whatever the grid, so the order is 2 on a smooth grid and not that of the
    formula; `lms` takes the grid as it is.

    Zhang & Chen 2022, arXiv 2204.13902, appendix; Liu et al. 2022, arXiv 2202.09778.
    """

    values: int = 4

    name = "ipndm"
    default_grid = "fitted"
    reference = "Zhang & Chen 2022, arXiv 2204.13902"

    def __post_init__(self) -> None:
        check_values(self.values, 4)

    @property
    def order(self) -> float:  # type: ignore[override]
        return min(2.0, float(self.values))

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        weights = torch.zeros(len(levels), self.values, dtype=torch.float64, device="cpu")
        for i, order in enumerate(order_ramp(len(levels), self.values).tolist()):
            weights[i, :order] = torch.tensor(adams_bashforth_row(order), dtype=torch.float64, device="cpu")
        # To sigma = 0 the newest value alone.
        weights[levels.b == 0] = torch.eye(1, self.values, dtype=torch.float64, device="cpu")
        return multistep_table(levels, "noise", decay(levels, "noise"), (levels.b - levels.a)[:, None] * weights)
