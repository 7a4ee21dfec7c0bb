r"""UniPC: a unified predictor-corrector, one evaluation a step. In data prediction, with r_k = (lambda_k - lambda_a)/h,

    x~_b = e^{-h} x~_a + (1 - e^{-h}) D_0 - B sum_k rho_k (D_k - D_0)/r_k

and the rho that match the exponential integrals of a polynomial in lambda. Where they are solved for, B drops out and
the step is the exact integral of the interpolating polynomial; B(h) = h (bh1) or e^h - 1 (bh2) makes a difference where
the paper takes rho = 1/2 instead: the predictor of order 2, and the corrector of order 1.
"""

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
from sdekit.solvers.diffusion.weights import Representation, integral_weights, order_ramp
from sdekit.solvers.table import Table

__all__ = ["UniP", "UniPC"]

_REPRESENTATIONS: dict[str, Representation] = {"data": "data", "noise": "noise"}


class _Unified(TableSolver):
    p: int
    variant: str
    prediction: str

    evaluations_per_step = 1
    default_grid = "vp_power"
    reference = "Zhao et al. 2023, arXiv 2302.04867"

    @property
    def stochastic(self) -> bool:
        return False

    def __post_init__(self) -> None:
        if check_positive_integer("p", self.p) > 5:
            raise ArgumentError(f"p must be from 1 to 5, got {self.p!r}.")
        if self.variant not in ("bh1", "bh2"):
            raise UnknownNameError("variant", self.variant, ("bh1", "bh2"))
        if self.prediction not in tuple(_REPRESENTATIONS):
            raise UnknownNameError("prediction", self.prediction, tuple(_REPRESENTATIONS))

    def _predict(self, levels: Levels, orders: Tensor) -> Tensor:
        representation = _REPRESENTATIONS[self.prediction]
        weights = integral_weights(levels, representation, "lambda", orders)
        twos = _finite(levels, (orders == 2).nonzero()[:, 0])
        if not len(twos):
            return weights
        # rho = 1/2 times D1 = (m_{-1} - m_0)/r, r = -h_{-1}/h: B D1/2
        share = self._half_b(levels)[twos] * levels.h[twos] / levels.h[twos - 1]
        base = integral_weights(levels, representation, "lambda", orders.clamp(max=1))[twos, 0]
        weights[twos, 0], weights[twos, 1] = base + share, -share
        return weights

    def _correct(self, levels: Levels, orders: Tensor) -> Tensor:
        """Weights of the new value and those before it; `orders` are the predictor's."""
        representation = _REPRESENTATIONS[self.prediction]
        weights = integral_weights(levels, representation, "lambda", orders + 1, ahead=1)
        ones = _finite(levels, (orders == 1).nonzero()[:, 0])
        share = self._half_b(levels)[ones]
        base = integral_weights(levels, representation, "lambda", torch.ones_like(orders))[ones, 0]
        weights[ones, 0], weights[ones, 1] = share, base - share
        return weights

    def _half_b(self, levels: Levels) -> Tensor:
        """Half of what multiplies m_1 - m_0 in x~: -B for the data with hh = -h, -b B for the noise with hh = h."""
        sign = -1.0 if self.prediction == "data" else 1.0
        hh = sign * levels.h
        b = hh if self.variant == "bh1" else torch.expm1(hh)
        return -0.5 * b if self.prediction == "data" else -0.5 * levels.b * b


def _finite(levels: Levels, rows: Tensor) -> Tensor:
    """Those of `rows` that do not end at sigma = 0."""
    return rows[torch.isfinite(levels.lam[rows + 1])]


@final
@dataclass(frozen=True, repr=False)
class UniP(_Unified):
    """UniPC's predictor of `p` values alone.

    Zhao et al. 2023, arXiv 2302.04867, algorithm 2.
    """

    p: int = 3
    variant: str = "bh2"
    prediction: str = "data"

    name = "unip"

    @property
    def order(self) -> float:  # type: ignore[override]
        return float(self.p)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        representation = _REPRESENTATIONS[self.prediction]
        weights = self._predict(levels, order_ramp(len(levels), self.p))
        return multistep_table(levels, representation, decay(levels, representation), weights)


@final
@dataclass(frozen=True, repr=False)
class UniPC(_Unified):
    """The predictor of `p` values, and a corrector that takes the new value too: order p + 1.

    Zhao et al. 2023, arXiv 2302.04867, algorithms 1 and 2.
    """

    p: int = 2
    variant: str = "bh2"
    prediction: str = "data"

    name = "unipc"

    @property
    def order(self) -> float:  # type: ignore[override]
        return float(self.p + 1)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        representation = _REPRESENTATIONS[self.prediction]
        orders = order_ramp(len(levels), self.p)
        return multistep_table(
            levels,
            representation,
            decay(levels, representation),
            self._predict(levels, orders),
            correct=self._correct(levels, orders),
        )
