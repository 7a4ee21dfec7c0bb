r"""Every named diffusion sampler against its published formula, written a second time.

Each reference below is a plain loop over the grid, from the paper or from the formula of the code that made the name
known, in x~ = x/alpha and sigma~ = sigma/alpha (a step goes from level a to level b, h = ln(a/b)) or in x itself. It
shares nothing with the solvers: no table, no weights, no stages, no quadrature. Integrals are scipy's `quad`, linear
systems numpy's. `compare` runs a solver and its reference on one nonlinear network, one irregular grid and the same
draws of noise.

Three conventions are sdekit's own, and the references follow them: a step to sigma = 0 takes the newest value alone;
no order is lowered before that; and the stages of one step share one Brownian path. (`adams`, sdekit's own, takes its
whole polynomial to sigma = 0.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, final

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

from sdekit.models.score import ScoreModel
from sdekit.sampling import sample
from sdekit.sdes import VPSDE, DiffusionSDE

__all__ = ["REFERENCES", "Comparison", "Reference", "check", "compare", "irregular_times", "network", "references"]

Model = Callable[[Tensor, float], Tensor]
Draw = Callable[[], Tensor]
Run = Callable[[Model, DiffusionSDE, Tensor, Tensor, Draw], Tensor]
Function = Callable[[float], float]


# What a reference is -----------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Reference:
    """One sampler with its options, and its formula as a loop.

    run(model, sde, times, x, draw) -> the end state, where model(x, t) is eps at the float time t, times and x are
    float64, and draw() is the next standard normal draw of the shape of x, in the order in which the solver asks.
    `tolerance` is relative to the end state's largest entry.
    """

    name: str
    run: Run = field(repr=False)
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-10

    @property
    def label(self) -> str:
        """`name` or `name(option=value, …)`."""
        inside = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}({inside})" if inside else self.name


@final
@dataclass(frozen=True)
class Comparison:
    """A solver beside its reference: the difference of the end states, and the evaluations each made."""

    difference: float
    evaluations: int
    reference_evaluations: int


def network(x: Tensor, t: Tensor) -> Tensor:
    """tanh(x + 0.3 t) + 0.1 x: nonlinear, and different at every time, so that it shows where it was evaluated."""
    return torch.tanh(x + 0.3 * t[:, None]) + 0.1 * x


def irregular_times(sde: DiffusionSDE, steps: int, end: float | None = None) -> Tensor:
    """A falling grid of unequal steps in log sigma~, float64 (steps + 1,); `end` is t_min unless given, or 0."""
    end = sde.t_min if end is None else end
    if end == 0 and steps == 1:
        return torch.tensor([sde.t_max, end], dtype=torch.float64)
    inner = steps if end > 0 else steps - 1  # the step to sigma = 0 comes after the others
    high = math.log(float(sde.sigma(sde.t_max) / sde.alpha(sde.t_max)))
    low = math.log(float(sde.sigma(end) / sde.alpha(end))) if end > 0 else math.log(0.03)
    places = [(i + 0.3 * math.sin(2.0 * i) * (0 < i < inner)) / inner for i in range(inner + 1)]
    times = [float(sde.time_of_log_snr(-2 * (high + u * (low - high)))) for u in places]
    times[0] = sde.t_max
    return torch.tensor([*times[:inner], end] if end > 0 else [*times, end], dtype=torch.float64)


def compare(
    reference: Reference,
    sde: DiffusionSDE | None = None,
    steps: int = 6,
    *,
    end: float | None = None,
    times: Tensor | None = None,
    seed: int = 0,
) -> Comparison:
    """Run the solver of that name and the reference from one start, with the same draws; VPSDE() unless given."""
    sde = VPSDE() if sde is None else sde
    times = irregular_times(sde, steps, end) if times is None else times
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 3)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * sde.prior_std(float(times[0]))

    def draws() -> Draw:
        stream = torch.Generator().manual_seed(seed + 1)
        return lambda: torch.randn(shape, generator=stream, dtype=torch.float64)

    calls = 0

    def model(state: Tensor, t: float) -> Tensor:
        nonlocal calls
        calls += 1
        return network(state, torch.full((len(state),), t, dtype=state.dtype))

    draw = draws()
    solution = sample(
        ScoreModel(network, sde),
        None,
        reference.name,
        grid=times,
        x_T=x,
        noise=lambda t, s, shape: draw(),
        **reference.options,
    )
    expected = reference.run(model, sde, times, x.clone(), draws())
    difference = float((solution.x - expected).abs().max() / expected.abs().max())
    return Comparison(difference, int(solution.nfe), calls)


def check(
    reference: Reference,
    sde: DiffusionSDE | None = None,
    steps: int = 6,
    *,
    end: float | None = None,
    times: Tensor | None = None,
    seed: int = 0,
) -> float:
    """`compare(…).difference`: the largest difference of the end states, relative to the largest entry."""
    return compare(reference, sde, steps, end=end, times=times, seed=seed).difference


def references(name: str) -> tuple[Reference, ...]:
    """All references of that catalogue name."""
    return tuple(reference for reference in REFERENCES if reference.name == name)


# What the loops share ----------------------------------------------------------------------------------------------


class _Value(NamedTuple):
    """What one evaluation gave, at time t and level sigma~: eps, the denoised D~, and v in the angle arctan sigma~."""

    t: float
    level: float
    eps: Tensor
    data: Tensor

    @property
    def log_snr(self) -> float:
        return -math.log(self.level)

    @property
    def velocity(self) -> Tensor:
        angle = math.atan(self.level)
        return math.cos(angle) * self.eps - math.sin(angle) * self.data


@dataclass(frozen=True)
class _Flow:
    """The model in x~ = x/alpha."""

    model: Model
    sde: DiffusionSDE

    def level(self, t: float) -> float:
        return float(self.sde.sigma(t)) / float(self.sde.alpha(t))

    def time(self, level: float) -> float:
        return float(self.sde.time_of_log_snr(-2 * math.log(level)))

    def at(self, y: Tensor, t: float) -> _Value:
        level, eps = self.level(t), self.model(float(self.sde.alpha(t)) * y, t)
        return _Value(t, level, eps, y - level * eps)

    def at_level(self, y: Tensor, level: float) -> _Value:
        eps = self.at(y, self.time(level)).eps
        return _Value(self.time(level), level, eps, y - level * eps)


Loop = Callable[[_Flow, Sequence[float], Tensor, Draw], Tensor]
# One step in x~: (flow, values so far with the newest last, x~, the level b > 0, draw) -> x~_b.
Step = Callable[[_Flow, Sequence[_Value], Tensor, float, Draw], Tensor]
# A predictor's step, and what corrects it once the new value is there.
Corrector = Callable[[_Value], Tensor]
PredictorStep = Callable[[_Flow, Sequence[_Value], Tensor, float, Draw], tuple[Tensor, Corrector | None]]
LastStep = Callable[[_Flow, Sequence[_Value], Tensor, Draw], Tensor]


def _scaled(loop: Loop) -> Run:
    """A loop in x~ as one in x."""

    def run(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
        ts: list[float] = times.tolist()
        y = loop(_Flow(model, sde), ts, x / float(sde.alpha(ts[0])), draw)
        return float(sde.alpha(ts[-1])) * y

    return run


def _steps(step: Step) -> Run:
    """One evaluation at the start of each step, then `step`; D~ alone at sigma = 0."""

    def loop(flow: _Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
        past: list[_Value] = []
        for t, s in pairwise(times):
            past.append(flow.at(y, t))
            b = flow.level(s)
            y = past[-1].data if b == 0 else step(flow, past, y, b, draw)
        return y

    return _scaled(loop)


def _corrected(step: PredictorStep, last: LastStep) -> Run:
    """As `_steps`, where the evaluation that starts a step first corrects the step before; `last` goes to sigma = 0."""

    def loop(flow: _Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
        past: list[_Value] = []
        correct: Corrector | None = None
        for t, s in pairwise(times):
            value = flow.at(y, t)
            if correct is not None:
                y = correct(value)
            past.append(value)
            b = flow.level(s)
            if b == 0:
                return last(flow, past, y, draw)
            y, correct = step(flow, past, y, b, draw)
        return y

    return _scaled(loop)


def _integral(function: Function, low: float, high: float) -> float:
    return float(quad(function, low, high, epsabs=1e-14, epsrel=1e-13, limit=200, full_output=1)[0])


def _basis(nodes: Sequence[float], j: int, place: float) -> float:
    """Lagrange's polynomial that is 1 at nodes[j] and 0 at the other nodes."""
    return math.prod((place - node) / (nodes[j] - node) for i, node in enumerate(nodes) if i != j)


def _interpolated(
    kernel: Function, clock: Function, nodes: Sequence[float], values: Sequence[Tensor], low: float, high: float
) -> Tensor:
    """int_low^high kernel(u) P(clock(u)) du, with P the polynomial in the clock through the values at these nodes."""

    def weight(j: int) -> float:
        return _integral(lambda u: kernel(u) * _basis(nodes, j, clock(u)), low, high)

    return sum((weight(j) * value for j, value in enumerate(values)), torch.zeros_like(values[0]))


def _same(place: float) -> float:
    return place


def _noise_factor(eta: float, h: float) -> float:
    return math.sqrt(-math.expm1(-2 * eta * h))


# In x itself: one evaluation a step --------------------------------------------------------------------------------


def _schedule(sde: DiffusionSDE, t: float, s: float) -> tuple[float, float, float, float, float]:
    """alpha_a, sigma_a, alpha_b, sigma_b and V = sigma_a^2 - (alpha_a/alpha_b)^2 sigma_b^2 (a DDPM's beta)."""
    alpha_a, sigma_a, alpha_b, sigma_b = (float(v) for v in (sde.alpha(t), sde.sigma(t), sde.alpha(s), sde.sigma(s)))
    return alpha_a, sigma_a, alpha_b, sigma_b, sigma_a**2 - (alpha_a / alpha_b * sigma_b) ** 2


def _ddim(eta: float) -> Run:
    """alpha_b (x - sigma_a eps)/alpha_a + sqrt(sigma_b^2 - v^2) eps + v z; on VP v is eq. 16 as printed."""

    def run(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
        for t, s in pairwise(times.tolist()):
            alpha_a, sigma_a, alpha_b, sigma_b, V = _schedule(sde, t, s)
            v = eta * sigma_b / sigma_a * math.sqrt(V)
            eps = model(x, t)
            x = alpha_b * (x - sigma_a * eps) / alpha_a + math.sqrt(sigma_b**2 - v**2) * eps
            if eta > 0:
                x = x + v * draw()
        return x

    return run


def _ancestral(variance: str) -> Run:
    """DDPM's algorithm 2: mean (x - V/sigma_a eps)/sqrt(1 - beta), with 1 - beta = (alpha_a/alpha_b)^2."""

    def run(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
        for t, s in pairwise(times.tolist()):
            alpha_a, sigma_a, alpha_b, sigma_b, V = _schedule(sde, t, s)
            mean = (x - V / sigma_a * model(x, t)) * alpha_b / alpha_a
            std = math.sqrt(V) * (sigma_b / sigma_a if variance == "posterior" else 1.0)
            x = mean + std * draw()
        return x

    return run


def _reverse_diffusion(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
    """x - f + V score + sqrt(V) z, with f = (sqrt(1 - beta) - 1) x the drift of the discrete forward step."""
    for t, s in pairwise(times.tolist()):
        alpha_a, sigma_a, alpha_b, _, V = _schedule(sde, t, s)
        score = -model(x, t) / sigma_a
        x = x - (alpha_a / alpha_b - 1) * x + V * score + math.sqrt(V) * draw()
    return x


def _euler_maruyama(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
    """x + (f x - g^2 score) dt + g sqrt|dt| z with dt < 0."""
    for t, s in pairwise(times.tolist()):
        f, g, sigma = (float(v) for v in (sde.drift_coefficient(t), sde.diffusion_coefficient(t), sde.sigma(t)))
        score = -model(x, t) / sigma
        x = x + (f * x - g**2 * score) * (s - t) + g * math.sqrt(t - s) * draw()
    return x


# Runge-Kutta in sigma~ or in t -------------------------------------------------------------------------------------

# Nodes c, stage weights A (below the diagonal) and weights b of dy/du = k(y, u).
_TABLEAUX: dict[str, tuple[list[float], list[list[float]], list[float]]] = {
    "euler": ([0.0], [[]], [1.0]),
    "midpoint": ([0.0, 0.5], [[], [0.5]], [0.0, 1.0]),
    "heun": ([0.0, 1.0], [[], [1.0]], [0.5, 0.5]),
    "kutta3": ([0.0, 0.5, 1.0], [[], [0.5], [-1.0, 2.0]], [1 / 6, 4 / 6, 1 / 6]),
    "rk4": ([0.0, 0.5, 0.5, 1.0], [[], [0.5], [0.0, 0.5], [0.0, 0.0, 1.0]], [1 / 6, 2 / 6, 2 / 6, 1 / 6]),
}


def _runge_kutta(method: str) -> Run:
    """A Runge-Kutta step of dx~/dsigma~ = eps."""
    nodes, stages, weights = _TABLEAUX[method]

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        a, slopes = past[-1].level, [past[-1].eps]
        for c, row in zip(nodes[1:], stages[1:], strict=True):
            inner = y + (b - a) * sum((w * k for w, k in zip(row, slopes, strict=True)), torch.zeros_like(y))
            slopes.append(flow.at_level(inner, a + c * (b - a)).eps)
        return y + (b - a) * sum((w * k for w, k in zip(weights, slopes, strict=True)), torch.zeros_like(y))

    return _steps(step)


def _in_time(method: str) -> Run:
    """A Runge-Kutta step of the probability flow dx/dt = f x + g^2 eps/(2 sigma); Euler's to sigma = 0."""

    def run(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
        def slope(state: Tensor, t: float) -> Tensor:
            f, g, sigma = (float(v) for v in (sde.drift_coefficient(t), sde.diffusion_coefficient(t), sde.sigma(t)))
            return f * state + g**2 / (2 * sigma) * model(state, t)

        for t, s in pairwise(times.tolist()):
            nodes, stages, weights = _TABLEAUX[method if float(sde.sigma(s)) > 0 else "euler"]
            slopes: list[Tensor] = []
            for c, row in zip(nodes, stages, strict=True):
                inner = x + (s - t) * sum((w * k for w, k in zip(row, slopes, strict=True)), torch.zeros_like(x))
                slopes.append(slope(inner, s if c == 1.0 else t + c * (s - t)))
            x = x + (s - t) * sum((w * k for w, k in zip(weights, slopes, strict=True)), torch.zeros_like(x))
        return x

    return run


# DPM-Solver, one step at a time ------------------------------------------------------------------------------------


def _dpm_solver_2(r1: float) -> Run:
    """x~ - b (e^h - 1) [e_0 + (e_1 - e_0)/(2 r1)], e_1 at u = x~ - s (e^{r1 h} - 1) e_0."""

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        a, e0 = past[-1].level, past[-1].eps
        h = math.log(a / b)
        s1 = a * math.exp(-r1 * h)
        e1 = flow.at_level(y - s1 * math.expm1(r1 * h) * e0, s1).eps
        return y - b * math.expm1(h) * e0 - b / (2 * r1) * math.expm1(h) * (e1 - e0)

    return _steps(step)


def _dpm_solver_3(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
    """x~ - b (e^h - 1) e_0 - (b/r2) [(e^h - 1)/h - 1] (e_2 - e_0), r1 = 1/3, r2 = 2/3."""
    r1, r2 = 1 / 3, 2 / 3
    a, e0 = past[-1].level, past[-1].eps
    h = math.log(a / b)
    s1, s2 = a * math.exp(-r1 * h), a * math.exp(-r2 * h)
    d1 = flow.at_level(y - s1 * math.expm1(r1 * h) * e0, s1).eps - e0
    u2 = y - s2 * math.expm1(r2 * h) * e0 - s2 * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
    d2 = flow.at_level(u2, s2).eps - e0
    return y - b * math.expm1(h) * e0 - b / r2 * (math.expm1(h) / h - 1) * d2


def _dpmpp_2s(r: float) -> Run:
    """(b/a) x~ - (e^{-h} - 1) [(1 - 1/(2r)) D_0 + D_1/(2r)], D_1 at u = (s/a) x~ - (e^{-r h} - 1) D_0."""

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        a, d0 = past[-1].level, past[-1].data
        h = math.log(a / b)
        s = a * math.exp(-r * h)
        d1 = flow.at_level(s / a * y - math.expm1(-r * h) * d0, s).data
        mixed = (1 - 1 / (2 * r)) * d0 + d1 / (2 * r)
        return b / a * y - math.expm1(-h) * mixed

    return _steps(step)


# DPM-Solver and DPM-Solver++, multistep ----------------------------------------------------------------------------


def _exponential(past: Sequence[_Value], y: Tensor, b: float, prediction: str, tau2: float = 0.0) -> Tensor:
    """The exact integral of the polynomial in lambda through these values, less the noise.

    noise: x~_a - int_a^b e^{-l} P(l) dl;   data: r x~_a + int_a^b (1 + tau^2) e^{-(1 + tau^2)(l_b - l)} P(l) dl
    """
    places, low, high = [value.log_snr for value in past], past[-1].log_snr, -math.log(b)
    if prediction == "noise":
        return y + _interpolated(lambda u: -math.exp(-u), _same, places, [v.eps for v in past], low, high)
    k = 1 + tau2
    integral = _interpolated(lambda u: k * math.exp(-k * (high - u)), _same, places, [v.data for v in past], low, high)
    return math.exp(-k * (high - low)) * y + integral


def _differences(past: Sequence[_Value], b: float, prediction: str) -> list[Tensor]:
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


def _two_values(prediction: str, variant: str, eta: float = 0.0) -> Run:
    """midpoint: the first-order step of D0 + D1/2; exact: the integral of the line through the two values."""

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        last, a = past[-2:], past[-1].level
        h = math.log(a / b)
        if variant == "exact":
            y = _exponential(last, y, b, prediction, eta)
        else:
            d0, *rest = _differences(last, b, prediction)
            mean = d0 + 0.5 * rest[0] if rest else d0
            if prediction == "noise":
                y = y - b * math.expm1(h) * mean
            else:
                y = b / a * math.exp(-eta * h) * y - math.expm1(-(1 + eta) * h) * mean
        return y if eta == 0 else y + b * _noise_factor(eta, h) * draw()

    return _steps(step)


def _three_values(prediction: str, legacy: bool, eta: float = 0.0) -> Run:
    """legacy: the published phi_2 D1 - phi_3 D2, with phi_3 half of the exact weight; else the exact integral.

    The second step, which has two values, is phi_2 D1 in both: k-diffusion's, and diffusers' with solver_type="heun".
    """

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        last, a = past[-3:], past[-1].level
        h = math.log(a / b)
        if not legacy:
            y = _exponential(last, y, b, prediction, eta)
        else:
            d0, *rest = _differences(last, b, prediction)
            k = (1 + eta) * h
            if prediction == "noise":
                phi_2 = math.expm1(h) / h - 1
                base, weights = y - b * math.expm1(h) * d0, [-b * phi_2, -b * (phi_2 / h - 0.5)]
            else:
                phi_2 = math.expm1(-k) / k + 1
                base, weights = math.exp(-k) * y - math.expm1(-k) * d0, [phi_2, -(phi_2 / k - 0.5)]
            y = sum((w * d for w, d in zip(weights, rest, strict=False)), base)
        return y if eta == 0 else y + b * _noise_factor(eta, h) * draw()

    return _steps(step)


# UniPC -------------------------------------------------------------------------------------------------------------


def _unified(p: int, variant: str, prediction: str, corrector: bool) -> Run:
    """UniP-p and UniC-p: sum_k rho_k r_k^(j-1) = j! phi_{j+1}(hh) hh/B(hh); rho = 1/2 where one row is left."""

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> tuple[Tensor, Corrector | None]:
        order = min(p, len(past))

        def output(value: _Value) -> Tensor:
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

        def correct(new: _Value) -> Tensor:
            corrected = base
            for rho, slope in zip(rhos([*ratios, 1.0]), [*slopes, output(new) - m0], strict=True):
                corrected = corrected - scale * rho * slope
            return corrected

        return predicted, correct if corrector else None

    def last(flow: _Flow, past: Sequence[_Value], y: Tensor, draw: Draw) -> Tensor:
        return past[-1].data if prediction == "data" else y - past[-1].level * past[-1].eps

    return _corrected(step, last)


# Adams-Bashforth in sigma~ or t ------------------------------------------------------------------------------------


def _deis(values: int, variant: str) -> Run:
    """x~_a + int_a^b P dsigma~: rho_ab has P in sigma~; t_ab has P in t, and dsigma~ = sigma~ g^2/(2 sigma^2) dt."""

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        last = past[-values:]
        eps = [value.eps for value in last]
        if variant == "rho_ab":
            return y + _interpolated(lambda u: 1.0, _same, [v.level for v in last], eps, last[-1].level, b)

        def rate(t: float) -> float:
            g, sigma = float(flow.sde.diffusion_coefficient(t)), float(flow.sde.sigma(t))
            return flow.level(t) * g**2 / (2 * sigma**2)

        return y + _interpolated(rate, _same, [v.t for v in last], eps, last[-1].t, flow.time(b))

    return _steps(step)


def _lms(values: int) -> Run:
    """x~_a + sum_j eps_j int_a^b prod_k (u - sigma_k)/(sigma_j - sigma_k) du, by polynomial arithmetic."""

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
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

    return _steps(step)


_ADAMS_BASHFORTH = {
    1: [1.0],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}


def _adams_bashforth(values: Sequence[Tensor]) -> Tensor:
    """The equal-step mean of up to four values, newest last."""
    weights = _ADAMS_BASHFORTH[min(4, len(values))]
    return sum((w * e for w, e in zip(weights[1:], reversed(values[:-1]), strict=False)), weights[0] * values[-1])


def _ipndm(values: int) -> Run:
    """x~ + (b - a) (55 e_0 - 59 e_{-1} + 37 e_{-2} - 9 e_{-3})/24, on any grid."""

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        return y + (b - past[-1].level) * _adams_bashforth([value.eps for value in past[-values:]])

    return _steps(step)


def _pndm(flow: _Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
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
            e = _adams_bashforth(past[-4:])
        y = y + (b - a) * e
    return y


# Rosenbrock-type, and sdekit's own family --------------------------------------------------------------------------


def _clock(name: str, flow: _Flow) -> Function:
    """The variable of a polynomial, as a function of sigma~."""
    if name == "lambda":
        return lambda level: -math.log(level)
    if name == "theta":
        return math.atan
    if name.startswith("theta/"):
        scale = float(name.removeprefix("theta/"))
        return lambda level: math.atan(level / scale)
    if name == "t":
        return lambda level: flow.time(level) if level > 0 else 0.0
    power = 1.0 if name == "sigma" else float(name.removeprefix("sigma^"))
    return lambda level: level**power


def _adams(representation: str, clock: str, predictor: int, corrector: int, tau: float = 0.0) -> Run:
    """Lagrange's polynomial P in any clock, integrated exactly; v turns x~ cos(theta).

    eps: x~_b = x~_a + int_a^b P dsigma~;   v: x~_b cos(b) = x~_a cos(a) + int P dtheta, theta = arctan sigma~
    D~: x~_b = r x~_a + int (1 + tau^2) e^{-(1 + tau^2)(l_b - l)} P dl, + exact noise;   P(0) at sigma = 0
    v with tau: both cosines to the power 1 + tau^2, (1 + tau^2) in the integral, and noise that keeps N(0, I)

    At sigma = 0 the clock lambda, infinite there, takes the newest value alone; the others take P whole.
    """
    k = 1 + tau**2

    def advance(flow: _Flow, values: Sequence[_Value], y: Tensor, a: float, b: float) -> Tensor:
        low, high, levels = -math.log(a), -math.log(b), [value.level for value in values]
        of_level = _clock(clock, flow)
        nodes = [of_level(level) for level in levels]

        def integral(kernel: Function, outputs: Sequence[Tensor]) -> Tensor:
            return _interpolated(kernel, lambda u: of_level(math.exp(-u)), nodes, outputs, low, high)

        if representation == "noise":
            return y + integral(lambda u: -math.exp(-u), [value.eps for value in values])
        if representation == "data":
            turned = integral(lambda u: k * math.exp(-k * (high - u)), [value.data for value in values])
            return math.exp(-k * (high - low)) * y + turned
        # y_b cos(b)^k = y_a cos(a)^k + k int cos(theta)^(k - 1) v dtheta, and dtheta = -dl/(e^l + e^-l)
        turned = integral(
            lambda u: -k * math.cos(math.atan(math.exp(-u))) ** (k - 1) / (math.exp(u) + math.exp(-u)),
            [value.velocity for value in values],
        )
        return math.pow(1 + b**2, k / 2) * (y / math.pow(1 + a**2, k / 2) + turned)

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> tuple[Tensor, Corrector | None]:
        a, kept = past[-1].level, tuple(past)
        noise = torch.zeros_like(y)
        if tau > 0 and representation == "velocity":
            noise = math.sqrt((1 + b**2) * (1 - ((1 + b**2) / (1 + a**2)) ** (tau**2))) * draw()
        elif tau > 0:
            noise = b * _noise_factor(tau**2, math.log(a / b)) * draw()

        def correct(new: _Value) -> Tensor:
            used = min(len(kept), predictor)  # as many more or fewer as in the end
            return advance(flow, (*kept, new)[-max(1, used + corrector - predictor) :], y, a, b) + noise

        return advance(flow, kept[-predictor:], y, a, b) + noise, correct if corrector else None

    def last(flow: _Flow, past: Sequence[_Value], y: Tensor, draw: Draw) -> Tensor:
        values = past[-1:] if clock == "lambda" else past[-predictor:]
        of_level = (lambda level: level) if clock == "lambda" else _clock(clock, flow)
        nodes, a = [of_level(value.level) for value in values], values[-1].level
        if representation == "data":
            return sum((_basis(nodes, j, of_level(0.0)) * v.data for j, v in enumerate(values)), torch.zeros_like(y))
        if representation == "noise":
            return y + _interpolated(lambda s: 1.0, of_level, nodes, [value.eps for value in values], a, 0.0)
        outputs = [value.velocity for value in values]
        turned = _interpolated(lambda s: k * (1 + s**2) ** (-(k + 1) / 2), of_level, nodes, outputs, a, 0.0)
        end = y / math.pow(1 + a**2, k / 2) + turned
        return end + math.sqrt(1 - math.pow(1 + a**2, -(tau**2))) * draw() if tau > 0 else end

    return _corrected(step, last)


# Stochastic: two values up to SA-Solver and ER-SDE -----------------------------------------------------------------


def _adams_in_the_angle(
    predictor: int,
    corrector: int,
    *,
    tau: float = 0.0,
    tau_low: float = 0.0,
    tau_high: float = math.inf,
    damping: float = 0.0,
    relief: float = 0.0,
    cautious_above: float = math.inf,
    last: int = 0,
    hold: float = 0.0,
) -> Run:
    """`adams` in v and theta with all its settings, as its docstring has them; it never steps to 0 itself."""

    def step(values: Sequence[_Value], y: Tensor, a: float, b: float, k: float) -> Tensor:
        # y_b cos(b)^k = y_a cos(a)^k + k int cos(theta)^(k - 1) P(theta) dtheta
        nodes = [math.atan(value.level) for value in values]
        outputs = [value.velocity for value in values]
        low, high = math.atan(a), math.atan(b)
        turned = k * _interpolated(lambda u: math.pow(math.cos(u), k - 1), lambda u: u, nodes, outputs, low, high)
        return (math.pow(math.cos(low), k) * y + turned) / math.pow(math.cos(high), k)

    def loop(flow: _Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
        levels = [flow.level(t) for t in times]
        if levels[-1] == 0:
            levels[-1] = hold
        past: list[_Value] = []
        correct: Corrector | None = None
        for i, (a, b) in enumerate(pairwise(levels)):
            value = flow.at(y, times[i])
            if correct is not None:
                gamma = max(0.0, 1 - damping * (1 - relief * math.atan(a) / (math.pi / 2)))
                y = gamma * correct(value) + (1 - gamma) * y
            past.append(value)
            most = min(len(past), predictor, 3 if a > cautious_above else predictor)
            if last and i == len(levels) - 2:
                most = min(most, last)
            k = 1 + (tau**2 if tau_low <= a <= tau_high else 0.0)
            noise = torch.zeros_like(y)
            if tau > 0:
                kept = math.pow(math.cos(math.atan(a)) / math.cos(math.atan(b)), k - 1)
                noise = math.sqrt(1 - kept**2) / math.cos(math.atan(b)) * draw()

            def again(
                new: _Value,
                y: Tensor = y,
                a: float = a,
                b: float = b,
                k: float = k,
                noise: Tensor = noise,
                n: int = most,
            ) -> Tensor:
                return step([*past, new][-max(1, n + corrector - predictor) :], y, a, b, k) + noise

            y, correct = step(past[-most:], y, a, b, k) + noise, again if corrector else None
        return y

    return _scaled(loop)


def _sa_solver(predictor: int, corrector: int, tau: float, low: float = 0.72, high: float = 25.0) -> Run:
    """Adams' predictor and corrector in lambda with one z for both; tau at the start of the step, within its range."""

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> tuple[Tensor, Corrector | None]:
        a = past[-1].level
        h, tau2 = math.log(a / b), tau**2 if low <= a <= high else 0.0
        noise = b * _noise_factor(tau2, h) * draw()
        start, end, k, kept = -math.log(a), -math.log(b), 1 + tau2, tuple(past)

        def integral(values: Sequence[_Value]) -> Tensor:
            places = [value.log_snr for value in values]
            data = [value.data for value in values]
            return _interpolated(lambda u: k * math.exp(-k * (end - u)), _same, places, data, start, end)

        base = math.exp(-k * h) * y + noise

        def correct(new: _Value) -> Tensor:
            return base + integral((*kept, new)[-corrector:])

        return base + integral(kept[-predictor:]), correct if corrector else None

    return _corrected(step, lambda flow, past, y, _: past[-1].data)


def _phi(s: float) -> float:
    """ER-SDE's noise scale: s (e^{s^0.3} + 10)."""
    return s * (math.exp(s**0.3) + 10)


def _er_sde(values: int, legacy: bool) -> Run:
    """The Taylor steps: (b - a + phi(b) int ds/phi) D', ((b - a)^2/2 + phi(b) int (s - a)/phi ds) D'', int from b to a.

    D' is the published first difference (legacy) or the derivative of the quadratic at a.
    """

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        last = past[-values:][::-1]
        a, d0 = last[0].level, last[0].data
        r = _phi(b) / _phi(a)
        x = r * y + (1 - r) * d0
        if len(last) > 1:
            # In u = ln s, in which the integrands are smooth.
            low, high = math.log(b), math.log(a)
            first = (d0 - last[1].data) / (a - last[1].level)
            one = b - a + _phi(b) * _integral(lambda u: math.exp(u) / _phi(math.exp(u)), low, high)
            if len(last) > 2:
                before = (last[1].data - last[2].data) / (last[1].level - last[2].level)
                second = 2 * (first - before) / (a - last[2].level)
                if not legacy:
                    first = first + second / 2 * (a - last[1].level)
                two = _integral(lambda u: (math.exp(u) - a) * math.exp(u) / _phi(math.exp(u)), low, high)
                x = x + ((b - a) ** 2 / 2 + _phi(b) * two) * second
            x = x + one * first
        return x + math.sqrt(b**2 - (r * a) ** 2) * draw()

    return _steps(step)


# Stochastic: several stages on one Brownian path -------------------------------------------------------------------


def _path(eta: float, h: float, stops: Sequence[float], b: float) -> tuple[list[float], list[list[float]]]:
    """What the noise of one path is at each of these fractions of the step: levels, and weights of the draws so far.

    Between fractions c < c' the noise n decays by e^{-(1 + eta)(c' - c) h} and level' sqrt(1 - e^{-2 eta (c' - c) h})
    of a new draw comes on top.
    """
    levels, rows = [], []
    row: list[float] = []
    before = 0.0
    for c in stops:
        level, width = b * math.exp((1 - c) * h), (c - before) * h
        row = [math.exp(-(1 + eta) * width) * w for w in row] + [level * _noise_factor(eta, width)]
        levels.append(level)
        rows.append(row)
        before = c
    return levels, rows


def _mixed(row: Sequence[float], draws: Sequence[Tensor], y: Tensor) -> Tensor:
    return sum((w * z for w, z in zip(row, draws, strict=True)), torch.zeros_like(y))


def _two_stages(c: float, eta: float, exact: bool) -> Run:
    """x~_b = r x~ + (1 - r) D_0 + w (D_1 - D_0) + n,   r = e^{-(1 + eta) h}.

    w = (1 - r)/(2c) for dpmpp_sde, phi_2/c for SEEDS-2. With eta = 1 the steps are k-diffusion's; below 1, eta is the
    reverse SDE's tau^2, where k-diffusion has its ancestral sigma_down and sigma_up.
    """

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        d0, h = past[-1].data, math.log(past[-1].level / b)
        k = (1 + eta) * h
        (s, _), rows = _path(eta, h, [c, 1.0], b)
        z = [draw()] if eta > 0 else [torch.zeros_like(y)]
        u = math.exp(-c * k) * y - math.expm1(-c * k) * d0 + _mixed(rows[0], z, y)
        d1 = flow.at_level(u, s).data
        z.append(draw() if eta > 0 else torch.zeros_like(y))
        weight = (1 + math.expm1(-k) / k) / c if exact else -math.expm1(-k) / (2 * c)
        return math.exp(-k) * y - math.expm1(-k) * d0 + weight * (d1 - d0) + _mixed(rows[1], z, y)

    return _steps(step)


def _seeds_3(eta: float) -> Run:
    """x~_b = r x~ + (1 - r) D_0 + (3/2) phi_2 (D_2 - D_0) + n, with points at 1/3 and 2/3 of the step."""

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        d0, h = past[-1].data, math.log(past[-1].level / b)
        k = (1 + eta) * h
        (s1, s2, _), rows = _path(eta, h, [1 / 3, 2 / 3, 1.0], b)

        def drawn() -> Tensor:
            return draw() if eta > 0 else torch.zeros_like(y)

        def phi_2(c: float) -> float:
            return 1 + math.expm1(-c * k) / (c * k)

        z = [drawn()]
        u1 = math.exp(-k / 3) * y - math.expm1(-k / 3) * d0 + _mixed(rows[0], z, y)
        d1 = flow.at_level(u1, s1).data
        z.append(drawn())
        u2 = math.exp(-2 * k / 3) * y - math.expm1(-2 * k / 3) * d0 + 2 * phi_2(2 / 3) * (d1 - d0)
        d2 = flow.at_level(u2 + _mixed(rows[1], z, y), s2).data
        z.append(drawn())
        return math.exp(-k) * y - math.expm1(-k) * d0 + 1.5 * phi_2(1.0) * (d2 - d0) + _mixed(rows[2], z, y)

    return _steps(step)


# k-diffusion's ancestral samplers ----------------------------------------------------------------------------------


def _ancestral_step(a: float, b: float, eta: float) -> tuple[float, float]:
    """sigma_down, sigma_up: sigma_up = min(b, eta sqrt(b^2 (a^2 - b^2)/a^2)), sigma_down^2 = b^2 - sigma_up^2."""
    up = min(b, eta * math.sqrt(b**2 * (a**2 - b**2) / a**2))
    return math.sqrt(b**2 - up**2), up


def _ancestral_stages(method: str, eta: float) -> Run:
    """A step of Euler, DPM-Solver-2 or DPM-Solver++ 2S to sigma_down, then sigma_up z."""

    def step(flow: _Flow, past: Sequence[_Value], y: Tensor, b: float, draw: Draw) -> Tensor:
        a, e0, d0 = past[-1].level, past[-1].eps, past[-1].data
        down, up = _ancestral_step(a, b, eta)
        middle = math.sqrt(a * down)
        if method == "euler":
            y = y + (down - a) * e0
        elif method == "dpm_2":
            y = y + (down - a) * flow.at_level(y + (middle - a) * e0, middle).eps
        else:
            d1 = flow.at_level(middle / a * y + (1 - middle / a) * d0, middle).data
            y = down / a * y + (1 - down / a) * d1
        return y + up * draw() if eta > 0 else y

    return _steps(step)


# Heun with fresh noise ---------------------------------------------------------------------------------------------


def _heun(flow: _Flow, y: Tensor, t: float, s: float) -> Tensor:
    """One step of Karras et al., algorithm 1; Euler's to sigma = 0."""
    a, b = flow.level(t), flow.level(s)
    e0 = flow.at(y, t).eps
    end = y + (b - a) * e0
    return end if b == 0 else y + (b - a) * (e0 + flow.at(end, s).eps) / 2


def _edm(method: str, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float) -> Run:
    """a^ = (1 + gamma) a by fresh noise, gamma = min(s_churn/N, sqrt(2) - 1) in the range; then Heun or Euler to b.

    sdekit's own: a^ is never above the SDE's last level.
    """

    def loop(flow: _Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
        for t, s in pairwise(times):
            a = flow.level(t)
            gamma = min(s_churn / (len(times) - 1), math.sqrt(2) - 1) if s_tmin <= a <= s_tmax else 0.0
            lifted = min((1 + gamma) * a, flow.level(flow.sde.t_max))
            start = t
            if lifted > a:
                y = y + s_noise * math.sqrt(lifted**2 - a**2) * draw()
                start = flow.time(lifted)
            if method == "heun":
                y = _heun(flow, y, start, s)
            else:
                y = y + (flow.level(s) - lifted) * flow.at(y, start).eps
        return y

    return _scaled(loop)


def _restart(s_min: float, s_max: float, restart_steps: int, repeats: int) -> Run:
    """Heun along the grid; at s_min up to s_max by fresh noise and down again on a Karras grid, `repeats` times."""

    def loop(flow: _Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
        near = [t for t in times[1:] if abs(flow.level(t) - s_min) <= 0.1 * s_min]
        snapped = min(near, key=lambda t: abs(flow.level(t) - s_min), default=None)

        def again(y: Tensor, t: float) -> Tensor:
            low, top = flow.level(t), s_max ** (1 / 7)
            inner = [(top + i / restart_steps * (low ** (1 / 7) - top)) ** 7 for i in range(restart_steps)]
            ladder = [*(flow.time(level) for level in inner), t]
            for _ in range(repeats):
                y = y + math.sqrt(s_max**2 - low**2) * draw()
                for up, down in pairwise(ladder):
                    y = _heun(flow, y, up, down)
            return y

        for t, s in pairwise(times):
            if snapped is None and flow.level(s) < s_min < flow.level(t):
                middle = flow.time(s_min)
                y = _heun(flow, again(_heun(flow, y, t, middle), middle), middle, s)
            else:
                y = _heun(flow, y, t, s)
                if s == snapped:
                    y = again(y, s)
        return y

    return _scaled(loop)


# The list ----------------------------------------------------------------------------------------------------------


def _list() -> tuple[Reference, ...]:
    found: list[Reference] = []

    def add(name: str, run: Run, source: str, **options: object) -> None:
        found.append(Reference(name, run, source, options))

    song = "Song et al. 2021, arXiv 2011.13456"
    karras = "Karras et al. 2022, arXiv 2206.00364"
    dpm = "Lu et al. 2022, arXiv 2206.00927"
    dpmpp = "Lu et al. 2022, arXiv 2211.01095"
    crowson = "K. Crowson 2022, k-diffusion"
    deis = "Zhang & Chen 2022, arXiv 2204.13902"
    pndm = "Liu et al. 2022, arXiv 2202.09778"
    sa = "Xue et al. 2023, arXiv 2309.05019, algorithm 1"
    seeds = "Gonzalez et al. 2023, arXiv 2305.14267"

    for eta in (0.0, 0.5, 1.0):
        add("ddim", _ddim(eta), "Song, Meng & Ermon 2021, arXiv 2010.02502, eqs. 12 and 16", eta=eta)
    for variance in ("posterior", "forward"):
        add("ancestral", _ancestral(variance), "Ho et al. 2020, arXiv 2006.11239, algorithm 2", variance=variance)
    add("reverse_diffusion", _reverse_diffusion, f"{song}, eq. 46")
    add("euler_maruyama", _euler_maruyama, f"Maruyama 1955; {song}, eq. 6")

    for name in ("euler", "heun", "rk4"):
        add(name, _runge_kutta(name), f"{karras}, algorithm 1" if name != "rk4" else "Kutta 1901", variable="sigma")
        add(name, _in_time(name), f"{song}, eq. 13", variable="t")
    for method in ("midpoint", "heun", "kutta3", "rk4"):
        add("rho_rk", _runge_kutta(method), f"{deis}, section 3.3", method=method)

    for r1 in (0.5, 0.7):
        add("dpm_solver_2", _dpm_solver_2(r1), f"{dpm}, algorithm 1 and appendix B", r1=r1)
        add("dpmpp_2s", _dpmpp_2s(r1), f"{dpmpp}, algorithm 1", r=r1)
    add("dpm_solver_3", _steps(_dpm_solver_3), f"{dpm}, algorithm 2")
    for variant in ("midpoint", "exact"):
        add("dpm_solver_2m", _two_values("noise", variant), f"{dpm} and 2211.01095; diffusers", variant=variant)
        add("dpmpp_2m", _two_values("data", variant), f"{dpmpp}, algorithm 2", variant=variant)
        for eta in (0.5, 1.0):
            source = f"{dpmpp}, appendix D; k-diffusion"
            add("dpmpp_2m_sde", _two_values("data", variant, eta), source, eta=eta, variant=variant)
    for legacy in (True, False):
        add("dpm_solver_3m", _three_values("noise", legacy), f"{dpm}; diffusers", legacy=legacy)
        add("dpmpp_3m", _three_values("data", legacy), f"{dpmpp}, appendix B; diffusers", legacy=legacy)
        for eta in (0.5, 1.0):
            add("dpmpp_3m_sde", _three_values("data", legacy, eta), f"{dpmpp}; k-diffusion", eta=eta, legacy=legacy)

    for p in (1, 2, 3):
        for variant in ("bh1", "bh2"):
            for prediction in ("data", "noise"):
                for name in ("unip", "unipc"):
                    run = _unified(p, variant, prediction, name == "unipc")
                    source = "Zhao et al. 2023, arXiv 2302.04867, algorithms 1 and 2"
                    add(name, run, source, p=p, variant=variant, prediction=prediction)

    for variant in ("rho_ab", "t_ab"):
        for values in (1, 2, 3):
            add("deis", _deis(values, variant), f"{deis}, eqs. 14 and 15", values=values, variant=variant)
    for values in (2, 4):
        add("lms", _lms(values), crowson, values=values)
        add("ipndm", _ipndm(values), f"{deis}, appendix; {pndm}", values=values)
    add("pndm", _scaled(_pndm), f"{pndm}, algorithm 2")

    rosenbrock = "Zheng et al. 2023, arXiv 2310.13268 (its training-free analogue)"
    for values in (2, 3):
        add("rosenbrock", _adams("velocity", "lambda", values, 0), rosenbrock, values=values)
    for representation, clock, predictor, corrector, tau in (
        ("velocity", "t", 3, 3, 0.0),
        ("data", "theta", 3, 4, 0.0),
        ("noise", "sigma^0.5", 2, 0, 0.0),
        ("data", "t", 2, 3, 0.5),
        ("data", "lambda", 3, 3, 0.0),
        ("velocity", "theta/0.4", 3, 0, 0.5),
        ("velocity", "theta", 2, 3, 1.0),
    ):
        add(
            "adams",
            _adams(representation, clock, predictor, corrector, tau),
            "sdekit 2026",
            representation=representation,
            clock=clock,
            predictor=predictor,
            corrector=corrector,
            tau=tau,
        )

    for settings in (
        {"predictor": 4, "corrector": 4, "damping": 0.4, "relief": 0.5, "cautious_above": 2.0, "last": 2, "hold": 0.01},
        {"predictor": 3, "corrector": 0, "tau": 0.7, "tau_low": 0.3, "tau_high": 5.0, "hold": 0.005},
    ):
        how = {"representation": "velocity", "clock": "theta", **settings}
        add("adams", _adams_in_the_angle(**settings), "sdekit 2026", **how)  # type: ignore[arg-type]

    for eta in (0.0, 0.5, 1.0):
        add("euler_ancestral", _ancestral_stages("euler", eta), crowson, eta=eta)
        add("dpm_2_ancestral", _ancestral_stages("dpm_2", eta), crowson, eta=eta)
        add("dpmpp_2s_ancestral", _ancestral_stages("dpmpp_2s", eta), crowson, eta=eta)
    for c, eta in ((0.5, 1.0), (0.5, 0.5), (0.7, 1.0), (0.5, 0.0)):
        add("dpmpp_sde", _two_stages(c, eta, exact=False), f"{dpmpp}; k-diffusion", r=c, eta=eta)
        add("seeds_2", _two_stages(c, eta, exact=True), f"{seeds}, data prediction", c=c, eta=eta)
    for eta in (0.0, 0.5, 1.0):
        add("seeds_3", _seeds_3(eta), f"{seeds}, data prediction", eta=eta)
    for predictor, corrector, tau in ((3, 4, 1.0), (2, 0, 0.6), (1, 2, 1.0)):
        add("sa_solver", _sa_solver(predictor, corrector, tau), sa, predictor=predictor, corrector=corrector, tau=tau)
    add("sa_solver", _sa_solver(3, 3, 0.8, 0.2, 3.0), sa, corrector=3, tau=0.8, sigma_low=0.2, sigma_high=3.0)
    for values, legacy in ((1, False), (2, False), (3, False), (3, True)):
        source = "Cui et al. 2023, arXiv 2309.06169, algorithms 1 to 3"
        add("er_sde", _er_sde(values, legacy), source, values=values, legacy=legacy)

    for method, churn, tmin, tmax, noise in (
        ("heun", 40.0, 0.05, 50.0, 1.0),
        ("heun", 1.2, 0.05, 1e4, 1.003),
        ("euler", 1.2, 0.3, 50.0, 1.003),
        ("heun", 0.0, 0.05, 50.0, 1.0),
    ):
        add(
            "edm",
            _edm(method, churn, tmin, tmax, noise),
            f"{karras}, algorithm 2",
            method=method,
            s_churn=churn,
            s_tmin=tmin,
            s_tmax=tmax,
            s_noise=noise,
        )
    for low, high, inner, repeats in ((0.14, 0.3, 2, 2), (0.5, 2.0, 3, 1)):
        add(
            "restart",
            _restart(low, high, inner, repeats),
            "Xu et al. 2023, arXiv 2306.14878, algorithm 1",
            s_min=low,
            s_max=high,
            restart_steps=inner,
            repeats=repeats,
        )
    return tuple(found)


REFERENCES: tuple[Reference, ...] = _list()
