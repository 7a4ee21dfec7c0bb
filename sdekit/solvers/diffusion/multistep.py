r"""Tables of linear multistep samplers, from weights in x~ = x/alpha (or x^ = x~ cos(theta) for the velocity).

    predict    x~_{i+1} = a_i x~_i + sum_j P_ij m_{i-j} + c_i z_i
    correct    x~_{i+1} = a_i x~_i + sum_j Q_ij m_{i+1-j} + c_i z_i      with the value at the predicted point, same z

One evaluation a step: the value a corrector uses is the one the next step starts from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdekit.models.predictions import Prediction
from sdekit.solvers.diffusion.levels import Levels
from sdekit.solvers.diffusion.weights import Representation
from sdekit.solvers.table import Table, Updates

__all__ = ["decay", "exact_noise", "multistep_table"]

_TABLE_KIND: dict[Representation, Prediction] = {"noise": "noise", "data": "data", "velocity": "v"}


def decay(levels: Levels, representation: Representation, tau: Tensor | None = None) -> Tensor:
    """a_i: what is left of x~ (x^ for the velocity) over each step, (N,).

    noise 1;   data (b/a)^(1 + tau^2);   velocity (cos theta_a / cos theta_b)^(tau^2)
    """
    if representation == "data":
        kept: Tensor = (levels.b / levels.a) ** (1.0 if tau is None else 1 + tau.square())
        return kept
    if representation == "velocity" and tau is not None:
        return torch.exp(-0.5 * tau.square() * _log_secants(levels))
    return torch.ones(len(levels), dtype=torch.float64, device="cpu")


def _log_secants(levels: Levels) -> Tensor:
    """ln (1 + a^2)/(1 + b^2) of each step."""
    return torch.log1p(levels.a.square()) - torch.log1p(levels.b.square())


def exact_noise(levels: Levels, representation: Representation, tau: Tensor) -> Tensor:
    """c_i, (N,): in x~ for the data, b sqrt(1 - e^{-2 tau^2 h}); in x^ for the velocity, sqrt(1 - a_i^2)."""
    if representation == "velocity":
        return torch.sqrt(-torch.expm1(-tau.square() * _log_secants(levels)))
    # tau = 0 on a step to sigma = 0 is 0 times an infinite h: no noise.
    gained = torch.where(tau == 0, 0.0, tau.square() * levels.h)
    return levels.b * torch.sqrt(-torch.expm1(-2 * gained))


def multistep_table(
    levels: Levels,
    representation: Representation,
    left: Tensor,
    predict: Tensor,
    *,
    correct: Tensor | None = None,
    noise: Tensor | None = None,
) -> Table:
    """The table of a predictor (weights (N, P)), and of a corrector after it (weights (N, Q)) where given.

    Args:
        levels: the grid.
        representation: of the values, and with it whether the weights are for x~ or for x^.
        left: a_i, (N,).
        predict: P, (N, P).
        correct: Q, (N, Q); the last row is not used, since nothing is evaluated at the end.
        noise: c_i, (N,).
    """
    steps = len(levels)
    # x = scale x~ (or x^), and the value m = value/measure of what the table calls it.
    scale = levels.norm if representation == "velocity" else levels.alpha
    measure = levels.norm if representation == "velocity" else torch.ones_like(levels.alpha)
    left = left * scale[1:] / scale[:-1]
    predict = scale[1:, None] * predict / _past(measure, steps, predict.shape[1], 0)
    fresh = None if noise is None else (scale[1:] * noise)[:, None]
    drawing = torch.full((steps,), noise is not None, device="cpu")
    ends = torch.ones(steps, dtype=torch.bool, device="cpu")
    kind = _TABLE_KIND[representation]
    if correct is None:
        return Table(kind, levels.times[:-1], Updates.of(left, predict, fresh), Updates.none(steps), drawing, ends)
    correct = scale[1:, None] * correct / _past(measure, steps, correct.shape[1], 1)
    # Row i corrects x_i with the value just made, and then predicts the point where row i + 1 evaluates.
    state_x = torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), left[:-1]])
    state_m = torch.cat([torch.zeros(1, correct.shape[1], dtype=torch.float64, device="cpu"), correct[:-1]])
    state_z = torch.zeros(steps, 0 if fresh is None else 2, dtype=torch.float64, device="cpu")
    if fresh is not None:
        state_z[1:, 1] = fresh[:-1, 0]
    # The last row does both at once: the predicted point is the end.
    width = max(correct.shape[1], predict.shape[1])
    state_m = torch.cat([state_m, torch.zeros(steps, width - state_m.shape[1], dtype=torch.float64, device="cpu")], 1)
    state_m[-1] *= left[-1]
    state_m[-1, : predict.shape[1]] += predict[-1]
    state_z[-1] *= left[-1]
    if fresh is not None:
        state_z[-1, 0] += fresh[-1, 0]
    state_x = torch.cat([state_x[:-1], state_x[-1:] * left[-1]])
    pointing = torch.arange(steps, device="cpu") < steps - 1
    return Table(
        kind,
        levels.times[:-1],
        Updates.of(state_x, state_m, state_z),
        Updates.of(left, predict, fresh, active=pointing),
        drawing,
        ends,
    )


def _past(measure: Tensor, steps: int, width: int, ahead: int) -> Tensor:
    """`measure` where m_{i + ahead - j} was evaluated, (N, width); where there is none yet, the first."""
    row = torch.arange(steps, device="cpu")[:, None] + ahead
    return measure[(row - torch.arange(width, device="cpu")).clamp(min=0)]
