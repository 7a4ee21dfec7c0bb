"""The one fixed-step loop: progress, callbacks, trajectories, non-finite states, split and resumed runs.

It drives a Stepper in strides of several steps, because looking at a state costs as much as a step on a small one. A
state found non-finite at a stride's end is replayed step by step from the stride's start, to name the step; where the
noise cannot be drawn again, a stride is one step. Under a progress bar strides are as long as is made in a tenth of a
second or so.
"""

from __future__ import annotations

import bisect
import math
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from types import FunctionType

import torch
from torch import Tensor

from sdekit._tensors import is_finite
from sdekit.errors import ArgumentError, NonFiniteError
from sdekit.solvers.base import Observers, Problem, StepInfo, Stepper
from sdekit.solvers.progress import progress_bar
from sdekit.solvers.solution import Solution, SolveState, first_bad_samples

__all__ = ["check_same_solve", "run_fixed", "signed", "snapshot"]

_STRIDE = 256
_LOOK = 0.1  # seconds
_LONGEST = 300
_ABSURD = 1e12  # growth of the state, a factor
_SAME_START = 1e-4  # of its norm; the same draw may round otherwise on another machine


def snapshot(solver: str, stepper: Stepper, step: int, nfe: int) -> SolveState:
    """A copy of where a stepper stands after `step` steps; `solver` is its solver with its options, as written."""
    registers = {name: r.clone() for name, r in stepper.registers().items()}
    t = float(stepper.times[step])
    return SolveState(stepper.x.clone(), step, t, registers, stepper.noise_positions(), nfe, solver)


def signed(state: SolveState, problem: Problem) -> SolveState:
    """The state with what tells its problem from others."""
    model, text = problem.dynamics.model, repr(problem.dynamics)
    if model is not None:
        # A module's repr is all its layers, a function's no more than its name.
        own = "" if isinstance(model.network, (torch.nn.Module, FunctionType)) else f"{model.network!r}, "
        text += f" with {own}data_std={model.data_std:g}, shape={model.shape}, condition={sorted(model.condition)}"
    x = problem.x.detach().double().reshape(-1)
    along = torch.cos(torch.arange(len(x), dtype=x.dtype, device=x.device))
    return replace(
        state,
        dynamics=re.sub(r" at 0x[0-9a-fA-F]+", "", text),
        noise=problem.noise.identity() if state.noise_positions else "",
        start=(float(x.norm()), float(x @ along)),
    )


def check_same_solve(saved: SolveState, here: SolveState) -> None:
    """Raise ArgumentError if a saved state is known to be one of another solve than the one `here` belongs to."""
    for name, was, now in (("dynamics", saved.dynamics, here.dynamics), ("noise", saved.noise, here.noise)):
        if was and now and was != now:
            raise ArgumentError(
                f"the saved state is one with the {name} {_shortened(was)}, not {_shortened(now)}; resume with the "
                f"{name} that it was saved with."
            )
    if saved.start and here.start:
        apart = max(abs(a - b) for a, b in zip(saved.start, here.start, strict=True))
        if apart > _SAME_START * max(saved.start[0], here.start[0]):
            raise ArgumentError(
                "the saved state is one of a solve from another start (x0 or x_T); give the one it was saved with."
            )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def run_fixed(
    name: str,
    solver: str,
    make: Callable[[Problem], Stepper],
    problem: Problem,
    observers: Observers,
    *,
    resume: SolveState | None = None,
    stop: int | None = None,
    differentiates: bool = False,
    at_once: int = 1,
) -> Solution:
    """Drive the stepper of `make` over the problem's grid, from `resume` and to the end of step `stop` where given.

    `name` is the solver's in messages; `solver`, its `repr`, tells whose a saved state is, options included.
    `differentiates` says that the solver does, so that inference mode must be off; `at_once`, how many steps it makes
    in one.
    """
    dynamics = problem.dynamics.counted()
    steps = len(problem.times) - 1
    if resume is not None:
        _check_resume(solver, resume, problem)
    last = steps if stop is None else stop
    first = 0 if resume is None else resume.step
    if isinstance(last, bool) or not isinstance(last, Integral) or not first <= last <= steps:
        raise ArgumentError(f"stop must be from {first} to {steps} here, got {stop!r}.")
    noise = problem.noise.for_one_solve()
    # Detached: a graph that the steps do not go into would say that the solution is the start.
    stepper = make(Problem(dynamics, problem.x.detach(), problem.times, noise, problem.last_noise))
    if resume is not None:
        stepper.restore(resume)
        check_same_solve(resume, signed(resume, problem))
        dynamics.counter.calls = resume.nfe

    keeps = _steps_to_keep(observers, problem.times)
    wanted = keeps.nonzero()[:, 0].tolist()
    kept = [stepper.x.clone()] if keeps[first] else []
    replayable = stepper.replayable or noise.rewindable
    each = observers.callback is not None or not replayable
    stopped = False
    k, stride = first, at_once if observers.progress else _STRIDE
    autograd = dynamics.needs_autograd or differentiates
    guard = torch.no_grad if autograd else torch.inference_mode
    with progress_bar(observers.progress, total=steps, initial=first, name=name) as bar:
        while k < last and not stopped:
            due = bisect.bisect_right(wanted, k)
            ahead = k + 1 if each else min(last, k + stride, *wanted[due : due + 1])
            begin = None if ahead == k + 1 else snapshot(solver, stepper, k, dynamics.counter.calls)
            rewind = None if ahead == k + 1 else noise.mark()
            began = time.perf_counter()
            with guard():
                stepper.advance(k, ahead)
                finite = is_finite(stepper.x)
            if not finite:
                if rewind is not None:
                    rewind()
                raise _non_finite(name, stepper, begin, k, ahead, autograd)
            k = ahead
            bar.update(k - bar.n)
            if observers.progress:
                quick = time.perf_counter() - began < _LOOK
                stride = min(2 * stride, _STRIDE) if quick else max(stride // 2, at_once)
            if observers.callback is not None:
                info = StepInfo(k, steps, float(problem.times[k]), stepper.x)
                with torch.no_grad():
                    observers.callback(info)
                stopped = info.stopped
            if wanted[due : due + 1] == [k]:
                kept.append(stepper.x.clone())

    if dynamics.model is None:
        _warn_of_growth(name, problem.x, stepper.x)
    state = snapshot(solver, stepper, k, dynamics.counter.calls)
    if k < steps or resume is not None:  # a whole solve need not pay for what tells where it can go on
        state = signed(state, problem)
    return Solution(
        x=state.x,
        t=state.t,
        nfe=dynamics.counter.calls,
        status="success" if k == steps else "stopped",
        times=problem.times,
        trajectory=_stacked(kept, stepper.x) if observers.trajectory else None,
        trajectory_times=problem.times[first : k + 1][keeps[first : k + 1]] if observers.trajectory else None,
        stats={"steps": k},
        state=state,
    )


def _warn_of_growth(name: str, start: Tensor, end: Tensor) -> None:
    """Say so where the state has grown as few equations do, and explicit steps that are too long for theirs do."""
    if not end.numel():
        return
    was, now = (float(torch.linalg.vector_norm(x.detach(), math.inf)) for x in (start, end))
    was = max(1.0, was)
    if now > _ABSURD * was:
        warnings.warn(
            f"solver {name!r} ended with a state of size {now:.3g}, from one of {was:.3g}. If the equation does not "
            "grow so, its drift is stiff for these steps: take more of them, 'drift_implicit', 'skencarp' or "
            "'adaptive:NAME' with rtol.",
            RuntimeWarning,
            stacklevel=2,
        )


def _steps_to_keep(observers: Observers, times: Tensor) -> Tensor:
    """Whether the state after each step, the start included, goes into the trajectory: bool (N + 1,)."""
    if not observers.trajectory:
        return torch.zeros_like(times, dtype=torch.bool)
    return torch.ones_like(times, dtype=torch.bool) if observers.places is None else torch.isin(times, observers.places)


def _stacked(kept: list[Tensor], x: Tensor) -> Tensor:
    return torch.stack(kept) if kept else x.new_empty(0, *x.shape)


def _non_finite(
    name: str, stepper: Stepper, begin: SolveState | None, start: int, stop: int, autograd: bool
) -> NonFiniteError:
    """The error for a state that became non-finite between two steps; replays them one by one where it can."""
    if begin is None:
        return NonFiniteError(name, stop, float(stepper.times[stop]), first_bad_samples(stepper.x))
    stepper.restore(begin)
    guard = torch.no_grad if autograd else torch.inference_mode
    for k in range(start, stop):
        with guard():
            stepper.advance(k, k + 1)
        bad = first_bad_samples(stepper.x)
        if bad:
            return NonFiniteError(name, k + 1, float(stepper.times[k + 1]), bad)
    # The network gave other values this time: say what is known.
    return NonFiniteError(name, stop, float(stepper.times[stop]), [], start + 1)


def _check_resume(solver: str, state: SolveState, problem: Problem) -> None:
    steps = len(problem.times) - 1
    if not isinstance(state, SolveState):
        raise ArgumentError(
            f"resume takes a SolveState, got {type(state).__name__}; a saved dict becomes one by SolveState.from_dict."
        )
    if state.solver != solver:
        raise ArgumentError(f"the saved state is one of {state.solver or 'no solver'}; {solver} cannot resume it.")
    if state.x.shape != problem.x.shape or state.x.dtype != problem.x.dtype:
        raise ArgumentError(
            f"the saved state holds {tuple(state.x.shape)} {state.x.dtype}, the problem {tuple(problem.x.shape)} "
            f"{problem.x.dtype}; resume the problem it was saved from."
        )
    if not 0 <= state.step <= steps or state.t != float(problem.times[state.step]):
        raise ArgumentError(
            f"the saved state is at step {state.step}, t = {state.t:g}, which is not on this grid of {steps} steps; "
            "resume with the grid it was saved from."
        )
