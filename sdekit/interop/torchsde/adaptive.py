r"""Steps chosen as torchsde 0.2.6 chooses them: one length for the whole batch, by step doubling.

A step of h is made at once (x') and in two halves (x''), and

    error = rms((x' - x'')/(atol + rtol max(|x'|, |x''|))),    q = 0.9/error

over all entries of the batch. Where error <= 1 the halves are kept, and h grows by min(1.4, max(1, q^(1/4.5)
(q/q')^0.13)), q' being that of the step kept before. Otherwise the step is tried again with h min(1.4, max(0.2,
q^(1/1.5))), on the same Brownian motion, bridged. So the solve is one in fixed steps, on the grid of all halves kept.

Steps are cut to end at the times asked for, where torchsde draws a straight line over a step, however long.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from sdekit._tensors import check_number, check_positive
from sdekit.errors import ArgumentError, NonFiniteError
from sdekit.interop.torchsde.brownian import TorchsdeNoise
from sdekit.interop.torchsde.steps import Extra, Outputs, Run, number_of
from sdekit.noise.as_path import as_path
from sdekit.solvers.gradients.steps import State
from sdekit.solvers.step import StepSolver

__all__ = ["Chosen", "Tolerances", "choose_steps"]

_LEAST = 1e-7  # of a tolerance and of an error
_SLIVER = 1e-6  # of a step: what is left before a time asked for by rounding
_TOLD = (
    "a step at t = {:g} would be shorter than dt_min = {:g}: it is made with dt_min, and the tolerances are not kept."
)


@final
@dataclass(frozen=True)
class Tolerances:
    """rtol and atol of a step, its first length dt and its least one, dt_min.

    Raises:
        ArgumentError: if one of them is no number, or out of its range.
    """

    rtol: float
    atol: float
    dt: float
    dt_min: float

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            if check_number(name, getattr(self, name)) < 0:
                raise ArgumentError(f"{name} must be 0 or more, got {getattr(self, name)!r}.")
        check_positive("dt_min", self.dt_min)

    def error(self, whole: Tensor, halves: Tensor) -> float:
        """rms((x' - x'')/tolerance)."""
        size = torch.maximum(whole.abs(), halves.abs())
        ratio = (whole - halves) / (self.rtol * size + self.atol).clamp(min=_LEAST)
        return max(float(ratio.square().nan_to_num(nan=math.inf).mean().sqrt()), _LEAST)


@final
@dataclass(frozen=True)
class Chosen:
    """A solve with its steps chosen.

    Attributes:
        run: the solve, on a noise that is known at all of its times.
        outputs: the values asked for, whose times are places of the grid of all the halves.
        values: (T, B, d), without a graph.
        extra: the method's own state at the end, without a graph.
    """

    run: Run
    outputs: Outputs
    values: Tensor
    extra: Extra


@torch.no_grad()
def choose_steps(run: Run, ts: Tensor, tolerances: Tolerances) -> Chosen:
    """The steps from ts[0] to ts[-1], and the solve along them.

    Raises:
        NonFiniteError: if a state becomes NaN or infinite, or an error so.
        ArgumentError: if dt_min is too short for the times.
    """
    run = _on_a_path(run, ts)
    number: Any = number_of(ts)
    t, h = number(float(ts[0])), tolerances.dt
    times, values, q, told = [float(t)], [run.y0], None, False
    state = run.begin(run.steps(ts[[0, -1]].double()))
    for end in map(number, ts[1:].tolist()):
        while t < end:
            s = t + number(h) if end - (t + number(h)) > _SLIVER * h else end
            middle = number(0.5) * (t + s)
            if not t < middle < s:
                raise ArgumentError(f"dt_min = {tolerances.dt_min:g} is too short for steps at t = {float(t):g}.")
            places = (float(t), float(middle), float(s))
            error, after = _tried(run, state, places, tolerances, len(times) // 2 + 1, last=h <= tolerances.dt_min)
            tried, cut = h, s == end
            h, q = _next_length(error, h, q)
            if error <= 1 and cut:  # what a short step says of the lengths to come
                h = max(tried, h * float(s - t) / tried)
            if h < tolerances.dt_min:
                h, q = tolerances.dt_min, None
                if not told:
                    warnings.warn(_TOLD.format(float(t), h), stacklevel=4)
                told = True
            if after is not None and (error <= 1 or h <= tolerances.dt_min):
                times += [float(middle), float(s)]
                t, state = s, after
        values.append(state[0])
    outputs = Outputs(ts, torch.tensor(times, dtype=torch.float64, device="cpu"))
    return Chosen(run, outputs, torch.stack(values), run.end(state))


def _tried(
    run: Run, state: State, times: tuple[float, float, float], tolerances: Tolerances, number: int, *, last: bool
) -> tuple[float, State | None]:
    """The error of one step, and the state after its halves; inf and None where it ends in NaN, and may be shorter."""
    start, middle, stop = times
    try:
        with run.named(number):
            whole = _moved(run, state, [start, stop])
            after = _moved(run, state, [start, middle, stop])
    except NonFiniteError:
        if last:
            raise
        return math.inf, None
    return tolerances.error(whole[0], after[0]), after


def _on_a_path(run: Run, ts: Tensor) -> Run:
    """The solve on a motion that can be asked at any time."""
    if isinstance(run.noise, TorchsdeNoise):
        return run
    areas = run.method.areas if isinstance(run.method, StepSolver) else 0
    path = as_path(
        run.noise,
        run.dynamics.noise_shape(run.y0.shape),
        float(ts[0]),
        float(ts[-1]),
        areas=areas,
        dtype=run.y0.dtype,
        device=run.y0.device,
    )
    return replace(run, noise=path)


def _moved(run: Run, state: State, times: list[float]) -> State:
    """The state after the steps between these times."""
    steps = run.steps(torch.tensor(times, dtype=torch.float64, device="cpu"), state[0])
    with steps.noise_from(0):
        for k in range(steps.count):
            state = steps.one(state, k)
    return state


def _next_length(error: float, h: float, before: float | None) -> tuple[float, float | None]:
    """The next length, and q' for the one after it."""
    q = 0.9 / error
    if math.isinf(error):
        return 0.2 * h, before
    if error > 1:
        return h * min(1.4, max(0.2, q ** (1 / 1.5))), q if before is None else before
    return h * min(1.4, max(1.0, q ** (1 / 4.5) * (q / (q if before is None else before)) ** 0.13)), q
