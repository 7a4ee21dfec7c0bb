r"""Grids of times: where a solve steps. Any solver takes any grid.

A grid is an object with one method, `times(sde, steps, start, end)`: `steps + 1` float64 times, strictly monotone, the
first exactly `start` and the last exactly `end`. The formulas below are for a solve towards the data (start = T); a
solve the other way takes the same places in the opposite order.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from sdekit._tensors import check_positive, check_positive_integer
from sdekit.errors import ArgumentError, UnknownNameError, UnsupportedError
from sdekit.sdes import AbstractSDE, DiffusionSDE

__all__ = ["Custom", "Grid", "Karras", "LogSNR", "Power", "Quadratic", "Uniform", "make_grid", "names"]


class Grid(abc.ABC):
    """A rule that places the steps of a solve."""

    name: ClassVar[str]
    fixed_steps: int | None = None

    def times(self, sde: AbstractSDE | None, steps: int, start: float, end: float) -> Tensor:
        """steps + 1 float64 times from `start` to `end`, strictly monotone.

        Raises:
            ArgumentError: if steps is not a positive integer, or the times are not strictly monotone.
            UnsupportedError: if the grid needs a log-SNR and the SDE has none.
        """
        steps = check_positive_integer("steps", steps)
        if start == end:
            raise ArgumentError(f"the solve starts and ends at the same time, {start!r}; give it somewhere to go.")
        if start > end:
            times = self._falling(sde, steps, start, end)
        else:
            times = self._falling(sde, steps, end, start).flip(0)
        times[0], times[-1] = start, end
        return check_monotone(times, f"grid {self!r} with {steps} steps from t = {start:g} to t = {end:g}")

    @abc.abstractmethod
    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        """steps + 1 float64 times from `high` down to `low`."""


def check_monotone(times: Tensor, what: str) -> Tensor:
    """`times` itself if it is strictly monotone and finite, else an ArgumentError that names the first bad place."""
    gaps = times.diff()
    least, most = (float(v) for v in gaps.aminmax())
    if (least > 0 and most < math.inf) or (-math.inf < least and most < 0):  # NaN fails both
        return times
    if not bool(torch.isfinite(times).all()):
        raise ArgumentError(f"{what} has a non-finite time: {times.tolist()}.")
    falling = bool(gaps[0] < 0)
    k = int(((gaps >= 0) if falling else (gaps <= 0)).nonzero()[0, 0])
    pair = f"times[{k}] = {float(times[k])!r} and times[{k + 1}] = {float(times[k + 1])!r}"
    raise ArgumentError(f"{what} is not strictly monotone: {pair}.")


def _fractions(steps: int) -> Tensor:
    return torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64, device="cpu")


def _diffusion(sde: AbstractSDE | None, grid: Grid) -> DiffusionSDE:
    if not isinstance(sde, DiffusionSDE):
        raise UnsupportedError(
            f"grid {grid!r} is placed by noise level, which {sde or 'an ODE'!r} does not have; use 'uniform'."
        )
    return sde


@final
@dataclass(frozen=True)
class Uniform(Grid):
    """t_i = T + i/N (t_end - T)."""

    name: ClassVar[str] = "uniform"

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        return high + _fractions(steps) * (low - high)


@final
@dataclass(frozen=True)
class Power(Grid):
    """t_i = (T^(1/p) + i/N (t_end^(1/p) - T^(1/p)))^p: p = 1 is uniform, larger p is denser near the data."""

    power: float = 2.5
    name: ClassVar[str] = "power"

    def __post_init__(self) -> None:
        check_positive("power", self.power)

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        root = 1 / self.power
        places: Tensor = (high**root + _fractions(steps) * (low**root - high**root)) ** self.power
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
class LogSNR(Grid):
    """Uniform in ln(alpha^2/sigma^2) (Lu et al. 2022, arXiv 2206.00927).

    A solve that ends where sigma = 0, at an infinite log-SNR, makes its last step from the time `t_min` of the SDE.
    """

    name: ClassVar[str] = "log_snr"

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        diffusion = _diffusion(sde, self)
        return _ending_at_zero(
            diffusion,
            steps,
            high,
            low,
            lambda n, a, b: diffusion.time_of_log_snr(
                diffusion.log_snr(a) + _fractions(n) * (diffusion.log_snr(b) - diffusion.log_snr(a))
            ),
        )


@final
@dataclass(frozen=True)
class Karras(Grid):
    """sigma~_i = (sigma~_T^(1/rho) + i/N (sigma~_end^(1/rho) - sigma~_T^(1/rho)))^rho, sigma~ = sigma/alpha.

    Karras et al. 2022, arXiv 2206.00364, eq. 5. A solve that ends at sigma~ = 0 makes its last step from the time
    `t_min` of the SDE, as there.
    """

    rho: float = 7.0
    name: ClassVar[str] = "karras"

    def __post_init__(self) -> None:
        check_positive("rho", self.rho)

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        diffusion = _diffusion(sde, self)
        root = 1 / self.rho

        def place(n: int, a: float, b: float) -> Tensor:
            first, last = diffusion.sigma_ratio(a) ** root, diffusion.sigma_ratio(b) ** root
            return diffusion.time_of_sigma_ratio((first + _fractions(n) * (last - first)) ** self.rho)

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
class Custom(Grid):
    """The user's own places: exactly one of times, sigmas (values of sigma/alpha) or log_snrs, N + 1 of them."""

    values: tuple[float, ...]
    kind: str = "times"
    name: ClassVar[str] = "custom"

    def __post_init__(self) -> None:
        if self.kind not in ("times", "sigmas", "log_snrs"):
            raise UnknownNameError("kind of custom grid", self.kind, ("times", "sigmas", "log_snrs"))
        if len(self.values) < 2:
            raise ArgumentError(f"a custom grid needs at least 2 {self.kind}, got {len(self.values)}.")
        places = torch.tensor(self.values, dtype=torch.float64, device="cpu")
        # An infinite log-SNR is sigma = 0, a place like any other.
        finite = torch.where(torch.isposinf(places), torch.finfo(torch.float64).max, places)
        check_monotone(finite, f"the custom grid of {self.kind}")

    @property
    def fixed_steps(self) -> int:  # type: ignore[override]
        return len(self.values) - 1

    def resolve(self, sde: AbstractSDE | None) -> Tensor:
        """The places as times, in the order given."""
        places = torch.tensor(self.values, dtype=torch.float64, device="cpu")
        if self.kind == "times":
            times = places
        elif self.kind == "sigmas":
            times = _diffusion(sde, self).time_of_sigma_ratio(places)
        else:
            times = _diffusion(sde, self).time_of_log_snr(places)
        return check_monotone(times, f"the custom grid of {self.kind}")

    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        times = self.resolve(sde)
        if steps != self.fixed_steps:
            raise ArgumentError(f"the custom grid has {self.fixed_steps} steps, but steps={steps} was asked for.")
        times = times if times[0] > times[-1] else times.flip(0)
        if not (math.isclose(float(times[0]), high) and math.isclose(float(times[-1]), low, abs_tol=1e-12)):
            raise ArgumentError(
                f"the custom grid runs from t = {float(times[0]):g} to {float(times[-1]):g}, "
                f"but the solve from {high:g} to {low:g}."
            )
        return times.clone()


_NAMED: dict[str, Callable[[], Grid]] = {g.name: g for g in (Uniform, LogSNR, Karras, Quadratic, Power)}


def names() -> list[str]:
    """The names `make_grid` knows."""
    return sorted(_NAMED)


def make_grid(grid: str | Grid | Sequence[float] | Tensor) -> Grid:
    """A Grid from a name, a Grid, or a sequence of times.

    Raises:
        UnknownNameError: if no grid has that name; the message carries the nearest.
    """
    if isinstance(grid, Grid):
        return grid
    if isinstance(grid, str):
        if grid not in _NAMED:
            raise UnknownNameError("grid", grid, _NAMED)
        return _NAMED[grid]()
    if isinstance(grid, Tensor):
        return Custom(tuple(grid.double().tolist()))
    if isinstance(grid, Sequence):
        return Custom(tuple(float(v) for v in grid))
    raise ArgumentError(f"grid must be a name ({', '.join(names())}), a Grid or a sequence of times; got {grid!r}.")
