"""ER-SDE-Solvers: the extended reverse-time SDE with a noise of the authors' choosing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver
from sdekit.solvers.diffusion.deis import check_values
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.multistep import multistep_table
from sdekit.solvers.diffusion.weights import integral_weights, order_ramp
from sdekit.solvers.table import Table

__all__ = ["ERSDE"]


def phi(level: Tensor) -> Tensor:
    """phi(s) = s (e^{s^0.3} + 10), the noise scale function of the paper's ER-SDE 5."""
    scaled: Tensor = level * (torch.exp(level**0.3) + 10)
    return scaled


def phi_rate(level: Tensor) -> Tensor:
    """phi'(s)."""
    grown = torch.exp(level**0.3)
    rate: Tensor = grown + 10 + 0.3 * level**0.3 * grown
    return rate


@final
@dataclass(frozen=True, repr=False)
class ERSDE(TableSolver):
    r"""x~_b = r x~_a + phi(b) int_b^a phi'(s)/phi(s)^2 P(s) ds + sqrt(b^2 - r^2 a^2) z,   r = phi(b)/phi(a)

    with P the polynomial in sigma~ through the last `values` values of D.

    legacy=True takes the published code's three-value step: D' as the first difference, not that of the quadratic, so
    that the third value does not raise the order.

    Cui et al. 2023, arXiv 2309.06169, algorithms 1 to 3.
    """

    values: int = 3
    legacy: bool = False

    name = "er_sde"
    strong_order = 1.0
    evaluations_per_step = 1
    default_grid = "vp_power"
    reference = "Cui et al. 2023, arXiv 2309.06169"

    def __post_init__(self) -> None:
        check_values(self.values, 3)

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def weak_order(self) -> float:  # type: ignore[override]
        return 2.0 if self.legacy else float(self.values)

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor:
        """-(sigma~/phi)^2: the noise of a step is phi(b) times an increment of B over it."""
        level = sde.sigma_ratio(t)
        return -(level / phi(level)).square()

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        a, b = levels.a, levels.b
        left = phi(b) / phi(a)

        def kernel(lam: Tensor) -> Tensor:
            level = torch.exp(-lam)
            return phi(b)[:, None] * phi_rate(level) / phi(level).square() * level

        orders = torch.where(b == 0, 0, order_ramp(len(levels), self.values))
        weights = integral_weights(levels, "data", "sigma", orders, kernel=kernel)
        if self.legacy:
            pairs = integral_weights(levels, "data", "sigma", orders.clamp(max=2), kernel=kernel)
            weights = _as_published(levels, weights, pairs, orders)
        if not weights.shape[1]:
            weights = torch.zeros(len(levels), 1, dtype=torch.float64, device="cpu")
        weights[b == 0] = torch.eye(1, weights.shape[1], dtype=torch.float64, device="cpu")
        noise = torch.sqrt((b.square() - (left * a).square()).clamp(min=0))
        return multistep_table(levels, "data", left, weights, noise=noise)


def _as_published(levels: Levels, weights: Tensor, pairs: Tensor, orders: Tensor) -> Tensor:
    """The weights with (s - a)^2 in place of (s - a)(s - a_{-1}) in the third value's term of Newton's form."""
    rows = (orders == 3).nonzero()[:, 0]
    if not len(rows):
        return weights
    a, a1, a2 = (levels.ratio[rows - j] for j in range(3))
    slope = -pairs[rows, 1] * (a - a1)  # int kernel (s - a) ds, from the two-value step
    second = torch.stack([1 / (a - a1), -1 / (a - a1) - 1 / (a1 - a2), 1 / (a1 - a2)], dim=1) / (a - a2)[:, None]
    published = weights.clone()
    published[rows] += (slope * (a1 - a))[:, None] * second
    return published
