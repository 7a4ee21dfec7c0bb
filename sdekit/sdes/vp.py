r"""Variance-preserving SDEs (Song et al. 2021, arXiv 2011.13456; Nichol & Dhariwal 2021, arXiv 2102.09672)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from sdekit._tensors import check_positive
from sdekit.errors import ArgumentError
from sdekit.sdes.diffusion import DiffusionSDE

__all__ = ["VPSDE", "CosineVPSDE", "SubVPSDE"]


class _LinearBetaSDE(DiffusionSDE):
    """What VP and sub-VP share: beta(t) linear from beta_min to beta_max on [0, 1], B(t) its integral.

    beta(t) = beta_min + (beta_max - beta_min) t,    B(t) = beta_min t + (beta_max - beta_min) t^2 / 2
    """

    beta_min: float
    beta_max: float
    t_max: ClassVar[float] = 1.0  # type: ignore[misc]

    def __post_init__(self) -> None:
        self._store_floats()
        check_positive("beta_min", self.beta_min)
        check_positive("beta_max", self.beta_max)
        if self.beta_max < self.beta_min:
            raise ArgumentError(f"expected beta_min <= beta_max, got {self.beta_min!r} and {self.beta_max!r}.")
        self._check_times()

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _beta_integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _time_of_beta_integral(self, b: Tensor) -> Tensor:
        # The stable root of the quadratic B(t) = b.
        slope = self.beta_max - self.beta_min
        return 2 * b / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * b))

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * self._beta_integral(t)

    def _drift_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self._beta(t)


@final
@dataclass(frozen=True, eq=False)
class VPSDE(_LinearBetaSDE):
    """dx = -beta(t)/2 x dt + sqrt(beta(t)) dW;  alpha = exp(-B/2),  sigma^2 = 1 - exp(-B)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    name: ClassVar[str] = "vp"

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._beta_integral(t)))

    def _diffusion_squared(self, t: Tensor) -> Tensor:
        return self._beta(t)

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # exp(log-SNR) = 1 / (exp(B) - 1)
        return self._time_of_beta_integral(torch.nn.functional.softplus(-log_snr, threshold=700.0))


@final
@dataclass(frozen=True, eq=False)
class SubVPSDE(_LinearBetaSDE):
    """dx = -beta/2 x dt + sqrt(beta (1 - exp(-2B))) dW;  alpha = exp(-B/2),  sigma = 1 - exp(-B)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    name: ClassVar[str] = "sub_vp"

    def _sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._beta_integral(t))

    def _diffusion_squared(self, t: Tensor) -> Tensor:
        return self._beta(t) * -torch.expm1(-2 * self._beta_integral(t))

    def _sigma_rate(self, t: Tensor) -> Tensor:
        return self._beta(t) * torch.exp(-self._beta_integral(t))

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # sigma/alpha = 2 sinh(B/2)
        return self._time_of_beta_integral(2 * torch.asinh(0.5 * torch.exp(-0.5 * log_snr)))


@final
@dataclass(frozen=True, eq=False)
class CosineVPSDE(DiffusionSDE):
    r"""Variance-preserving with alpha(t) = cos(theta(t))/cos(theta(0)), theta = (t + s)/(1 + s) pi/2.

    beta = -2 d ln(alpha)/dt = pi/(1 + s) tan(theta) grows without bound at t = 1, so it is held at `beta_max` from the
    time where it gets there (Nichol & Dhariwal clip the discrete beta at 0.999 of 1000 steps for the same reason).
    """

    s: float = 0.008
    beta_max: float = 999.0
    t_min: float = 1e-3
    name: ClassVar[str] = "cosine_vp"
    t_max: ClassVar[float] = 1.0  # type: ignore[misc]

    def __post_init__(self) -> None:
        self._store_floats()
        check_positive("s", self.s)
        check_positive("beta_max", self.beta_max)
        if self._clip_time <= 0:
            raise ArgumentError(f"beta_max = {self.beta_max!r} is below beta(0) of this schedule; raise it.")
        self._check_times()

    @property
    def _rate(self) -> float:
        return 0.5 * math.pi / (1 + self.s)

    @property
    def _start_angle(self) -> float:
        return self._rate * self.s

    @property
    def _clip_time(self) -> float:
        """Where beta(t) reaches beta_max."""
        return (math.atan(self.beta_max / (2 * self._rate)) - self._start_angle) / self._rate

    def _log_cosine(self, t: Tensor) -> Tensor:
        # cos(a + d)/cos(a) = 1 - [2 sin^2(d/2) + tan(a) sin(d)]: a sum of positive terms, exact near d = 0.
        d = self._rate * t
        return torch.log1p(-(2 * torch.sin(0.5 * d).square() + math.tan(self._start_angle) * torch.sin(d)))

    def _log_alpha(self, t: Tensor) -> Tensor:
        held = torch.clamp(t, max=self._clip_time)
        return self._log_cosine(held) - 0.5 * self.beta_max * (t - held)

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self._log_alpha(t)))

    def _drift_coefficient(self, t: Tensor) -> Tensor:
        beta = 2 * self._rate * torch.tan(self._start_angle + self._rate * torch.clamp(t, max=self._clip_time))
        return -0.5 * torch.where(t >= self._clip_time, torch.full_like(beta, self.beta_max), beta)

    def _diffusion_squared(self, t: Tensor) -> Tensor:
        return -2 * self._drift_coefficient(t)

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        log_alpha = 0.5 * torch.nn.functional.logsigmoid(log_snr)
        clip = torch.tensor(self._clip_time, dtype=torch.float64, device=log_snr.device)
        log_alpha_clip = self._log_cosine(clip)
        held = torch.maximum(log_alpha, log_alpha_clip)
        # Half-angle form of d = acos(alpha cos a) - a, which keeps its digits as alpha -> 1.
        one_minus_alpha = -torch.expm1(held)
        tangent = math.tan(self._start_angle)
        # 2 sin^2(d/2) + tan(a) sin(d) = 1 - alpha, with w = tan(d/2): (2 - u) w^2 + 2 tan(a) w - u = 0.
        u = one_minus_alpha
        w = u / (tangent + torch.sqrt(tangent**2 + u * (2 - u)))
        cosine_time = 2 * torch.atan(w) / self._rate
        return cosine_time + 2 * (held - log_alpha) / self.beta_max
