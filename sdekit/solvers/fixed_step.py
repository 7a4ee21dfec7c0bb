"""Fixed-step solvers: they step where their grid says, driven by the one loop or by hand."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.base import Observers, Problem, Solver, Stepper
from sdekit.solvers.loop import check_same_solve, run_fixed, signed, snapshot
from sdekit.solvers.solution import Solution, SolveState
from sdekit.solvers.table import Table

__all__ = ["FixedStepSolver", "HandState"]


@final
@dataclass(frozen=True)
class HandState:
    """A solve in the user's hands: `value` is plain and can be saved; `x`, `t` and `nfe` are read from it."""

    value: SolveState
    stepper: Stepper
    dynamics: Dynamics

    @property
    def x(self) -> Tensor:
        """The state, (B, *)."""
        return self.value.x

    @property
    def t(self) -> float:
        """The time reached."""
        return self.value.t

    @property
    def nfe(self) -> int:
        """Evaluations so far."""
        return self.value.nfe

    def at(self, value: SolveState) -> HandState:
        """The same solve at another saved state.

        Raises:
            ArgumentError: if it is known to be one of another solve.
        """
        check_same_solve(value, self.value)
        return HandState(value, self.stepper, self.dynamics)


class FixedStepSolver(Solver):
    """A solver that steps where its grid says. Subclasses make a Stepper; the one loop drives it.

    Attributes:
        steps_at_once: how many steps its stepper makes in one where it is let.
    """

    steps_at_once: ClassVar[int] = 1

    @abc.abstractmethod
    def stepper(self, problem: Problem) -> Stepper:
        """The stepper for a problem that `check` has passed."""

    def integrate(
        self,
        problem: Problem,
        observers: Observers | None = None,
        *,
        resume: SolveState | None = None,
        stop: int | None = None,
    ) -> Solution:
        """Solve; from `resume` (a state of the same problem) where given, and to the end of step `stop` where given."""
        self.check(problem.dynamics)
        return run_fixed(
            self.name,
            repr(self),
            self.stepper,
            problem,
            observers or Observers(),
            resume=resume,
            stop=stop,
            differentiates=self.differentiates,
            at_once=self.steps_at_once,
        )

    def table(self, sde: DiffusionSDE, times: Tensor) -> Table:
        """The coefficients of a solve over `times`, float64 (N + 1,), for a solver linear in state, values and draws.

        Raises:
            UnsupportedError: if it is not.
        """
        raise UnsupportedError(f"solver {self.name!r} has no table: it is not linear in its state, values and draws.")

    def noise_clock(self, sde: DiffusionSDE, t: Tensor) -> Tensor | None:
        """The clock, at the times t, of the Brownian motion B that the noise on a reverse SDE is made of.

        The draw for the step from t to s is (B(clock s) - B(clock t)) over the root of the time between: given so,
        solves with different steps follow one path. None where no such clock is known.
        """
        return None

    def init(self, problem: Problem) -> HandState:
        """The state before the first step, to be moved by `step`."""
        self.check(problem.dynamics)
        dynamics = problem.dynamics.counted()
        x = problem.x.detach()
        stepper = self.stepper(Problem(dynamics, x, problem.times, problem.noise, problem.last_noise))
        return HandState(signed(snapshot(repr(self), stepper, 0, 0), problem), stepper, dynamics)

    def step(self, state: HandState) -> HandState:
        """The state one step on. The state given stays as it is.

        Raises:
            ArgumentError: if the solve is at its end.
            UnsupportedError: if `state` is not the latest one, and its noise cannot be drawn again.
        """
        k, stepper = state.value.step, state.stepper
        if k + 1 >= len(stepper.times):
            raise ArgumentError(f"the solve is at its end, after step {k}; there is no step {k + 1}.")
        stepper.restore(state.value)
        calls = state.dynamics.counter.calls
        with torch.no_grad():
            stepper.advance(k, k + 1)
        nfe = state.value.nfe + state.dynamics.counter.calls - calls
        at, first = snapshot(repr(self), stepper, k + 1, nfe), state.value
        at = replace(at, dynamics=first.dynamics, noise=first.noise, start=first.start)
        return HandState(at, stepper, state.dynamics)
