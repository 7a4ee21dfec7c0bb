"""DRI1: weak order 2 for any Ito noise, on variables with few values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError
from sdekit.noise import Increment
from sdekit.solvers.step import StepSolver, apply_diffusion, beside, length, moved, square_root

__all__ = ["DRI1", "few_valued"]

# Drift: Kutta's three stages; the weights of G I in the second and the third.
_B2, _B3 = (6 - math.sqrt(6)) / 10, (3 + 2 * math.sqrt(6)) / 5
# Diffusion: node and step of G2 and G3; the weights of G and (G2, G3) in v; the weights of the step.
_C, _D = 342 / 491, 3 * math.sqrt(38 / 491)
_E1, _E2 = -214 / 513 * math.sqrt(1105 / 991), -491 / 513 * math.sqrt(221 / 4955)
_OWN, _OWN_PAIR, _OWN_CHANGE = 193 / 684, 491 / 1368, math.sqrt(491 / 38) / 6
_OTHER, _OTHER_PAIR, _OTHER_CHANGE = -4955 / 7072, 4955 / 14144, -math.sqrt(4955 / 221) / 8

# Quantiles of |z|, z ~ N(0, 1): P(|z| > _OUTSIDE) = 1/3, and the medians of |z| within and beyond.
_OUTSIDE, _WITHIN, _BEYOND = 0.9674215661017014, 0.43072729929545733, 1.3829941271006387


def few_valued(z: Tensor) -> tuple[Tensor, Tensor]:
    """Of a standard normal z: a variable with the values 0 (2/3) and -+sqrt 3 (1/6 each), and a sign independent of it.

    The first has the moments of z up to the fifth. The sign says whether |z| is below its median given the first.
    """
    size = z.abs()
    outside = size > _OUTSIDE
    value = torch.where(outside, math.sqrt(3) * z.sign(), 0.0)
    near = torch.where(outside, size < _BEYOND, size < _WITHIN)
    return value, torch.where(near, 1.0, -1.0).to(z.dtype)


@final
@dataclass(frozen=True, repr=False)
class DRI1(StepSolver):
    r"""Debrabant & Rossler's DRI1: weak order 2, and order 3 where there is no noise. For expectations, not for paths.

    F_1 = f(x, t),   F_2 = f(x + h/2 F_1 + B_2 g I, t + h/2),   F_3 = f(x - h F_1 + 2 h F_2 + B_3 g I, s)
    G_+-^k = g^k(x + c h F_1 +- d r g^k, t + c h),   X_+-^l = g(x +- v^l, t),   v^l = r (e_1 g^l + e_2 (G_+^l + G_-^l))
    x_s = x + h (F_1 + 4 F_2 + F_3)/6
          + sum_k [b_1 g^k I_k + b_2 (G_+^k + G_-^k) I_k + b_3 (G_+^k - G_-^k) I_kk/r]
          + sum_k sum_l!=k [b_4 g^k I_k + b_5 (X_+^l + X_-^l)^k I_k + b_6 (X_+^l - X_-^l)^k I_kl/r],   r = sqrt|h|

    with I_k of three values in place of W_k, I_kk = (I_k^2 - |h|)/2, and I_kl, I_lk = (I_k I_l -+ V_kl)/2 for k < l,
    where V_kl = |h| s_k s_l, s_1 = 1 and s_2, …, s_m independent signs, makes the pairs uncorrelated for any m. (One
    sign for each min(k, l), as elsewhere, correlates I_12 with I_13, and leaves weak order 1 from m = 3 on.)

    I_k and s_k are both made of W_k (`few_valued`), by a cut of its law into six, so that the method needs no other
    draws and takes a seed or a path as any other; the paths that it makes are none of an Ito solution. Three drift
    evaluations; with scalar and diagonal noise the double sum is 0 and three of the diffusion, else 4 m + 1.

    Debrabant & Rossler 2009, "Families of efficient second order Runge-Kutta methods for the weak approximation of Ito
    stochastic differential equations", arXiv 1303.5103.
    """

    name = "dri1"
    weak_order = 2.0
    evaluations_per_step = 3
    calculus = ("ito",)
    reference = "Debrabant & Rossler 2009, arXiv 1303.5103"

    @property
    def stochastic(self) -> bool:
        return True

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        if noise is None:
            raise ArgumentError(f"solver {self.name!r} solves SDEs; {dynamics!r} is an ODE.")
        w = noise.W
        span = length(beside(h, w))
        root = square_root(span)
        value, sign = few_valued(w / root)
        i = value * root
        g = dynamics.diffusion(x, t).clone()
        kick = apply_diffusion(dynamics, g, i, x)
        f1 = dynamics.drift(x, t).clone()
        f2 = dynamics.drift(moved(x, f1, 0.5 * h) + _B2 * kick, t + 0.5 * (s - t)).clone()
        f3 = dynamics.drift(moved(moved(x, f1, -h), f2, 2 * h) + _B3 * kick, s)
        y = x + (f1 + 4 * f2 + f3) * (h / 6)
        start, node = moved(x, f1, _C * h), t + _C * (s - t)
        if dynamics.noise == "additive":
            # G_+ = G_- and X_+ = X_- = g: what the double sum holds is 0.
            return y + _OWN * kick + 2 * _OWN_PAIR * apply_diffusion(dynamics, dynamics.diffusion(start, node), i, x)
        if dynamics.noise_dim is None:
            above = dynamics.diffusion(start + _D * root * g, node).clone()
            below = dynamics.diffusion(start - _D * root * g, node)
            own = 0.5 * (i * i - span) / root
            return y + _OWN * g * i + _OWN_PAIR * (above + below) * i + _OWN_CHANGE * (above - below) * own
        return y + _matrix_noise(dynamics, x, t, start, node, g, i, span, root, sign)


def _matrix_noise(
    dynamics: Dynamics,
    x: Tensor,
    t: Tensor,
    start: Tensor,
    node: Tensor,
    g: Tensor,
    i: Tensor,
    span: float | Tensor,
    root: float | Tensor,
    sign: Tensor,
) -> Tensor:
    """The sums over the columns of g, (B, *, m), with i and sign of shape (B, m)."""
    m = i.shape[1]
    columns = g.unbind(-1)

    def wide(of_sample: float | Tensor) -> float | Tensor:
        """Numbers, or numbers of the samples, as they broadcast against x."""
        return of_sample.reshape(-1, *([1] * (x.ndim - 1))) if isinstance(of_sample, Tensor) else of_sample

    r = wide(root)
    total = torch.zeros_like(x)
    pairs = []
    for k in range(m):
        above = dynamics.diffusion(start + _D * r * columns[k], node)[..., k].clone()
        below = dynamics.diffusion(start - _D * r * columns[k], node)[..., k]
        own = 0.5 * (i[:, k] ** 2 - _of(span)) / _of(root)
        total = total + (_OWN * columns[k] + _OWN_PAIR * (above + below)) * wide(i[:, k])
        total = total + _OWN_CHANGE * (above - below) * wide(own)
        pairs.append(above + below)
    signs = [torch.ones_like(sign[:, 0]), *sign.unbind(1)[1:]]
    for j in range(m if m > 1 else 0):
        v = r * (_E1 * columns[j] + _E2 * pairs[j])
        above, below = dynamics.diffusion(x + v, t).clone(), dynamics.diffusion(x - v, t)
        for k in range(m):
            if k == j:
                continue
            area = _of(span) * signs[j] * signs[k]
            mixed = 0.5 * (i[:, k] * i[:, j] + (area if k > j else -area)) / _of(root)
            total = total + (_OTHER * columns[k] + _OTHER_PAIR * (above + below)[..., k]) * wide(i[:, k])
            total = total + _OTHER_CHANGE * (above - below)[..., k] * wide(mixed)
    return total


def _of(value: float | Tensor) -> float | Tensor:
    """A number, or one for each sample, (B,)."""
    return value[:, 0] if isinstance(value, Tensor) else value
