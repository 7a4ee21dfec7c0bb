"""SA-Solver: a stochastic Adams predictor-corrector, one evaluation a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from sdekit._tensors import check_number, check_positive_integer
from sdekit.errors import ArgumentError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver, exponential_clock
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.multistep import decay, exact_noise, multistep_table
from sdekit.solvers.diffusion.weights import integral_weights, order_ramp
from sdekit.solvers.table import Table

__all__ = ["SASolver"]


@final
@dataclass(frozen=True, repr=False)
class SASolver(TableSolver):
    r"""x~_b = r x~_a + int (1 + tau^2) e^{-(1 + tau^2)(lambda_b - l)} P(l) dl + b sqrt(1 - e^{-2 tau^2 h}) z

    with P the polynomial in lambda through the last `predictor` values of D; the corrector's, through `corrector`
    values with the new one among them, and the same z.

    Args:
        predictor: values the predictor takes.
        corrector: values the corrector takes, the new one included; 0 for none.
        tau: noise factor where sigma_low <= sigma~ <= sigma_high at the start of a step; 0 elsewhere.
        sigma_low, sigma_high: that range, by default the paper's t from 0.2 to 0.8 of the linear VP schedule.

    Xue et al. 2023, arXiv 2309.05019, algorithm 1.
    """

    predictor: int = 3
    corrector: int = 4
    tau: float = 1.0
    sigma_low: float = 0.72
    sigma_high: float = 25.0

    name = "sa_solver"
    noise_option = "tau"
    weak_order = 2.0
    strong_order = 1.0
    evaluations_per_step = 1
    default_grid = "vp_power"
    reference = "Xue et al. 2023, arXiv 2309.05019"

    def __post_init__(self) -> None:
        if check_positive_integer("predictor", self.predictor) > 6:
            raise ArgumentError(f"predictor must be from 1 to 6, got {self.predictor!r}.")
        if self.corrector != 0 and check_positive_integer("corrector", self.corrector) > 6:
            raise ArgumentError(f"corrector must be from 0 to 6, got {self.corrector!r}.")
        for name in ("tau", "sigma_low"):
            if check_number(name, getattr(self, name)) < 0:
                raise ArgumentError(f"{name} must be 0 or more, got {getattr(self, name)!r}.")
        if not check_number("sigma_high", self.sigma_high) > self.sigma_low:
            raise ArgumentError(f"sigma_high must be above sigma_low = {self.sigma_low!r}, got {self.sigma_high!r}.")

    @property
    def stochastic(self) -> bool:
        return self.tau > 0

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor | None:
        """Known where all of the solve is in the range: a step across its end is noisy as a whole or not at all."""
        level = sde.sigma_ratio(t)
        within = bool(((level >= self.sigma_low) & (level <= self.sigma_high)).all())
        return exponential_clock(sde, t, self.tau**2) if within else None

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        inside = (levels.a >= self.sigma_low) & (levels.a <= self.sigma_high)
        tau = self.tau * inside.double()
        predict = integral_weights(levels, "data", "lambda", order_ramp(len(levels), self.predictor), tau=tau)
        correct = None
        if self.corrector:
            orders = order_ramp(len(levels) + 1, self.corrector)[1:]
            correct = integral_weights(levels, "data", "lambda", orders, ahead=1, tau=tau)
        noise = exact_noise(levels, "data", tau) if self.stochastic else None
        return multistep_table(levels, "data", decay(levels, "data", tau), predict, correct=correct, noise=noise)
