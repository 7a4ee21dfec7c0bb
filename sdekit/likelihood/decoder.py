r"""A lower bound on log p at t = 0 from the density at t_eps, by a Gaussian decoder.

    log p_0(x) >= E [log p_eps(x_eps) + log N(x; D(x_eps), s^2 I) - log q(x_eps)],    q = N(alpha x, sigma^2 I)

(Kingma & Welling 2014, arXiv 1312.6114; in diffusion models: Ho et al. 2020, arXiv 2006.11239), for any s that x does
not choose. Given x_eps, data has the mean D and the covariance sigma~^2 J_D, J_D = dD/dx~, so s^2 = sigma~^2 tr J_D/d:
where that covariance is a multiple of I and the posterior normal, the bound is an equality, draw by draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdekit.likelihood.forward import squares
from sdekit.models.score import ScoreModel
from sdekit.noise import NoiseSource

if TYPE_CHECKING:
    from sdekit.likelihood.evaluation import Evaluation

__all__ = ["decoder_bound"]

_LEAST = 1e-2  # of s^2/sigma~^2, where an estimated trace may be below 0


def decoder_bound(how: Evaluation, model: ScoreModel, x: Tensor, source: NoiseSource) -> tuple[Tensor, int | Tensor]:
    """The bound for x, (B, *), of one pair of draws x_eps = alpha x +- sigma xi, (B,), and its evaluations."""
    sde, start = model.sde, how.nodes.span[0]
    alpha, sigma, d = float(sde.alpha(start)), float(sde.sigma(start)), x[0].numel()
    xi = source.open(tuple(x.shape), purpose="decoder", dtype=torch.float64, device=x.device).next(start, start)
    bound = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    nfe: int | Tensor = 0
    for sign in (1, -1):
        point = (alpha * x.double() + sign * sigma * xi).to(x.dtype)
        found = how.estimate(model, point, source)
        with torch.no_grad():
            mean = model.counted().denoised(point, start).double()
        share = (found.path.columns[0].mean(0) / d).clamp(min=_LEAST)
        # log N(x; D, s^2 I) - log q, with (2 pi sigma^2)^(d/2) of both
        decoded = -0.5 * (squares(x.double() - mean) * (alpha / sigma) ** 2 / share + d * torch.log(share / alpha**2))
        bound = bound + 0.5 * (found.log_prob + decoded + 0.5 * squares(xi))
        nfe = nfe + found.nfe + 1
    return bound, nfe
