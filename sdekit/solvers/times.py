"""The times of a solve: its grid, its ends, and the times that a user asked to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError
from sdekit.grids import Custom, Grid, check_monotone, make_grid
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.base import Solver
from sdekit.solvers.embedded import EmbeddedSolver
from sdekit.solvers.solution import Solution

__all__ = ["GridLike", "Kept", "solve_times"]

GridLike = str | Grid | Sequence[float] | Tensor


@final
@dataclass(frozen=True)
class Kept:
    """The times that the user asked to keep, and the places of the grid that stand for them."""

    asked: Tensor
    places: Tensor

    def select(self, solution: Solution) -> Solution:
        """The solution with only these in its trajectory, at the times as they were asked for."""
        if solution.trajectory is None or solution.trajectory_times is None:
            return solution
        mask = torch.isin(solution.trajectory_times, self.places)
        times = self.asked[torch.isin(self.places, solution.trajectory_times)]
        return replace(solution, trajectory=solution.trajectory[mask], trajectory_times=times)


def solve_times(
    dynamics: Dynamics,
    solver: Solver,
    steps: int | None,
    grid: GridLike | None,
    t0: float | None,
    t1: float | None,
    save_at: Sequence[float] | Tensor | None,
) -> tuple[Tensor, Kept | None]:
    """The times of a solve, and which of them the user asked to keep."""
    sde = dynamics.sde
    for name, t in (("t0", t0), ("t1", t1)):
        if t is not None and (isinstance(t, bool) or not isinstance(t, Real) or not math.isfinite(t)):
            raise ArgumentError(f"{name} must be finite, and a number; got {t!r}.")
        if t is not None and isinstance(sde, DiffusionSDE):
            sde.check_time(name, t)
    if solver.adaptive:
        if steps is not None or grid is not None:
            given = "steps" if steps is not None else "grid"
            raise ArgumentError(
                f"solver {solver.name!r} chooses its own steps from rtol and atol; it takes no {given}. "
                "Leave it out, or take a fixed-step solver such as 'heun'."
            )
        low, high = _ends(t0, t1)
        if low == high:
            raise ArgumentError(f"the solve starts and ends at the same time, {low!r}; give it somewhere to go.")
        ends = torch.tensor([low, high], dtype=torch.float64, device="cpu")
        if save_at is None:
            return ends, None
        asked = _save_times(save_at, ends)
        return _merge(ends, asked), Kept(asked, asked)
    place = make_grid(solver.default_grid if grid is None else grid)
    if isinstance(place, Custom):
        if steps is not None and steps != place.fixed_steps:
            raise ArgumentError(f"the grid given has {place.fixed_steps} steps, but steps={steps!r}; leave steps out.")
        times = place.resolve(sde)
        if isinstance(sde, DiffusionSDE):
            for end in (float(times[0]), float(times[-1])):
                sde.check_time("a time of the grid", end)
        for name, t, at in (("start", t0, times[0]), ("end", t1, times[-1])):
            if t is not None and float(at) != float(t):
                raise ArgumentError(f"the grid given {name}s at t = {float(at):g}, but t = {float(t):g} was asked for.")
    else:
        if steps is None:
            other = "; or give rtol, for steps chosen by its error" if isinstance(solver, EmbeddedSolver) else ""
            raise ArgumentError(f"solver {solver.name!r} needs steps=…, the number of steps of its grid{other}.")
        low, high = _ends(t0, t1)
        if place.name != "uniform" and grid is None and not isinstance(sde, DiffusionSDE):
            place = make_grid("uniform")  # a default placed by noise level has no meaning without one
        times = place.times(sde, check_positive_integer("steps", steps), low, high)
    if save_at is None:
        return times, None
    asked = _save_times(save_at, times)
    kept = Kept(asked, _snapped(asked, times))
    return _merge(times, kept.places), kept


def _snapped(wanted: Tensor, times: Tensor) -> Tensor:
    """`wanted` with the places that are the grid's but for rounding put on it: no step of a rounding error's length."""
    gaps = (wanted[:, None] - times).abs()
    nearest, place = gaps.min(dim=1)
    snapped = torch.where(nearest <= 1e-12 * (times[-1] - times[0]).abs(), times[place], wanted)
    return check_monotone(snapped, "save_at") if len(snapped) > 1 else snapped


def _ends(t0: float | None, t1: float | None) -> tuple[float, float]:
    if t0 is None or t1 is None:
        raise ArgumentError(f"give t0 and t1 (or a grid that is a list of times); got t0={t0!r}, t1={t1!r}.")
    return float(t0), float(t1)


def _save_times(save_at: Sequence[float] | Tensor, times: Tensor) -> Tensor:
    try:
        wanted = torch.as_tensor(save_at, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"save_at must be a list of times, got {save_at!r}.") from None
    low, high = float(times.min()), float(times.max())
    if wanted.numel() == 0 or not bool(((wanted >= low) & (wanted <= high)).all()):
        raise ArgumentError(f"save_at must hold times from {low:g} to {high:g}, got {wanted.tolist()}.")
    if wanted.numel() > 1:
        check_monotone(wanted, "save_at")
        if bool(wanted[0] < wanted[1]) != bool(times[0] < times[-1]):
            raise ArgumentError("save_at must run in the direction of the solve.")
    return wanted


def _merge(times: Tensor, wanted: Tensor) -> Tensor:
    merged: Tensor = torch.unique(torch.cat([times, wanted]))
    return merged if bool(times[0] < times[-1]) else merged.flip(0)
