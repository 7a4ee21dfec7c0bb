r"""Solvers of SDEs that choose their steps: errors on the path of a seed as the tolerance falls, and no bias of laws.

Whatever the steps, those that were rejected included, the solution is that of one Brownian path, whose value at 1 is
asked for here; drawing anew after a rejection would lead to another, and to another law:

    dX = -4 X dt + sqrt 2 dW from 0 has variance (1 - e^{-8})/4 = 0.2499 at 1, of which redrawing leaves 0.177.
"""

from __future__ import annotations

import math

import torch

from sdekit.dynamics import ForwardSDE
from sdekit.errors import UnsupportedError
from sdekit.noise import BrownianPath
from sdekit.sampling import solve
from sdekit.sdes import DecayingAdditiveSDE, OrnsteinUhlenbeck, TanhSDE
from sdekit.solvers import Solver

__all__ = ["problems_for", "rejection_bias", "tolerance_error_on"]

Problem = DecayingAdditiveSDE | TanhSDE
_PATHS = 64
_SAMPLES = 8192


def problems_for(solver: Solver) -> dict[str, Problem]:
    """Those whose noise the solver serves and adapts to, in its own calculus."""
    calculus = solver.calculus[0]
    problems: dict[str, Problem] = {
        "decaying noise": DecayingAdditiveSDE(a=0.8, b=1.0, calculus=calculus),
        "tanh": TanhSDE(a=0.8, calculus=calculus),
    }
    return {name: sde for name, sde in problems.items() if _serves(solver, sde)}


def _serves(solver: Solver, sde: Problem) -> bool:
    try:
        solver.check(ForwardSDE(sde))
    except UnsupportedError:
        return False
    return True


def tolerance_error_on(sde: Problem, solver: Solver) -> float:
    """The RMS error at 1 against the closed form on the same path."""
    path = BrownianPath(5, (_PATHS, 1), 0.0, 1.0, dtype=torch.float64)
    x0 = torch.linspace(-0.6, 0.6, _PATHS, dtype=torch.float64)[:, None]
    end = solve(sde, x0, t0=0, t1=1, solver=solver, noise=path).x
    return float((end - sde.path(x0, 1.0, path(1.0).W)).square().mean().sqrt())


def rejection_bias(solver: Solver) -> tuple[float, float]:
    """The variance at 1 of dX = -4 X dt + sqrt 2 dW over its exact value, and the standard error of that."""
    sde = OrnsteinUhlenbeck(theta=4.0, sigma=math.sqrt(2))
    x0 = torch.zeros(_SAMPLES, 1, dtype=torch.float64)
    x = solve(sde, x0, t0=0, t1=1, solver=solver, seed=11).x
    exact = -math.expm1(-8) / 4
    return float(x.square().mean()) / exact, math.sqrt(2 / _SAMPLES)
