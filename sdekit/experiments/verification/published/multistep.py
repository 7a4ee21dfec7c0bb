"""Multistep samplers of the probability flow: DPM-Solver, UniPC, Adams-Bashforth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from sdekit.experiments.verification.published.loops import (
    Corrector,
    Flow,
    Value,
    corrected,
    interpolated,
    noise_factor,
    one_evaluation_a_step,
    same_place,
)
from sdekit.experiments.verification.published.reference import Draw, Run

__all__ = [
    "ADAMS_BASHFORTH",
    "adams_bashforth",
    "deis_sampler",
    "differences",
    "exponential",
    "ipndm",
    "lms",
    "pndm_loop",
    "three_values",
    "two_values",
    "unified",
]


# DPM-Solver and DPM-Solver++, multistep ----------------------------------------------------------------------------


def exponential(past: Sequence[Value], y: Tensor, b: float, prediction: str, tau2: float = 0.0) -> Tensor:
    """The exact integral of the polynomial in lambda through these values, less the noise.

    noise: x~_a - int_a^b e^{-l} P(l) dl;   data: r x~_a + int_a^b (1 + tau^2) e^{-(1 + tau^2)(l_b - l)} P(l) dl
    """
    places, low, high = [value.log_snr for value in past], past[-1].log_snr, -math.log(b)
    if prediction == "noise":
        return y + interpolated(lambda u: -math.exp(-u), same_place, places, [v.eps for v in past], low, high)
    k = 1 + tau2
    integral = interpolated(
        lambda u: k * math.exp(-k * (high - u)), same_place, places, [v.data for v in past], low, high
    )
    return math.exp(-k * (high - low)) * y + integral


def differences(past: Sequence[Value], b: float, prediction: str) -> list[Tensor]:
    """The published D0, D1, D2 of up to three values, with r_i = h_{-1-i}/h."""
    m = [value.eps if prediction == "noise" else value.data for value in reversed(past)]
    lam = [value.log_snr for value in reversed(past)]
    h = -math.log(b) - lam[0]
    if len(m) == 1:
        return [m[0]]
    r0 = (lam[0] - lam[1]) / h
    d10 = (m[0] - m[1]) / r0
    if len(m) == 2:
        return [m[0], d10]
    r1 = (lam[1] - lam[2]) / h
    d11 = (m[1] - m[2]) / r1
    return [m[0], d10 + r0 / (r0 + r1) * (d10 - d11), (d10 - d11) / (r0 + r1)]


def two_values(prediction: str, variant: str, eta: float = 0.0) -> Run:
    """midpoint: the first-order step of D0 + D1/2; exact: the integral of the line through the two values."""

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        last, a = past[-2:], past[-1].level
        h = math.log(a / b)
        if variant == "exact":
            y = exponential(last, y, b, prediction, eta)
        else:
            d0, *rest = differences(last, b, prediction)
            mean = d0 + 0.5 * rest[0] if rest else d0
            if prediction == "noise":
                y = y - b * math.expm1(h) * mean
            else:
                y = b / a * math.exp(-eta * h) * y - math.expm1(-(1 + eta) * h) * mean
        return y if eta == 0 else y + b * noise_factor(eta, h) * draw()

    return one_evaluation_a_step(step)


def three_values(prediction: str, legacy: bool, eta: float = 0.0) -> Run:
    """legacy: the published phi_2 D1 - phi_3 D2, with phi_3 half of the exact weight; else the exact integral.

    The second step, which has two values, is phi_2 D1 in both: k-diffusion's, and diffusers' with solver_type="heun".
    """

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        last, a = past[-3:], past[-1].level
        h = math.log(a / b)
        if not legacy:
            y = exponential(last, y, b, prediction, eta)
        else:
            d0, *rest = differences(last, b, prediction)
            k = (1 + eta) * h
            if prediction == "noise":
                phi_2 = math.expm1(h) / h - 1
                base, weights = y - b * math.expm1(h) * d0, [-b * phi_2, -b * (phi_2 / h - 0.5)]
            else:
                phi_2 = math.expm1(-k) / k + 1
                base, weights = math.exp(-k) * y - math.expm1(-k) * d0, [phi_2, -(phi_2 / k - 0.5)]
            y = sum((w * d for w, d in zip(weights, rest, strict=False)), base)
        return y if eta == 0 else y + b * noise_factor(eta, h) * draw()

    return one_evaluation_a_step(step)


# UniPC -------------------------------------------------------------------------------------------------------------


def unified(p: int, variant: str, prediction: str, corrector: bool) -> Run:
    """UniP-p and UniC-p: sum_k rho_k r_k^(j-1) = j! phi_{j+1}(hh) hh/B(hh); rho = 1/2 where one row is left."""

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> tuple[Tensor, Corrector | None]:
        order = min(p, len(past))

        def output(value: Value) -> Tensor:
            return value.data if prediction == "data" else value.eps

        a, m0 = past[-1].level, output(past[-1])
        h = math.log(a / b)
        hh = -h if prediction == "data" else h
        B = hh if variant == "bh1" else math.expm1(hh)
        older = past[-2 : -order - 1 : -1]
        ratios = [(value.log_snr - past[-1].log_snr) / h for value in older]
        slopes = [(output(value) - m0) / r for value, r in zip(older, ratios, strict=True)]
        base = b / a * y - math.expm1(hh) * m0 if prediction == "data" else y - b * math.expm1(hh) * m0
        scale = B if prediction == "data" else b * B

        def rhos(places: Sequence[float]) -> list[float]:
            if len(places) == 1:
                return [0.5]
            right, phi = [], math.expm1(hh) / hh  # phi_1
            for j in range(1, len(places) + 1):
                phi = (phi - 1 / math.factorial(j)) / hh  # phi_{j+1}
                right.append(math.factorial(j) * phi * hh / B)
            rows = [[r**j for r in places] for j in range(len(places))]
            solved: list[float] = np.linalg.solve(np.array(rows), np.array(right)).tolist()
            return solved

        predicted = base
        if slopes:
            for rho, slope in zip(rhos(ratios), slopes, strict=True):
                predicted = predicted - scale * rho * slope

        def correct(new: Value) -> Tensor:
            corrected = base
            for rho, slope in zip(rhos([*ratios, 1.0]), [*slopes, output(new) - m0], strict=True):
                corrected = corrected - scale * rho * slope
            return corrected

        return predicted, correct if corrector else None

    def last(flow: Flow, past: Sequence[Value], y: Tensor, draw: Draw) -> Tensor:
        return past[-1].data if prediction == "data" else y - past[-1].level * past[-1].eps

    return corrected(step, last)


# Adams-Bashforth in sigma~ or t ------------------------------------------------------------------------------------


def deis_sampler(values: int, variant: str) -> Run:
    """x~_a + int_a^b P dsigma~: rho_ab has P in sigma~; t_ab has P in t, and dsigma~ = sigma~ g^2/(2 sigma^2) dt."""

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        last = past[-values:]
        eps = [value.eps for value in last]
        if variant == "rho_ab":
            return y + interpolated(lambda u: 1.0, same_place, [v.level for v in last], eps, last[-1].level, b)

        def rate(t: float) -> float:
            g, sigma = float(flow.sde.diffusion_coefficient(t)), float(flow.sde.sigma(t))
            return flow.level(t) * g**2 / (2 * sigma**2)

        return y + interpolated(rate, same_place, [v.t for v in last], eps, last[-1].t, flow.time(b))

    return one_evaluation_a_step(step)


def lms(values: int) -> Run:
    """x~_a + sum_j eps_j int_a^b prod_k (u - sigma_k)/(sigma_j - sigma_k) du, by polynomial arithmetic."""

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        last = past[-values:]
        a = last[-1].level
        for j, value in enumerate(last):
            # In u/a, which keeps the polynomial's coefficients of order 1.
            basis = np.polynomial.Polynomial([1.0])
            for i, other in enumerate(last):
                if i != j:
                    basis *= np.polynomial.Polynomial([-other.level, a]) / (value.level - other.level)
            primitive = basis.integ()
            y = y + a * float(primitive(b / a) - primitive(1.0)) * value.eps
        return y

    return one_evaluation_a_step(step)


ADAMS_BASHFORTH = {
    1: [1.0],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}


def adams_bashforth(values: Sequence[Tensor]) -> Tensor:
    """The equal-step mean of up to four values, newest last."""
    weights = ADAMS_BASHFORTH[min(4, len(values))]
    return sum((w * e for w, e in zip(weights[1:], reversed(values[:-1]), strict=False)), weights[0] * values[-1])


def ipndm(values: int) -> Run:
    """x~ + (b - a) (55 e_0 - 59 e_{-1} + 37 e_{-2} - 9 e_{-3})/24, on any grid."""

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        return y + (b - past[-1].level) * adams_bashforth([value.eps for value in past[-values:]])

    return one_evaluation_a_step(step)


def pndm_loop(flow: Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
    """F-PNDM: three pseudo Runge-Kutta steps with the transfer x~ + (b - a) e, then Adams-Bashforth's four values."""
    past: list[Tensor] = []
    for t, s in pairwise(times):
        a, b = flow.level(t), flow.level(s)
        e1 = flow.at(y, t).eps
        past.append(e1)
        if b == 0:
            return y - a * e1
        if len(past) < 4:
            half = (t + s) / 2
            middle = flow.level(half)
            e2 = flow.at(y + (middle - a) * e1, half).eps
            e3 = flow.at(y + (middle - a) * e2, half).eps
            e4 = flow.at(y + (b - a) * e3, s).eps
            e = (e1 + 2 * e2 + 2 * e3 + e4) / 6
        else:
            e = adams_bashforth(past[-4:])
        y = y + (b - a) * e
    return y
