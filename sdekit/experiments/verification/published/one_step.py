"""Samplers without a past: in x itself, Runge-Kutta, the single-step DPM-Solvers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sdekit.experiments.verification.published.loops import Flow, Value, one_evaluation_a_step
from sdekit.experiments.verification.published.reference import Draw, Model, Run
from sdekit.sdes import DiffusionSDE

__all__ = [
    "TABLEAUX",
    "ancestral",
    "ddim",
    "dpm_solver_2",
    "dpm_solver_3",
    "dpmpp_2s",
    "euler_maruyama",
    "in_time",
    "reverse_diffusion",
    "runge_kutta",
    "schedule_of",
]


# In x itself: one evaluation a step --------------------------------------------------------------------------------


def schedule_of(sde: DiffusionSDE, t: float, s: float) -> tuple[float, float, float, float, float]:
    """alpha_a, sigma_a, alpha_b, sigma_b and V = sigma_a^2 - (alpha_a/alpha_b)^2 sigma_b^2 (a DDPM's beta)."""
    alpha_a, sigma_a, alpha_b, sigma_b = (float(v) for v in (sde.alpha(t), sde.sigma(t), sde.alpha(s), sde.sigma(s)))
    return alpha_a, sigma_a, alpha_b, sigma_b, sigma_a**2 - (alpha_a / alpha_b * sigma_b) ** 2


def ddim(eta: float) -> Run:
    """alpha_b (x - sigma_a eps)/alpha_a + sqrt(sigma_b^2 - v^2) eps + v z; on VP v is eq. 16 as printed."""

    def run(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
        for t, s in pairwise(times.tolist()):
            alpha_a, sigma_a, alpha_b, sigma_b, V = schedule_of(sde, t, s)
            v = eta * sigma_b / sigma_a * math.sqrt(V)
            eps = model(x, t)
            x = alpha_b * (x - sigma_a * eps) / alpha_a + math.sqrt(sigma_b**2 - v**2) * eps
            if eta > 0:
                x = x + v * draw()
        return x

    return run


def ancestral(variance: str) -> Run:
    """DDPM's algorithm 2: mean (x - V/sigma_a eps)/sqrt(1 - beta), with 1 - beta = (alpha_a/alpha_b)^2."""

    def run(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
        for t, s in pairwise(times.tolist()):
            alpha_a, sigma_a, alpha_b, sigma_b, V = schedule_of(sde, t, s)
            mean = (x - V / sigma_a * model(x, t)) * alpha_b / alpha_a
            std = math.sqrt(V) * (sigma_b / sigma_a if variance == "posterior" else 1.0)
            x = mean + std * draw()
        return x

    return run


def reverse_diffusion(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
    """x - f + V score + sqrt(V) z, with f = (sqrt(1 - beta) - 1) x the drift of the discrete forward step."""
    for t, s in pairwise(times.tolist()):
        alpha_a, sigma_a, alpha_b, _, V = schedule_of(sde, t, s)
        score = -model(x, t) / sigma_a
        x = x - (alpha_a / alpha_b - 1) * x + V * score + math.sqrt(V) * draw()
    return x


def euler_maruyama(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
    """x + (f x - g^2 score) dt + g sqrt|dt| z with dt < 0."""
    for t, s in pairwise(times.tolist()):
        f, g, sigma = (float(v) for v in (sde.drift_coefficient(t), sde.diffusion_coefficient(t), sde.sigma(t)))
        score = -model(x, t) / sigma
        x = x + (f * x - g**2 * score) * (s - t) + g * math.sqrt(t - s) * draw()
    return x


# Runge-Kutta in sigma~ or in t -------------------------------------------------------------------------------------

# Nodes c, stage weights A (below the diagonal) and weights b of dy/du = k(y, u).
TABLEAUX: dict[str, tuple[list[float], list[list[float]], list[float]]] = {
    "euler": ([0.0], [[]], [1.0]),
    "midpoint": ([0.0, 0.5], [[], [0.5]], [0.0, 1.0]),
    "heun": ([0.0, 1.0], [[], [1.0]], [0.5, 0.5]),
    "kutta3": ([0.0, 0.5, 1.0], [[], [0.5], [-1.0, 2.0]], [1 / 6, 4 / 6, 1 / 6]),
    "rk4": ([0.0, 0.5, 0.5, 1.0], [[], [0.5], [0.0, 0.5], [0.0, 0.0, 1.0]], [1 / 6, 2 / 6, 2 / 6, 1 / 6]),
}


def runge_kutta(method: str) -> Run:
    """A Runge-Kutta step of dx~/dsigma~ = eps."""
    nodes, stages, weights = TABLEAUX[method]

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        a, slopes = past[-1].level, [past[-1].eps]
        for c, row in zip(nodes[1:], stages[1:], strict=True):
            inner = y + (b - a) * sum((w * k for w, k in zip(row, slopes, strict=True)), torch.zeros_like(y))
            slopes.append(flow.at_level(inner, a + c * (b - a)).eps)
        return y + (b - a) * sum((w * k for w, k in zip(weights, slopes, strict=True)), torch.zeros_like(y))

    return one_evaluation_a_step(step)


def in_time(method: str) -> Run:
    """A Runge-Kutta step of the probability flow dx/dt = f x + g^2 eps/(2 sigma); Euler's to sigma = 0."""

    def run(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
        def slope(state: Tensor, t: float) -> Tensor:
            f, g, sigma = (float(v) for v in (sde.drift_coefficient(t), sde.diffusion_coefficient(t), sde.sigma(t)))
            return f * state + g**2 / (2 * sigma) * model(state, t)

        for t, s in pairwise(times.tolist()):
            nodes, stages, weights = TABLEAUX[method if float(sde.sigma(s)) > 0 else "euler"]
            slopes: list[Tensor] = []
            for c, row in zip(nodes, stages, strict=True):
                inner = x + (s - t) * sum((w * k for w, k in zip(row, slopes, strict=True)), torch.zeros_like(x))
                slopes.append(slope(inner, s if c == 1.0 else t + c * (s - t)))
            x = x + (s - t) * sum((w * k for w, k in zip(weights, slopes, strict=True)), torch.zeros_like(x))
        return x

    return run


# DPM-Solver, one step at a time ------------------------------------------------------------------------------------


def dpm_solver_2(r1: float) -> Run:
    """x~ - b (e^h - 1) [e_0 + (e_1 - e_0)/(2 r1)], e_1 at u = x~ - s (e^{r1 h} - 1) e_0."""

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        a, e0 = past[-1].level, past[-1].eps
        h = math.log(a / b)
        s1 = a * math.exp(-r1 * h)
        e1 = flow.at_level(y - s1 * math.expm1(r1 * h) * e0, s1).eps
        return y - b * math.expm1(h) * e0 - b / (2 * r1) * math.expm1(h) * (e1 - e0)

    return one_evaluation_a_step(step)


def dpm_solver_3(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
    """x~ - b (e^h - 1) e_0 - (b/r2) [(e^h - 1)/h - 1] (e_2 - e_0), r1 = 1/3, r2 = 2/3."""
    r1, r2 = 1 / 3, 2 / 3
    a, e0 = past[-1].level, past[-1].eps
    h = math.log(a / b)
    s1, s2 = a * math.exp(-r1 * h), a * math.exp(-r2 * h)
    d1 = flow.at_level(y - s1 * math.expm1(r1 * h) * e0, s1).eps - e0
    u2 = y - s2 * math.expm1(r2 * h) * e0 - s2 * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
    d2 = flow.at_level(u2, s2).eps - e0
    return y - b * math.expm1(h) * e0 - b / r2 * (math.expm1(h) / h - 1) * d2


def dpmpp_2s(r: float) -> Run:
    """(b/a) x~ - (e^{-h} - 1) [(1 - 1/(2r)) D_0 + D_1/(2r)], D_1 at u = (s/a) x~ - (e^{-r h} - 1) D_0."""

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        a, d0 = past[-1].level, past[-1].data
        h = math.log(a / b)
        s = a * math.exp(-r * h)
        d1 = flow.at_level(s / a * y - math.expm1(-r * h) * d0, s).data
        mixed = (1 - 1 / (2 * r)) * d0 + d1 / (2 * r)
        return b / a * y - math.expm1(-h) * mixed

    return one_evaluation_a_step(step)
