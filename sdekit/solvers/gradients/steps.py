"""The steps of a solve as functions of tensors, which autograd can follow, and which can be made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import is_finite
from sdekit.dynamics import Dynamics
from sdekit.errors import ConvergenceError, NonFiniteError, UnsupportedError
from sdekit.noise import Increment
from sdekit.solvers.base import Problem
from sdekit.solvers.carrying import CarryingSolver
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.sde.reversible_heun import ReversibleHeun, ReversibleState, first_state, forward_step
from sdekit.solvers.solution import first_bad_samples
from sdekit.solvers.step import StepSolver, ends_at_zero, euler_step

__all__ = ["State", "Steps", "detached"]

State = tuple[Tensor, ...]  # x, and what the method carries from step to step


@final
class Steps:
    """The steps of one problem. Nothing is written in place, and no draw of the noise is kept.

    Args:
        solver: a step solver, or reversible Heun.
        problem: what it solves, its dynamics counted.
    """

    def __init__(self, solver: FixedStepSolver, problem: Problem) -> None:
        self.dynamics: Dynamics = problem.dynamics
        self.times = problem.times
        self.clock = problem.times.to(problem.x.device).unbind(0)
        self.lengths: list[float] = problem.times.diff().tolist()
        self.count = len(self.lengths)
        self._solver, self._x = solver, problem.x
        later = isinstance(solver, ReversibleHeun) or (isinstance(solver, StepSolver) and solver.evaluates_after_start)
        # A step to where sigma = 0, and the score infinite, is Euler's, as in the solve without a gradient.
        self.whole = self.count - int(later and ends_at_zero(problem.dynamics, float(problem.times[-1])))
        self._noise = problem.noise.for_one_solve()
        self._stream = None
        self._marks: dict[int, Callable[[], None]] = {}
        if problem.dynamics.stochastic:
            self._stream = self._noise.brownian(
                problem.dynamics.noise_shape(problem.x.shape),
                problem.times,
                areas=solver.areas if isinstance(solver, StepSolver) else 0,
                dtype=problem.x.dtype,
                device=problem.x.device,
                last_noise=problem.last_noise,
            )

    def begin(self) -> State:
        """The state at the start."""
        x, t = self._x, self.clock[0]
        if isinstance(self._solver, ReversibleHeun) and self.whole > 0:
            state = first_state(self.dynamics, x, t)
            return state.x, state.x_hat, state.f, state.g
        return (x, *self._solver.begin(self.dynamics, x, t)) if isinstance(self._solver, CarryingSolver) else (x,)

    def probe(self) -> list[Tensor]:
        """Drift and diffusion at the start, for their graph; not counted, and without a trace in torch's generator."""
        calls, x, t = self.dynamics.counter.calls, self._x.detach(), self.clock[0]
        with torch.random.fork_rng(devices=[]):
            values = [self.dynamics.drift(x, t)]
            values += [self.dynamics.diffusion(x, t)] if self.dynamics.stochastic else []
        self.dynamics.counter.calls = calls
        return values

    def one(self, state: State, k: int) -> State:
        """The state after step k, from that before it, with the next draw of the noise.

        Raises:
            NonFiniteError, ConvergenceError: as the solve without a gradient does.
        """
        try:
            after = self._moved(state, k, self.draw())
        except ConvergenceError as error:
            raise error.at_step(int((self.times - error.time).abs().argmin())) from None
        if not is_finite(after[0]):
            bad = first_bad_samples(after[0].detach())
            raise NonFiniteError(self._solver.name, k + 1, float(self.times[k + 1]), bad)
        return after

    def _moved(self, state: State, k: int, noise: Increment | None) -> State:
        dynamics, solver, x, h = self.dynamics, self._solver, state[0], self.lengths[k]
        t, s = self.clock[k], self.clock[k + 1]
        if k == self.whole:
            return (euler_step(dynamics, x, t, h, noise),)
        if isinstance(solver, ReversibleHeun) and noise is not None:
            at = forward_step(dynamics, ReversibleState(*state), s, h, noise.W)
            return at.x, at.x_hat, at.f, at.g
        if isinstance(solver, CarryingSolver):
            x, carried = solver.carry(dynamics, x, state[1:], t, s, h, noise)
            return (x, *carried)
        if isinstance(solver, StepSolver):
            return (solver.step_formula(dynamics, x, t, s, h, noise),)
        raise UnsupportedError(f"solver {solver.name!r} has no steps that autograd can follow.")

    def draw(self) -> Increment | None:
        """The next increment, as tensors of its own: the stream may overwrite its own, which a graph would hold."""
        return None if self._stream is None else Increment(*[v.clone() for v in self._stream.next().values()])

    @contextmanager
    def noise_from(self, k: int) -> Iterator[None]:
        """Draws from that of step k on; at a second time, the same draws again.

        Torch's generators cannot seek: they are put back to where they were at the first time, and after it to where
        they are now.
        """
        if self._stream is None or self._stream.seekable:
            if self._stream is not None:
                self._stream.seek(k)
            yield
        elif k not in self._marks:
            self._marks[k] = self._noise.mark()
            yield
        else:
            forward, position = self._noise.mark(), self._stream.position
            self._marks[k]()
            self._stream.seek(k)
            try:
                yield
            finally:
                forward()
                self._stream.seek(position)

    def check_repeatable(self, mode: str) -> None:
        """Raise UnsupportedError if the noise cannot be drawn again."""
        if self._stream is None or self._stream.seekable or self._noise.rewindable:
            return
        raise UnsupportedError(
            f"gradient={mode!r} draws the noise a second time, and this source cannot; give seed=, seeds=, a generator "
            "or a BrownianPath, or take gradient='backprop'."
        )


def detached(state: State) -> State:
    """The state as leaves of a new graph."""
    return tuple(value.detach().requires_grad_() for value in state)
