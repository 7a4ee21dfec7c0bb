"""Orders of methods for the underdamped Langevin equation: on a path, in law, and of the stationary law."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from sdekit.experiments.verification.brownian import SharedPath, shared_path
from sdekit.experiments.verification.orders import Order
from sdekit.experiments.verification.strong import StrongOrder, ends_order
from sdekit.experiments.verification.weak import affine_response
from sdekit.sampling import solve
from sdekit.sdes import UnderdampedLangevin
from sdekit.sdes.langevin import quadratic_langevin_moments
from sdekit.solvers import Solver

__all__ = ["POTENTIALS", "moments_order", "path_order", "stationary_order"]

Potential = Literal["quadratic", "double well"]
_STIFFNESS = 1.7
_PATHS = 400
_COUNTS = (4, 8, 16, 32)

POTENTIALS: dict[Potential, Callable[[Tensor], Tensor]] = {
    "quadratic": lambda x: _STIFFNESS * x,
    "double well": lambda x: x**3 - x,
}


def _equation(potential: Potential) -> UnderdampedLangevin:
    return UnderdampedLangevin(POTENTIALS[potential], gamma=1.0, u=1.0)


def _start() -> Tensor:
    return torch.tensor([1.0, -0.5], dtype=torch.float64).expand(_PATHS, 2).clone()


@functools.cache
def _exact(potential: Potential) -> tuple[SharedPath, Tensor]:
    """A path, and the states, (P, 2), at its end."""
    equation, path = _equation(potential), shared_path((_PATHS, 2))

    def drift(x: Tensor) -> Tensor:
        position, velocity = x[..., 0], x[..., 1]
        force = equation.u * equation.gradient(position)
        return torch.stack([velocity, -equation.gamma * velocity - force], dim=-1)

    g = equation.diffusion(_start(), torch.tensor(0.0))
    return path, path.follow(drift, g, _start())


def path_order(solver: Solver, potential: Potential, counts: Sequence[int] = _COUNTS) -> StrongOrder:
    """The order of E|X_N - X_1|^2, position and velocity, on one Brownian path for all step sizes."""
    equation = _equation(potential)
    path, exact = _exact(potential)

    def run(path: SharedPath, n: int) -> Tensor:
        return solve(equation, _start(), solver=solver, grid=path.times(n), noise=path.given(n)).x

    return ends_order(run, path, exact, counts)


def moments_order(solver: Solver, counts: Sequence[int] = (8, 16, 32)) -> Order:
    """The order of mean and covariance at 1 in a quadratic potential, from a start with a spread, exactly."""
    mean = torch.tensor([1.0, -0.5], dtype=torch.float64)
    spread = torch.tensor([[0.3, 0.1], [0.1, 0.4]], dtype=torch.float64)
    exact = quadratic_langevin_moments(_STIFFNESS, 1.0, mean, spread)
    errors = []
    for n in counts:
        grid = torch.linspace(0, 1, n + 1, dtype=torch.float64).tolist()
        got = affine_response(_equation("quadratic"), solver, grid, (2,)).law(mean, spread)
        errors.append(sum(float((a - b).abs().max()) for a, b in zip(got, exact, strict=True)))
    return Order(tuple(counts), tuple(errors))


def stationary_order(solver: Solver, counts: Sequence[int] = (4, 8, 16)) -> Order:
    """The order of the stationary covariance in a quadratic potential, that of steps of length 1/n for ever, exactly.

    C = M C M^T + S S^T where a step is x -> M x + S z; without error C is diag(1/k, u).
    """
    exact = torch.diag(torch.tensor([1 / _STIFFNESS, 1.0], dtype=torch.float64))
    errors = []
    for n in counts:
        step = affine_response(_equation("quadratic"), solver, [0.0, 1 / n], (2,))
        change = torch.eye(4, dtype=torch.float64) - torch.kron(step.matrix, step.matrix)
        covariance = torch.linalg.solve(change, (step.spread @ step.spread.T).reshape(4)).reshape(2, 2)
        errors.append(float((covariance - exact).abs().max()))
    return Order(tuple(counts), tuple(errors))
