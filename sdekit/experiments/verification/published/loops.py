"""What the loops share: the model in x~, one evaluation a step, correctors, integrals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from scipy.integrate import quad
from torch import Tensor

from sdekit.experiments.verification.published.reference import Draw, Function, Model, Run
from sdekit.sdes import DiffusionSDE

__all__ = [
    "Corrector",
    "Flow",
    "LastStep",
    "Loop",
    "PredictorStep",
    "Step",
    "Value",
    "corrected",
    "in_x",
    "interpolated",
    "lagrange_basis",
    "noise_factor",
    "one_evaluation_a_step",
    "quadrature",
    "same_place",
]


# What the loops share ----------------------------------------------------------------------------------------------


class Value(NamedTuple):
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
class Flow:
    """The model in x~ = x/alpha."""

    model: Model
    sde: DiffusionSDE

    def level(self, t: float) -> float:
        return float(self.sde.sigma(t)) / float(self.sde.alpha(t))

    def time(self, level: float) -> float:
        return float(self.sde.time_of_log_snr(-2 * math.log(level)))

    def at(self, y: Tensor, t: float) -> Value:
        level, eps = self.level(t), self.model(float(self.sde.alpha(t)) * y, t)
        return Value(t, level, eps, y - level * eps)

    def at_level(self, y: Tensor, level: float) -> Value:
        eps = self.at(y, self.time(level)).eps
        return Value(self.time(level), level, eps, y - level * eps)


Loop = Callable[[Flow, Sequence[float], Tensor, Draw], Tensor]
# One step in x~: (flow, values so far with the newest last, x~, the level b > 0, draw) -> x~_b.
Step = Callable[[Flow, Sequence[Value], Tensor, float, Draw], Tensor]
# A predictor's step, and what corrects it once the new value is there.
Corrector = Callable[[Value], Tensor]
PredictorStep = Callable[[Flow, Sequence[Value], Tensor, float, Draw], tuple[Tensor, Corrector | None]]
LastStep = Callable[[Flow, Sequence[Value], Tensor, Draw], Tensor]


def in_x(loop: Loop) -> Run:
    """A loop in x~ as one in x."""

    def run(model: Model, sde: DiffusionSDE, times: Tensor, x: Tensor, draw: Draw) -> Tensor:
        ts: list[float] = times.tolist()
        y = loop(Flow(model, sde), ts, x / float(sde.alpha(ts[0])), draw)
        return float(sde.alpha(ts[-1])) * y

    return run


def one_evaluation_a_step(step: Step) -> Run:
    """One evaluation at the start of each step, then `step`; D~ alone at sigma = 0."""

    def loop(flow: Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
        past: list[Value] = []
        for t, s in pairwise(times):
            past.append(flow.at(y, t))
            b = flow.level(s)
            y = past[-1].data if b == 0 else step(flow, past, y, b, draw)
        return y

    return in_x(loop)


def corrected(step: PredictorStep, last: LastStep) -> Run:
    """One evaluation a step, which first corrects the step before; `last` goes to sigma = 0."""

    def loop(flow: Flow, times: Sequence[float], y: Tensor, draw: Draw) -> Tensor:
        past: list[Value] = []
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

    return in_x(loop)


def quadrature(function: Function, low: float, high: float) -> float:
    return float(quad(function, low, high, epsabs=1e-14, epsrel=1e-13, limit=200, full_output=1)[0])


def lagrange_basis(nodes: Sequence[float], j: int, place: float) -> float:
    """Lagrange's polynomial that is 1 at nodes[j] and 0 at the other nodes."""
    return math.prod((place - node) / (nodes[j] - node) for i, node in enumerate(nodes) if i != j)


def interpolated(
    kernel: Function, clock: Function, nodes: Sequence[float], values: Sequence[Tensor], low: float, high: float
) -> Tensor:
    """int_low^high kernel(u) P(clock(u)) du, with P the polynomial in the clock through the values at these nodes."""

    def weight(j: int) -> float:
        return quadrature(lambda u: kernel(u) * lagrange_basis(nodes, j, clock(u)), low, high)

    return sum((weight(j) * value for j, value in enumerate(values)), torch.zeros_like(values[0]))


def same_place(place: float) -> float:
    return place


def noise_factor(eta: float, h: float) -> float:
    return math.sqrt(-math.expm1(-2 * eta * h))
