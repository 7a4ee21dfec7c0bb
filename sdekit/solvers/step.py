"""Step solvers: they see drift, diffusion and a Brownian increment, and so serve any SDE or ODE."""

from __future__ import annotations

import abc
from typing import final

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.noise import NoiseStream
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.solution import SolveState

__all__ = ["StepSolver", "StepStepper", "apply_diffusion"]


def apply_diffusion(dynamics: Dynamics, g: Tensor, dw: Tensor, x: Tensor) -> Tensor:
    """g dW of the shape of x: elementwise, or for general noise g of shape (B, *, m) against dW of shape (B, m)."""
    if dynamics.noise != "general":
        return g * dw
    m = dw.shape[1]
    return torch.einsum("bdm,bm->bd", g.reshape(x.shape[0], -1, m), dw).reshape(x.shape)


class StepSolver(FixedStepSolver):
    """A one-step method in terms of drift and diffusion."""

    kind = "step"

    @abc.abstractmethod
    def step_formula(self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, dw: Tensor | None) -> Tensor:
        """x at time s from x at time t.

        Args:
            dynamics: what is integrated.
            x: (B, *).
            t: the current time, (), float64.
            s: the next time, (), float64.
            dw: the Brownian increment over |s - t|, of dynamics.noise_shape(x.shape); None for an ODE.
        """

    def stepper(self, problem: Problem) -> Stepper:
        return StepStepper(self, problem)


@final
class StepStepper(Stepper):
    """Applies a step formula along the grid."""

    def __init__(self, solver: StepSolver, problem: Problem) -> None:
        self.times = problem.times
        self._solver, self._dynamics = solver, problem.dynamics
        self._x = problem.x.clone()
        self._clock = problem.times.to(problem.x.device)
        self._floats: list[float] = problem.times.tolist()
        self._stream: NoiseStream | None = None
        if problem.dynamics.stochastic:
            scales = problem.times.diff().abs().sqrt()
            if not problem.last_noise:
                scales[-1] = 0.0
            self._stream = problem.noise.open(
                problem.dynamics.noise_shape(problem.x.shape),
                purpose="steps",
                dtype=problem.x.dtype,
                device=problem.x.device,
                draws=len(scales),
                scales=scales,
            )

    @property
    def x(self) -> Tensor:
        return self._x

    def advance(self, start: int, stop: int) -> None:
        formula, dynamics, clock, at, stream = (
            self._solver.step_formula,
            self._dynamics,
            self._clock[start : stop + 1].unbind(0),
            self._floats,
            self._stream,
        )
        x = self._x
        for k in range(start, stop):
            dw = None if stream is None else stream.next(at[k], at[k + 1])
            x = formula(dynamics, x, clock[k - start], clock[k - start + 1], dw)
        # Copied, not kept: a callback may write into it, which a tensor made in inference mode does not allow.
        self._x.copy_(x)

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
