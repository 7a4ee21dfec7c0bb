"""Many steps of a step solver as one compiled function: for small states, where calling torch costs more than its work.

Sixty-four steps are unrolled and compiled by `torch.compile` once, which takes some 30 seconds; the function is kept
for later solves of the same SDE (whatever the values of its `parameters`), solver, shape and dtype. Results are those
of the plain loop to rounding: compiled code fuses additions and multiplications.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, final

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics, ForwardSDE
from sdekit.errors import UnsupportedError
from sdekit.noise import Increment
from sdekit.sdes import SDE, AbstractSDE, Calculus
from sdekit.sdes.calculus import Reread
from sdekit.solvers.base import Problem, Stepper
from sdekit.solvers.carrying import CarryingSolver
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.solution import SolveState
from sdekit.solvers.step import StepSolver, StepStepper

__all__ = ["Compiled", "CompiledStepper"]

BLOCK = 64
_FEW = 8  # steps; as many cost less one by one than a block does
_KEPT = 8
_blocks: OrderedDict[Any, _Block] = OrderedDict()
_numbers = itertools.count()


@final
class CompiledStepper(Stepper):
    """The steps of a step solver in compiled blocks of 64, of which the last may be used in part; a few steps as ever.

    Steps that are watched one by one (by a callback, or for a whole trajectory) are such few.
    """

    def __init__(self, solver: StepSolver, problem: Problem) -> None:
        self._plain = StepStepper(solver, problem)
        self.times = problem.times
        self._counter = problem.dynamics.counter
        self._evaluations = solver.evaluations_per_step or 0
        self._dynamics = _Uncounted(_sde_of(problem.dynamics))
        self._block = _block_for(solver, self._dynamics, problem.x)
        # After the last step the clock stands still: the steps of a block that are too many go nowhere.
        clock = torch.cat([problem.times, problem.times[-1:].expand(BLOCK)])
        self._clock = clock.to(problem.x.device)
        self._all = torch.tensor(BLOCK, device=problem.x.device)
        shape = problem.dynamics.noise_shape(problem.x.shape)
        self._buffers = [problem.x.new_zeros(BLOCK, *shape) for _ in range(1 + solver.areas)]

    @property
    def x(self) -> Tensor:
        return self._plain.x

    def advance(self, start: int, stop: int) -> None:
        for first in range(start, stop, BLOCK):
            count = min(BLOCK, stop - first)
            if count < min(_FEW, BLOCK):
                self._plain.advance(first, stop)
            else:
                self._advance_block(first, count)

    def _advance_block(self, start: int, count: int) -> None:
        x, noise = self._plain.x, self._noise(count)
        used = self._all if count == BLOCK else torch.tensor(count, device=x.device)
        x.copy_(self._block(self._dynamics, x, self._clock[start : start + BLOCK + 1], used, *noise))
        self._counter.calls += count * self._evaluations

    def _noise(self, count: int) -> list[Tensor]:
        """W and the areas of the next `count` steps, and after them anything: (64, B, *)."""
        stream, buffers, done = self._plain.stream, self._buffers, 0
        while done < count:
            made = stream.ahead(count - done).values()
            # Code is compiled for one layout.
            if len(made[0]) == BLOCK and all(a.stride() == b.stride() for a, b in zip(made, buffers, strict=True)):
                return made
            for to, part in zip(buffers, made, strict=True):
                to[done : done + len(part)] = part
            done += len(made[0])
        return buffers

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

    sde: AbstractSDE

    def __init__(self, sde: AbstractSDE) -> None:
        self.sde, self.noise, self.calculus = sde, sde.noise, sde.calculus

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self.sde.drift(x, t)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return self.sde.diffusion(x, t)

    def noise_shape(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
        return self.sde.noise_shape(shape)

    def counted(self) -> Dynamics:
        return self

    def rows(self, which: slice | Tensor, shape: tuple[int, ...]) -> Dynamics:
        return _Uncounted(self.sde.rows(which, shape))

    @property
    def constant_diffusion(self) -> float | None:
        return self.sde.constant_diffusion


def _sde_of(moving: Dynamics) -> AbstractSDE:
    if moving.sde is None:
        raise UnsupportedError(f"{moving!r} has no SDE to compile.")
    return moving.sde


@final
class _Block:
    """64 steps of a solver as a function of (dynamics, x, clock, used, *noise), compiled at its first call."""

    def __init__(self, solver: StepSolver) -> None:
        self._solver = solver
        self._function: Callable[..., Tensor] | None = None

    def __call__(self, dynamics: Dynamics, x: Tensor, clock: Tensor, used: Tensor, *noise: Tensor) -> Tensor:
        """x after the first `used` steps, int64 (); clock float64 (65,), noise (64, B, *)."""
        if self._function is not None:
            try:
                return self._function(dynamics, x, clock, used, *noise)
            except Exception:
                # What the steps are made of has changed more often (numbers in a closure) than torch compiles again.
                self._function = None
        function = torch.compile(_unrolled(self._solver), fullgraph=True)
        try:
            with warnings.catch_warnings():
                # Torch warns of functions of its own that it deprecated.
                warnings.simplefilter("ignore", DeprecationWarning)
                value = function(dynamics, x, clock, used, *noise)
        except Exception as error:
            # What is wrong with the drift itself is told as it is without compiling.
            increment = Increment(*(part[0] for part in noise))
            self._solver.step_formula(dynamics, x, clock[0], clock[1], float(clock[1] - clock[0]), increment)
            raise UnsupportedError(
                f"torch.compile cannot compile the steps of {self._solver!r} on {dynamics.sde!r}; leave out "
                f"compiled=True. It says: {str(error).splitlines()[0]}"
            ) from error
        self._function = function
        return value


def _block_for(solver: StepSolver, dynamics: _Uncounted, x: Tensor) -> _Block:
    """The block for this SDE, solver, shape and dtype: made once, and kept."""
    key = (type(solver), repr(solver), *_kind_of(dynamics.sde), tuple(x.shape), x.dtype, x.device)
    if key not in _blocks:
        _blocks[key] = _Block(solver)
        while len(_blocks) > _KEPT:
            _blocks.popitem(last=False)
    _blocks.move_to_end(key)
    return _blocks[key]


def _kind_of(sde: AbstractSDE) -> tuple[AbstractSDE, tuple[object, ...]]:
    """The SDE without its rows of parameters, which are given to the code, new in each solve; and what they are."""
    if not isinstance(sde, SDE) or not sde._parameters:
        return sde, ()
    bare = copy.copy(sde)
    bare._parameters = {}
    return bare, tuple((name, value.shape, value.dtype) for name, value in sorted(sde._parameters.items()))


def _unrolled(solver: StepSolver) -> Callable[..., Tensor]:
    def block(dynamics: Dynamics, x: Tensor, clock: Tensor, used: Tensor, *noise: Tensor) -> Tensor:
        for k in range(BLOCK):
            t, s = clock[k], clock[k + 1]
            increment = Increment(*(part[k] for part in noise))
            x = torch.where(used > k, solver.step_formula(dynamics, x, t, s, (s - t).to(x.dtype), increment), x)
        return x

    # Torch keeps what it compiles with a function's code, at most eight times for each, and by the code's name it knows
    # which sizes vary: so each block has code and a name of its own.
    code = block.__code__.replace(co_name=f"block_{next(_numbers)}")
    return FunctionType(code, block.__globals__, block.__name__, None, block.__closure__)


@final
@dataclass(frozen=True, repr=False)
class Compiled(FixedStepSolver):
    """A step solver whose steps are compiled by torch, 64 in one function; for an SDE as it stands, on a grid.

    The first solve takes some 30 seconds longer. Its numbers are those of `method` to rounding.
    """

    method: StepSolver

    kind = "step"
    differentiates = True  # torch compiles for one grad mode: not inference mode
    steps_at_once = BLOCK

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
    def couples_batch(self) -> bool:
        return self.method.couples_batch

    @property
    def calculus(self) -> tuple[Calculus, ...]:  # type: ignore[override]
        return self.method.calculus

    @property
    def reference(self) -> str:  # type: ignore[override]
        return self.method.reference

    def check(self, dynamics: Dynamics) -> None:
        self.method.check(dynamics)
        if isinstance(self.method, CarryingSolver) or "underdamped" in self.method.needs:
            raise UnsupportedError(
                f"compiled=True serves steps of drift, diffusion and noise that need nothing but their state; solver "
                f"{self.name!r} needs more. Leave it out."
            )
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
