"""What a grid is: a rule that places the times of a solve, checked at every call."""

from __future__ import annotations

import abc
import math
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from sdekit._tensors import check_positive, check_positive_integer
from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.sdes import AbstractSDE, DiffusionSDE

__all__ = ["Grid", "check_monotone", "diffusion_of", "fractions"]


class Grid(abc.ABC):
    """A rule that places the steps of a solve: a frozen dataclass whose fields are its options.

    `name` is what `make_grid` calls it; `fixed_steps` is the number of steps where the rule fixes it.
    """

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
        with torch.no_grad():  # places are constants, those of a learned schedule too
            times = self._falling(sde, steps, max(start, end), min(start, end))
        times = times if start > end else times.flip(0)
        times[0], times[-1] = start, end
        return check_monotone(times, f"grid {self!r} with {steps} steps from t = {start:g} to t = {end:g}")

    def to_dict(self) -> dict[str, Any]:
        """{"name": its name, …options}, all JSON values; `sdekit.grids.from_dict` is the inverse."""
        return {"name": self.name, **{f.name: getattr(self, f.name) for f in fields(self)}}  # type: ignore[arg-type]

    @abc.abstractmethod
    def _falling(self, sde: AbstractSDE | None, steps: int, high: float, low: float) -> Tensor:
        """steps + 1 float64 times from `high` down to `low`."""

    def _store_positive(self) -> None:
        """Check that every option is a finite number above 0 and keep it as a float."""
        for f in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, f.name, check_positive(f.name, getattr(self, f.name)))


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


def fractions(steps: int) -> Tensor:
    """i/N for i = 0..N."""
    return torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64, device="cpu")


def diffusion_of(sde: AbstractSDE | None, grid: Grid) -> DiffusionSDE:
    """The SDE itself if it has noise levels, else an UnsupportedError."""
    if not isinstance(sde, DiffusionSDE):
        raise UnsupportedError(
            f"grid {grid!r} is placed by noise level, which {sde or 'an ODE'!r} does not have; use 'uniform'."
        )
    return sde
