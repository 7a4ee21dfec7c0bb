"""Explicit Runge-Kutta methods as declarations: a tableau, and the variable in which a model's flow is integrated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics, ProbabilityFlow
from sdekit.errors import UnknownNameError
from sdekit.noise import Increment
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.diffusion.base import table_stepper
from sdekit.solvers.step import StepSolver, StepStepper
from sdekit.solvers.table import Table, Updates

__all__ = ["ExplicitRungeKutta", "combination", "explicit_table"]


@dataclass(frozen=True, repr=False)
class ExplicitRungeKutta(StepSolver):
    r"""k_i = f(x_t + h sum_j a_ij k_j, t + c_i h),   x_s = x_t + h sum_i b_i k_i,   h = s - t

    A method gives its `nodes` c (the first is 0), its rows of `coefficients` a (from the second stage on) and its
    `weights` b.

    On a score model's probability flow, variable="sigma" steps d(x/alpha)/d(sigma/alpha) = eps, the form of Karras et
    al. 2022; variable="t" steps dx/dt = u, the form of Song et al. 2021. Other ODEs have t only.
    """

    variable: str = "sigma"

    nodes: ClassVar[tuple[float, ...]]
    coefficients: ClassVar[tuple[tuple[float, ...], ...]]
    weights: ClassVar[tuple[float, ...]]
    default_grid = "log_snr"

    def __post_init__(self) -> None:
        if self.variable not in ("sigma", "t"):
            raise UnknownNameError("variable", self.variable, ("sigma", "t"))

    @property
    def stochastic(self) -> bool:
        return False

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        return x + combination(self.weights, self.moves(dynamics, x, t, s, h))

    def moves(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, first: Tensor | None = None
    ) -> list[Tensor]:
        """h k_i, each a tensor of its own: the drift may give the same buffer again at its next call.

        first: the drift at (x, t), where it is known already.
        """
        moves = [h * (dynamics.drift(x, t) if first is None else first)]
        for c, row in zip(self.nodes[1:], self.coefficients, strict=True):
            point = x + combination(row, moves)
            moves.append(h * dynamics.drift(point, s if c == 1 else t + c * (s - t)))
        return moves

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        """The table of the method on the probability flow of a model."""
        return explicit_table(sde, times, self.variable, self.nodes, self.coefficients, self.weights)

    def stepper(self, problem: Problem) -> Stepper:
        if isinstance(problem.dynamics, ProbabilityFlow):
            return table_stepper(self.table, problem)
        return StepStepper(self, problem)


def combination(weights: tuple[float, ...], moves: list[Tensor]) -> Tensor:
    """sum_i w_i h k_i over the weights that are not 0."""
    terms = [w * k if w != 1 else k for w, k in zip(weights, moves, strict=True) if w != 0]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def explicit_table(
    sde: DiffusionSDE,
    times: Tensor,
    variable: str,
    nodes: tuple[float, ...],
    coefficients: tuple[tuple[float, ...], ...],
    weights: tuple[float, ...],
) -> Table:
    r"""An explicit Runge-Kutta method on the probability flow as a table.

    variable="sigma":  d(x/alpha)/d(sigma~) = eps,   sigma~ = sigma/alpha   (Karras et al. 2022)
    variable="t":      dx/dt = u, the velocity

    Stage i evaluates at node c_i of the step in that variable, at x + h sum_j a_ij k_j; the step is
    x + h sum_j b_j k_j. A step that ends at sigma = 0 is Euler's, since its later stages would evaluate there.
    """
    starts, stops = times[:-1], times[1:]
    in_sigma = variable == "sigma"
    first, last = (sde.sigma_ratio(starts), sde.sigma_ratio(stops)) if in_sigma else (starts, stops)
    h = last - first

    def node(c: float) -> Tensor:
        """The time of each step's node c."""
        if c in (0.0, 1.0):
            return stops if c else starts
        return sde.time_of_sigma_ratio(first + c * h) if in_sigma else first + c * h

    def scale(t: Tensor) -> Tensor:
        """What turns the integrated variable back into x."""
        return sde.alpha(t) if in_sigma else torch.ones_like(t)

    stages = len(nodes)
    base = scale(starts)
    at = torch.stack([node(c) for c in nodes], dim=1)  # (N, stages)
    end = scale(stops)
    latest_first = torch.tensor(weights[::-1], dtype=torch.float64, device="cpu")
    state_x = torch.zeros_like(at)
    state_m = torch.zeros(*at.shape, stages, dtype=torch.float64, device="cpu")
    state_x[:, -1] = end / base
    state_m[:, -1] = (end * h)[:, None] * latest_first
    point_x = torch.zeros_like(at)
    point_m = torch.zeros_like(state_m)
    for i, inner in enumerate(coefficients):
        factor = scale(at[:, i + 1])
        point_x[:, i] = factor / base
        for j, a in enumerate(reversed(inner)):
            point_m[:, i, j] = factor * h * a
    if stages == 2:
        # The weight of the first stage goes into x at once, and the second evaluates at y = x + (rest): no value is
        # kept. x' = e x + h b_0 k_0 (e = end/base), so that y = c x + d k_0 = (c/e) x' + (d - (c/e) h b_0) k_0.
        factor = point_x[:, 0] / (end / base)
        first_part = end * h * weights[0]
        state_x[:, 0], state_m[:, 0, 0] = end / base, first_part
        point_m[:, 0, 0] -= factor * first_part
        point_x[:, 0] = factor
        state_x[:, 1], state_m[:, 1, 1] = 1.0, 0.0
        state_m, point_m = state_m[..., :1], point_m[..., :1]
    ends = torch.zeros_like(at, dtype=torch.bool)
    ends[:, -1] = True
    kept = torch.ones_like(ends)
    to_zero = sde.sigma(stops) == 0
    if stages > 1 and bool(to_zero.any()):
        kept[to_zero, 1:] = False
        ends[to_zero, 0] = True
        state_x[to_zero, 0] = (end / base)[to_zero]
        state_m[to_zero, 0, 0] = (end * h)[to_zero]
    rows = kept.flatten()

    def column(values: Tensor) -> Tensor:
        return values.flatten(0, 1)[rows]

    ends_step = column(ends)
    return Table(
        "noise" if in_sigma else "velocity",
        column(at),
        Updates.of(column(state_x), column(state_m), active=ends_step if stages > 2 else None),
        Updates.of(column(point_x), column(point_m), active=~ends_step) if stages > 1 else Updates.none(len(ends_step)),
        torch.zeros_like(ends_step),
        ends_step,
    )
