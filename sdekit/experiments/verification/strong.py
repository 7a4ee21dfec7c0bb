"""Strong orders on SDEs known path by path, with an interval from the paths themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.experiments.verification.brownian import SharedPath
from sdekit.experiments.verification.orders import Order
from sdekit.experiments.verification.sde_problems import StrongProblem
from sdekit.sampling import solve
from sdekit.sdes import Calculus
from sdekit.solvers import Solver

__all__ = ["StrongOrder", "measure", "strong_order_on"]

COUNTS = (16, 32, 64, 128)
FEW_COUNTS = (8, 16, 32, 64)  # for solvers that take a millisecond a step
_RESAMPLES = 500


@final
@dataclass(frozen=True)
class StrongOrder:
    """A strong order and what it is known to.

    Attributes:
        order: the RMS errors, and their slope.
        interval: 95 % of the slopes of paths drawn anew, with repeats, from those there are (percentile bootstrap).
    """

    order: Order
    interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.order.value:.2f} [{low:.2f}, {high:.2f}]"


def measure(squares: Tensor, counts: Sequence[int]) -> StrongOrder:
    """The order from the squared errors of each path, (len(counts), P)."""
    errors = squares.mean(1).sqrt()
    order = Order(tuple(counts), tuple(errors.tolist()))
    if not bool(torch.isfinite(errors).all()):
        return StrongOrder(order, (-math.inf, -math.inf))
    paths = squares.shape[1]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(paths, (_RESAMPLES, paths), generator=generator)
    times = torch.zeros(_RESAMPLES, paths, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones(1, dtype=torch.float64).expand(drawn.shape))
    again = 0.5 * torch.log((times @ squares.T) / paths)
    x = torch.log(torch.tensor(counts, dtype=torch.float64))
    x = x - x.mean()
    slopes = -(again @ x) / x.square().sum()
    low, high = torch.quantile(slopes, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return StrongOrder(order, (low, high))


def strong_order_on(
    problem: StrongProblem, solver: Solver, calculus: Calculus, counts: Sequence[int] = COUNTS
) -> StrongOrder:
    """The order of E|X_N - X_1|^2 on one Brownian path for all step sizes."""
    sde = problem.sde(calculus)
    return ends_order(
        lambda path, n: solve(sde, problem.x0, solver=solver, grid=path.times(n), noise=path.given(n)).x,
        problem.path,
        problem.exact,
        counts,
    )


def ends_order(
    run: Callable[[SharedPath, int], Tensor], path: SharedPath, exact: Tensor, counts: Sequence[int]
) -> StrongOrder:
    """The order of `run(path, n)`, (P, *), as n grows."""
    squares = [(run(path, n) - exact).square().flatten(1).mean(1) for n in counts]
    return measure(torch.stack(squares), counts)
