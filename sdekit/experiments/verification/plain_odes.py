"""Orders and tolerances on ODEs of the user's own, whose solutions are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.dynamics import ODE
from sdekit.experiments.verification.orders import Order
from sdekit.sampling import solve
from sdekit.solvers import Solver

__all__ = ["ODES", "PlainODE", "ode_order", "ode_tolerance"]


@final
@dataclass(frozen=True)
class PlainODE:
    """dx/dt = drift(x, t) from t = 0, and x at t = 1 as a function of the start."""

    name: str
    drift: Callable[[Tensor, Tensor], Tensor]
    end: Callable[[Tensor], Tensor]

    @property
    def x0(self) -> Tensor:
        """Starts, (5, 1)."""
        return torch.tensor([[0.1], [0.2], [0.4], [1.3], [1.6]], dtype=torch.float64)


_RATE, _PHASE = 8.0, 5.0
ODES = (
    PlainODE("logistic", lambda x, t: _RATE * x * (1 - x), lambda x: 1 / (1 + (1 / x - 1) * math.exp(-_RATE))),
    PlainODE(
        "nonautonomous",
        lambda x, t: torch.cos(_PHASE * t) * (1 + x * x),
        lambda x: torch.tan(torch.arctan(x) + math.sin(_PHASE) / _PHASE),
    ),
)


def ode_order(problem: PlainODE, solver: Solver, counts: Sequence[int] | None = None) -> Order:
    """The order of the greatest error at t = 1."""
    if counts is None:
        order = solver.order or 0
        counts = (64, 128, 256) if order < 5 else (8, 16, 32) if order < 8 else (6, 12, 24)
    x0, errors = problem.x0, []
    for n in counts:
        end = solve(ODE(problem.drift), x0, t0=0, t1=1, solver=solver, steps=n, grid="uniform").x
        errors.append(float((end - problem.end(x0)).abs().max()))
    return Order(tuple(counts), tuple(errors))


def ode_tolerance(problem: PlainODE, solver: Solver) -> float:
    """The greatest error at t = 1 of a solver that chooses its steps."""
    end = solve(ODE(problem.drift), problem.x0, t0=0, t1=1, solver=solver).x
    return float((end - problem.end(problem.x0)).abs().max())
