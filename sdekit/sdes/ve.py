r"""Variance-exploding SDEs: Song's geometric one and the EDM one (arXiv 2011.13456, 2206.00364)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from sdekit._tensors import check_positive
from sdekit.errors import ArgumentError
from sdekit.sdes.diffusion import DiffusionSDE

__all__ = ["EDMSDE", "VESDE"]


@final
@dataclass(frozen=True, eq=False)
class VESDE(DiffusionSDE):
    """dx = g dW with alpha = 1, sigma(t) = sigma_min (sigma_max/sigma_min)^t, g^2 = d(sigma^2)/dt, on [0, 1].

    Convention (Song et al. 2021): the marginal at t = 0 already has the standard deviation sigma_min, so data is
    understood as smoothed by sigma_min. A path simulated from x_0 at t = 0 has variance sigma(t)^2 - sigma_min^2.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 1e-5
    name: ClassVar[str] = "ve"
    t_max: ClassVar[float] = 1.0  # type: ignore[misc]

    def __post_init__(self) -> None:
        self._store_floats()
        check_positive("sigma_min", self.sigma_min)
        check_positive("sigma_max", self.sigma_max)
        if self.sigma_max <= self.sigma_min:
            raise ArgumentError(f"expected sigma_min < sigma_max, got {self.sigma_min!r} and {self.sigma_max!r}.")
        self._check_times()

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def _log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._log_ratio * t)

    def _drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def _diffusion_squared(self, t: Tensor) -> Tensor:
        return 2 * self._log_ratio * self._sigma(t).square()

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr - math.log(self.sigma_min)) / self._log_ratio


@final
@dataclass(frozen=True, eq=False)
class EDMSDE(DiffusionSDE):
    """dx = sqrt(2t) dW with alpha = 1, sigma(t) = t, on [t_min, t_max] (Karras et al. 2022)."""

    t_min: float = 0.002
    t_max: float = 80.0
    name: ClassVar[str] = "edm"

    def __post_init__(self) -> None:
        self._store_floats()
        check_positive("t_max", self.t_max)
        self._check_times()

    def _log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def _sigma(self, t: Tensor) -> Tensor:
        return t.clone()

    def _drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def _diffusion_squared(self, t: Tensor) -> Tensor:
        return 2 * t

    def _sigma_rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-0.5 * log_snr)
