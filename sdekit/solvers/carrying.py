"""Step solvers that carry values from one step to the next: an evaluation at a step's end that the next begins with."""

from __future__ import annotations

import abc
from typing import final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.noise import Increment
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.solution import SolveState
from sdekit.solvers.step import GridStepper, StepSolver

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
class CarryingStepper(GridStepper):
    """Applies `carry` along the grid. Where x is changed between steps (by a callback) it begins anew."""

    def __init__(self, solver: CarryingSolver, problem: Problem) -> None:
        super().__init__(problem, solver.areas)
        self._solver = solver
        self._end: Tensor | None = None  # the state that the carried values belong to
        self._carried: tuple[Tensor, ...] = ()

    def advance(self, start: int, stop: int) -> None:
        solver, dynamics = self._solver, self._dynamics
        clock = self._clock[start : stop + 1].unbind(0)
        x, carried = self._x.clone(), self._carried
        if not self._current():
            carried = solver.begin(dynamics, x, clock[0])
        for t, s, h in zip(clock, clock[1:], self._steps[start:stop], strict=False):
            x, carried = solver.carry(dynamics, x, carried, t, s, h, self.draw())
        self._end, self._carried = x, carried
        self._x.copy_(x)

    def _current(self) -> bool:
        """Whether x is where the last step ended."""
        return self._end is not None and bool((self._end == self._x).all())

    def registers(self) -> dict[str, Tensor]:
        return {f"carried {i}": value for i, value in enumerate(self._carried)} if self._current() else {}

    def restore(self, state: SolveState) -> None:
        super().restore(state)
        self._carried = tuple(value.clone() for value in state.registers.values())
        self._end = state.x.clone() if self._carried else None
