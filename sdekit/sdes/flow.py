r"""The straight-line ("rectified flow", conditional optimal transport) path as a diffusion SDE.

Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2023, arXiv 2209.03003.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.sdes.diffusion import DiffusionSDE

__all__ = ["FlowSDE"]


@final
@dataclass(frozen=True, eq=False)
class FlowSDE(DiffusionSDE):
    """alpha = 1 - t, sigma = t:  dx = -x/(1 - t) dt + sqrt(2t/(1 - t)) dW.

    The SDE is singular at t = 1, where nothing of the data is left, so T = t_max stops just short of it; the prior is
    drawn at T.
    """

    t_min: float = 1e-3
    t_max: float = 0.999
    name: ClassVar[str] = "flow"

    def __post_init__(self) -> None:
        self._store_floats()
        if self.t_max >= 1.0:
            raise ArgumentError(
                f"the straight path's SDE is singular at t = 1: t_max must be below 1, got {self.t_max!r}."
            )
        self._check_times()

    def _log_alpha(self, t: Tensor) -> Tensor:
        return torch.log1p(-t)

    def _sigma(self, t: Tensor) -> Tensor:
        return t.clone()

    def _drift_coefficient(self, t: Tensor) -> Tensor:
        return -1 / (1 - t)

    def _diffusion_squared(self, t: Tensor) -> Tensor:
        return 2 * t / (1 - t)

    def _sigma_rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)
