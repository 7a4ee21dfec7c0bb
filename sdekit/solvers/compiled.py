"""Many steps of a step solver as one compiled function: for small states, where calling torch costs more than its work.

Sixty-four steps are unrolled and compiled by `torch.compile` once, which takes some 30 seconds; the function is kept
for later solves of the same SDE, solver, shape and dtype. Results are those of the plain loop to rounding: compiled
code fuses additions and multiplications.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final
from weakref import WeakSet

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics, ForwardSDE
from sdekit.errors import UnsupportedError
from sdekit.noise import Increment
from sdekit.sdes import AbstractSDE, Calculus
from sdekit.sdes.calculus import Reread
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.sde.euler_steppers import InPlaceEuler
from sdekit.solvers.solution import SolveState
from sdekit.solvers.step import StepSolver, StepStepper

__all__ = ["Compiled", "CompiledStepper"]

BLOCK = 64
_KEPT = 8
_blocks: OrderedDict[Any, Callable[..., Tensor]] = OrderedDict()
_ready: WeakSet[Callable[..., Tensor]] = WeakSet()  # those that have been compiled


@final
class CompiledStepper(Stepper):
    """The steps of a step solver in compiled blocks of 64; what is left over, and single steps, by the plain loop."""

    def __init__(self, solver: StepSolver, problem: Problem) -> None:
        plain = solver.stepper(problem)
        if not isinstance(plain, StepStepper | InPlaceEuler):
            raise UnsupportedError(
                f"compiled=True serves steps that need nothing but their state; solver {solver.name!r} keeps more."
            )
        self._plain = plain
        self.times = problem.times
        self._dynamics = problem.dynamics
        self._evaluations = solver.evaluations_per_step
        self._block = _compiled(solver, problem.dynamics, problem.x)
        self._clock = problem.times.to(problem.x.device)
        self._lengths = problem.times.diff().to(device=problem.x.device, dtype=problem.x.dtype)

    @property
    def x(self) -> Tensor:
        return self._plain.x

    def advance(self, start: int, stop: int) -> None:
        while stop - start >= BLOCK:
            self._advance_block(start)
            start += BLOCK
        if start < stop:
            self._plain.advance(start, stop)

    def _advance_block(self, start: int) -> None:
        stream, x = self._plain.stream, self._plain.x
        noise = stream.ahead(BLOCK).values()
        made = len(noise[0])
        if made < BLOCK:  # copied, since the next call may overwrite them
            pieces = [[value.clone() for value in noise]]
            while made < BLOCK:
                pieces.append([value.clone() for value in stream.ahead(BLOCK - made).values()])
                made += len(pieces[-1][0])
            noise = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
        clock, lengths = self._clock[start : start + BLOCK + 1], self._lengths[start : start + BLOCK]
        if self._block not in _ready:
            with warnings.catch_warnings():
                # Torch warns of functions of its own that it deprecated.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._block(x, clock, lengths, *noise)
            _ready.add(self._block)
        x.copy_(self._block(x, clock, lengths, *noise))
        self._dynamics.counter.calls += BLOCK * (self._evaluations or 0)

    def registers(self) -> dict[str, Tensor]:
        return self._plain.registers()

    def noise_positions(self) -> tuple[int, ...]:
        return self._plain.noise_positions()

    def restore(self, state: SolveState) -> None:
        self._plain.restore(state)

    @property
    def replayable(self) -> bool:
        return self._plain.replayable


@final
class _Uncounted(Dynamics):
    """An SDE's dynamics without a counter, which compiled code would have to read and write."""

    stochastic = True

    def __init__(self, sde: AbstractSDE) -> None:
        self.sde, self.noise, self.calculus = sde, sde.noise, sde.calculus

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self._sde.drift(x, t)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return self._sde.diffusion(x, t)

    def noise_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        return self._sde.noise_shape(shape)

    def counted(self) -> Dynamics:
        return self

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> Dynamics:
        return _Uncounted(self._sde.rows(which, shape))

    @property
    def _sde(self) -> AbstractSDE:
        sde = self.sde
        if sde is None:
            raise UnsupportedError("there is no SDE to compile.")
        return sde


def _compiled(solver: StepSolver, moving: Dynamics, x: Tensor) -> Callable[..., Tensor]:
    """The block for this SDE, solver, shape and dtype: made once, and kept."""
    sde = moving.sde
    if sde is None:
        raise UnsupportedError(f"{moving!r} has no SDE to compile.")
    key = (type(solver), repr(solver), sde, tuple(x.shape), x.dtype, x.device)
    if key not in _blocks:
        dynamics = _Uncounted(sde)
        # Compiled code is specialised: a function of its own for each key, so that none replaces another.
        _blocks[key] = torch.compile(_unrolled(solver, dynamics), fullgraph=True, dynamic=False)
        while len(_blocks) > _KEPT:
            _blocks.popitem(last=False)
    _blocks.move_to_end(key)
    return _blocks[key]


def _unrolled(solver: StepSolver, dynamics: Dynamics) -> Callable[..., Tensor]:
    def block(x: Tensor, clock: Tensor, lengths: Tensor, *noise: Tensor) -> Tensor:
        for k in range(BLOCK):
            increment = Increment(*(part[k] for part in noise))
            x = solver.step_formula(dynamics, x, clock[k], clock[k + 1], lengths[k], increment)
        return x

    return block


@final
@dataclass(frozen=True, repr=False)
class Compiled(FixedStepSolver):
    """A step solver whose steps are compiled by torch, 64 in one function; for an SDE as it stands, on a grid.

    The first solve takes some 30 seconds longer. Its numbers are those of `method` to rounding.
    """

    method: StepSolver

    kind = "step"
    differentiates = True  # torch compiles for one grad mode: not inference mode

    def __post_init__(self) -> None:
        if not isinstance(self.method, StepSolver):
            raise UnsupportedError(
                f"compiled=True serves step solvers, such as 'euler_maruyama'; {self.method!r} is none."
            )

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def stochastic(self) -> bool:
        return self.method.stochastic

    @property
    def calculus(self) -> tuple[Calculus, ...]:  # type: ignore[override]
        return self.method.calculus

    @property
    def reference(self) -> str:  # type: ignore[override]
        return self.method.reference

    def check(self, dynamics: Dynamics) -> None:
        self.method.check(dynamics)
        if self.method.differentiates or isinstance(dynamics.sde, Reread):
            raise UnsupportedError(
                f"compiled=True does not compile derivatives, and solver {self.name!r} takes one of {dynamics!r}. Take "
                "a solver of the SDE's own calculus that takes none."
            )
        if not isinstance(dynamics, ForwardSDE):
            raise UnsupportedError(
                f"compiled=True serves SDEs as they stand; {dynamics!r} is none. Leave it out: a model's network costs "
                "more than the steps."
            )

    def stepper(self, problem: Problem) -> Stepper:
        return CompiledStepper(self.method, problem)
