"""Every count of steps on every SDE and grid: is the end finite, and is it reached?"""

from __future__ import annotations

from typing import Any

import torch

from sdekit import grids
from sdekit.sampling import sample
from sdekit.sdes import DIFFUSION_SDES, DiffusionSDE
from sdekit.solvers import Solver
from sdekit.solvers.adaptive import Adaptive
from sdekit.targets import Gaussian

__all__ = ["unfinished"]

_COUNTS = range(1, 51)
_FEW = (1, 2, 3, 7)


def unfinished(solver: Solver, *, few: bool = False) -> tuple[int, list[str]]:
    """How many solves were made, and those that failed or ended non-finite, in words.

    N = 1 to 50 with the SDEs, grids and ends (t_min, and sigma = 0 where there is one) in turn, and N = 1, 2, 3, 7 with
    all of them. `few` makes the turns alone, of a few counts: for solvers that take a millisecond a step, and for those
    that are made for other equations.
    """
    sdes = [family() for family in DIFFUSION_SDES]
    names, bad, made = grids.names(), [], 0
    cases: list[tuple[DiffusionSDE, dict[str, Any], float | None]]
    if solver.adaptive:
        cases = [(sde, {}, end) for sde in (sdes[:1] if few else sdes) for end in (None, 0.0)]
    elif few:
        cases = [(sdes[n % 6], {"steps": n, "grid": names[n % len(names)]}, None) for n in (1, 2, 5, 17, 50)]
    else:
        cases = [
            (sdes[n % len(sdes)], {"steps": n, "grid": names[n % len(names)]}, (None, 0.0)[n // 2 % 2]) for n in _COUNTS
        ]
        cases += [
            (sde, {"steps": n, "grid": grid}, end)
            for sde in sdes
            for grid in names
            for end in (None, 0.0)
            for n in _FEW
        ]
    for sde, how, end in cases:
        infinite = isinstance(solver, Adaptive) or not bool(torch.isfinite(sde.sigma_rate(0.0)))
        if solver.adaptive and end == 0.0 and infinite:
            continue  # refused with its reason: the velocity, or the score, is infinite there
        made += 1
        fault = _fault(solver, sde, how, end)
        if fault:
            bad.append(f"{sde.name}, {how or 'adaptive'}, end {end}: {fault}")
    return made, bad


def _fault(solver: Solver, sde: DiffusionSDE, how: dict[str, Any], end: float | None) -> str:
    model = Gaussian(torch.full((16,), 0.2), torch.full((16,), 0.25)).score_model(sde)
    try:
        out = sample(model, 2, solver, seed=0, t_end=end, dtype=torch.float64, **how)
    except Exception as error:  # whatever it is, the solver did not finish
        return f"{type(error).__name__}: {error}"
    reached = out.t == (sde.t_min if end is None else end)
    return "" if reached and bool(torch.isfinite(out.x).all()) else "the end was not reached, or is not finite"
