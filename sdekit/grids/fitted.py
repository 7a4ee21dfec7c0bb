"""The grids of our Adams samplers, fitted to mixtures: rules over the noise levels, the same whatever the SDE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from sdekit.grids.base import Grid, diffusion_of
from sdekit.sdes import AbstractSDE, DiffusionSDE

__all__ = ["AlongPath", "Fitted", "VPPower"]

_CELLS = 4096


@final
@dataclass(frozen=True)
class Fitted(Grid):
    r"""Places of equal share under a density of steps per d ln sigma~, with k = max(N, 4):

        rho(s) = (f + 1/(1 + (s/c2)^2.6)) / (1 + (c1/s)^0.65)
        c1 = 0.37 e^{-12/k},   c2 = 3 e^{-3.7/k},   f = 0.1 e^{3/k}

    Few steps where the data cannot be told from its mean, most between sigma~ = 3 and 0.1, fewer again towards the end.
    The constants were fitted to the flow error of the Adams sampler in the angle on random mixtures in 2 to 64
    dimensions (docs/adams.md).

    A solve to sigma~ = 0 goes there from s_e = 0.18 k^-1.15; with 10 steps or fewer 0 takes the place of s_e itself,
    where `Adams(hold=…)` stops. No other place lies below `t_min`. Ours; no paper.
    """

    name: ClassVar[str] = "fitted"

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        return _ending(diffusion_of(sde, self), steps, high, low, stop_level(steps), steps <= _MOST_HELD, _by_density)


@final
@dataclass(frozen=True)
class VPPower(Grid):
    r"""Power places in the time of the linear VP schedule, warped, for our stochastic Adams sampler:

        s_i = svp((A + (E - A) u_i)^p),   u_i = i/N + w1 sin(pi i/N) + w2 sin(2 pi i/N)
        svp(t)^2 = exp(0.1 t + 9.95 t^2) - 1,   A = tvp(s_0)^(1/p),   E = tvp(s_e)^(1/p),   tvp the inverse of svp

    with, for N >= 10, p = 2.9, s_e = 0.24/N, w1 = 0.08 (10/N)^1.4 and w2 = 0.035 (10/N)^2; below 10 the constants go
    linearly in 10/N to those at N = 5 (docs/adams.md). Whatever the SDE: svp only says how levels are spaced.

    In a solve to sigma~ = 0, 0 takes the place of s_e, where `Adams(hold=…)` stops. No other place lies below `t_min`.
    Ours; no paper.
    """

    name: ClassVar[str] = "vp_power"

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        return _ending(diffusion_of(sde, self), steps, high, low, noisy_stop_level(steps), True, _by_vp_time)


@final
@dataclass(frozen=True)
class AlongPath(Grid):
    r"""Places of equal share under a density of steps per d ln sigma~, for likelihoods (docs/likelihood.md):

        rho(s) = f + 1/((1 + (0.15 c/s)^2) (1 + (s/2c)^2)),   f = 0.1 + 6/N,   c = `scale`

    Most between sigma~ = 0.15 c and 2 c, where data of the scale c is told apart and the Jacobian of the denoiser is
    neither I nor 0; evener for few steps. A solve to sigma~ = 0 goes there from `t_min`. Ours; no paper.

    Args:
        scale: the data's standard deviation; likelihoods take the model's `data_std`.
    """

    scale: float = 1.0

    name: ClassVar[str] = "along_path"

    def __post_init__(self) -> None:
        self._store_positive()

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        diffusion = diffusion_of(sde, self)
        top, bottom = (float(diffusion.sigma_ratio(t)) for t in (high, low))
        if bottom > 0:
            return diffusion.time_of_sigma_ratio(self._places(steps, top, bottom))
        above = torch.tensor([high], dtype=torch.float64, device="cpu")
        if steps > 1:
            least = min(float(diffusion.sigma_ratio(diffusion.t_min)), 0.5 * top)
            above = diffusion.time_of_sigma_ratio(self._places(steps - 1, top, least))
        return torch.cat([above, torch.tensor([low], dtype=torch.float64, device="cpu")])

    def _places(self, steps: int, top: float, bottom: float) -> Tensor:
        log = torch.linspace(math.log(bottom), math.log(top), _CELLS + 1, dtype=torch.float64, device="cpu")
        low, high = math.log(0.15 * self.scale), math.log(2 * self.scale)
        density = 0.1 + 6 / steps + torch.sigmoid(2 * (log - low)) * torch.sigmoid(2 * (high - log))
        return _equal_shares(log, density, steps, top, bottom)


_MOST_HELD = 10


def stop_level(steps: int) -> float:
    """0.18 k^-1.15, the last noise level above 0 of a solve by `Fitted`."""
    return 0.18 * math.exp(-1.15 * math.log(max(steps, 4)))


def noisy_stop_level(steps: int) -> float:
    """The last noise level above 0 of a solve by `VPPower`."""
    return 0.24 / steps if steps >= 10 else 0.024 + 0.006 * below_ten(steps)


def below_ten(steps: int) -> float:
    """How far below 10 a budget is: 0 from 10 up, 1 from 5 down, linear in 10/N."""
    return min(1.0, max(0.0, 10 / steps - 1))


def _ending(
    sde: DiffusionSDE,
    steps: int,
    high: float,
    low: float,
    stop: float,
    held: bool,
    place: Callable[[int, int, float, float], Tensor],
) -> Tensor:
    """Times of the places from high to low; to sigma~ = 0 by way of `stop`, or (`held`) with 0 in the place of `stop`.

    No place above 0 lies below `t_min` of the SDE.
    """
    top, bottom = (float(sde.sigma_ratio(t)) for t in (high, low))
    if bottom > 0:
        return sde.time_of_sigma_ratio(place(steps, steps, top, bottom))
    least = min(float(sde.sigma_ratio(sde.t_min)), 0.5 * top)
    places = place(steps, steps, top, min(stop, 0.5 * top))[:-1]
    if (not held or float(places[-1]) < least) and steps > 1:
        places = place(steps, steps - 1, top, max(min(stop, 0.5 * top) if not held else 0.0, least))
    return torch.cat([sde.time_of_sigma_ratio(places), torch.tensor([low], dtype=torch.float64, device="cpu")])


def _by_density(steps: int, places: int, top: float, end: float) -> Tensor:
    """places + 1 noise levels from top down to end, equal shares of the density of `steps` steps."""
    k = max(steps, 4)
    c1, c2, f = 0.37 * math.exp(-12 / k), 3 * math.exp(-3.7 / k), 0.1 * math.exp(3 / k)
    log = torch.linspace(math.log(end), math.log(top), _CELLS + 1, dtype=torch.float64, device="cpu")
    density = (f + torch.sigmoid(-2.6 * (log - math.log(c2)))) * torch.sigmoid(0.65 * (log - math.log(c1)))
    return _equal_shares(log, density, places, top, end)


def _equal_shares(log: Tensor, density: Tensor, places: int, top: float, end: float) -> Tensor:
    """places + 1 noise levels from top down to end, with equal shares of a density given at `log` between each two."""
    share = torch.cat([torch.zeros_like(log[:1]), (0.5 * (density[1:] + density[:-1])).cumsum(0)])
    wanted = float(share[-1]) * (1 - np.arange(places + 1) / places)
    levels = torch.from_numpy(np.exp(np.interp(wanted, share.numpy(), log.numpy())))
    levels[0], levels[-1] = top, end
    return levels


def _by_vp_time(steps: int, places: int, top: float, end: float) -> Tensor:
    """places + 1 noise levels from top down to end by the warped power of the VP time."""
    few, k = below_ten(steps), min(1.0, 10 / steps)
    power = 2.9 + 0.38 * few
    w1, w2 = 0.08 * k**1.4 + 0.017 * few, 0.035 * k**2 - 0.016 * few
    along = torch.arange(places + 1, dtype=torch.float64, device="cpu") / places
    warped = along + w1 * torch.sin(math.pi * along) + w2 * torch.sin(2 * math.pi * along)
    first, last = (_vp_time(level) ** (1 / power) for level in (top, end))
    time = (first + (last - first) * warped) ** power
    levels = torch.sqrt(torch.expm1(0.1 * time + 9.95 * time.square()))
    levels[0], levels[-1] = top, end
    return levels


def _vp_time(level: float) -> float:
    """The t at which the linear VP schedule has sigma~ = level: 0.1 t + 9.95 t^2 = ln(1 + level^2)."""
    b = math.log1p(level**2)
    return 2 * b / (0.1 + math.sqrt(0.01 + 39.8 * b))
