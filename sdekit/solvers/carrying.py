"""Step solvers that carry values from one step to the next: an evaluation at a step's end that the next begins with."""

from __future__ import annotations

import abc
from typing import final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.noise import BrownianStream, Increment
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.solution import SolveState
from sdekit.solvers.step import StepSolver

__all__ = ["CarryingSolver", "CarryingStepper"]


class CarryingSolver(StepSolver):
    """A method whose step takes, beside the state, what the step before has left for it.

    It is not for a model's dynamics: its last step is like the others.
    """

    @abc.abstractmethod
    def begin(self, dynamics: Dynamics, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """What a first step from x, (B, *), at time t takes."""

    @abc.abstractmethod
    def carry(
        self,
        dynamics: Dynamics,
        x: Tensor,
        carried: tuple[Tensor, ...],
        t: Tensor,
        s: Tensor,
        h: float | Tensor,
        noise: Increment | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x at time s from x at time t, and what it leaves for the next step; arguments as in `step_formula`."""

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        """A step by itself, as a solve's first."""
        return self.carry(dynamics, x, self.begin(dynamics, x, t), t, s, h, noise)[0]

    def stepper(self, problem: Problem) -> Stepper:
        return CarryingStepper(self, problem)


@final
class CarryingStepper(Stepper):
    """Applies `carry` along the grid. Where x is changed between steps (by a callback) it begins anew."""

    def __init__(self, solver: CarryingSolver, problem: Problem) -> None:
        self.times = problem.times
        self._solver, self._dynamics = solver, problem.dynamics
        self._x = problem.x.clone()
        self._end: Tensor | None = None  # the state that the carried values belong to
        self._carried: tuple[Tensor, ...] = ()
        self._clock = problem.times.to(problem.x.device)
        self._steps: list[float] = problem.times.diff().tolist()
        self._stream: BrownianStream | None = None
        if problem.dynamics.stochastic:
            self._stream = problem.noise.brownian(
                problem.dynamics.noise_shape(problem.x.shape),
                problem.times,
                areas=solver.areas,
                dtype=problem.x.dtype,
                device=problem.x.device,
                last_noise=problem.last_noise,
            )

    @property
    def x(self) -> Tensor:
        return self._x

    def advance(self, start: int, stop: int) -> None:
        solver, dynamics, stream = self._solver, self._dynamics, self._stream
        clock = self._clock[start : stop + 1].unbind(0)
        x, carried = self._x.clone(), self._carried
        if not self._current():
            carried = solver.begin(dynamics, x, clock[0])
        for t, s, h in zip(clock, clock[1:], self._steps[start:stop], strict=False):
            x, carried = solver.carry(dynamics, x, carried, t, s, h, None if stream is None else stream.next())
        self._end, self._carried = x, carried
        self._x.copy_(x)

    def _current(self) -> bool:
        """Whether x is where the last step ended."""
        return self._end is not None and bool((self._end == self._x).all())

    def registers(self) -> dict[str, Tensor]:
        return {f"carried {i}": value for i, value in enumerate(self._carried)} if self._current() else {}

    def noise_positions(self) -> tuple[int, ...]:
        return () if self._stream is None else (self._stream.position,)

    def restore(self, state: SolveState) -> None:
        self._x = state.x.clone()
        self._carried = tuple(value.clone() for value in state.registers.values())
        self._end = state.x.clone() if self._carried else None
        if self._stream is not None:
            self._stream.seek(*state.noise_positions)

    @property
    def replayable(self) -> bool:
        return self._stream is None or self._stream.seekable
