"""torchsde's loop: steps of dt from the first time, the last one cut, and values between steps by straight lines.

The steps are made in the open, under autograd wherever the caller is, as torchsde's are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnsupportedError
from sdekit.noise import NoiseSource
from sdekit.solvers.base import Problem
from sdekit.solvers.gradients.checkpoints import go_by_segments
from sdekit.solvers.gradients.reversible import go_reversibly
from sdekit.solvers.gradients.steps import State, Steps
from sdekit.solvers.sde.reversible_heun import ReversibleHeun
from sdekit.solvers.step import StepSolver

__all__ = ["Extra", "Method", "Outputs", "Run", "grid", "number_of"]

Extra = tuple[Tensor, ...]
Method = StepSolver | ReversibleHeun

_MOST = 100_000_000


def number_of(ts: Tensor) -> Any:
    """The type of numbers in which torchsde adds up these times."""
    return np.float32 if ts.dtype == torch.float32 else np.float64


def grid(ts: Tensor, dt: float, least: float = 0.0) -> Tensor:
    """The times of the steps, float64: from ts[0] by dt, added in the dtype of ts as torchsde does, to ts[-1].

    least: a last step as short, which rounding leaves, is made with the one before it.
    """
    number = number_of(ts)
    t, step, end = number(float(ts[0])), number(dt), number(float(ts[-1]))
    if not t + step > t or (end - t) / step > _MOST:
        raise ArgumentError(f"dt = {dt:g} is too short for times from {float(t):g} to {float(end):g} in {ts.dtype}.")
    times = [float(t)]
    while t < end:
        t = t + step if end - (t + step) > least else end
        times.append(float(t))
    return torch.tensor(times, dtype=torch.float64, device="cpu")


@final
class Outputs:
    """The values at the times asked for, from the two steps' ends around each.

    Args:
        ts: the times asked for.
        times: the grid, float64 (N + 1,).
    """

    def __init__(self, ts: Tensor, times: Tensor) -> None:
        self.times = times
        self._asked, self._ends = ts.tolist(), times.tolist()
        self._after = torch.searchsorted(times, ts.to("cpu", torch.float64)).tolist()
        self.wanted = sorted({k for i in self._after for k in (i - 1, i) if k >= 0})

    def values(self, states: dict[int, Tensor]) -> Tensor:
        """(T, B, d), from the states at the places `wanted` of the grid; of places that are asked for, from theirs."""
        found = []
        for t, k in zip(self._asked, self._after, strict=True):
            low, high = self._ends[max(k - 1, 0)], self._ends[k]
            if t == high:
                found.append(states[k])
            else:
                found.append(states[k - 1] * ((high - t) / (high - low)) + states[k] * ((t - low) / (high - low)))
        return torch.stack(found)


@final
@dataclass(frozen=True)
class Run:
    """One solve: what is integrated, by what, from where, on what noise.

    Attributes:
        method: the steps.
        name: torchsde's name of them.
        dynamics: what is integrated.
        y0: the start, (B, d).
        noise: the Brownian motion.
        extra: torchsde's extra state (f, g, z) of reversible Heun to start from, or nothing.
    """

    method: Method
    name: str
    dynamics: Dynamics
    y0: Tensor
    noise: NoiseSource
    extra: Extra = ()

    def steps(self, times: Tensor, x: Tensor | None = None) -> Steps:
        """The steps of a grid, from y0 or from x."""
        return Steps(self.method, Problem(self.dynamics, self.y0 if x is None else x, times, self.noise))

    def begin(self, steps: Steps) -> State:
        """The state at the start: as extra_solver_state (f, g, z) says, or from y0."""
        if not self.extra:
            return steps.begin()
        expected = "extra_solver_state of reversible_heun holds the tensors f, g and z that extra=True returned"
        if len(self.extra) != 3:
            raise ArgumentError(f"{expected}; got {len(self.extra)}.")
        f, g, z = self.extra
        if f.shape != self.y0.shape or z.shape != self.y0.shape:
            raise ShapeError(f"{expected}; f and z must have the shape {tuple(self.y0.shape)} of y0.")
        return self.y0, z, f, g[..., 0] if self.dynamics.noise == "scalar" else g

    def end(self, state: State) -> Extra:
        """torchsde's extra state of the method."""
        if not isinstance(self.method, ReversibleHeun):
            return ()
        _, z, f, g = state
        return f, g[..., None] if self.dynamics.noise == "scalar" else g, z

    def values(self, outputs: Outputs) -> tuple[Tensor, Extra]:
        """The values at the times of the outputs, and the extra state at the end; autograd follows all steps."""
        steps, states = self.steps(outputs.times), {0: self.y0}
        state = self.begin(steps)
        wanted = set(outputs.wanted)
        with self.named(), steps.noise_from(0):
            for k in range(steps.count):
                state = steps.one(state, k)
                if k + 1 in wanted:
                    states[k + 1] = state[0]
        return outputs.values(states), self.end(state)

    def values_in_little_memory(self, outputs: Outputs, parameters: Sequence[Tensor]) -> Tensor:
        """The values alone, with the steps made again, or undone, as their gradient passes."""
        places = [place for place in outputs.wanted if place > 0]
        go = go_reversibly if isinstance(self.method, ReversibleHeun) else go_by_segments
        with self.named():
            _, kept = go(self.steps(outputs.times), places, list(parameters), lambda steps: None)
        values = outputs.values({0: self.y0, **dict(zip(places, kept, strict=True))})
        once: Tensor = _Once.apply(values)  # type: ignore[no-untyped-call]
        return once

    @contextmanager
    def named(self, made: int = 0) -> Iterator[None]:
        """An error of a step bears torchsde's name of the method, and `made` as the step's number, if given."""
        try:
            yield
        except NonFiniteError as error:
            step = made or error.step
            raise NonFiniteError(f"torchsde {self.name}", step, error.time, error.samples) from None


@final
class _Once(torch.autograd.Function):
    """The identity, whose gradient has none: the ways of little memory would leave the most of it out unseen."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "sdeint_adjoint gives first derivatives alone (create_graph=True was asked for); take sdeint."
            )
        return cotangent
