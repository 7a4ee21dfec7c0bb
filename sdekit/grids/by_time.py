"""Grids placed in t, for any SDE or ODE. All are finite at t = 0, so ending there needs no special last step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from sdekit.grids.base import Grid, fractions
from sdekit.sdes import AbstractSDE

__all__ = ["Beta", "Cosine", "Power", "Quadratic", "Uniform"]


@final
@dataclass(frozen=True)
class Uniform(Grid):
    """t_i = T + i/N (t_end - T)."""

    name: ClassVar[str] = "uniform"

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        return high + fractions(steps) * (low - high)


@final
@dataclass(frozen=True)
class Power(Grid):
    """t_i = (T^(1/p) + i/N (t_end^(1/p) - T^(1/p)))^p: p = 1 is uniform, larger p is denser near the data."""

    power: float = 2.5
    name: ClassVar[str] = "power"

    def __post_init__(self) -> None:
        self._store_positive()

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        root = 1 / self.power
        places: Tensor = (high**root + fractions(steps) * (low**root - high**root)) ** self.power
        return places


@final
@dataclass(frozen=True)
class Quadratic(Grid):
    """t_i = (sqrt(T) + i/N (sqrt(t_end) - sqrt(T)))^2 (Song, Meng & Ermon 2021, arXiv 2010.02502)."""

    name: ClassVar[str] = "quadratic"

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        return Power(2.0)._falling(sde, steps, high, low)


@final
@dataclass(frozen=True)
class Beta(Grid):
    """Quantiles of a Beta distribution: t_i = t_end + (T - t_end) Q(1 - i/N), Q the quantile function of Beta(a, b).

    a < 1 is dense at the data, b < 1 at the noise, a = b = 1 is uniform. The defaults are those of the paper: Lee, Lee,
    Gye & Kim 2024, "Beta Sampling is All You Need", arXiv 2407.12173. It places t, as here; diffusers'
    `use_beta_sigmas` places sigma.
    """

    a: float = 0.6
    b: float = 0.6
    name: ClassVar[str] = "beta"

    def __post_init__(self) -> None:
        self._store_positive()

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        from scipy.special import betaincinv

        return low + (high - low) * torch.from_numpy(betaincinv(self.a, self.b, fractions(steps).flip(0).numpy()))


@final
@dataclass(frozen=True)
class Cosine(Grid):
    """t_i = t_end + (T - t_end) (1 + cos(pi i/N))/2: cosine spacing, dense at both ends.

    The places of Clenshaw-Curtis quadrature (Clenshaw & Curtis 1960), and `Beta` with a = b = 1/2. The noise levels of
    the cosine *schedule* (Nichol & Dhariwal 2021, arXiv 2102.09672), whose angle arctan(sigma/alpha) is linear in time,
    are another grid: `AlignYourSteps` with data_std = 1.
    """

    name: ClassVar[str] = "cosine"

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        # sin^2 of the half angle is the same, and keeps its digits near t_end
        return low + (high - low) * torch.sin(0.5 * math.pi * fractions(steps).flip(0)).square()
