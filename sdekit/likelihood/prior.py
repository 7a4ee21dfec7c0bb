r"""The density at T: the Gaussian that noised data has there, about.

standard   N(0, (alpha_T^2 c^2 + sigma_T^2) I),                        c the model's `data_std`, E[x^2] = c^2
matched    N(alpha_T m, (alpha_T^2 (c^2 - |m|^2/d) + sigma_T^2) I),    m = D(0, T), about the mean of the data
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from sdekit.errors import UnknownNameError
from sdekit.models.score import ScoreModel

__all__ = ["Prior", "PriorKind", "make_prior", "prior_kind"]

PriorKind = Literal["standard", "matched"]


@final
@dataclass(frozen=True)
class Prior:
    """N(mean, std^2 I) at T; mean (B, *) or (1, *), std (B,) or (1,), float64."""

    mean: Tensor
    std: Tensor
    evaluations: int

    def log_prob(self, x: Tensor) -> Tensor:
        """Its log-density at x, (B, *): (B,)."""
        z = ((x - self.mean).reshape(len(x), -1)) / self.std[:, None]
        d = z.shape[1]
        return -0.5 * (z.square().sum(1) + d * math.log(2 * math.pi)) - d * torch.log(self.std)

    def divergence(self, centre: Tensor, std: float) -> Tensor:
        """KL(N(centre, std^2 I) || prior) for each centre, (B, *): (B,)."""
        moved = (centre - self.mean).reshape(len(centre), -1).square().sum(1) / self.std.square()
        shrunk = std**2 / self.std.square()
        return 0.5 * (centre[0].numel() * (shrunk - 1 - torch.log(shrunk)) + moved)


def prior_kind(model: ScoreModel, kind: str | None) -> PriorKind:
    """`kind`, checked; "matched" unless given, and "standard" for networks that predict the noise or the score.

    At T such a network hardly sees the data: D = (x - sigma eps)/alpha multiplies its errors by 1/alpha.

    Raises:
        UnknownNameError: if there is none of that name.
    """
    if kind is None:
        return "standard" if model.prediction in ("noise", "score") else "matched"
    if kind not in get_args(PriorKind):
        raise UnknownNameError("prior", kind, get_args(PriorKind))
    return kind  # type: ignore[return-value]


def make_prior(model: ScoreModel, x: Tensor, kind: PriorKind) -> Prior:
    """The prior at T for samples like x; one evaluation of the network if it is matched."""
    sde, d = model.sde, x[0].numel()
    if kind == "standard":
        std = torch.tensor([sde.prior_std(None, model.data_std)], dtype=torch.float64, device=x.device)
        return Prior(torch.zeros(1, *x.shape[1:], dtype=torch.float64, device=x.device), std, 0)
    with torch.no_grad():
        mean = model.counted().denoised(torch.zeros_like(x), sde.t_max).double()
    second = mean.reshape(len(x), d).square().sum(1) / d
    alpha, sigma = float(sde.alpha(sde.t_max)), float(sde.sigma(sde.t_max))
    return Prior(alpha * mean, torch.sqrt(alpha**2 * (model.data_std**2 - second).clamp(min=0) + sigma**2), 1)
