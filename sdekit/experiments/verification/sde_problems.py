r"""SDEs whose solutions are known on a given Brownian path: what strong orders are measured on.

All run over [0, 1]. A solution is a closed form in W_1, or one in integrals of the path, or, with general noise, a sum
over a fine path; none is a solver's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.experiments.verification.brownian import SharedPath, shared_path
from sdekit.sdes import (
    SDE,
    AbstractSDE,
    ArctanSDE,
    Calculus,
    CommutativeLinearSDE,
    DecayingAdditiveSDE,
    DoubleWell,
    NoiseKind,
    NoncommutativeSDE,
    OrnsteinUhlenbeck,
    TanhSDE,
)

__all__ = ["PROBLEMS", "StrongProblem"]

_PATHS = 400


@final
@dataclass(frozen=True)
class StrongProblem:
    """An SDE for each calculus, a start, and its solution at 1 on a path.

    Attributes:
        name: as a finding says it.
        noise: its kind.
        sde: the equation in a calculus.
        x0: the start, (P, d).
        solution: X_1, (P, d), on the path.
        noise_shape: of an increment.
        cells: of the path.
    """

    name: str
    noise: NoiseKind
    sde: Callable[[Calculus], AbstractSDE]
    x0: Tensor
    solution: Callable[[SharedPath], Tensor]
    noise_shape: tuple[int, ...]
    cells: int = 512

    @property
    def path(self) -> SharedPath:
        """The Brownian path that all solves share."""
        return shared_path(self.noise_shape, self.cells)

    @functools.cached_property
    def exact(self) -> Tensor:
        """X_1 on `path`, (P, d)."""
        return self.solution(self.path)


def _starts(*values: float) -> Tensor:
    """The same start for each path."""
    return torch.tensor(values, dtype=torch.float64).expand(_PATHS, len(values)).clone()


def _elementwise(
    name: str,
    noise: NoiseKind,
    sde: Callable[[Calculus], AbstractSDE],
    x0: Tensor,
    solution: Callable[[SharedPath], Tensor],
) -> StrongProblem:
    shape = (_PATHS, 1) if noise == "scalar" else tuple(x0.shape)
    return StrongProblem(name, noise, sde, x0, solution, shape)


# Additive noise ------------------------------------------------------------------------------------------------------

_OU = OrnsteinUhlenbeck(theta=2.0, mu=0.5, sigma=0.8)
_HEATED = 0.6
_WELL = DoubleWell(sigma=_HEATED)


def _ou(path: SharedPath) -> Tensor:
    return 0.5 + (_starts(1.5, -1.0) - 0.5) * math.exp(-2.0) + 0.8 * path.integral(2.0)


def _decaying(calculus: Calculus) -> DecayingAdditiveSDE:
    return DecayingAdditiveSDE(a=0.8, b=1.0, calculus=calculus)


def _well(path: SharedPath) -> Tensor:
    # Within a cell the path varies about the cubic that `follow` takes for it, by 3/70 h on average: f sees that by its
    # second derivative, -6 x.
    missed = 3 / 70 * _HEATED**2 / path.cells
    return path.follow(lambda x: x - x**3 - 3 * missed * x, _HEATED, _starts(1.2, -0.4))


# Diagonal and scalar noise -------------------------------------------------------------------------------------------

_MU, _SIGMA = 1.5, 0.5


def _gbm(calculus: Calculus) -> AbstractSDE:
    rate = _MU if calculus == "ito" else _MU - _SIGMA**2 / 2
    return SDE(lambda x, t: rate * x, lambda x, t: _SIGMA * x, "diagonal", calculus)


def _gbm_end(path: SharedPath) -> Tensor:
    return _starts(1.0, 0.5) * torch.exp((_MU - _SIGMA**2 / 2) + _SIGMA * path.end)


_RATE, _HEAT = 2.0, 0.8


def _arctan_of_ou(calculus: Calculus) -> AbstractSDE:
    """X = arctan Y, dY = -k Y dt + a dW: a drift and a diffusion whose flows do not commute.

    Stratonovich: dX = -k/2 sin 2X dt + a cos^2 X o dW; Ito: with -a^2 sin X cos^3 X dt beside it.
    """
    ito = calculus == "ito"

    def drift(x: Tensor, t: Tensor) -> Tensor:
        f = (-0.5 * _RATE) * torch.sin(2 * x)
        return f - _HEAT**2 * torch.sin(x) * torch.cos(x) ** 3 if ito else f

    return SDE(drift, lambda x, t: _HEAT * torch.cos(x) ** 2, "diagonal", calculus)


def _arctan_of_ou_end(path: SharedPath) -> Tensor:
    return torch.arctan(torch.tan(_starts(0.8, -0.4)) * math.exp(-_RATE) + _HEAT * path.integral(_RATE))


# Noise by matrices ---------------------------------------------------------------------------------------------------

_K, _NOISE = 0.5, 1.0


def _noncommutative(path: SharedPath) -> Tensor:
    r"""X_1 by sums over the fine path: e^{k t} X_1 is a Wiener integral, and e^{k t} X_2 one of functions of X_1.

    Over a cell, int sin X_1 dW_1 = sin X_1 W_1 + sigma cos X_1 (W_1^2 - h)/2 and int cos X_1 dW_2 = cos X_1 W_2 -
    sigma sin X_1 I_12, where I_12 is W_1 W_2/2 + H_1 W_2 - W_1 H_2, its mean given W and H: what is left of the Levy
    area makes an error of sigma^2 sqrt(h/12), orthogonal to those that are measured.
    """
    fine, h = path.level(path.cells), 1 / path.cells
    if fine.H is None:
        raise ValueError("a shared path has W, H and K.")
    (w1, w2), (h1, h2) = fine.W.unbind(-1), fine.H.unbind(-1)
    growth = torch.exp(_K * h * torch.arange(path.cells, dtype=torch.float64))[:, None]
    start = torch.tensor([0.3, -0.5], dtype=torch.float64)
    # int e^{k s} dW over a cell, with the exponential's line.
    moves = growth * _NOISE * (w1 * (1 + 0.5 * _K * h) - _K * h * h1)
    scaled = start[0] + torch.cat([torch.zeros_like(moves[:1]), moves.cumsum(0)])
    x = scaled[:-1] / growth
    s, c = torch.sin(x), torch.cos(x)
    by_first = s * w1 + _NOISE * c * (w1 * w1 - h) / 2
    by_second = c * w2 - _NOISE * s * (0.5 * w1 * w2 + h1 * w2 - w1 * h2)
    second = start[1] + (growth * _NOISE * (by_first + by_second) * (1 + 0.5 * _K * h)).sum(0)
    return math.exp(-_K) * torch.stack([scaled[-1], second], dim=-1)


def _tanh(calculus: Calculus) -> TanhSDE:
    return TanhSDE(a=0.5, calculus=calculus)


def _arctan(calculus: Calculus) -> ArctanSDE:
    return ArctanSDE(a=0.8, calculus=calculus, noise="scalar")


_DECAYING, _TANH, _ARCTAN = _starts(0.5, -1.0), _starts(0.5, -0.2), _starts(0.8, -0.4)
_TURNED = _starts(1.0, -0.5, 0.3)

PROBLEMS = (
    _elementwise("OU", "additive", lambda calculus: _OU, _starts(1.5, -1.0), _ou),
    _elementwise(
        "decaying noise", "additive", _decaying, _DECAYING, lambda path: _decaying("ito").path(_DECAYING, 1.0, path.end)
    ),
    _elementwise("double well", "additive", lambda calculus: _WELL, _starts(1.2, -0.4), _well),
    _elementwise("GBM", "diagonal", _gbm, _starts(1.0, 0.5), _gbm_end),
    _elementwise("tanh", "diagonal", _tanh, _TANH, lambda path: _tanh("ito").path(_TANH, 1.0, path.end)),
    _elementwise("arctan of OU", "diagonal", _arctan_of_ou, _starts(0.8, -0.4), _arctan_of_ou_end),
    _elementwise("arctan", "scalar", _arctan, _ARCTAN, lambda path: _arctan("ito").path(_ARCTAN, 1.0, path.end)),
    StrongProblem(
        "commuting matrices",
        "commutative",
        lambda calculus: CommutativeLinearSDE(calculus=calculus),
        _TURNED,
        lambda path: CommutativeLinearSDE().path(_TURNED, 1.0, path.end),
        (_PATHS, 2),
    ),
    StrongProblem(
        "noncommutative",
        "general",
        lambda calculus: NoncommutativeSDE(k=_K, sigma=_NOISE, calculus=calculus),
        _starts(0.3, -0.5),
        _noncommutative,
        (_PATHS, 2),
        cells=4096,
    ),
)
