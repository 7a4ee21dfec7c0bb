r"""Methods for the underdamped Langevin equation, whose linear part they solve exactly: BAOAB, UBU and QUICSORT.

    dX = V dt,    dV = -gamma V dt - u grad F(X) dt + rho dW,    rho = sqrt(2 gamma u)

Without the force, over a time h = s - t of either sign, with z = gamma h,

    V_s = e^{-z} V + rho (p_1 W - z D),     X_s = X + h p_1 V + rho h (p_2 W + D),     D = q_1 H - z q_2 K + residual

    p_k(z) = sum_j (-z)^j/(j + k)!,    q_1 = 12 (p_2/2 - p_3),    q_2 = 60 (12 p_5 - 6 p_4 + p_3)

W, H and K being those of the interval, and the residual independent of them, of variance |h| z^4/100800 to first order.
p_1 = (1 - e^{-z})/z and p_2 = (z - 1 + e^{-z})/z^2 so lose no digits for small z, and q_1 and q_2 are 1 at 0.

The noise acts on the velocity. Increments have the state's shape (B, 2, *), however; their position row, which the
equation does not have, is where UBU takes the further normals that it needs.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.noise import Increment
from sdekit.sdes import UnderdampedLangevin
from sdekit.sdes.langevin import check_phase_space
from sdekit.solvers.carrying import CarryingSolver
from sdekit.solvers.step import StepSolver

__all__ = ["BAOAB", "QUICSORT", "UBU"]

_LEFT, _RIGHT = 0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6


# The equation's exact linear part -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _p(z: float) -> tuple[float, ...]:
    """p_1(z), …, p_5(z) to rounding."""
    if abs(z) < 2:
        return tuple(sum((-z) ** j / math.factorial(j + k) for j in range(26)) for k in range(1, 6))
    values = [-math.expm1(-z) / z]
    for k in range(1, 5):
        values.append((1 / math.factorial(k) - values[-1]) / z)
    return tuple(values)


@final
@dataclass(frozen=True)
class _Flow:
    """The linear part over a time h: V -> decay V + rho (p_1 W - z D), X -> X + h p_1 V + rho h (p_2 W + D).

    D = q_1 H - z q_2 K + a residual of the standard deviation given here.
    """

    h: float
    z: float
    decay: float
    p1: float
    p2: float
    q1: float
    q2: float
    residual: float


@functools.lru_cache(maxsize=256)
def _flow(gamma: float, h: float) -> _Flow:
    z, span = gamma * h, abs(h)
    p1, p2, p3, p4, p5 = _p(z)
    q1, q2 = 12 * (p2 / 2 - p3), 60 * (12 * p5 - 6 * p4 + p3)
    return _Flow(h, z, math.exp(-z), p1, p2, q1, q2, math.sqrt(span * _residual(z)))


def _residual(z: float) -> float:
    r"""Var D/|h| given W, H and K: what e^{-z r} has beyond its first three Legendre polynomials on [0, 1], over z^2.

    e^{-z}/z^2 sum_{n > 2} (2n + 1) i_n(z/2)^2 with the modified spherical Bessel functions i_n.
    """
    if abs(z) < 2:
        y = z * z / 8  # (z/2)^2/2

        def bessel(n: int) -> float:
            """i_n(z/2)/z^n."""
            first = 1 / math.prod(2 * (2 * i + 1) for i in range(1, n + 1))
            terms = [1.0]
            for j in range(1, 10):
                terms.append(terms[-1] * y / (j * (2 * n + 2 * j + 1)))
            return first * sum(terms)

        return math.exp(-z) * sum((2 * n + 1) * bessel(n) ** 2 * z ** (2 * n - 2) for n in range(3, 12))
    p1, p2, p3, p4, p5 = _p(z)
    seen = p1**2 + 12 * (z * (p2 / 2 - p3)) ** 2 + 5 * (z * z * (12 * p5 - 6 * p4 + p3)) ** 2
    return max(0.0, (_p(2 * z)[0] - seen) / z**2)


# What the three share -----------------------------------------------------------------------------------------------


class _LangevinSolver(StepSolver):
    calculus = ("ito", "stratonovich")
    noise_kinds = ("additive",)
    needs = ("underdamped",)

    @property
    def stochastic(self) -> bool:
        return True

    def _force(self, dynamics: Dynamics, position: Tensor) -> Tensor:
        """u grad F at the position, a tensor of its own: one evaluation, counted as a drift's is."""
        dynamics.counter.calls += 1
        equation = self._equation(dynamics)
        return equation.u * equation.gradient(position)

    def _equation(self, dynamics: Dynamics) -> UnderdampedLangevin:
        if not isinstance(dynamics.sde, UnderdampedLangevin):
            raise UnsupportedError(f"solver {self.name!r} is made for UnderdampedLangevin; {dynamics!r} is none.")
        return dynamics.sde

    def _step(self, h: float | Tensor, noise: Increment | None) -> tuple[float, Increment]:
        """The step's length as a number, and its noise."""
        if isinstance(h, Tensor):
            raise UnsupportedError(f"solver {self.name!r} takes steps of one length for all samples.")
        if noise is None or len(noise.values()) <= self.areas:
            wanted = ("W", "W and H", "W, H and K")[self.areas]
            raise ArgumentError(f"solver {self.name!r} needs {wanted} of its step.")
        return h, noise


def _rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Position and velocity."""
    check_phase_space(x)
    return x[:, 0], x[:, 1]


def _rho(equation: UnderdampedLangevin) -> float:
    return math.sqrt(2 * equation.gamma * equation.u)


def _row(noise: Increment, i: int) -> Increment:
    """The position's (0) or the velocity's (1) part of an increment."""
    return Increment(*[value[:, i] for value in noise.values()])


def _areas(noise: Increment) -> tuple[Tensor, Tensor, Tensor]:
    if noise.H is None or noise.K is None:
        raise ArgumentError("the step needs H and K of its noise.")
    return noise.W, noise.H, noise.K


# The methods --------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, repr=False)
class BAOAB(_LangevinSolver, CarryingSolver):
    r"""B(h/2) A(h/2) O(h) A(h/2) B(h/2):   B: v -= h u grad F(x),   A: x += h v,   O: v = e^{-gamma h} v + S

    S = rho sqrt(p_1(2 gamma h)) W, so that its law, N(0, u (1 - e^{-2 gamma h})), is exact for any step. One gradient a
    step: that at the end is the next step's first. Weak order 2, strong order 1. The positions' stationary law is exact
    where F is quadratic, for any stable step, and elsewhere unusually near: the choice for sampling from exp(-F).

    Leimkuhler & Matthews 2013, arXiv 1203.5428.
    """

    name = "baoab"
    strong_order = 1.0
    weak_order = 2.0
    evaluations_per_step = 1
    reference = "Leimkuhler & Matthews 2013, arXiv 1203.5428"

    def begin(self, dynamics: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        return (self._force(dynamics, _rows(x)[0]),)

    def carry(
        self,
        dynamics: Dynamics,
        x: Tensor,
        carried: tuple[Tensor, ...],
        t: Tensor,
        s: Tensor,
        h: float | Tensor,
        noise: Increment | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (force,), equation = carried, self._equation(dynamics)
        h, noise = self._step(h, noise)
        decay, spread = math.exp(-equation.gamma * h), _rho(equation) * math.sqrt(_p(2 * equation.gamma * h)[0])
        half = 0.5 * h
        v = x[:, 1] - half * force
        position = x[:, 0] + half * v
        v = decay * v + spread * noise.W[:, 1]
        position = position + half * v
        force = self._force(dynamics, position)
        return torch.stack([position, v - half * force], dim=1), (force,)


@final
@dataclass(frozen=True, repr=False)
class UBU(_LangevinSolver):
    r"""U(h/2) B(h) U(h/2):   B: v -= h u grad F(x),   U the equation without its force, solved exactly

    One gradient a step; strong order 2, weak order 2; exact where there is no force.

    The two halves' noise is that of one Brownian path: given W, H and K of the step, what is not known yet of it is
    drawn from its exact law with the normals of the increment's position row. So U has its exact law for any gamma h,
    one seed makes the same steps again, and what is drawn moves the point of the gradient by no more than about
    rho |h|^{3/2}/55, with the mean 0, so that order 2 on a path is kept.

    Zapatero 2017; Sanz-Serna & Zygalakis 2021, arXiv 2104.12384.
    """

    name = "ubu"
    strong_order = 2.0
    weak_order = 2.0
    evaluations_per_step = 1
    areas = 2
    reference = "Zapatero 2017; Sanz-Serna & Zygalakis 2021, arXiv 2104.12384"

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        equation = self._equation(dynamics)
        h, noise = self._step(h, noise)
        flow, rho = _flow(equation.gamma, 0.5 * h), _rho(equation)
        (w1, d1), (w2, d2) = _halves(flow, noise)
        (x, v), move = _rows(x), flow.h * flow.p1
        x = x + move * v + (rho * flow.h) * (flow.p2 * w1 + d1)
        v = flow.decay * v + rho * (flow.p1 * w1 - flow.z * d1) - h * self._force(dynamics, x)
        x = x + move * v + (rho * flow.h) * (flow.p2 * w2 + d2)
        v = flow.decay * v + rho * (flow.p1 * w2 - flow.z * d2)
        return torch.stack([x, v], dim=1)


def _halves(flow: _Flow, noise: Increment) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    r"""(W, D) of the two halves of a step of length h = 2 flow.h.

    The halves of a path are (`noise.splitting.halve`), with independent normals n_1, n_2, n_3,

        W/2 +- x,    H - x/2 +- e,    2K - e/2 +- k
        x = 3H/2 + sqrt|h| n_1/4,     e = 15K/4 + sqrt(|h|/768) n_2,     k = sqrt(|h|/2880) n_3

    In D of the halves, n_2, n_3 and the two residuals make a Gaussian pair, which two normals make too: (l_11 n_2,
    l_21 n_2 + l_22 n_3), by its Cholesky factor. All three normals are those of the position row.
    """
    span = 2 * abs(flow.h)
    w, high, third = _areas(_row(noise, 1))
    w_free, h_free, k_free = _areas(_row(noise, 0))
    x, e = 1.5 * high + 0.25 * w_free, 3.75 * third
    h_mean, k_mean = high - 0.5 * x, 2 * third - 0.5 * e
    l11, l21, l22 = _factor(flow, span)
    n2, n3 = math.sqrt(12 / span) * h_free, math.sqrt(720 / span) * k_free
    common = flow.q1 * h_mean - (flow.z * flow.q2) * k_mean
    d1 = common + flow.q1 * e + l11 * n2
    d2 = common - flow.q1 * e + l21 * n2 + l22 * n3
    return (0.5 * w + x, d1), (0.5 * w - x, d2)


def _factor(flow: _Flow, span: float) -> tuple[float, float, float]:
    """l_11, l_21 and l_22 of `_halves`; in the determinant nothing cancels."""
    e, k = math.sqrt(span / 768), flow.z * flow.q2 * math.sqrt(span / 2880)
    a, b, r2 = (flow.q1 + 0.5 * flow.z * flow.q2) * e, (flow.q1 - 0.5 * flow.z * flow.q2) * e, flow.residual**2
    first = a * a + k * k + r2
    determinant = k * k * (a - b) ** 2 + r2 * (a * a + b * b + 2 * k * k) + r2 * r2
    return math.sqrt(first), -(a * b + k * k) / math.sqrt(first), math.sqrt(determinant / first)


@final
@dataclass(frozen=True, repr=False)
class QUICSORT(_LangevinSolver):
    r"""Two gradients, at the Gauss points l, r = 1/2 -+ sqrt(3)/6 of the step; strong order 3, weak order 3 or more.

    v~ = v + rho (H + 6K),   w = rho (W - 12K),   a_s = s h p_1(s z),   b_s = e^{-s z},   c_s = s^2 h p_2(s z)
    x_1 = x + a_l v~ + c_l w
    x_2 = x + a_r v~ + c_r w - a_{1/3} h F_1
    x_s = x + a_1 v~ + c_1 w - h/2 (a_r F_1 + a_l F_2)
    v_s = b_1 v~ + a_1/h w - h/2 (b_r F_1 + b_l F_2) - rho (H - 6K),        F_i = u grad F(x_i)

    The noise enters by a path of two pieces with the step's W, H and K: it is made for gamma h below about 1.

    Scott, O'Kane, Jelincic & Foster 2025, arXiv 2508.16485; Foster, Lyons & Oberhauser 2021, arXiv 2101.03446.
    """

    name = "quicsort"
    strong_order = 3.0
    weak_order = 3.0
    evaluations_per_step = 2
    areas = 2
    reference = "Scott, O'Kane, Jelincic & Foster 2025, arXiv 2508.16485"

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        equation = self._equation(dynamics)
        h, noise = self._step(h, noise)
        rho, z, half = _rho(equation), equation.gamma * h, 0.5 * h
        w, high, third = _areas(_row(noise, 1))

        def a(s: float) -> float:
            return s * h * _p(s * z)[0]

        def b(s: float) -> float:
            return math.exp(-s * z)

        def c(s: float) -> float:
            return s * s * h * _p(s * z)[1]

        x, v = _rows(x)
        v = v + rho * (high + 6 * third)
        w = rho * (w - 12 * third)
        f1 = self._force(dynamics, x + a(_LEFT) * v + c(_LEFT) * w)
        f2 = self._force(dynamics, x + a(_RIGHT) * v + c(_RIGHT) * w - (a(1 / 3) * h) * f1)
        end = x + a(1) * v + c(1) * w - half * (a(_RIGHT) * f1 + a(_LEFT) * f2)
        speed = b(1) * v + (a(1) / h) * w - half * (b(_RIGHT) * f1 + b(_LEFT) * f2) - rho * (high - 6 * third)
        return torch.stack([end, speed], dim=1)
