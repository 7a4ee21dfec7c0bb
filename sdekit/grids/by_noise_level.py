"""Grids placed by noise level sigma~ = sigma/alpha, for diffusion SDEs: the same noise levels whatever the SDE.

`LogSNR`, `Exponential` and `Karras` treat sigma~ = 0 apart: a solve that ends there makes its last step from the time
`t_min` of the SDE. `AlignYourSteps` and `ArcLength` reach it like any other place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from sdekit.grids.base import Grid, diffusion_of, fractions
from sdekit.sdes import AbstractSDE, DiffusionSDE

__all__ = ["AlignYourSteps", "ArcLength", "Exponential", "Karras", "LogSNR"]


@final
@dataclass(frozen=True)
class LogSNR(Grid):
    """Uniform in ln(alpha^2/sigma^2) (Lu et al. 2022, arXiv 2206.00927), so uniform in ln sigma~ too.

    A solve that ends where sigma = 0, at an infinite log-SNR, makes its last step from the time `t_min` of the SDE.
    """

    name: ClassVar[str] = "log_snr"

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        return _by_log_snr(diffusion_of(sde, self), steps, high, low, fractions)


@final
@dataclass(frozen=True)
class Exponential(Grid):
    """ln sigma~_i = ln sigma~_end + (1 - i/N)^rho (ln sigma~_T - ln sigma~_end).

    rho = 1, equal ratios of sigma~, is `LogSNR` under another name; larger rho is denser near the data
    (`get_sigmas_exponential` and `get_sigmas_polyexponential` of Crowson's k-diffusion, 2022). A solve that ends at
    sigma~ = 0 makes its last step from the time `t_min` of the SDE, as there.
    """

    rho: float = 1.0
    name: ClassVar[str] = "exponential"

    def __post_init__(self) -> None:
        self._store_positive()

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        return _by_log_snr(diffusion_of(sde, self), steps, high, low, lambda n: 1 - (1 - fractions(n)) ** self.rho)


def _by_log_snr(sde: DiffusionSDE, steps: int, high: float, low: float, ramp: Callable[[int], Tensor]) -> Tensor:
    """Log-SNRs at the fractions `ramp` of the way from that of high to that of low."""

    def place(n: int, a: float, b: float) -> Tensor:
        return sde.time_of_log_snr(sde.log_snr(a) + ramp(n) * (sde.log_snr(b) - sde.log_snr(a)))

    return _ending_at_zero(sde, steps, high, low, place)


@final
@dataclass(frozen=True)
class Karras(Grid):
    """sigma~_i = (sigma~_T^(1/rho) + i/N (sigma~_end^(1/rho) - sigma~_T^(1/rho)))^rho, sigma~ = sigma/alpha.

    Karras et al. 2022, arXiv 2206.00364, eq. 5. rho = 1 is uniform in sigma~, rho -> infinity is `Exponential`. A solve
    that ends at sigma~ = 0 makes its last step from the time `t_min` of the SDE, as there.
    """

    rho: float = 7.0
    name: ClassVar[str] = "karras"

    def __post_init__(self) -> None:
        self._store_positive()

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        diffusion = diffusion_of(sde, self)
        root = 1 / self.rho

        def place(n: int, a: float, b: float) -> Tensor:
            first, last = diffusion.sigma_ratio(a) ** root, diffusion.sigma_ratio(b) ** root
            return diffusion.time_of_sigma_ratio((first + fractions(n) * (last - first)) ** self.rho)

        return _ending_at_zero(diffusion, steps, high, low, place)


def _ending_at_zero(
    sde: DiffusionSDE, steps: int, high: float, low: float, place: Callable[[int, float, float], Tensor]
) -> Tensor:
    """`place` from high to low; where low has sigma = 0, from high to t_min in one step fewer, and then to low."""
    if float(sde.sigma(low)) > 0:
        return place(steps, high, low)
    last = min(sde.t_min if sde.t_min > 0 else 1e-3 * sde.t_max, 0.5 * high)
    end = torch.tensor([low], dtype=torch.float64, device="cpu")
    if steps == 1:
        return torch.cat([torch.tensor([high], dtype=torch.float64, device="cpu"), end])
    return torch.cat([place(steps - 1, high, last), end])


@final
@dataclass(frozen=True)
class AlignYourSteps(Grid):
    r"""Uniform in the angle theta = arctan(sigma~/c), c = `data_std`: the best grid of DDIM on Gaussian data.

        sigma~_i = c tan(theta_T + i/N (theta_end - theta_T))

    On data N(0, c^2 I) a DDIM step by the angle d gives the exact standard deviation times cos(d), whatever the SDE.
    The product of the cosines is nearest to 1, and the KL divergence to the exact marginal least, where all d are
    equal: the closed form of Sabour, Fidler & Kreis 2024, "Align Your Steps", arXiv 2404.14507. (Their tables for
    particular networks are sigmas: `Custom.of(sigmas=…)`.)
    """

    data_std: float = 1.0
    name: ClassVar[str] = "align_your_steps"

    def __post_init__(self) -> None:
        self._store_positive()

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        diffusion = diffusion_of(sde, self)
        first, last = (torch.atan(diffusion.sigma_ratio(t) / self.data_std) for t in (high, low))
        return diffusion.time_of_sigma_ratio(self.data_std * torch.tan(first + fractions(steps) * (last - first)))


@final
@dataclass(frozen=True)
class ArcLength(Grid):
    r"""Uniform in the length of the curve (c alpha(t), sigma(t)), c = `data_std`: how far signal and noise have moved.

        s(t) = integral from 0 to t of sqrt((c alpha')^2 + sigma'^2),     s(t_i) = s(T) + i/N (s(t_end) - s(T))

    A variance-preserving SDE with c = 1 runs on the unit circle, where this is the angle and so `AlignYourSteps`; where
    alpha is constant (VE, EDM) it is uniform in sigma, on the straight path (flow) uniform in t. Our own; no paper.

    The curve is taken as a polygon of at least 4096 chords, which are made equal by repeated interpolation (de Boor's
    equidistribution): the places are exact to about 1e-6 of the length.
    """

    data_std: float = 1.0
    name: ClassVar[str] = "arc_length"

    def __post_init__(self) -> None:
        self._store_positive()

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        diffusion, c = diffusion_of(sde, self), self.data_std
        each = -(-4096 // steps)  # chords in a step
        along = fractions(each * steps)
        # arsinh(sigma~/c) has all its digits both at sigma~ = 0 and where sigma~ is large.
        first, last = (torch.asinh(diffusion.sigma_ratio(t) / c) for t in (high, low))
        place = first + along * (last - first)
        for _ in range(6):
            t = diffusion.time_of_sigma_ratio(c * torch.sinh(place))
            chords = torch.hypot(c * diffusion.alpha(t).diff(), diffusion.sigma(t).diff())
            length = torch.cat([torch.zeros_like(chords[:1]), chords.cumsum(0)])
            place = torch.from_numpy(np.interp((along * length[-1]).numpy(), length.numpy(), place.numpy()))
        return diffusion.time_of_sigma_ratio(c * torch.sinh(place[::each]))
