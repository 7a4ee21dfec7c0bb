"""Step solvers: they see drift, diffusion and a Brownian increment, and so serve any SDE or ODE."""

from __future__ import annotations

import abc
import math
from typing import ClassVar, final

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics, ProbabilityFlow, ReverseSDE
from sdekit.errors import ArgumentError
from sdekit.noise import BrownianStream, Increment
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.solution import SolveState

__all__ = [
    "GridStepper",
    "StepSolver",
    "StepStepper",
    "apply_diffusion",
    "beside",
    "ends_at_zero",
    "euler_step",
    "length",
    "moved",
    "square_root",
]


def apply_diffusion(dynamics: Dynamics, g: Tensor, dw: Tensor, x: Tensor) -> Tensor:
    """g dW of the shape of x: elementwise, or a matrix g of shape (B, *, m) against dW of shape (B, m).

    The columns are added up one by one: a sample's sum is then the same to the last bit alone and in any batch.
    """
    m = dynamics.noise_dim
    if m is None:
        return g * dw
    column = (dw.shape[0], *([1] * (x.ndim - 1)))
    total = g[..., 0] * dw[:, 0].reshape(column)
    for j in range(1, m):
        total = total + g[..., j] * dw[:, j].reshape(column)
    return total


def moved(x: Tensor, f: Tensor, h: float | Tensor) -> Tensor:
    """x + h f as a tensor of its own; h is a number, or (A, 1, …, 1) where each sample has a step of its own."""
    return x + f * h if isinstance(h, Tensor) else torch.add(x, f, alpha=h)


def square_root(h: float | Tensor) -> float | Tensor:
    """sqrt|h|."""
    return h.abs().sqrt() if isinstance(h, Tensor) else math.sqrt(abs(h))


def length(h: float | Tensor) -> float | Tensor:
    """|h|."""
    return h.abs() if isinstance(h, Tensor) else abs(h)


def beside(h: float | Tensor, w: Tensor) -> float | Tensor:
    """h as it broadcasts against noise: where it is (B, 1, …, 1) beside x, and the noise (B, m), it is (B, 1)."""
    return h.reshape(-1, *([1] * (w.ndim - 1))) if isinstance(h, Tensor) else h


def euler_step(dynamics: Dynamics, x: Tensor, t: Tensor, h: float | Tensor, noise: Increment | None) -> Tensor:
    """x + f h + g W: Euler's step, or Euler-Maruyama's."""
    y = moved(x, dynamics.drift(x, t), h)
    if noise is None:
        return y
    g = dynamics.diffusion(x, t)
    if dynamics.noise_dim is not None:
        return y.add_(apply_diffusion(dynamics, g, noise.W, x))
    # As the steps in place round, so that a solve with gradients has the bits of one without.
    if dynamics.constant_diffusion is not None and not g.requires_grad:
        return torch.add(y, noise.W, alpha=dynamics.constant_diffusion)
    return torch.addcmul(y, g, noise.W)


def ends_at_zero(dynamics: Dynamics, t: float) -> bool:
    """Whether t is where a model's sigma is 0, so that its score there is infinite."""
    return isinstance(dynamics, ReverseSDE | ProbabilityFlow) and float(dynamics.model.sde.sigma(t)) == 0


class StepSolver(FixedStepSolver):
    """A one-step method in terms of drift and diffusion.

    Attributes:
        areas: what it wants of the Brownian path: 0: W; 1: W and the space-time area H; 2: W, H and K.
        evaluates_after_start: whether a step evaluates at later times than its start. On a model's dynamics the last
            step of such a method to sigma = 0, where there is no score, is Euler's.
    """

    kind = "step"
    areas: ClassVar[int] = 0
    evaluates_after_start: ClassVar[bool] = True

    @abc.abstractmethod
    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        """x at time s from x at time t, as a tensor of its own; x is left as it is.

        Args:
            dynamics: what is integrated.
            x: (B, *).
            t: the current time, float64: (), or (B,) where each sample has a step of its own.
            s: the next time, likewise.
            h: s - t: a number, or (B, 1, …, 1) in the dtype of x. Negative where time falls.
            noise: the Brownian increment over the step, of dynamics.noise_shape(x.shape), with variance |h|, and its
                areas; None for an ODE.
        """

    def stepper(self, problem: Problem) -> Stepper:
        return StepStepper(self, problem)


class GridStepper(Stepper):
    """What the steppers of one-step methods share: a state of their own, and the noise of the steps of a grid.

    areas: as of a `StepSolver`.
    """

    def __init__(self, problem: Problem, areas: int = 0) -> None:
        self.times = problem.times
        self._dynamics = problem.dynamics
        self._x = problem.x.clone()
        self._clock = problem.times.to(problem.x.device)
        self._steps: list[float] = problem.times.diff().tolist()
        self._stream: BrownianStream | None = None
        if problem.dynamics.stochastic:
            self._stream = problem.noise.brownian(
                problem.dynamics.noise_shape(problem.x.shape),
                problem.times,
                areas=areas,
                dtype=problem.x.dtype,
                device=problem.x.device,
                last_noise=problem.last_noise,
            )

    @property
    def x(self) -> Tensor:
        return self._x

    @property
    def stream(self) -> BrownianStream:
        """The noise of an SDE's steps.

        Raises:
            ArgumentError: if it is an ODE.
        """
        if self._stream is None:
            raise ArgumentError(f"{self._dynamics!r} is an ODE: it takes no noise.")
        return self._stream

    def draw(self) -> Increment | None:
        """The noise of the next step; None for an ODE."""
        return None if self._stream is None else self._stream.next()

    def registers(self) -> dict[str, Tensor]:
        return {}

    def noise_positions(self) -> tuple[int, ...]:
        return () if self._stream is None else (self._stream.position,)

    def restore(self, state: SolveState) -> None:
        self._x = state.x.clone()
        if self._stream is not None:
            self._stream.seek(*state.noise_positions)

    @property
    def replayable(self) -> bool:
        return self._stream is None or self._stream.seekable


@final
class StepStepper(GridStepper):
    """Applies a step formula along the grid."""

    def __init__(self, solver: StepSolver, problem: Problem) -> None:
        super().__init__(problem, solver.areas)
        self._solver = solver
        zero = solver.evaluates_after_start and ends_at_zero(problem.dynamics, float(problem.times[-1]))
        self._euler = len(self._steps) - 1 if zero else len(self._steps)

    def advance(self, start: int, stop: int) -> None:
        formula, dynamics = self._solver.step_formula, self._dynamics
        clock = self._clock[start : stop + 1].unbind(0)
        x = self._x
        for t, s, h in zip(clock[: self._euler - start], clock[1:], self._steps[start:stop], strict=False):
            x = formula(dynamics, x, t, s, h, self.draw())
        if stop > self._euler:
            x = euler_step(dynamics, x, clock[-2], self._steps[-1], self.draw())
        # Copied, not kept: a callback may write into it, which a tensor made in inference mode does not allow.
        self._x.copy_(x)
