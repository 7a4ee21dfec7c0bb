"""Multistep DPM-Solver and DPM-Solver++: past values, interpolated in lambda."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from sdekit._tensors import check_number
from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver, exponential_clock
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.multistep import decay, exact_noise, multistep_table
from sdekit.solvers.diffusion.weights import Representation, integral_weights, order_ramp
from sdekit.solvers.table import Table

__all__ = [
    "DPMSolver2M",
    "DPMSolver3M",
    "DPMSolverPP2M",
    "DPMSolverPP2MSDE",
    "DPMSolverPP3M",
    "DPMSolverPP3MSDE",
]

VARIANTS = ("midpoint", "exact")


def second_order(levels: Levels, representation: Representation, variant: str, tau: Tensor | None = None) -> Tensor:
    r"""Weights of the two-value step, (N, 2); the first step, and one to sigma = 0, take one value.

    m_0 + (s/h) D1, D1 = (m_0 - m_{-1}) h/h_{-1}, integrated exactly ("exact") or with m held at the middle of the step,
    m_0 + D1/2 ("midpoint", the published code's default).
    """
    orders = order_ramp(len(levels), 2)
    if variant == "exact":
        return integral_weights(levels, representation, "lambda", orders, tau=tau)
    whole = integral_weights(levels, representation, "lambda", orders.clamp(max=1), tau=tau)[:, 0]
    h = levels.h
    back = torch.zeros_like(h)
    back[1:] = 0.5 * h[1:] / h[:-1]
    back[torch.isinf(levels.lam[1:])] = 0.0
    return torch.stack([whole * (1 + back), -whole * back], dim=1)


def third_order(levels: Levels, representation: Representation, legacy: bool, tau: Tensor | None = None) -> Tensor:
    r"""Weights of the three-value step, (N, 3); the second step takes two values, the first and one to sigma = 0 one.

    The quadratic through three values, integrated exactly, is third order. The published code of DPM-Solver takes half
    of its second-order term (D2 as if it were divided by 2 twice), which leaves second order: `legacy`.
    """
    orders = order_ramp(len(levels), 3)
    weights = integral_weights(levels, representation, "lambda", orders, tau=tau)
    if not legacy or weights.shape[1] < 3:
        return weights
    # Newton's form m_0 + D1 u + D2 u^2 (u = s/h): the exact D2 u^2 term is what the full weights hold beyond D1's.
    h = levels.h
    rows = torch.arange(2, len(levels), device="cpu")
    rows = rows[~torch.isinf(levels.lam[rows + 1])]
    r0, r1 = h[rows - 1] / h[rows], h[rows - 2] / h[rows]
    # D2 = (D10 - D11)/(r0 + r1) as a combination of m_0, m_-1, m_-2; its weight is that of m_-2 over its share of it.
    shares = torch.stack([1 / r0, -1 / r0 - 1 / r1, 1 / r1], dim=1) / (r0 + r1)[:, None]
    second = _moment(levels, representation, tau, rows)
    weights[rows] -= 0.5 * second[:, None] * shares
    return weights


def _moment(levels: Levels, representation: Representation, tau: Tensor | None, rows: Tensor) -> Tensor:
    """int kernel(l) u^2 dl over the steps `rows`, u from 0 to 1."""
    h = levels.h[rows]
    if representation == "noise":
        # x~_b = x~_a - b h int e^{(1 - u) h} u^2 du
        return -2 * levels.b[rows] * (torch.expm1(h) - h - 0.5 * h.square()) / h.square()
    rate = h if tau is None else (1 + tau[rows].square()) * h
    first = 1 + torch.expm1(-rate) / rate
    return 1 - 2 * first / rate


def check_variant(variant: str) -> None:
    """Raise UnknownNameError unless `variant` is one of the two."""
    if variant not in VARIANTS:
        raise UnknownNameError("variant", variant, VARIANTS)


class _Multistep(TableSolver):
    evaluations_per_step = 1
    default_grid = "vp_power"
    reference = "Lu et al. 2022, arXiv 2211.01095"
    representation: ClassVar[Representation] = "data"

    @property
    def stochastic(self) -> bool:
        return False


@final
@dataclass(frozen=True, repr=False)
class DPMSolverPP2M(_Multistep):
    r"""x~_b = r x~_a + (1 - r) (D_0 + D1/2),   r = e^{-h},   D1 = (D_0 - D_{-1}) h/h_{-1}

    variant="exact" weighs D1 by the exact integral 1 - (1 - r)/h instead of (1 - r)/2.

    Lu et al. 2022, arXiv 2211.01095, algorithm 2.
    """

    variant: str = "midpoint"

    name = "dpmpp_2m"
    order = 2.0

    def __post_init__(self) -> None:
        check_variant(self.variant)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        return multistep_table(levels, "data", decay(levels, "data"), second_order(levels, "data", self.variant))


@final
@dataclass(frozen=True, repr=False)
class DPMSolverPP3M(_Multistep):
    r"""x~_b = r x~_a + int_0^1 h e^{-(1 - u) h} (D_0 + D1 u + D2 u^2) du, the quadratic through the last three values.

    legacy=True takes half of the D2 term, as the published code does; it is then of second order.

    Lu et al. 2022, arXiv 2211.01095, appendix B.
    """

    legacy: bool = False

    name = "dpmpp_3m"

    @property
    def order(self) -> float:  # type: ignore[override]
        return 2.0 if self.legacy else 3.0

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        return multistep_table(levels, "data", decay(levels, "data"), third_order(levels, "data", self.legacy))


@final
@dataclass(frozen=True, repr=False)
class DPMSolver2M(_Multistep):
    r"""x~_b = x~_a + (b - a) (e_0 + D1/2),   D1 = (e_0 - e_{-1}) h/h_{-1}; variant="exact" integrates D1 exactly.

    Lu et al. 2022, arXiv 2206.00927 and 2211.01095 (the multistep form, in noise prediction).
    """

    variant: str = "midpoint"

    name = "dpm_solver_2m"
    default_grid = "log_snr"
    order = 2.0

    def __post_init__(self) -> None:
        check_variant(self.variant)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        return multistep_table(levels, "noise", decay(levels, "noise"), second_order(levels, "noise", self.variant))


@final
@dataclass(frozen=True, repr=False)
class DPMSolver3M(_Multistep):
    r"""x~_b = x~_a - b h int_0^1 e^{(1 - u) h} (e_0 + D1 u + D2 u^2) du, the quadratic through the last three values.

    legacy=True takes half of the D2 term, as the published code does; it is then of second order.

    Lu et al. 2022, arXiv 2206.00927 and 2211.01095 (the multistep form, in noise prediction).
    """

    legacy: bool = False

    name = "dpm_solver_3m"
    default_grid = "log_snr"

    @property
    def order(self) -> float:  # type: ignore[override]
        return 2.0 if self.legacy else 3.0

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        return multistep_table(levels, "noise", decay(levels, "noise"), third_order(levels, "noise", self.legacy))


class _MultistepSDE(_Multistep):
    eta: float
    noise_option = "eta"

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def __post_init__(self) -> None:
        if check_number("eta", self.eta) < 0:
            raise ArgumentError(f"eta must be 0 or more, got {self.eta!r}.")

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor | None:
        return exponential_clock(sde, t, self.eta)

    def _table(self, levels: Levels, weights: Tensor, tau: Tensor) -> Table:
        noise = exact_noise(levels, "data", tau) if self.stochastic else None
        return multistep_table(levels, "data", decay(levels, "data", tau), weights, noise=noise)

    def _tau(self, levels: Levels) -> Tensor:
        return torch.full((len(levels),), self.eta**0.5, dtype=torch.float64, device="cpu")


@final
@dataclass(frozen=True, repr=False)
class DPMSolverPP2MSDE(_MultistepSDE):
    r"""x~_b = r x~_a + (1 - r) (D_0 + D1/2) + b sqrt(1 - e^{-2 eta h}) z,   r = e^{-(1 + eta) h}

    eta = tau^2: 1 is the reverse SDE, 0 is DPM-Solver++ 2M. variant="exact" integrates D1 exactly.

    Lu et al. 2022, arXiv 2211.01095, appendix D; the form with eta is k-diffusion's.
    """

    eta: float = 1.0
    variant: str = "midpoint"

    name = "dpmpp_2m_sde"
    default_grid = "log_snr"
    weak_order = 2.0
    strong_order = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_variant(self.variant)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        tau = self._tau(levels)
        return self._table(levels, second_order(levels, "data", self.variant, tau), tau)


@final
@dataclass(frozen=True, repr=False)
class DPMSolverPP3MSDE(_MultistepSDE):
    r"""x~_b = r x~_a + int kernel (D_0 + D1 u + D2 u^2) + b sqrt(1 - e^{-2 eta h}) z,   r = e^{-(1 + eta) h}

    legacy=True takes half of the D2 term, as k-diffusion does.

    Lu et al. 2022, arXiv 2211.01095, carried to three values as in k-diffusion.
    """

    eta: float = 1.0
    legacy: bool = False

    name = "dpmpp_3m_sde"
    weak_order = 2.0
    strong_order = 1.0

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        tau = self._tau(levels)
        return self._table(levels, third_order(levels, "data", self.legacy, tau), tau)
