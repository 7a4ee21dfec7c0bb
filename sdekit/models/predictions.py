r"""What a network predicts, and how each prediction turns into each other one.

With x = alpha D + sigma eps (D the denoised x_0, eps the noise), every prediction is linear in x and in every other:

    noise     eps
    data      D
    score     s = -eps / sigma
    v         alpha eps - sigma D                          (Salimans & Ho 2022, arXiv 2202.00512)
    velocity  u = alpha' D + sigma' eps,  ' = d/dt         (Lipman et al. 2023, arXiv 2210.02747)
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from sdekit._tensors import as_float64, expand_right
from sdekit.errors import UnknownNameError
from sdekit.sdes import DiffusionSDE

__all__ = ["Prediction", "check_prediction", "combine", "conversion", "target"]

Prediction = Literal["noise", "data", "score", "v", "velocity"]
_PREDICTIONS = get_args(Prediction)


def check_prediction(prediction: str) -> Prediction:
    """`prediction` itself, or an UnknownNameError with the nearest of the five."""
    if prediction not in _PREDICTIONS:
        raise UnknownNameError("prediction", prediction, _PREDICTIONS)
    return prediction  # type: ignore[return-value]


def conversion(source: Prediction, to: Prediction, sde: DiffusionSDE, t: Tensor | float) -> tuple[Tensor, Tensor]:
    """Float64 coefficients (p, q), of the shape of t, with [to] = p x + q [source] at time t.

    Raises:
        UnknownNameError: if either is not one of the five predictions.
    """
    check_prediction(source)
    check_prediction(to)
    t = as_float64(t)
    if source == to:
        return torch.zeros_like(t), torch.ones_like(t)
    to_data, to_noise = _data_and_noise(source, sde, t)
    if to == "data":
        return to_data
    if to == "noise":
        return to_noise
    if to == "score":
        if source == "data":  # (alpha D - x)/sigma^2, kept apart from the noise so that it is one division
            variance = sde.sigma(t).square()
            return -1 / variance, sde.alpha(t) / variance
        return -to_noise[0] / sde.sigma(t), -to_noise[1] / sde.sigma(t)
    if to == "v":
        data_weight, noise_weight = -sde.sigma(t), sde.alpha(t)
    else:
        data_weight, noise_weight = sde.alpha_rate(t), sde.sigma_rate(t)
    return (
        data_weight * to_data[0] + noise_weight * to_noise[0],
        data_weight * to_data[1] + noise_weight * to_noise[1],
    )


def _data_and_noise(
    source: Prediction, sde: DiffusionSDE, t: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(p, q) for D = p x + q o and for eps = p x + q o, each in its own stable form."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    if source == "data":
        return (zero, one), (1 / sigma, -alpha / sigma)
    if source == "noise":
        return (1 / alpha, -sigma / alpha), (zero, one)
    if source == "score":
        return (1 / alpha, sigma.square() / alpha), (zero, -sigma)
    if source == "v":
        total = alpha.square() + sigma.square()
        return (alpha / total, -sigma / total), (sigma / total, alpha / total)
    alpha_rate, sigma_rate = sde.alpha_rate(t), sde.sigma_rate(t)
    wronskian = alpha * sigma_rate - sigma * alpha_rate
    return (sigma_rate / wronskian, -sigma / wronskian), (-alpha_rate / wronskian, alpha / wronskian)


def target(prediction: Prediction, sde: DiffusionSDE, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The regression target of a network with this prediction, at x = alpha x_0 + sigma noise: of the shape of x0.

    Raises:
        UnknownNameError: if the prediction is not one of the five.
    """
    u = as_float64(t)
    match check_prediction(prediction):
        case "noise":
            return noise
        case "data":
            return x0
        case "score":
            return _scaled(-1 / sde.sigma(u), noise).to(noise.dtype)
        case "v":
            return combine(-sde.sigma(u), x0, sde.alpha(u), noise)
        case "velocity":
            return combine(sde.alpha_rate(u), x0, sde.sigma_rate(u), noise)


def combine(p: Tensor, x: Tensor, q: Tensor, y: Tensor) -> Tensor:
    """p x + q y for per-time coefficients p and q, () or (B,): in float32 at least, returned in the dtype of x.

    The coefficients may be beyond half precision where the sum is not: 1/sigma^2 = 250000 at sigma = 0.002.
    """
    return (_scaled(p, x) + _scaled(q, y)).to(x.dtype)


def _scaled(p: Tensor, x: Tensor) -> Tensor:
    wide = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    return expand_right(p.to(device=x.device, dtype=wide), x) * x.to(wide)
