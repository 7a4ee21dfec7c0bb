"""One solve, or one for each chunk of samples, joined."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError, ConvergenceError, NonFiniteError, UnsupportedError
from sdekit.solvers.base import Observers, Problem, Solver
from sdekit.solvers.dense import DenseOutput
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.solution import Solution, SolveState, Status

__all__ = ["integrate"]


def integrate(
    solver: Solver,
    problem: Problem,
    observers: Observers,
    chunk: int | None,
    resume: SolveState | None,
    stop: int | None,
) -> Solution:
    """One solve, or one for each chunk of samples, joined."""
    batch = problem.x.shape[0]
    by_hand = resume is not None or stop is not None
    if by_hand and not isinstance(solver, FixedStepSolver):
        raise UnsupportedError(f"solver {solver.name!r} chooses its own steps: it cannot be split with resume or stop.")
    size = batch if chunk is None else check_positive_integer("chunk", chunk)
    if size < batch and by_hand:
        raise ArgumentError("chunk does not go with resume or stop; split one chunk at a time.")
    if size < batch and solver.couples_batch:
        raise UnsupportedError(
            f"solver {solver.name!r} with these options couples the samples of a batch, so chunks would change the "
            "result. Take its per-sample option (per_sample=True, norms='sample'), or leave chunk out."
        )
    if isinstance(solver, FixedStepSolver) and by_hand:
        return solver.integrate(problem, observers, resume=resume, stop=stop)
    if size >= batch:
        return solver.integrate(problem, observers)
    parts: list[Solution] = []
    for a in range(0, batch, size):
        b = min(batch, a + size)
        part = problem.dynamics.rows(slice(a, b), tuple(problem.x.shape))
        noise = problem.noise.part(a, b, batch)
        event = None if observers.event is None else observers.event.rows(slice(a, b), batch)
        try:
            solution = solver.integrate(
                Problem(part, problem.x[a:b], problem.times, noise, problem.last_noise), replace(observers, event=event)
            )
        except (ConvergenceError, NonFiniteError) as error:
            raise error.moved(first=a) from None
        parts.append(solution)
    return _join(parts)


def _join(parts: list[Solution]) -> Solution:
    """The solutions of consecutive chunks as one; nfe is that of a sample, not the sum over chunks."""
    evaluations = [p.nfe for p in parts]
    if all(isinstance(n, int) for n in evaluations) and len(set(evaluations)) == 1:
        nfe = evaluations[0]
    else:
        nfe = torch.cat([torch.as_tensor(n).expand(len(p.x)) for n, p in zip(evaluations, parts, strict=True)])
    parts = _of_one_length(parts)
    kept = [p.trajectory for p in parts if p.trajectory is not None]
    ended: list[Solution] = [p for p in parts if p.status not in ("success", "event")]
    best: Status = "event" if any(p.status == "event" for p in parts) else "success"
    first = float(parts[0].times[0])
    if kept and len({len(k) for k in kept}) > 1:
        raise ArgumentError("chunks stopped at different steps, so there is no one trajectory; leave chunk out.")
    return Solution(
        x=torch.cat([p.x for p in parts]),
        t=ended[0].t if ended else max((p.t for p in parts), key=lambda t: abs(t - first)),
        nfe=nfe,
        status=ended[0].status if ended else best,
        times=parts[0].times,
        trajectory=torch.cat(kept, dim=1) if kept else None,
        trajectory_times=_trajectory_times(parts),
        stats={"chunks": [p.stats for p in parts]},
        event_times=None if parts[0].event_times is None else torch.cat([_event_times(p) for p in parts]),
        dense=None if parts[0].dense is None else DenseOutput.join([p.dense for p in parts if p.dense is not None]),
    )


def _of_one_length(parts: list[Solution]) -> list[Solution]:
    """Solutions whose samples have times of their own, (K, B), made as long as the longest: they stay at their end."""
    if any(p.trajectory is None or p.trajectory_times is None or p.trajectory_times.ndim == 1 for p in parts):
        return parts
    most = max(len(p.trajectory_times) for p in parts if p.trajectory_times is not None)

    def longer(values: Tensor | None) -> Tensor | None:
        return (
            None if values is None else torch.cat([values, values[-1:].expand(most - len(values), *values.shape[1:])])
        )

    return [replace(p, trajectory=longer(p.trajectory), trajectory_times=longer(p.trajectory_times)) for p in parts]


def _trajectory_times(parts: list[Solution]) -> Tensor | None:
    first = parts[0].trajectory_times
    if first is None or first.ndim == 1:
        return first
    return torch.cat([p.trajectory_times for p in parts if p.trajectory_times is not None], dim=1)


def _event_times(part: Solution) -> Tensor:
    none = torch.full((len(part.x),), math.nan, dtype=torch.float64, device="cpu")
    return none if part.event_times is None else part.event_times
