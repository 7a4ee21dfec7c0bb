"""torchsde's loop: steps of dt from the first time, the last one cut, and values between steps by straight lines.

The steps are made in the open, under autograd wherever the caller is, as torchsde's are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sdekit._tensors import is_finite
from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError
from sdekit.noise import BrownianStream, Increment, NoiseSource
from sdekit.solvers.sde.reversible_heun import ReversibleState, first_state, forward_step
from sdekit.solvers.solution import first_bad_samples
from sdekit.solvers.step import StepSolver

__all__ = ["Outputs", "grid", "run"]

_MOST = 100_000_000


def grid(ts: Tensor, dt: float) -> Tensor:
    """The times of the steps, float64: from ts[0] by dt, added in the dtype of ts as torchsde does, to ts[-1]."""
    number: Any = np.float32 if ts.dtype == torch.float32 else np.float64
    t, step, end = number(float(ts[0])), number(dt), number(float(ts[-1]))
    if not t + step > t or (end - t) / step > _MOST:
        raise ArgumentError(f"dt = {dt:g} is too short for times from {float(t):g} to {float(end):g} in {ts.dtype}.")
    times = [float(t)]
    while t < end:
        t = min(t + step, end)
        times.append(float(t))
    return torch.tensor(times, dtype=torch.float64, device="cpu")


@final
class Outputs:
    """The values at the times asked for, from the two steps' ends around each."""

    def __init__(self, ts: Tensor, times: Tensor) -> None:
        self._asked = ts.tolist()
        self._times = times.tolist()
        self._after = torch.searchsorted(times, ts.to("cpu", torch.float64)).tolist()
        self.wanted = {k for i in self._after for k in (i - 1, i) if k >= 0}

    def values(self, states: dict[int, Tensor]) -> Tensor:
        """(T, B, d), from the states at the ends of the steps `wanted`."""
        found = []
        for t, k in zip(self._asked, self._after, strict=True):
            low, high = self._times[max(k - 1, 0)], self._times[k]
            if t == high:
                found.append(states[k])
            else:
                found.append(states[k - 1] * ((high - t) / (high - low)) + states[k] * ((t - low) / (high - low)))
        return torch.stack(found)


@final
@dataclass(frozen=True)
class _Steps:
    """The steps of one solve; `solver` is None for reversible Heun, whose state is four tensors."""

    solver: StepSolver | None
    dynamics: Dynamics
    times: list[float]
    clock: Tensor
    stream: BrownianStream

    def segment(self, start: int, stop: int, wanted: list[int], *state: Tensor) -> tuple[Tensor, ...]:
        """The states at the steps' ends `wanted` (start < k < stop), and after them the whole state at `stop`."""
        if self.stream.position != start:
            self.stream.seek(start)
        kept, graph = [], torch.is_grad_enabled()
        for k in range(start, stop):
            noise = self.stream.next()
            if graph:  # what a graph keeps must not be overwritten by the next draw
                noise = Increment(*[value.clone() for value in noise.values()])
            state = self._step(k, noise, state)
            if k + 1 in wanted:
                kept.append(state[0])
        return (*kept, *state)

    def _step(self, k: int, noise: Increment, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        t, s, h = self.clock[k], self.clock[k + 1], self.times[k + 1] - self.times[k]
        if self.solver is not None:
            return (self.solver.step_formula(self.dynamics, state[0], t, s, h, noise),)
        at = forward_step(self.dynamics, ReversibleState(*state), s, h, noise.W)
        return at.x, at.x_hat, at.f, at.g


def run(
    solver: StepSolver | None,
    name: str,
    dynamics: Dynamics,
    y0: Tensor,
    times: Tensor,
    outputs: Outputs,
    noise: NoiseSource,
    extra: tuple[Tensor, ...],
    *,
    save_memory: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The values at the outputs' times, and torchsde's extra state (f, g, z) of reversible Heun at the end.

    save_memory: keep no graph but of one segment of about sqrt(N) steps at a time: the segments are made again, on the
        same noise, by the backward pass.
    """
    areas = 0 if solver is None else solver.areas
    stream = noise.brownian(dynamics.noise_shape(y0.shape), times, areas=areas, dtype=y0.dtype, device=y0.device)
    steps = _Steps(solver, dynamics, times.tolist(), times.to(y0.device), stream)
    state: tuple[Tensor, ...] = (y0,)
    if solver is None:
        state = _begin(dynamics, y0, steps.clock[0], extra)
    count = len(times) - 1
    size = math.ceil(math.sqrt(count)) if save_memory else count
    states = {0: y0}
    for start in range(0, count, size):
        stop = min(start + size, count)
        wanted = sorted(k for k in outputs.wanted if start < k < stop)
        if save_memory:
            made: Any = checkpoint(
                steps.segment, start, stop, wanted, *state, use_reentrant=False, preserve_rng_state=False
            )
        else:
            made = steps.segment(start, stop, wanted, *state)
        states.update(zip(wanted, made, strict=False))
        state = made[len(wanted) :]
        states[stop] = state[0]
        if not is_finite(state[0]):
            raise NonFiniteError(f"torchsde {name}", stop, steps.times[stop], first_bad_samples(state[0]), start + 1)
    last = () if solver is not None else _torchsde_extra(dynamics, ReversibleState(*state))
    return outputs.values(states), last


def _begin(dynamics: Dynamics, y0: Tensor, t: Tensor, extra: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Reversible Heun's state at the start: as extra_solver_state (f, g, z) says, or from y0."""
    if not extra:
        at = first_state(dynamics, y0, t)
        return at.x, at.x_hat, at.f, at.g
    expected = "extra_solver_state of reversible_heun holds the tensors f, g and z that extra=True returned"
    if len(extra) != 3:
        raise ArgumentError(f"{expected}; got {len(extra)}.")
    f, g, z = extra
    if f.shape != y0.shape or z.shape != y0.shape:
        raise ShapeError(f"{expected}; f and z must have the shape {tuple(y0.shape)} of y0.")
    return y0, z, f, g[..., 0] if dynamics.noise == "scalar" else g


def _torchsde_extra(dynamics: Dynamics, at: ReversibleState) -> tuple[Tensor, ...]:
    return at.f, at.g[..., None] if dynamics.noise == "scalar" else at.g, at.x_hat
