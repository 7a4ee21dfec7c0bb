"""The Rosenbrock-type sampler and sdekit's own family."""

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
    lagrange_basis,
    noise_factor,
)
from sdekit.experiments.verification.published.reference import Draw, Function, Run

__all__ = ["adams", "adams_in_the_angle", "clock_of"]


# Rosenbrock-type, and sdekit's own family --------------------------------------------------------------------------


def clock_of(name: str, flow: Flow) -> Function:
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


def adams(representation: str, clock: str, predictor: int, corrector: int, tau: float = 0.0) -> Run:
    """Lagrange's polynomial P in any clock, integrated exactly; v turns x~ cos(theta).

    eps: x~_b = x~_a + int_a^b P dsigma~;   v: x~_b cos(b) = x~_a cos(a) + int P dtheta, theta = arctan sigma~
    D~: x~_b = r x~_a + int (1 + tau^2) e^{-(1 + tau^2)(l_b - l)} P dl, + exact noise;   P(0) at sigma = 0
    v with tau: both cosines to the power 1 + tau^2, (1 + tau^2) in the integral, and noise that keeps N(0, I)

    At sigma = 0 the clock lambda, infinite there, takes the newest value alone; the others take P whole.
    """
    k = 1 + tau**2

    def advance(flow: Flow, values: Sequence[Value], y: Tensor, a: float, b: float) -> Tensor:
        low, high, levels = -math.log(a), -math.log(b), [value.level for value in values]
        of_level = clock_of(clock, flow)
        nodes = [of_level(level) for level in levels]

        def integral(kernel: Function, outputs: Sequence[Tensor]) -> Tensor:
            return interpolated(kernel, lambda u: of_level(math.exp(-u)), nodes, outputs, low, high)

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

    def step(flow: Flow, past: Sequence[Value], y: Tensor, b: float, draw: Draw) -> tuple[Tensor, Corrector | None]:
        a, kept = past[-1].level, tuple(past)
        noise = torch.zeros_like(y)
        if tau > 0 and representation == "velocity":
            noise = math.sqrt((1 + b**2) * (1 - ((1 + b**2) / (1 + a**2)) ** (tau**2))) * draw()
        elif tau > 0:
            noise = b * noise_factor(tau**2, math.log(a / b)) * draw()

        def correct(new: Value) -> Tensor:
            used = min(len(kept), predictor)  # as many more or fewer as in the end
            return advance(flow, (*kept, new)[-max(1, used + corrector - predictor) :], y, a, b) + noise

        return advance(flow, kept[-predictor:], y, a, b) + noise, correct if corrector else None

    def last(flow: Flow, past: Sequence[Value], y: Tensor, draw: Draw) -> Tensor:
        values = past[-1:] if clock == "lambda" else past[-predictor:]
        of_level = (lambda level: level) if clock == "lambda" else clock_of(clock, flow)
        nodes, a = [of_level(value.level) for value in values], values[-1].level
        if representation == "data":
            return sum(
                (lagrange_basis(nodes, j, of_level(0.0)) * v.data for j, v in enumerate(values)), torch.zeros_like(y)
            )
        if representation == "noise":
            return y + interpolated(lambda s: 1.0, of_level, nodes, [value.eps for value in values], a, 0.0)
        outputs = [value.velocity for value in values]
        turned = interpolated(lambda s: k * (1 + s**2) ** (-(k + 1) / 2), of_level, nodes, outputs, a, 0.0)
        end = y / math.pow(1 + a**2, k / 2) + turned
        return end + math.sqrt(1 - math.pow(1 + a**2, -(tau**2))) * draw() if tau > 0 else end

    return corrected(step, last)


def adams_in_the_angle(
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

    def step(values: Sequence[Value], y: Tensor, a: float, b: float, k: float) -> Tensor:
        # y_b cos(b)^k = y_a cos(a)^k + k int cos(theta)^(k - 1) P(theta) dtheta
        nodes = [math.atan(value.level) for value in values]
        outputs = [value.velocity for value in values]
        low, high = math.atan(a), math.atan(b)
        turned = k * interpolated(lambda u: math.pow(math.cos(u), k - 1), lambda u: u, nodes, outputs, low, high)
        return (math.pow(math.cos(low), k) * y + turned) / math.pow(math.cos(high), k)

    def loop(flow: Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
        levels = [flow.level(t) for t in times]
        if levels[-1] == 0:
            levels[-1] = hold
        past: list[Value] = []
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
                new: Value,
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

    return in_x(loop)
