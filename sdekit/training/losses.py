r"""Denoising score matching for any network, prediction and diffusion SDE.

With x_t = alpha(t) x_0 + sigma(t) eps, the score of p_t(x_t | x_0) is -eps/sigma, and the minimiser over s of

    E |s(x_t, t) + eps/sigma|^2

is the score of the marginal p_t (Vincent 2011, doi 10.1162/NECO_a_00142; Song et al. 2021, arXiv 2011.13456). Every
prediction o is linear in the score, s = p x + q o with the same p and q for the network's output and for its target o*,
so that every loss here is one weighted regression:

    L = E_t  w(t) / d  E |o(x_t, t) - o*|^2,        d the number of coordinates

    "simple"        w = 1               (Ho et al. 2020, arXiv 2006.11239, for the noise prediction)
    "likelihood"    w = g(t)^2 q(t)^2 / 2, that is |s - s*|^2 weighted by g^2/2  (Song et al. 2021b, arXiv 2101.09258)

Up to a constant that no network changes, d (T - t_min) L with the likelihood weighting bounds -E log p(x_0) in nats.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from sdekit._tensors import as_float64, check_positive_integer, expand_right
from sdekit.errors import ShapeError, UnknownNameError
from sdekit.models import ScoreModel
from sdekit.models.predictions import Prediction, conversion, target
from sdekit.sdes import DiffusionSDE

__all__ = [
    "TimeSampling",
    "Weighting",
    "draw_times",
    "importance_weight",
    "loss_weight",
    "score_matching_loss",
]

Weighting = Literal["simple", "likelihood"]
TimeSampling = Literal["uniform", "importance"]


def check_weighting(weighting: str) -> Weighting:
    """`weighting` itself, or an UnknownNameError with the nearest of the two."""
    if weighting not in get_args(Weighting):
        raise UnknownNameError("weighting", weighting, get_args(Weighting))
    return weighting  # type: ignore[return-value]


def check_time_sampling(sampling: str) -> TimeSampling:
    """`sampling` itself, or an UnknownNameError with the nearest of the two."""
    if sampling not in get_args(TimeSampling):
        raise UnknownNameError("time sampling", sampling, get_args(TimeSampling))
    return sampling  # type: ignore[return-value]


def loss_weight(weighting: Weighting, prediction: Prediction, sde: DiffusionSDE, t: Tensor | float) -> Tensor:
    """w(t) of the module's formula, float64, of the shape of t.

    Raises:
        UnknownNameError: if the weighting is neither "simple" nor "likelihood".
    """
    t = as_float64(t)
    if check_weighting(weighting) == "simple":
        return torch.ones_like(t)
    _, q = conversion(prediction, "score", sde, t)
    return 0.5 * sde.diffusion_coefficient(t).square() * q.square()


def draw_times(
    sde: DiffusionSDE,
    n: int,
    sampling: TimeSampling = "uniform",
    *,
    t_min: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """n times on [t_min, T] (the SDE's own t_min unless given), float64.

    "uniform": t uniform. "importance": density proportional to g^2/sigma^2, where the likelihood weighting has the
    least variance (Song et al. 2021b, section 5.1); as d log-SNR/dt = -g^2/sigma^2, that is log-SNR uniform.

    The n draws share one uniform offset, u_i = (u + i/n) mod 1: each has the stated law, and together they cover the
    interval evenly, which lowers the variance of a batch's loss (Kingma et al. 2021, arXiv 2107.00630).

    Raises:
        ArgumentError: if n is below 1 or t_min is outside (0, T).
        UnknownNameError: if the sampling is neither "uniform" nor "importance".
    """
    check_positive_integer("n", n)
    check_time_sampling(sampling)
    start = _start(sde, t_min)
    offset = torch.rand((), dtype=torch.float64, generator=generator)
    u = torch.remainder(offset + torch.arange(n, dtype=torch.float64) / n, 1.0)
    if sampling == "uniform":
        return start + (sde.t_max - start) * u
    first, last = sde.log_snr(start), sde.log_snr(sde.t_max)
    return sde.time_of_log_snr(first + (last - first) * u).clamp(start, sde.t_max)


def importance_weight(
    sampling: TimeSampling, sde: DiffusionSDE, t: Tensor | float, t_min: float | None = None
) -> Tensor:
    """Uniform density over the density that `draw_times` draws from, at t: what makes the two losses' means equal.

        1 for "uniform";   (log-SNR(t_min) - log-SNR(T)) / ((T - t_min) g(t)^2/sigma(t)^2)  for "importance".

    Float64, of the shape of t.
    """
    t = as_float64(t)
    if check_time_sampling(sampling) == "uniform":
        return torch.ones_like(t)
    start = _start(sde, t_min)
    span = sde.log_snr(start) - sde.log_snr(sde.t_max)
    rate = (sde.diffusion_coefficient(t) / sde.sigma(t)).square()
    return span / ((sde.t_max - start) * rate)


def score_matching_loss(
    model: ScoreModel, x0: Tensor, t: Tensor, noise: Tensor, *, weighting: Weighting = "simple"
) -> Tensor:
    """w(t)/d |o(x_t, t) - o*|^2 of each sample: (B,), in the dtype of x0, with a graph to the network's parameters.

    Args:
        model: the network with its SDE, prediction and, if it is conditional, its condition.
        x0: data, (B, *).
        t: times in (0, T], (B,).
        noise: standard normal, of the shape of x0.
        weighting: "simple" or "likelihood". Times drawn by "importance" ask for a factor of `importance_weight` too.

    Raises:
        ShapeError: if t is not (B,) or the noise is not of the shape of x0.
        UnknownNameError: if the weighting is unknown.
    """
    if t.shape != x0.shape[:1] or noise.shape != x0.shape:
        raise ShapeError(
            f"expected t of shape ({x0.shape[0]},) and noise of shape {tuple(x0.shape)}, "
            f"got {tuple(t.shape)} and {tuple(noise.shape)}."
        )
    t = as_float64(t)
    mean, std = model.sde.marginal(x0, t)
    x = mean + std * noise
    error = model.raw(x, model.labels(t, x)) - target(model.prediction, model.sde, x0, noise, t)
    weight = loss_weight(weighting, model.prediction, model.sde, t).to(device=x0.device, dtype=x0.dtype)
    return (expand_right(weight, x0) * error.square()).flatten(1).mean(1)


def _start(sde: DiffusionSDE, t_min: float | None) -> float:
    return sde.check_time("t_min", sde.t_min if t_min is None else t_min, zero=False)
