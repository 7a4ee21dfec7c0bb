"""torchsde's method names, and the steps of this library that give its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError, UnknownNameError, UnsupportedError
from sdekit.noise import Increment
from sdekit.sdes import Calculus, NoiseKind
from sdekit.solvers.sde.additive import SRA1
from sdekit.solvers.sde.diagonal import ItoRungeKutta, ItoTableau
from sdekit.solvers.sde.euler_maruyama import EulerMaruyama
from sdekit.solvers.sde.heun import EulerHeun, StochasticHeun, StochasticMidpoint
from sdekit.solvers.sde.milstein import Milstein, MilsteinFree
from sdekit.solvers.sde.reversible_heun import ReversibleHeun
from sdekit.solvers.step import StepSolver, moved, square_root

__all__ = ["SRIW2", "MilsteinOneSided", "choose"]

_ITO: tuple[Calculus, ...] = ("ito",)
_STRATONOVICH: tuple[Calculus, ...] = ("stratonovich",)
_ELEMENTWISE: tuple[NoiseKind, ...] = ("scalar", "additive", "diagonal")
_ANY: tuple[NoiseKind, ...] = (*_ELEMENTWISE, "general")
# The calculus and the noise that torchsde's method of this name serves.
_SERVES: dict[str, tuple[tuple[Calculus, ...], tuple[NoiseKind, ...]]] = {
    "euler": (_ITO, _ANY),
    "milstein": ((*_ITO, *_STRATONOVICH), _ELEMENTWISE),
    "srk": (_ITO, _ELEMENTWISE),
    "midpoint": (_STRATONOVICH, _ANY),
    "heun": (_STRATONOVICH, _ANY),
    "euler_heun": (_STRATONOVICH, _ANY),
    "reversible_heun": (_STRATONOVICH, _ANY),
}
_REFUSED = {
    "log_ode": (
        "torchsde's 'log_ode' takes Levy areas of pairs of Brownian motions, drawn from an approximation of their law; "
        "sdekit simulates none. Take 'heun' or 'midpoint', which are of the same strong order."
    ),
    "adjoint_reversible_heun": (
        "'adjoint_reversible_heun' is the backward half of 'reversible_heun' and no method of its own; give "
        "method='reversible_heun'."
    ),
}


@final
@dataclass(frozen=True, repr=False)
class SRIW2(ItoRungeKutta):
    r"""Rossler's SRIW2, torchsde's `srk` for diagonal and scalar noise. Its drift nodes are 0, 1 and 1/2.

    Rossler 2010, "Runge-Kutta methods for the strong approximation of solutions of SDEs".
    """

    name = "sriw2"
    evaluations_per_step = 3
    reference = "Rossler 2010"
    tableau = ItoTableau(
        a0=((1.0,), (1 / 4, 1 / 4), (0.0, 0.0, 0.0)),
        b0=((0.0,), (1.0, 1 / 2), (0.0, 0.0, 0.0)),
        a1=((1 / 4,), (1.0, 0.0), (0.0, 0.0, 1 / 4)),
        b1=((-1 / 2,), (1.0, 0.0), (2.0, -1.0, 1 / 2)),
        alpha=(1 / 6, 1 / 6, 2 / 3, 0.0),
        beta1=(-1.0, 4 / 3, 2 / 3, 0.0),
        beta2=(1.0, -4 / 3, 1 / 3, 0.0),
        beta3=(2.0, -4 / 3, -2 / 3, 0.0),
        beta4=(-2.0, 5 / 3, -2 / 3, 1.0),
    )


@final
@dataclass(frozen=True, repr=False)
class MilsteinOneSided(StepSolver):
    r"""x_s = x + f h + g W + (g(x + g r, t) - g) W^2/(2 r),   r = sqrt|h|

    torchsde's derivative-free Milstein for Stratonovich SDEs. Its one-sided difference has an error whose mean is not
    0, so that it is of strong order 1/2 (0.6 was measured), not 1: sdekit's own 'milstein_free' takes a centred one.
    """

    name = "milstein_one_sided"
    strong_order = 0.5
    evaluations_per_step = 1
    evaluates_after_start = False
    calculus = ("stratonovich",)
    noise_kinds = ("scalar", "diagonal")
    reference = "torchsde 0.2.6"

    @property
    def stochastic(self) -> bool:
        return True

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        if noise is None:
            raise ArgumentError(f"solver {self.name!r} solves SDEs; {dynamics!r} is an ODE.")
        w, r = noise.W, square_root(h)
        y = moved(x, dynamics.drift(x, t), h)
        g = dynamics.diffusion(x, t).clone()
        return y + g * w + (dynamics.diffusion(x + g * r, t) - g) * (w * w / (2 * r))


def choose(
    method: str | None, noise: NoiseKind, calculus: Calculus, options: Mapping[str, Any] | None
) -> tuple[str, StepSolver | ReversibleHeun]:
    """The name of torchsde's method, its default where None, and its steps.

    Raises:
        UnknownNameError: for a name that torchsde does not have.
        UnsupportedError: for one that sdekit does not have, or that does not serve such an SDE.
        ArgumentError: for an option that the method does not have.
    """
    if method is None:
        method = "midpoint" if calculus == "stratonovich" else "euler" if noise == "general" else "srk"
    if method in _REFUSED:
        raise UnsupportedError(_REFUSED[method])
    if method not in _SERVES:
        raise UnknownNameError("torchsde method", method, _SERVES)
    calculi, kinds = _SERVES[method]
    if calculus not in calculi or noise not in kinds:
        able = [name for name, (read, kind) in _SERVES.items() if calculus in read and noise in kind]
        raise UnsupportedError(
            f"torchsde's {method!r} serves {' and '.join(calculi)} SDEs with {', '.join(kinds)} noise; this one is "
            f"{calculus} with {noise} noise. Take {' or '.join(map(repr, able))}; or `sdekit.solve`, which converts "
            "between the two readings."
        )
    given = dict(options or {})
    free = given.pop("grad_free", False) if method == "milstein" else False
    if given:
        has = "has the option 'grad_free'" if method == "milstein" else "has no options"
        raise ArgumentError(f"torchsde's {method!r} {has}; got {', '.join(map(repr, sorted(given)))}.")
    return method, _step(method, noise, calculus, free=bool(free))


def _step(method: str, noise: NoiseKind, calculus: Calculus, *, free: bool) -> StepSolver | ReversibleHeun:
    if method == "milstein":
        if not free or noise == "additive":
            return Milstein()
        return MilsteinFree() if calculus == "ito" else MilsteinOneSided()
    if method == "srk":
        return SRA1() if noise == "additive" else SRIW2()
    others: dict[str, type[StepSolver | ReversibleHeun]] = {
        "euler": EulerMaruyama,
        "midpoint": StochasticMidpoint,
        "heun": StochasticHeun,
        "euler_heun": EulerHeun,
        "reversible_heun": ReversibleHeun,
    }
    return others[method]()
