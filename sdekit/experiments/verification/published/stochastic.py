"""Samplers of the reverse SDE: multistep, staged, ancestral, churn, restart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sdekit.experiments.verification.published.loops import (
    Corrector,
    Flow,
    Value,
    corrected,
    in_x,
    interpolated,
    noise_factor,
    one_evaluation_a_step,
    quadrature,
    same_place,
)
from sdekit.experiments.verification.published.reference import Draw, Run

__all__ = [
    "ancestral_stages",
    "ancestral_step",
    "edm",
    "er_sde",
    "heun_step",
    "mixed_row",
    "noise_path",
    "phi_of",
    "restart",
    "sa_solver",
    "seeds_3",
    "two_stages",
]


# Stochastic: two values up to SA-Solver and ER-SDE -----------------------------------------------------------------


def sa_solver(predictor: int, corrector: int, tau: float, low: float = 0.72, high: float = 25.0) -> Run:
    """Adams' predictor and corrector in lambda with one z for both; tau at the start of the step, within its range."""

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> tuple[Tensor, Corrector | None]:
        a = past[-1].level
        h, tau2 = math.log(a / b), tau**2 if low <= a <= high else 0.0
        noise = b * noise_factor(tau2, h) * draw()
        start, end, k, kept = -math.log(a), -math.log(b), 1 + tau2, tuple(past)

        def integral(values: Sequence[Value]) -> Tensor:
            places = [value.log_snr for value in values]
            data = [value.data for value in values]
            return interpolated(lambda u: k * math.exp(-k * (end - u)), same_place, places, data, start, end)

        base = math.exp(-k * h) * y + noise

        def correct(new: Value) -> Tensor:
            return base + integral((*kept, new)[-corrector:])

        return base + integral(kept[-predictor:]), correct if corrector else None

    return corrected(step, lambda flow, past, y, _: past[-1].data)


def phi_of(s: float) -> float:
    """ER-SDE's noise scale: s (e^{s^0.3} + 10)."""
    return s * (math.exp(s**0.3) + 10)


def er_sde(values: int, legacy: bool) -> Run:
    """The Taylor steps: (b - a + phi(b) int ds/phi) D', ((b - a)^2/2 + phi(b) int (s - a)/phi ds) D'', int from b to a.

    D' is the published first difference (legacy) or the derivative of the quadratic at a.
    """

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        last = past[-values:][::-1]
        a, d0 = last[0].level, last[0].data
        r = phi_of(b) / phi_of(a)
        x = r * y + (1 - r) * d0
        if len(last) > 1:
            # In u = ln s, in which the integrands are smooth.
            low, high = math.log(b), math.log(a)
            first = (d0 - last[1].data) / (a - last[1].level)
            one = b - a + phi_of(b) * quadrature(lambda u: math.exp(u) / phi_of(math.exp(u)), low, high)
            if len(last) > 2:
                before = (last[1].data - last[2].data) / (last[1].level - last[2].level)
                second = 2 * (first - before) / (a - last[2].level)
                if not legacy:
                    first = first + second / 2 * (a - last[1].level)
                two = quadrature(lambda u: (math.exp(u) - a) * math.exp(u) / phi_of(math.exp(u)), low, high)
                x = x + ((b - a) ** 2 / 2 + phi_of(b) * two) * second
            x = x + one * first
        return x + math.sqrt(b**2 - (r * a) ** 2) * draw()

    return one_evaluation_a_step(step)


# Stochastic: several stages on one Brownian path -------------------------------------------------------------------


def noise_path(eta: float, h: float, stops: Sequence[float], b: float) -> tuple[list[float], list[list[float]]]:
    """What the noise of one path is at each of these fractions of the step: levels, and weights of the draws so far.

    Between fractions c < c' the noise n decays by e^{-(1 + eta)(c' - c) h} and level' sqrt(1 - e^{-2 eta (c' - c) h})
    of a new draw comes on top.
    """
    levels, rows = [], []
    row: list[float] = []
    before = 0.0
    for c in stops:
        level, width = b * math.exp((1 - c) * h), (c - before) * h
        row = [math.exp(-(1 + eta) * width) * w for w in row] + [level * noise_factor(eta, width)]
        levels.append(level)
        rows.append(row)
        before = c
    return levels, rows


def mixed_row(row: Sequence[float], draws: Sequence[Tensor], y: Tensor) -> Tensor:
    return sum((w * z for w, z in zip(row, draws, strict=True)), torch.zeros_like(y))


def two_stages(c: float, eta: float, exact: bool) -> Run:
    """x~_b = r x~ + (1 - r) D_0 + w (D_1 - D_0) + n,   r = e^{-(1 + eta) h}.

    w = (1 - r)/(2c) for dpmpp_sde, phi_2/c for SEEDS-2. With eta = 1 the steps are k-diffusion's; below 1, eta is the
    reverse SDE's tau^2, where k-diffusion has its ancestral sigma_down and sigma_up.
    """

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        d0, h = past[-1].data, math.log(past[-1].level / b)
        k = (1 + eta) * h
        (s, _), rows = noise_path(eta, h, [c, 1.0], b)
        z = [draw()] if eta > 0 else [torch.zeros_like(y)]
        u = math.exp(-c * k) * y - math.expm1(-c * k) * d0 + mixed_row(rows[0], z, y)
        d1 = flow.at_level(u, s).data
        z.append(draw() if eta > 0 else torch.zeros_like(y))
        weight = (1 + math.expm1(-k) / k) / c if exact else -math.expm1(-k) / (2 * c)
        return math.exp(-k) * y - math.expm1(-k) * d0 + weight * (d1 - d0) + mixed_row(rows[1], z, y)

    return one_evaluation_a_step(step)


def seeds_3(eta: float) -> Run:
    """x~_b = r x~ + (1 - r) D_0 + (3/2) phi_2 (D_2 - D_0) + n, with points at 1/3 and 2/3 of the step."""

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        d0, h = past[-1].data, math.log(past[-1].level / b)
        k = (1 + eta) * h
        (s1, s2, _), rows = noise_path(eta, h, [1 / 3, 2 / 3, 1.0], b)

        def drawn() -> Tensor:
            return draw() if eta > 0 else torch.zeros_like(y)

        def phi_2(c: float) -> float:
            return 1 + math.expm1(-c * k) / (c * k)

        z = [drawn()]
        u1 = math.exp(-k / 3) * y - math.expm1(-k / 3) * d0 + mixed_row(rows[0], z, y)
        d1 = flow.at_level(u1, s1).data
        z.append(drawn())
        u2 = math.exp(-2 * k / 3) * y - math.expm1(-2 * k / 3) * d0 + 2 * phi_2(2 / 3) * (d1 - d0)
        d2 = flow.at_level(u2 + mixed_row(rows[1], z, y), s2).data
        z.append(drawn())
        return math.exp(-k) * y - math.expm1(-k) * d0 + 1.5 * phi_2(1.0) * (d2 - d0) + mixed_row(rows[2], z, y)

    return one_evaluation_a_step(step)


# k-diffusion's ancestral samplers ----------------------------------------------------------------------------------


def ancestral_step(a: float, b: float, eta: float) -> tuple[float, float]:
    """sigma_down, sigma_up: sigma_up = min(b, eta sqrt(b^2 (a^2 - b^2)/a^2)), sigma_down^2 = b^2 - sigma_up^2."""
    up = min(b, eta * math.sqrt(b**2 * (a**2 - b**2) / a**2))
    return math.sqrt(b**2 - up**2), up


def ancestral_stages(method: str, eta: float) -> Run:
    """A step of Euler, DPM-Solver-2 or DPM-Solver++ 2S to sigma_down, then sigma_up z."""

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        a, e0, d0 = past[-1].level, past[-1].eps, past[-1].data
        down, up = ancestral_step(a, b, eta)
        middle = math.sqrt(a * down)
        if method == "euler":
            y = y + (down - a) * e0
        elif method == "dpm_2":
            y = y + (down - a) * flow.at_level(y + (middle - a) * e0, middle).eps
        else:
            d1 = flow.at_level(middle / a * y + (1 - middle / a) * d0, middle).data
            y = down / a * y + (1 - down / a) * d1
        return y + up * draw() if eta > 0 else y

    return one_evaluation_a_step(step)


# Heun with fresh noise ---------------------------------------------------------------------------------------------


def heun_step(flow: Flow, y: Tensor, t: float, s: float) -> Tensor:
    """One step of Karras et al., algorithm 1; Euler's to sigma = 0."""
    a, b = flow.level(t), flow.level(s)
    e0 = flow.at(y, t).eps
    end = y + (b - a) * e0
    return end if b == 0 else y + (b - a) * (e0 + flow.at(end, s).eps) / 2


def edm(method: str, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float) -> Run:
    """a^ = (1 + gamma) a by fresh noise, gamma = min(s_churn/N, sqrt(2) - 1) in the range; then Heun or Euler to b.

    sdekit's own: a^ is never above the SDE's last level.
    """

    def loop(flow: Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
        for t, s in pairwise(times):
            a = flow.level(t)
            gamma = min(s_churn / (len(times) - 1), math.sqrt(2) - 1) if s_tmin <= a <= s_tmax else 0.0
            lifted = min((1 + gamma) * a, flow.level(flow.sde.t_max))
            start = t
            if lifted > a:
                y = y + s_noise * math.sqrt(lifted**2 - a**2) * draw()
                start = flow.time(lifted)
            if method == "heun":
                y = heun_step(flow, y, start, s)
            else:
                y = y + (flow.level(s) - lifted) * flow.at(y, start).eps
        return y

    return in_x(loop)


def restart(s_min: float, s_max: float, restart_steps: int, repeats: int) -> Run:
    """Heun along the grid; at s_min up to s_max by fresh noise and down again on a Karras grid, `repeats` times."""

    def loop(flow: Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
        near = [t for t in times[1:] if abs(flow.level(t) - s_min) <= 0.1 * s_min]
        snapped = min(near, key=lambda t: abs(flow.level(t) - s_min), default=None)

        def again(y: Tensor, t: float) -> Tensor:
            low, top = flow.level(t), s_max ** (1 / 7)
            inner = [(top + i / restart_steps * (low ** (1 / 7) - top)) ** 7 for i in range(restart_steps)]
            ladder = [*(flow.time(level) for level in inner), t]
            for _ in range(repeats):
                y = y + math.sqrt(s_max**2 - low**2) * draw()
                for up, down in pairwise(ladder):
                    y = heun_step(flow, y, up, down)
            return y

        for t, s in pairwise(times):
            if snapped is None and flow.level(s) < s_min < flow.level(t):
                middle = flow.time(s_min)
                y = heun_step(flow, again(heun_step(flow, y, t, middle), middle), middle, s)
            else:
                y = heun_step(flow, y, t, s)
                if s == snapped:
                    y = again(y, s)
        return y

    return in_x(loop)
