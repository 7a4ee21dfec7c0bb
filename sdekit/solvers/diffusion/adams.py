r"""Adams predictor-corrector samplers in a chosen representation and clock: one evaluation a step.

The theory, and how the settings were chosen, is in docs/adams.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_number, check_positive_integer
from sdekit.errors import ArgumentError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.diffusion.base import TableSolver, exponential_clock
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.multistep import decay, exact_noise, multistep_table
from sdekit.solvers.diffusion.weights import check_clock, check_representation, integral_weights, order_ramp
from sdekit.solvers.table import Table

__all__ = ["Adams"]


@final
@dataclass(frozen=True, repr=False)
class Adams(TableSolver):
    r"""x~_b = a x~_a + int kernel(l) P(clock(l)) dl + c z,   P the polynomial through the last values

    Args:
        representation: what is interpolated: "noise", "data" or "velocity" (in the angle theta = arctan sigma~).
        clock: the variable of the polynomial: "lambda", "sigma", "theta", "t", or "sigma^P".
        predictor: values the predictor takes, once there are so many.
        corrector: values the corrector takes, the new one included; 0 for none.
        tau: noise factor: 0 integrates the probability flow, 1 the reverse SDE; above 0 needs the data representation.

    Ours; Zhao et al. 2023, arXiv 2302.04867, and Xue et al. 2023, arXiv 2309.05019, are its relatives in lambda.
    """

    representation: str = "velocity"
    clock: str = "t"
    predictor: int = 3
    corrector: int = 3
    tau: float = 0.0

    name = "adams"
    noise_option = "tau"
    evaluations_per_step = 1
    default_grid = "power"
    reference = "sdekit 2026; after Zhao et al. 2023, arXiv 2302.04867"

    def __post_init__(self) -> None:
        check_representation(self.representation)
        check_clock(self.clock)
        check_positive_integer("predictor", self.predictor)
        if self.corrector != 0:
            check_positive_integer("corrector", self.corrector)
        if check_number("tau", self.tau) < 0:
            raise ArgumentError(f"tau must be 0 or more, got {self.tau!r}.")
        if self.tau > 0 and self.representation != "data":
            raise ArgumentError(f"tau > 0 needs representation='data', got {self.representation!r}.")

    @property
    def stochastic(self) -> bool:
        return self.tau > 0

    @property
    def order(self) -> float | None:  # type: ignore[override]
        if self.stochastic:
            return None
        return float(min(self.predictor + 1, self.corrector) if self.corrector else self.predictor)

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor | None:
        return exponential_clock(sde, t, self.tau**2)

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        steps = len(levels)
        tau = torch.full((steps,), self.tau, dtype=torch.float64, device="cpu")
        representation = check_representation(self.representation)
        predict = integral_weights(levels, representation, self.clock, order_ramp(steps, self.predictor), tau=tau)
        correct = None
        if self.corrector:
            # Step i ends at the value i + 1 and starts with i + 1 values of its own.
            orders = torch.arange(2, steps + 2, device="cpu").clamp(max=self.corrector)
            correct = integral_weights(levels, representation, self.clock, orders, ahead=1, tau=tau)
        return multistep_table(
            levels,
            representation,
            decay(levels, representation, tau),
            predict,
            correct=correct,
            noise=exact_noise(levels, tau) if self.stochastic else None,
        )
