"""SKenCarp: a stiff Runge-Kutta method of strong order 1.5 for additive noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError
from sdekit.noise import Increment
from sdekit.solvers.embedded import EmbeddedSolver, Pair
from sdekit.solvers.sde.newton import ImplicitSolver
from sdekit.solvers.step import apply_diffusion

__all__ = ["SKenCarp"]

# KenCarp3's implicit half (Kennedy & Carpenter 2003): its last row is that of the step.
_GAMMA = 1767732205903 / 4055673282236
_A = (
    (),
    (_GAMMA,),
    (2746238789719 / 10658868560708, -640167445237 / 6845629431997),
    (1471266399579 / 7840856788654, -4482444167858 / 7529755066697, 11266239266428 / 11593286722821),
)
_NODES = (0.0, 2 * _GAMMA, 3 / 5, 1.0)
_B = (*_A[3], _GAMMA)
_B_HAT = (
    2756255671327 / 12835298489170,
    -10771552573575 / 22201958757719,
    9247589265047 / 10645013368117,
    2193209047091 / 5459859503100,
)
_CHI_2, _CHI_4 = -12.246764387585055918338744103409, -14.432096958608752822047165680777

Variant = Literal["stable", "published"]
_OF_W: dict[Variant, tuple[float, ...]] = {
    "stable": (0.0, 0.80326640888527124544, 0.55805882201471403823, 1.0),
    "published": (0.0, _CHI_2 / 2, 0.0, _CHI_4 / 2),
}
_OF_H: dict[Variant, tuple[float, ...]] = {
    "stable": (0.0, 0.67088726837629315575, 36 / 25, 0.0),
    "published": (0.0, _CHI_2, 0.0, _CHI_4),
}


@final
@dataclass(frozen=True, repr=False)
class SKenCarp(ImplicitSolver, EmbeddedSolver):
    r"""u_i = x + sum_j<=i a_ij k_j + g(t) (p_i W + q_i H),   k_i = h f(u_i, t + c_i h),   i = 1, …, 4
    x_s = x + sum_i b_i k_i + g(t) W + (g(s) - g(t)) (W/2 - H)

    The drift's part is that of KenCarp3: the first stage explicit, three implicit with one gamma, of order 3, and
    L-stable. For additive noise, and of strong order 1.5 where k h is small for every rate k of the drift; where it is
    large the noise of that component is damped, and so its error is up to its stationary deviation, whatever the
    tolerance says (up to 14 times a tolerance below that deviation, as measured on `StiffLinear`). The error estimate
    is that of KenCarp3: unfiltered, as a filter would hide that noise from it.

    variant "stable": the weights p, q are sdekit's own. They satisfy the conditions of strong order 1.5 for additive
    noise, sum b p = 1/2, sum b q = 1, sum b (p^2 + q^2/12) = 1/2, and p_4 = 1, q_4 = 0, so that the last stage is the
    solution, and the noise of stiff components is damped as by implicit Euler's method.
    variant "published": the weights of the literature, W/2 + H times -12.2 in the second stage and -14.4 in the last.
    WARNING: they magnify noise where the drift is stiff: the stationary variance of an Ornstein-Uhlenbeck process with
    rate k comes out 1.04 times too large at k h = 0.1, 6 times at 1, 900 times at 10.

    Args:
        variant: "stable" or "published".
        tolerance: the relative error below which Newton's iteration ends.
        max_iterations: the most iterations of a stage.

    Raises:
        ConvergenceError: where Newton's method does not converge; it names the step. With steps by tolerance the step
            is tried again, shorter.

    Kennedy & Carpenter 2003 (KenCarp3); Rackauckas & Nie 2020, arXiv 1804.04344 (SKenCarp).
    """

    variant: Variant = "stable"
    tolerance: float = 1e-8
    max_iterations: int = 20

    name = "skencarp"
    strong_order = 1.5
    weak_order = 2.0
    error_order = 1.5
    areas = 1
    noise_kinds = ("additive",)
    reference = "Kennedy & Carpenter 2003; Rackauckas & Nie 2020, arXiv 1804.04344"

    def __post_init__(self) -> None:
        if self.variant not in ("stable", "published"):
            raise ArgumentError(f"variant must be 'stable' or 'published', got {self.variant!r}.")
        self.check_options()

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def most_evaluations(self) -> int:
        return 1 + 3 * int(self.max_iterations)

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        end, _, converged, _ = self._stages(dynamics, x, t, s, h, noise)
        self.require(converged, s)
        return end

    def pair(
        self,
        dynamics: Dynamics,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        h: float | Tensor,
        noise: Increment | None,
        first: Tensor | None = None,
    ) -> Pair:
        """The step with its error; samples that did not converge have NaN for both, so that they are rejected."""
        end, k, converged, evaluations = self._stages(dynamics, x, t, s, h, noise, first, compact=True)
        error = k[0] * (_B[0] - _B_HAT[0])
        for i in (1, 2, 3):
            error = error + k[i] * (_B[i] - _B_HAT[i])
        solved = converged.reshape(-1, *([1] * (x.ndim - 1)))
        return Pair(torch.where(solved, end, torch.nan), torch.where(solved, error, torch.nan), evaluations=evaluations)

    def _stages(
        self,
        dynamics: Dynamics,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        h: float | Tensor,
        noise: Increment | None,
        first: Tensor | None = None,
        compact: bool = False,
    ) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """x_s, the four k, which samples converged in all stages, and the evaluations that each took."""
        if noise is None or noise.H is None:
            raise ArgumentError(f"solver {self.name!r} needs W and H of its step.")
        w, area = noise.W, noise.H
        g = dynamics.diffusion(x, t).clone()
        p, q = _OF_W[self.variant], _OF_H[self.variant]
        k = [(dynamics.drift(x, t) if first is None else first) * h]
        converged = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
        evaluations = torch.full(converged.shape, int(first is None), device=x.device)
        inverse: Tensor | None = None  # of 1 - gamma h J, for all three stages
        for i in (1, 2, 3):
            kicked = x + apply_diffusion(dynamics, g, p[i] * w + q[i] * area, x)
            base = kicked
            for a, of in zip(_A[i], k, strict=True):
                base = base + of * a
            at = s if _NODES[i] == 1 else t + _NODES[i] * (s - t)
            root = self.root(dynamics, base, _GAMMA * h, at, kicked, inverse, compact)
            converged, evaluations, inverse = converged & root.converged, evaluations + root.evaluations, root.inverse
            # From the stage, not by an evaluation there: a stiff drift would magnify what Newton's method leaves.
            k.append((root.u - base) / _GAMMA)
        # The last stage has the weights of the step: only the noise is different.
        end = root.u + apply_diffusion(dynamics, g, (1 - p[3]) * w - q[3] * area, x)
        change = dynamics.diffusion(x, s) - g
        return end + apply_diffusion(dynamics, change, 0.5 * w - area, x), k, converged, evaluations
