"""sdekit's Brownian path behind torchsde's interface."""

from __future__ import annotations

from typing import Any, final

import torch
import torchsde
from torch import Tensor

from sdekit.errors import UnsupportedError
from sdekit.noise import BrownianPath

__all__ = ["PathForTorchsde"]


@final
class PathForTorchsde(torchsde.BaseBrownian):  # type: ignore[misc]
    """W over [ta, tb], or over [t0, ta] with one time; with return_U also U = int (W - W_ta) = h (W/2 + H)."""

    def __init__(self, path: BrownianPath) -> None:
        super().__init__()
        self.path = path

    def __call__(
        self, ta: float | Tensor, tb: float | Tensor | None = None, return_U: bool = False, return_A: bool = False
    ) -> Any:
        if return_A:
            raise UnsupportedError(
                "sdekit's BrownianPath has no Levy areas of pairs of Brownian motions (log_ode's A): take another "
                "method of torchsde's."
            )
        t, s = (self.path.t0, float(ta)) if tb is None else (float(ta), float(tb))
        found = self.path(t, s)
        if not return_U:
            return found.W
        if found.H is None:
            raise UnsupportedError("this Brownian path has no space-time area H.")
        return found.W, (0.5 * found.W + found.H) * (s - t)

    @property
    def dtype(self) -> torch.dtype:
        return self.path.dtype

    @property
    def device(self) -> torch.device:
        return self.path.device

    @property
    def shape(self) -> tuple[int, ...]:
        return self.path.shape

    @property
    def levy_area_approximation(self) -> str:
        return "space-time"

    def __repr__(self) -> str:
        return f"PathForTorchsde({self.path!r})"
