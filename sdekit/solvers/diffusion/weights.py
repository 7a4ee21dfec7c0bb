r"""Weights of linear multistep samplers: the model's past values, interpolated and integrated exactly.

The probability flow, and the reverse SDE with noise factor tau, are written in one of three representations m:

    noise      x~_b = x~_a + int eps dsigma~                                       sigma~ = sigma/alpha
    data       x~_b = r x~_a + int (1 + tau^2) e^{-(1 + tau^2)(lambda_b - l)} D dl,   r = (b/a)^(1 + tau^2)
    velocity   x^_b = r x^_a + int (1 + tau^2) (cos(theta)/cos(theta_b))^(tau^2) v dtheta,   x^ = x~ cos(theta),
               v = cos(theta) eps - sin(theta) D,   r = (cos(theta_a)/cos(theta_b))^(tau^2)

The last is exact for N(0, I), where v = 0 and the noise, sqrt(1 - r^2) z in x^, keeps the variance at 1.

In between, m is the polynomial in a clock (lambda, sigma~, theta, t or a power of sigma~) through the last values, so

    weight_j = int kernel(l) L_j(clock(l)) dl      with L_j the Lagrange basis of the nodes,

by Gauss-Legendre quadrature in lambda, in float64. The weights depend on the grid alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.solvers.diffusion.levels import Levels

__all__ = [
    "Clock",
    "Representation",
    "check_clock",
    "check_representation",
    "integral_weights",
    "lagrange",
    "order_ramp",
]

Representation = Literal["noise", "data", "velocity"]
Clock = str

_NODES = 16
_PANEL = 2.0
# Where a step goes to sigma = 0 its integral over lambda is cut after this length: e^-40 is below float64's rounding.
_LONGEST = 40.0
_CLOCKS = ("lambda", "sigma", "theta", "t")


def check_representation(representation: str) -> Representation:
    """`representation` itself, or an UnknownNameError with the nearest of the three."""
    if representation not in get_args(Representation):
        raise UnknownNameError("representation", representation, get_args(Representation))
    return representation  # type: ignore[return-value]


def check_clock(clock: str) -> str:
    """`clock` itself, or an error: lambda, sigma, theta, t, "sigma^P" or "theta/C" with a number P or C above 0."""
    for kind in ("sigma^", "theta/"):
        if isinstance(clock, str) and clock.startswith(kind):
            try:
                number = float(clock.removeprefix(kind))
            except ValueError:
                number = math.nan
            if not (math.isfinite(number) and number > 0):
                raise ArgumentError(f"the number in clock {clock!r} must be above 0, as in '{kind}0.5'.")
            return clock
    if clock not in _CLOCKS:
        raise UnknownNameError("clock", clock, (*_CLOCKS, "sigma^0.5", "theta/0.5"))
    return clock


def is_finite_at_zero(clock: Clock) -> bool:
    """Whether the clock has a value where sigma = 0, so that a polynomial in it can be carried there."""
    return clock != "lambda"


def order_ramp(steps: int, order: int, *, first: int = 1) -> Tensor:
    """The order of each step while the past fills: min(order, i + 1), and `first` values at the least, int64 (N,)."""
    return torch.arange(1, steps + 1, device="cpu").clamp(min=first, max=order)


def integral_weights(
    levels: Levels,
    representation: Representation,
    clock: Clock,
    orders: Tensor,
    *,
    ahead: int = 0,
    tau: Tensor | None = None,
    kernel: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""Weights (N, P) of the values m_{i + ahead}, m_{i + ahead - 1}, … in step i; 0 beyond the row's order.

    Args:
        levels: the grid.
        representation: what is interpolated.
        clock: in what.
        orders: how many values each step takes, int64 (N,); 0 leaves the row at 0.
        ahead: 0 for a predictor, whose newest value is at the start of the step; 1 for a corrector, at its end.
        tau: noise factor of each step, (N,), for the data and the velocity; 0 unless given.
        kernel: another kernel than the representation's: a function of lambda (N, Q), (N, Q).
    """
    steps, most = len(levels), int(orders.max()) if len(orders) else 0
    weights = torch.zeros(steps, most, dtype=torch.float64, device="cpu")
    lam, lengths = _quadrature(levels)
    mass = lengths * (_kernel(levels, representation, lam, tau) if kernel is None else kernel(lam))
    # To sigma = 0 a clock without a value there holds the newest value.
    to_zero = torch.isinf(levels.lam[1:])
    taken = orders if is_finite_at_zero(clock) else torch.where(to_zero, orders.clamp(max=1), orders)
    points = _clock_at_lambda(levels, clock, lam)
    nodes = _clock_at_nodes(levels, clock)
    for order in range(1, most + 1):
        rows = (taken == order).nonzero()[:, 0]
        if len(rows):
            past = rows[:, None] + ahead - torch.arange(order, device="cpu")
            weights[rows, :order] = (mass[rows, :, None] * lagrange(nodes[past], points[rows])).sum(1)
    return weights


def lagrange(nodes: Tensor, points: Tensor) -> Tensor:
    """The Lagrange basis of `nodes` (M, p) at `points` (M, Q): (M, Q, p)."""
    order = nodes.shape[1]
    basis = []
    for j in range(order):
        others = [k for k in range(order) if k != j]
        value = torch.ones_like(points)
        for k in others:
            value = value * (points - nodes[:, k, None]) / (nodes[:, j] - nodes[:, k])[:, None]
        basis.append(value)
    return torch.stack(basis, dim=-1)


def _quadrature(levels: Levels) -> tuple[Tensor, Tensor]:
    """Places lambda within each step and their lengths dlambda, each (N, Q)."""
    levels.require_noise()
    h = levels.h.clamp(-_LONGEST, _LONGEST)
    places, lengths = _panels(max(1, math.ceil(float(h.abs().max()) / _PANEL)))
    return levels.lam[:-1, None] + places * h[:, None], lengths * h[:, None]


def _kernel(levels: Levels, representation: Representation, lam: Tensor, tau: Tensor | None) -> Tensor:
    if representation == "data":
        speed = torch.ones(len(levels), dtype=torch.float64, device="cpu") if tau is None else 1 + tau.square()
        # Cut where the places are, at most _LONGEST from the start: a step to sigma = 0 has no end in lambda.
        end = torch.minimum(levels.lam[1:], levels.lam[:-1] + _LONGEST)
        return speed[:, None] * torch.exp(-speed[:, None] * (end[:, None] - lam))
    ratio = torch.exp(-lam)
    if representation == "noise":
        return -ratio
    turned = -ratio / (1 + ratio.square())
    if tau is None:
        return turned
    # (cos theta / cos theta_b)^(tau^2), with cos^2 theta = 1/(1 + sigma~^2)
    left = torch.log1p(levels.b.square())[:, None] - torch.log1p(ratio.square())
    return turned * (1 + tau.square())[:, None] * torch.exp(0.5 * tau.square()[:, None] * left)


@functools.lru_cache(maxsize=64)
def _panels(count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on `count` equal panels of [0, 1], each (1, Q)."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    starts = torch.arange(count, dtype=torch.float64, device="cpu")[:, None]
    inner = torch.from_numpy(0.5 * (nodes + 1))
    places = ((starts + inner) / count).reshape(1, -1)
    return places, torch.from_numpy(0.5 * weights).repeat(count)[None] / count


def _clock_at_lambda(levels: Levels, clock: Clock, lam: Tensor) -> Tensor:
    if clock == "lambda":
        return lam
    if clock == "t":
        return levels.time_of(lam)
    return _of_ratio(clock, torch.exp(-lam))


def _clock_at_nodes(levels: Levels, clock: Clock) -> Tensor:
    if clock == "lambda":
        return levels.lam
    return levels.times if clock == "t" else _of_ratio(clock, levels.ratio)


def _of_ratio(clock: Clock, ratio: Tensor) -> Tensor:
    if clock == "sigma":
        return ratio
    if clock == "theta":
        return torch.arctan(ratio)
    if clock.startswith("theta/"):
        return torch.arctan(ratio / float(clock.removeprefix("theta/")))
    power: Tensor = ratio ** float(clock.removeprefix("sigma^"))
    return power
