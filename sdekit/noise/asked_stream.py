"""The increments of a path that is asked for one step after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from sdekit.errors import ShapeError
from sdekit.noise.brownian import BrownianStream, Increment

__all__ = ["AskedStream", "fitting"]


@final
class AskedStream(BrownianStream):
    """A path along a grid, by a question for each step.

    Args:
        increment: (t, s) -> the increment from t to s, with as many areas as are wanted or more.
        shape: (B, *), of W.
        times: float64 (N + 1,), of the grid.
        areas: how many of H and K are wanted.
        dtype: of the increments.
        device: of the increments.
        last_noise: whether the last step has any.

    Raises:
        ShapeError: by `next` and `ahead`, for an increment of another shape.
    """

    seekable = True

    def __init__(
        self,
        increment: Callable[[float, float], Increment],
        shape: tuple[int, ...],
        times: Tensor,
        *,
        areas: int,
        dtype: torch.dtype,
        device: torch.device,
        last_noise: bool,
    ) -> None:
        self._increment, self._shape, self._areas = increment, tuple(shape), areas
        self._times: list[float] = times.tolist()
        self._dtype, self._device, self._last_noise = dtype, device, last_noise

    def next(self) -> Increment:
        t, s = self._times[self.position : self.position + 2]
        self.position += 1
        values = self._increment(t, s).values()[: self._areas + 1]
        if self.position == len(self._times) - 1 and not self._last_noise:
            values = [torch.zeros_like(value) for value in values]
        return Increment(*[fitting(value, self._shape, self._dtype, self._device) for value in values])

    def ahead(self, count: int) -> Increment:
        return Increment(*[value[None] for value in self.next().values()])

    def seek(self, position: int) -> None:
        self.position = position


def fitting(value: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy of a value, which the solver may write into, as the solve needs it."""
    if tuple(value.shape) != shape:
        raise ShapeError(f"the path has values of shape {tuple(value.shape)}; this solve needs {shape}.")
    return value.to(device=device, dtype=dtype, copy=True)
