"""Milstein's method, with the diffusion's derivative by autodiff or by a difference, in either calculus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.noise import Increment
from sdekit.sdes import NoiseKind
from sdekit.sdes.calculus import derivative_along, diagonal_derivative
from sdekit.solvers.step import StepSolver, apply_diffusion, length, moved, square_root

__all__ = ["Milstein", "MilsteinFree"]

_SERVED: tuple[NoiseKind, ...] = ("scalar", "additive", "diagonal", "commutative")


class _Milstein(StepSolver):
    strong_order = 1.0
    weak_order = 1.0
    evaluations_per_step = 1
    evaluates_after_start = False
    calculus = ("ito", "stratonovich")
    noise_kinds = _SERVED
    # Ito's correction with coupled entries leaves a term of mean 0, so that order 1/2 is left; Stratonovich's does not.
    own_entries = ("stratonovich",)
    reference = "Milstein 1975; Kloeden & Platen 1992, section 10.3"

    @property
    def stochastic(self) -> bool:
        return True

    def check(self, dynamics: Dynamics) -> None:
        if dynamics.stochastic and dynamics.noise == "general":
            raise UnsupportedError(
                f"solver {self.name!r} needs the Levy areas of pairs of Brownian motions for general noise, and they "
                "are not simulated. Declare noise='commutative' if the noise is, and take 'milstein' or 'slowrk'; or "
                "take 'spark' (strong order 1/2), or 'dri1' for expectations."
            )
        super().check(dynamics)


@final
@dataclass(frozen=True, repr=False)
class Milstein(_Milstein):
    r"""x_s = x + f h + g W + 1/2 sum_jk (D g_j) g_k (W_j W_k - [Ito] delta_jk |h|)

    with D g by autodiff; elementwise for diagonal noise: 1/2 g g' (W^2 - |h|). Under Stratonovich's reading |h| is left
    out. Commutative noise needs one derivative of g W along g W, and for Ito m more.
    Strong order 1 for scalar, additive, diagonal and commutative noise.

    Milstein 1975; Kloeden & Platen 1992, sections 10.3 and 11.1.
    """

    name = "milstein"
    differentiates = True

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        w = _noisy(dynamics, noise)
        y = moved(x, dynamics.drift(x, t), h)
        if dynamics.noise == "additive":
            return y + apply_diffusion(dynamics, dynamics.diffusion(x, t), w, x)
        ito = dynamics.calculus == "ito"
        if dynamics.noise == "diagonal":
            g, slope = diagonal_derivative(dynamics, x, t)
            return y + g * (w + 0.5 * slope * (w * w - length(h) if ito else w * w))
        if dynamics.noise_dim is None:
            g = dynamics.diffusion(x, t)
            _, along = derivative_along(dynamics, x, t, g.expand(x.shape))
            return y + g * w + 0.5 * along * (w * w - length(h) if ito else w * w)
        g = dynamics.diffusion(x, t)
        kick = apply_diffusion(dynamics, g, w, x)
        _, along = derivative_along(dynamics, x, t, kick)
        y = y + kick + 0.5 * apply_diffusion(dynamics, along, w, x)
        for j in range(dynamics.noise_dim if ito else 0):
            _, own = derivative_along(dynamics, x, t, g[..., j])
            y = y - 0.5 * length(h) * own[..., j]
        return y


@final
@dataclass(frozen=True, repr=False)
class MilsteinFree(_Milstein):
    r"""Ito:          x_s = y + g W + (g(y + g r, t) - g) (W^2 - |h|)/(2 r),              y = x + f h,   r = sqrt|h|
    Stratonovich: x_s = y + g W + (g(y + g r, t) - g(y - g r, t)) W^2/(4 r)

    with no derivative: g is evaluated twice, or three times. The difference must be centred in Stratonovich's form,
    where its error has not the mean 0. For scalar, additive and diagonal noise; strong order 1.

    Kloeden & Platen 1992, section 11.1; Platen 1984.
    """

    name = "milstein_free"
    noise_kinds = ("scalar", "additive", "diagonal")

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        w = _noisy(dynamics, noise)
        y = moved(x, dynamics.drift(x, t), h)
        g = dynamics.diffusion(x, t).clone()
        if dynamics.noise == "additive":
            return y + apply_diffusion(dynamics, g, w, x)
        root = square_root(h)
        above = dynamics.diffusion(y + g * root, t)
        if dynamics.calculus == "ito":
            return y + g * w + (above - g) * ((w * w - length(h)) / (2 * root))
        change = above.clone() - dynamics.diffusion(y - g * root, t)
        return y + g * w + change * (w * w / (4 * root))


def _noisy(dynamics: Dynamics, noise: Increment | None) -> Tensor:
    if noise is None:
        raise ArgumentError(f"Milstein's method solves SDEs; {dynamics!r} is an ODE.")
    return noise.W
