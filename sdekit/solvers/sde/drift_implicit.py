"""The drift-implicit theta method, for drifts that are stiff or grow too fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from sdekit._tensors import check_number
from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError
from sdekit.noise import Increment
from sdekit.solvers.sde.newton import ImplicitSolver
from sdekit.solvers.step import StepSolver, apply_diffusion, moved

__all__ = ["DriftImplicit"]


@final
@dataclass(frozen=True, repr=False)
class DriftImplicit(ImplicitSolver, StepSolver):
    r"""x_s = x + h [theta f(x_s, s) + (1 - theta) f(x, t)] + g(x, t) W

    Ito; strong order 1/2, and 1 for additive noise; weak order 1, and 2 for additive noise with theta = 1/2. From
    theta = 1/2 on it is stable for stiff drifts at any step, and for one-sided Lipschitz ones that grow faster than
    linearly. theta = 1 (implicit Euler) damps what is stiff at once, and with it the noise; theta = 1/2 does not damp.
    x_s is found by Newton's method (`newton`), at two evaluations or more: a step takes as many as that sample of its
    batch which needs most.

    Args:
        theta: above 0, and at most 1.
        tolerance: the relative error below which the iteration ends.
        max_iterations: the most iterations of a step.

    Raises:
        ConvergenceError: where Newton's method does not converge; it names the step.

    Kloeden & Platen 1992, section 12.2; Higham, Mao & Stuart 2002.
    """

    theta: float = 1.0
    tolerance: float = 1e-8
    max_iterations: int = 50

    name = "drift_implicit"
    strong_order = 0.5
    weak_order = 1.0
    strong_orders = (("additive", 1.0),)
    calculus = ("ito",)
    reference = "Kloeden & Platen 1992, section 12.2; Higham, Mao & Stuart 2002"

    def __post_init__(self) -> None:
        if not 0 < check_number("theta", self.theta) <= 1:
            raise ArgumentError(
                f"theta must be above 0 and at most 1, got {self.theta!r}; theta = 0 is 'euler_maruyama'."
            )
        self.check_options()

    @property
    def stochastic(self) -> bool:
        return True

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        kicked = x if noise is None else x + apply_diffusion(dynamics, dynamics.diffusion(x, t), noise.W, x)
        base = kicked if self.theta == 1 else moved(kicked, dynamics.drift(x, t), (1 - self.theta) * h)
        root = self.root(dynamics, base, self.theta * h, s, kicked)
        self.require(root.converged, s)
        return root.u
