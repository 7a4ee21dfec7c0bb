r"""The log-ratio of a posterior SDE's path measure to its prior's, as one more component of the state.

    dY = f dt + g dW (posterior),   dY = h dt + g dW (prior),   KL = E \int 1/2 |u|^2 dt,   g u = f - h

Li et al. 2020, arXiv 2001.01328, section 5.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from sdekit.sdes import AbstractSDE, TorchsdeStyle

__all__ = ["WithLogRatio"]

_LEAST = 1e-7  # torchsde's: a smaller diffusion counts as this


@final
class WithLogRatio(AbstractSDE):
    r"""The posterior with \int 1/2 |u|^2 dt as its last component, for states (B, d + 1).

    u = (f - h)/g for diagonal noise, pinv(g) (f - h) for any other. With diagonal noise the noise has d + 1 components
    too, the last of which does nothing.
    """

    def __init__(self, sde: TorchsdeStyle) -> None:
        self.original = sde
        self.noise, self.calculus, self.noise_dim = sde.noise, sde.calculus, sde.noise_dim

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        y, sde = x[:, :-1], self.original
        f, g = sde.drift(y, t), sde.diffusion(y, t)
        apart = f - sde.prior_drift(y, t)
        if self.noise == "diagonal":
            least = torch.where(g < 0, -_LEAST, _LEAST).to(g.dtype)
            u = apart / torch.where(g.detach().abs() > _LEAST, g, least)
        else:
            matrix = g[..., None] if self.noise == "scalar" else g
            u = (torch.linalg.pinv(matrix) @ apart[..., None])[..., 0]
        return torch.cat([f, 0.5 * u.square().sum(1, keepdim=True)], dim=1)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        g = self.original.diffusion(x[:, :-1], t)
        return torch.cat([g, torch.zeros_like(g[:, :1])], dim=1)

    def to_dict(self) -> dict[str, Any]:
        return self.original.to_dict()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WithLogRatio) and self.original == other.original

    def __hash__(self) -> int:
        return hash(("log-ratio", self.original))

    def __repr__(self) -> str:
        return f"{self.original!r} with its log-ratio"
