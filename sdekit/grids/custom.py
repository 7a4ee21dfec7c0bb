"""Grids of the user's own: times, noise levels or log-SNRs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError, UnknownNameError
from sdekit.grids.base import Grid, check_monotone, diffusion_of
from sdekit.sdes import AbstractSDE

__all__ = ["Custom", "Places"]

Places = Sequence[float] | Tensor | npt.NDArray[Any]


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
        object.__setattr__(self, "values", _numbers(self.kind, self.values))
        if len(self.values) < 2:
            raise ArgumentError(f"a custom grid needs at least 2 {self.kind}, got {len(self.values)}.")
        places = torch.tensor(self.values, dtype=torch.float64, device="cpu")
        # An infinite log-SNR is sigma = 0, a place like any other.
        finite = torch.where(torch.isposinf(places), torch.finfo(torch.float64).max, places)
        check_monotone(finite, f"the custom grid of {self.kind}")

    @classmethod
    def of(cls, *, times: Places | None = None, sigmas: Places | None = None, log_snrs: Places | None = None) -> Custom:
        """A grid from exactly one of times, sigmas (values of sigma/alpha) or log-SNRs: a sequence, tensor or array.

        Raises:
            ArgumentError: if none or several are given, or the values are fewer than 2 or not strictly monotone.
        """
        given = {"times": times, "sigmas": sigmas, "log_snrs": log_snrs}
        kinds = [kind for kind, values in given.items() if values is not None]
        if len(kinds) != 1:
            raise ArgumentError(f"give exactly one of times, sigmas and log_snrs; got {' and '.join(kinds) or 'none'}.")
        return cls(given[kinds[0]], kinds[0])  # type: ignore[arg-type]

    @property
    def fixed_steps(self) -> int:  # type: ignore[override]
        return len(self.values) - 1

    def resolve(self, sde: AbstractSDE | None) -> Tensor:
        """The places as times, in the order given."""
        places = torch.tensor(self.values, dtype=torch.float64, device="cpu")
        with torch.no_grad():
            if self.kind == "times":
                times = places
            elif self.kind == "sigmas":
                times = diffusion_of(sde, self).time_of_sigma_ratio(places)
            else:
                times = diffusion_of(sde, self).time_of_log_snr(places)
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


def _numbers(kind: str, values: object) -> tuple[float, ...]:
    if isinstance(values, Tensor | np.ndarray):
        if values.ndim != 1:
            raise ShapeError(f"the {kind} of a custom grid must be a vector, got shape {tuple(values.shape)}.")
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ArgumentError(f"the {kind} of a custom grid must be a sequence of numbers, got {values!r}.")
    try:
        return tuple(float(v) for v in values)
    except (TypeError, ValueError):
        raise ArgumentError(f"the {kind} of a custom grid must be numbers, got {values!r}.") from None
