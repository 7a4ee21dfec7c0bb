r"""Adams predictor-corrector samplers in a chosen representation and clock: one evaluation a step.

The theory, and how the settings were chosen, is in docs/adams.md.
"""

from __future__ import annotations

import math
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
    r"""x~_b = a x~_a + int kernel(l) P(clock(l)) dl + c z,   P the polynomial through past values

    Args:
        representation: what is interpolated: "noise", "data" or "velocity" (in the angle theta = arctan sigma~).
        clock: the variable of the polynomial: "lambda", "sigma", "theta", "theta/C" (arctan sigma~/C), "t", or
            "sigma^P".
        predictor: values the predictor takes, once there are so many.
        corrector: values the corrector takes, the new one included, as many more or fewer than the predictor's in each
            step as in the end; 0 for none.
        tau: noise factor where tau_low <= sigma~ <= tau_high at the start of a step, 0 elsewhere. 0 integrates the
            probability flow, 1 the reverse SDE; not with "noise".
        tau_low, tau_high: that range.
        damping: d: the correction is taken gamma = max(0, 1 - d (1 - m 2 theta/pi)) times, at the place it is made.
        relief: m, from 0 (the same everywhere) to 1 (not damped at high noise).
        cautious_above: at higher sigma~ the predictor takes at most 3 values.
        last: values the predictor takes at most in the last step; 0 for no limit.
        hold: where a solve goes to sigma = 0, the sigma~ that its last step stops at, and whose x~ is taken for that
            at 0; with 0 the step to 0 is made.

    A high order amplifies the errors of a trained network, a correction the more the longer the steps are: what
    `recommended` chooses, and why, is in docs/adams.md.

    Ours; Zhao et al. 2023, arXiv 2302.04867, and Xue et al. 2023, arXiv 2309.05019, are its relatives in lambda.
    """

    representation: str = "velocity"
    clock: str = "theta"
    predictor: int = 3
    corrector: int = 3
    tau: float = 0.0
    tau_low: float = 0.0
    tau_high: float = math.inf
    damping: float = 0.0
    relief: float = 0.0
    cautious_above: float = math.inf
    last: int = 0
    hold: float = 0.0

    name = "adams"
    noise_option = "tau"
    evaluations_per_step = 1
    default_grid = "fitted"
    reference = "sdekit 2026; after Zhao et al. 2023, arXiv 2302.04867"

    def __post_init__(self) -> None:
        check_representation(self.representation)
        check_clock(self.clock)
        check_positive_integer("predictor", self.predictor)
        for name in ("corrector", "last"):
            if getattr(self, name) != 0:
                check_positive_integer(name, getattr(self, name))
        for name in ("tau", "tau_low", "damping", "hold"):
            if check_number(name, getattr(self, name)) < 0:
                raise ArgumentError(f"{name} must be 0 or more, got {getattr(self, name)!r}.")
        for name, least in (("tau_high", self.tau_low), ("cautious_above", 0.0)):
            value = getattr(self, name)
            if not (value == math.inf or check_number(name, value) >= least):
                raise ArgumentError(f"{name} must be at least {least:g}, got {value!r}.")
        if not 0 <= check_number("relief", self.relief) <= 1:
            raise ArgumentError(f"relief must be from 0 to 1, got {self.relief!r}.")
        if self.tau > 0 and self.representation == "noise":
            raise ArgumentError("tau > 0 needs representation 'data' or 'velocity', got 'noise'.")

    @property
    def stochastic(self) -> bool:
        return self.tau > 0

    @property
    def order(self) -> float | None:  # type: ignore[override]
        if self.stochastic:
            return None
        return float(min(self.predictor + 1, self.corrector) if self.corrector else self.predictor)

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor | None:
        """Known where all of the solve is in the range of tau: a step across its end is noisy as a whole or not."""
        level = sde.sigma_ratio(t)
        within = bool(((level >= self.tau_low) & (level <= self.tau_high)).all())
        return exponential_clock(sde, t, self.tau**2) if within else None

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        levels = Levels(sde, times)
        if 0 < self.hold < float(levels.ratio[-2]) and float(levels.ratio[-1]) == 0:
            levels = levels.held(self.hold)
        representation = check_representation(self.representation)
        tau = self.tau * ((levels.a >= self.tau_low) & (levels.a <= self.tau_high)).double()
        orders = self._orders(levels)
        predict = integral_weights(levels, representation, self.clock, orders, tau=tau)
        correct = None
        if self.corrector:
            # Step i ends at the value i + 1, and there are i + 2 with it.
            available = torch.arange(2, len(levels) + 2, device="cpu")
            wanted = torch.minimum((orders + self.corrector - self.predictor).clamp(min=1), available)
            correct = integral_weights(levels, representation, self.clock, wanted, ahead=1, tau=tau)
            correct = self._damped(levels, predict, correct)
        return multistep_table(
            levels,
            representation,
            decay(levels, representation, tau),
            predict,
            correct=correct,
            noise=exact_noise(levels, representation, tau) if self.stochastic else None,
        )

    def _orders(self, levels: Levels) -> Tensor:
        """How many values the predictor takes in each step, int64 (N,)."""
        orders = order_ramp(len(levels), self.predictor)
        orders = torch.where(levels.a > self.cautious_above, orders.clamp(max=3), orders)
        if self.last:
            orders[-1] = orders[-1].clamp(max=self.last)
        return orders

    def _damped(self, levels: Levels, predict: Tensor, correct: Tensor) -> Tensor:
        """gamma times the corrector's weights and 1 - gamma times the predictor's, which lack the new value."""
        if self.damping == 0:
            return correct
        angle = torch.arctan(levels.b)
        gamma = (1 - self.damping * (1 - self.relief * 2 * angle / math.pi)).clamp(min=0)[:, None]
        blend = torch.zeros(len(levels), max(correct.shape[1], predict.shape[1] + 1), dtype=torch.float64, device="cpu")
        blend[:, : correct.shape[1]] = gamma * correct
        blend[:, 1 : predict.shape[1] + 1] += (1 - gamma) * predict
        return blend
