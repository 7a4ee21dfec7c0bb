"""Euler-Maruyama with a tamed drift, for drifts that grow faster than linearly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from sdekit._tensors import expand_right, per_sample_norm
from sdekit.dynamics import Dynamics
from sdekit.noise import Increment
from sdekit.solvers.step import StepSolver, apply_diffusion, length

__all__ = ["TamedEuler"]


@final
@dataclass(frozen=True, repr=False)
class TamedEuler(StepSolver):
    r"""x_s = x_t + f h / (1 + |h| |f|) + g W,   |f| the Euclidean norm of the sample's drift

    The drift moves a sample by less than 1 in a step, so that a drift such as -x^3 cannot throw the state further out
    than it was, where Euler-Maruyama's moments become infinite. Ito; strong order 1/2 for one-sided Lipschitz drifts of
    polynomial growth and Lipschitz diffusions.

    That 1 has the units of x: a state that has far to go (on a reverse SDE, from a sigma of 80) needs at least as many
    steps as its way is long, and until |h| |f| is well below 1 the drift is far too weak.

    Hutzenthaler, Jentzen & Kloeden 2012, arXiv 1010.3756.
    """

    name = "tamed_euler"
    strong_order = 0.5
    weak_order = 1.0
    strong_orders = (("additive", 1.0),)
    evaluations_per_step = 1
    evaluates_after_start = False
    calculus = ("ito",)
    reference = "Hutzenthaler, Jentzen & Kloeden 2012, arXiv 1010.3756"

    @property
    def stochastic(self) -> bool:
        return True

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        f = dynamics.drift(x, t)
        size = expand_right(per_sample_norm(f), x).to(x.dtype)
        y = x + f * h / (1 + length(h) * size)
        if noise is None:
            return y
        return y + apply_diffusion(dynamics, dynamics.diffusion(x, t), noise.W, x)
