r"""The noise levels of a grid, in which every diffusion SDE is the same equation.

x~ = x/alpha,   sigma~ = sigma/alpha,   lambda = -ln sigma~,   theta = arctan sigma~
dx~ = eps dsigma~        along the probability flow, for any alpha and sigma
"""

from __future__ import annotations

import copy
import math
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.sdes import DiffusionSDE

__all__ = ["Levels"]


@final
class Levels:
    """alpha, sigma, sigma~ and lambda at the times of a grid, float64 (N + 1,); the step i goes from a_i to b_i.

    `ratio` is sigma~, `lam` is lambda (infinite where sigma = 0), `h` is lambda_b - lambda_a of each step, (N,).
    """

    def __init__(self, sde: DiffusionSDE, times: Tensor) -> None:
        self.sde, self.times = sde, times
        self.alpha, self.sigma = sde.alpha(times), sde.sigma(times)
        self.ratio = self.sigma / self.alpha
        self.lam = -torch.log(self.ratio)
        self.h = self.lam.diff()

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.times) - 1

    def held(self, level: float) -> Levels:
        """The same levels with sigma~ = `level` in the place of 0 at the end: x~ there is taken for x~ at 0."""
        other = copy.copy(self)
        other.ratio, other.lam = self.ratio.clone(), self.lam.clone()
        other.ratio[-1], other.lam[-1] = level, -math.log(level)
        other.h = other.lam.diff()
        other.__dict__.pop("norm", None)
        return other

    @property
    def a(self) -> Tensor:
        """sigma~ where each step starts, (N,)."""
        return self.ratio[:-1]

    @property
    def b(self) -> Tensor:
        """sigma~ where each step ends, (N,)."""
        return self.ratio[1:]

    def require_noise(self) -> None:
        """Raise ArgumentError if the solve starts at sigma = 0, where lambda is infinite and a step has no length."""
        if not bool(torch.isfinite(self.lam[0])):
            raise ArgumentError(
                f"the solve starts at t = {float(self.times[0]):g}, where sigma = 0 and the log-SNR is infinite; start "
                f"at t_min = {self.sde.t_min:g}, or take a solver that steps in sigma or t: 'ddim', 'heun', 'rk4'."
            )

    @cached_property
    def norm(self) -> Tensor:
        """sqrt(alpha^2 + sigma^2): x/norm is x~ cos(theta), (N + 1,)."""
        return torch.hypot(self.alpha, self.alpha * self.ratio)

    def time_of(self, lam: Tensor) -> Tensor:
        """The time at which lambda has this value."""
        return self.sde.time_of_log_snr(2 * lam)

    def inside(self, fraction: float) -> Tensor:
        """lambda at this fraction of each step's h, (N,); infinite where the step ends at sigma = 0."""
        return self.lam[:-1] + fraction * self.h
