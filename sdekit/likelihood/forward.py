r"""What the estimators along noised data share: x~ = x/alpha of the forward SDE has independent increments,

    x~_t = x~_eps + sqrt(v_t - v_eps) xi,    v = sigma~^2 = (sigma/alpha)^2,    xi ~ N(0, I),

so that it is drawn with no evaluation of the network; an estimate needs evaluations, but no derivative of the network.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sdekit.errors import NonFiniteError
from sdekit.likelihood.budget import Budget
from sdekit.likelihood.prior import Prior
from sdekit.likelihood.result import Kind, LogLikelihood
from sdekit.models.score import ScoreModel
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.solution import first_bad_samples

__all__ = ["checked_noise", "estimate", "for_wide_states", "squares", "widening"]


def for_wide_states(model: ScoreModel, dtype: torch.dtype) -> ScoreModel:
    """The model for states in float64: its network is called in `dtype`, and what it says is converted in float64."""

    def network(x: Tensor, label: Tensor, /, **condition: Any) -> Tensor:
        point = x.to(dtype)
        out = model.network(point, label.to(dtype if dtype == torch.float64 else torch.float32), **condition)
        return model.checked(out, point).to(x.dtype)

    return model.with_network(network)


def checked_noise(model: ScoreModel, x: Tensor, t: Tensor | float, estimator: str, step: int) -> Tensor:
    """eps(x, t), (B, *); one evaluation.

    Raises:
        NonFiniteError: if an entry is not finite.
    """
    noise = model.noise(x, t)
    bad = ~torch.isfinite(noise).reshape(len(x), -1).all(1)
    if bool(bad.any()):
        time = float(t.reshape(-1)[int(bad.nonzero()[0, 0])]) if isinstance(t, Tensor) and t.ndim else float(t)
        raise NonFiniteError(estimator, step, time, first_bad_samples(noise))
    return noise


def squares(x: Tensor) -> Tensor:
    """|x|^2 of each sample, (B,)."""
    return x.reshape(len(x), -1).square().sum(1)


def widening(freedom: int) -> float:
    """sqrt(nu/(nu - 2)), the deviation of Student's t, at most 2: what a standard error is widened by that was itself
    estimated with nu degrees of freedom.
    """
    return 2.0 if freedom <= 2 else min(2.0, math.sqrt(freedom / (freedom - 2)))


def estimate(
    x: Tensor,
    log_prob: Tensor,
    std_error: Tensor,
    integration: Tensor | None,
    prior: Prior,
    sde: DiffusionSDE,
    span: tuple[float, float],
    nfe: int,
    kind: Kind,
    name: str,
) -> LogLikelihood:
    """What is returned: no latent, since no flow was solved, and a truncation of NaN, which takes a trace to know."""
    start, end = span
    unknown = {} if integration is not None else {"integration": "none: the integral is drawn without bias"}
    return LogLikelihood(
        log_prob=log_prob,
        std_error=std_error,
        latent=None,
        nfe=nfe,
        budget=Budget(
            probe=std_error,
            integration=integration,
            truncation=torch.full_like(log_prob, math.nan),
            prior=prior.divergence(x.double() * float(sde.alpha(end) / sde.alpha(start)), float(sde.sigma(end))),
            unknown=unknown,
        ),
        status="success",
        divergence=name,
        dim=x[0].numel(),
        kind=kind,
    )
