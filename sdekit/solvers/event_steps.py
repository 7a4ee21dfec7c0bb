"""Step solvers on a grid whose samples stop at an event."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import expand_right
from sdekit.dynamics import Dynamics
from sdekit.errors import UnsupportedError
from sdekit.noise import BrownianPath, BrownianStream, Increment
from sdekit.noise.given_path import FunctionPath
from sdekit.solvers.base import Observers, Problem, Solver, Stepper
from sdekit.solvers.carrying import CarryingSolver
from sdekit.solvers.events import DrawnHalves, Event, Halves, Inside, OnPath, PathHalves, Restepped, locate, names_of
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.solution import Solution, SolveState, Status
from sdekit.solvers.step import StepSolver

__all__ = ["EventSolver", "EventStepper", "on_grid"]


@final
@dataclass(frozen=True, repr=False)
class EventSolver(FixedStepSolver):
    """A step solver whose samples stop where the event crosses zero, and stay there: as the solver in all else.

    Between the steps of the grid it looks only where a crossing was seen.
    """

    solver: StepSolver
    event: Event

    kind = "composition"

    @property
    def name(self) -> str:
        return self.solver.name

    @property
    def stochastic(self) -> bool:
        return self.solver.stochastic

    @property
    def differentiates(self) -> bool:  # type: ignore[override]
        return self.solver.differentiates

    @property
    def reference(self) -> str:  # type: ignore[override]
        return self.solver.reference

    def check(self, dynamics: Dynamics) -> None:
        self.solver.check(dynamics)

    def stepper(self, problem: Problem) -> Stepper:
        return EventStepper(self.solver, self.event, problem)

    def integrate(
        self,
        problem: Problem,
        observers: Observers | None = None,
        *,
        resume: SolveState | None = None,
        stop: int | None = None,
    ) -> Solution:
        if isinstance(problem.noise, FunctionPath) and problem.dynamics.stochastic:
            raise UnsupportedError(
                "an event is located on the Brownian path between the steps, at a time for each sample, which a "
                "FunctionPath has not; give a seed, a BrownianPath or a GivenPath."
            )
        # Observers bring the event of the samples that are solved: of a chunk, with the parameters of its rows.
        given = None if observers is None else observers.event
        here = self if given is None else replace(self, event=given)
        solution = FixedStepSolver.integrate(here, problem, observers, resume=resume, stop=stop)
        if solution.state is None:
            return solution
        times = solution.state.registers[_TIMES].clone()
        stopped = ~torch.isnan(times)
        rest: Status = solution.status
        each: list[Status] = ["event" if here else rest for here in stopped.tolist()]
        some, all_of_them = bool(stopped.any()), bool(stopped.all())
        falls = bool(problem.times[-1] < problem.times[0])
        last = float(times.min() if falls else times.max()) if all_of_them else solution.t
        return replace(
            solution,
            t=last,
            status="event" if some and rest == "success" else rest,
            event_times=times,
            stats={**solution.stats, "status": each},
        )

    def __repr__(self) -> str:
        how = f"direction={self.event.direction!r}, tolerance={self.event.tolerance:g}"
        return f"EventSolver({self.solver!r}, {how})"


_TIMES, _SIDES = "event times", "event sides"


@final
class EventStepper(Stepper):
    """Applies a step formula along the grid; samples past the event stay where they are."""

    def __init__(self, solver: StepSolver, event: Event, problem: Problem) -> None:
        self.times = problem.times
        self._solver, self._dynamics, self._noise = solver, problem.dynamics, problem.noise
        self._x = problem.x.clone()
        self._shape = tuple(problem.x.shape)
        self._event = event.rows(slice(None), self._shape[0])  # parameters that do not fit are told here
        self._clock = problem.times.to(problem.x.device)
        self._steps: list[float] = problem.times.diff().tolist()
        span = float((problem.times[-1] - problem.times[0]).abs())
        self._least = event.tolerance * span
        batch = problem.x.shape[0]
        self._at = torch.full((batch,), torch.nan, dtype=torch.float64, device="cpu")
        self._side = torch.zeros(batch, dtype=torch.float64, device="cpu")
        self._stream: BrownianStream | None = None
        self._path: BrownianPath | None = None
        if problem.dynamics.stochastic:
            self._stream = problem.noise.brownian(
                problem.dynamics.noise_shape(problem.x.shape),
                problem.times,
                areas=solver.areas,
                dtype=problem.x.dtype,
                device=problem.x.device,
                last_noise=problem.last_noise,
            )
            if isinstance(problem.noise, BrownianPath):
                self._path = problem.noise.to(problem.x.dtype, problem.x.device)
                self._least = max(self._least, 4 * self._path.quantum)

    @property
    def x(self) -> Tensor:
        return self._x

    def advance(self, start: int, stop: int) -> None:
        event, stream = self._event, self._stream
        x = self._x.clone()
        # Where the steps begin: a callback may have moved a sample over.
        self._side = event.side(event.value(x, self._times_of(start)), self._side)
        for k in range(start, stop):
            noise = None if stream is None else stream.next()
            gone = ~torch.isnan(self._at)
            if bool(gone.all()):
                continue
            t, s, h = self._clock[k], self._clock[k + 1], self._steps[k]
            y = self._solver.step_formula(self._dynamics, x, t, s, h, noise)
            if bool(gone.any()):
                y = torch.where(expand_right(gone.to(x.device), x), x, y)
            value = event.value(y, self._times_of(k + 1))
            rows = (event.passed(self._side, value) & ~gone).nonzero()[:, 0]
            if len(rows):
                self._stop(k, rows, x, y, noise)
            self._side = event.side(value, self._side)
            x = y
        self._x.copy_(x)

    def _times_of(self, k: int) -> Tensor:
        return self.times[k].expand(self._shape[0])

    def _stop(self, k: int, rows: Tensor, x: Tensor, y: Tensor, noise: Increment | None) -> None:
        """Stop samples `rows`, which step k takes from x over the event to y: in y too."""
        dynamics, on = self._dynamics, rows.to(x.device)

        def step(which: Tensor, x: Tensor, t: Tensor, s: Tensor, noise: Increment | None) -> Tensor:
            of = dynamics.rows(on[which.to(on.device)], self._shape)
            h = expand_right((s - t).to(device=x.device, dtype=x.dtype), x)
            return self._solver.step_formula(of, x, t.to(x.device), s.to(x.device), h, noise)

        start, stop = (self.times[i].expand(len(rows)) for i in (k, k + 1))
        inside: Inside = Restepped(x[on], start, step)
        if noise is not None:
            whole = Increment(*[value[on] for value in noise.values()])
            halves: Halves
            if self._path is not None:
                halves = PathHalves(self._path, rows)
            else:
                halves = DrawnHalves(whole, stop - start, names_of(self._noise, rows, k, whole))
            inside = OnPath(x[on], step, halves)
        event = self._event.rows(rows, self._shape[0])
        y[on], self._at[rows], _ = locate(event, self._side[rows], start, stop, y[on], inside, self._least)

    def registers(self) -> dict[str, Tensor]:
        return {_TIMES: self._at, _SIDES: self._side}

    def noise_positions(self) -> tuple[int, ...]:
        return () if self._stream is None else (self._stream.position,)

    def restore(self, state: SolveState) -> None:
        self._x = state.x.clone()
        self._at, self._side = state.registers[_TIMES].clone(), state.registers[_SIDES].clone()
        if self._stream is not None:
            self._stream.seek(*state.noise_positions)

    @property
    def replayable(self) -> bool:
        return self._stream is None or self._stream.seekable


def on_grid(solver: Solver, dynamics: Dynamics, event: Event) -> EventSolver:
    """A step solver on a grid, with the event.

    Raises:
        UnsupportedError: for any other solver, and for a model's dynamics.
    """
    weak = solver.stochastic and solver.strong_order is None  # its steps follow no path, on which to look
    if not isinstance(solver, StepSolver) or isinstance(solver, CarryingSolver) or solver.needs or weak:
        raise UnsupportedError(
            f"solver {solver.name!r} cannot stop a sample on the way: its steps are not made one by one from drift, "
            "diffusion and a path. Take a step solver, such as 'euler_maruyama', 'shark' or 'rk4', or an adaptive one, "
            "such as 'tsitouras_5' or 'sosra' with rtol."
        )
    if dynamics.model is not None:
        raise UnsupportedError(
            "on a grid a model's dynamics run as a table, which cannot stop on the way. Take an adaptive solver, such "
            f"as 'sosra' or 'tsitouras_5' with rtol, for {dynamics!r}."
        )
    return EventSolver(solver, event)
